"""The columns of a manifest: what each may hold, and what stands where nothing was said."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossbatch.errors import FormatError, expected, nearest

# In memory 64-bit offsets, for pieces beyond 2 GiB; in the file a plain struct of bytes and text.
IMAGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
COLUMNS: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "path": pa.string(),
    "image": IMAGE,
    "label": pa.string(),
    "split": pa.string(),
    "role": pa.string(),
    "source": pa.string(),
    "camera": pa.string(),
    "subset": pa.int64(),
    "weight": pa.float64(),
}
SPLITS = ("train", "validation", "test")
ROLES = ("train", "query", "gallery")


def conform(table: pa.Table) -> pa.Table:
    """The table with the columns of a manifest, in order, and any further columns after them.

    Integers in text columns are read as their decimal text; a missing label becomes "".

    Raises:
        FormatError: A column is missing or of another type, an id stands twice, a split or a role
            is unknown, or a row has no image.
    """
    columns = {name: _cast(name, table[name]) for name in table.column_names}
    if "label" not in columns:
        raise _missing("label", table)
    if "path" not in columns and "image" not in columns:
        raise _missing("path", table)
    if columns["label"].null_count:  # else it would be a copy
        columns["label"] = columns["label"].fill_null("")
    columns["id"] = _ids(columns.get("id"), table.num_rows)
    columns["path"] = columns.get(
        "path", pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    )
    columns["split"] = _splits(columns.get("split"), table.num_rows)
    columns["role"] = _roles(columns.get("role"), columns["split"])
    _check_images(columns)
    order = [*(name for name in COLUMNS if name in columns), *_others(table)]
    return pa.table({name: columns[name] for name in order})


def _others(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name not in COLUMNS]


def _missing(name: str, table: pa.Table) -> FormatError:
    return FormatError(
        expected(
            f"a column `{name}`" + (" or `image`" if name == "path" else ""),
            f"columns {', '.join(table.column_names) or '(none)'}",
            f"Name one of them `{name}`.",
        )
    )


def _cast(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if name not in COLUMNS:
        return column
    wanted = COLUMNS[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type == wanted:
        return column
    if name == "image" and pa.types.is_struct(column.type):
        return _image(column)
    if _readable(column.type, wanted):
        try:
            return column.cast(wanted)
        except pa.ArrowInvalid as error:
            raise _other_type(name, error) from error
    raise _other_type(name, column.type)


def _readable(got: pa.DataType, wanted: pa.DataType) -> bool:
    is_text = pa.types.is_string(got) or pa.types.is_large_string(got)
    if pa.types.is_null(got):
        return True
    if pa.types.is_string(wanted):
        return is_text or pa.types.is_integer(got)
    if pa.types.is_integer(wanted):
        return pa.types.is_integer(got)
    return pa.types.is_floating(wanted) and (pa.types.is_floating(got) or pa.types.is_integer(got))


def _other_type(name: str, got: object) -> FormatError:
    kind = {
        pa.string(): "text (or integers, read as their decimal text)",
        pa.int64(): "64-bit integers",
        pa.float64(): "numbers",
        IMAGE: "structs of `bytes` and `path`",
    }[COLUMNS[name]]
    return FormatError(
        expected(f"column `{name}` to hold {kind}", got, "Convert the column and write it again.")
    )


def _image(column: pa.ChunkedArray) -> pa.ChunkedArray:
    names = {column.type.field(i).name for i in range(column.type.num_fields)}
    if "bytes" not in names:
        raise _other_type("image", column.type)

    def rebuilt(chunk: pa.StructArray) -> pa.StructArray:
        data = chunk.field("bytes").cast(pa.large_binary())
        path = chunk.field("path").cast(pa.string()) if "path" in names else None
        path = pa.nulls(len(chunk), pa.string()) if path is None else path
        return pa.StructArray.from_arrays([data, path], fields=list(IMAGE), mask=chunk.is_null())

    return pa.chunked_array([rebuilt(chunk) for chunk in column.chunks], type=IMAGE)


def _ids(column: pa.ChunkedArray | None, rows: int) -> pa.ChunkedArray:
    if column is None:
        return pa.chunked_array([pa.array(np.arange(rows))])
    if column.null_count:
        raise FormatError(
            expected(
                "an `id` in every row",
                f"{column.null_count} without",
                "Fill the column, or leave it out and rows are numbered.",
            )
        )
    ordered = np.sort(column.to_numpy())
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(again):
        twice = again[:3].tolist()
        raise FormatError(
            expected(
                "every `id` once",
                f"more than one row with id {', '.join(map(str, twice))}",
                "Number the rows anew, or leave the column out.",
            )
        )
    return column


def _splits(column: pa.ChunkedArray | None, rows: int) -> pa.ChunkedArray:
    if column is None:
        return pa.chunked_array([pa.repeat("train", rows)])
    _check_words("split", column, SPLITS)
    return column.fill_null("train") if column.null_count else column


def _roles(column: pa.ChunkedArray | None, splits: pa.ChunkedArray) -> pa.ChunkedArray:
    if column is None:
        train, nothing = pa.scalar("train"), pa.scalar(None, pa.string())
        trained_on = pc.call_function("equal", [splits, train])
        return pc.call_function("if_else", [trained_on, train, nothing])
    _check_words("role", column, ROLES)
    return column


def _check_words(name: str, column: pa.ChunkedArray, valid: tuple[str, ...]) -> None:
    for word in column.unique().to_pylist():
        if word is not None and word not in valid:
            wanted = f"`{name}` to be one of {', '.join(valid)}"
            raise FormatError(expected(wanted, repr(word), nearest(word, valid)))


def _check_images(columns: dict[str, pa.ChunkedArray]) -> None:
    empty = columns["path"].is_null().to_numpy()
    if "image" in columns:
        data, _ = columns["image"].flatten()
        empty = empty & data.is_null().to_numpy()
    ids = columns["id"].to_numpy()[empty]
    if len(ids):
        raise FormatError(
            expected(
                "a `path` or `image` bytes in every row",
                f"neither in {len(ids)} rows, first id {ids[0]}",
                "Fill or remove these rows.",
            )
        )

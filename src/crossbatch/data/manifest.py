"""The manifest: one Parquet table that says which images there are and what they show.

It is the currency between commands. A row is an image:

======== ============================== ==================================================
`id`     int64, unique                  by default the row number
`path`   text, may be missing           relative to the manifest's root, or absolute
`image`  struct of `bytes` and `path`   the embedded file, as Hugging Face data sets have it
`label`  text                           the class
`split`  train, validation or test      by default train
`role`   train, query, gallery, nothing nothing: query and gallery at once (leave one out)
======== ============================== ==================================================

and, where known, `source`, `camera`, `subset` (an integer), `weight` (a number). Every row has a
path or embedded bytes; where it has both, the bytes count. Further columns are kept as they are.
The schema's metadata holds, under the key ``crossbatch``, a JSON object: the format's version, the
root, free notes. Parquet files without that key, written by other tools, are read too.
"""

import hashlib
import json
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossbatch._files import write_beside
from crossbatch.data._schema import IMAGE, SPLITS, conform
from crossbatch.errors import CrossbatchError, FormatError, expected, nearest

FORMAT = 1
_KEY = b"crossbatch"
_PIECE = 2**16  # rows that are Python objects at a time
_GROUP_BYTES = 2**28  # in a row group; readers of nested columns stop at 2 GiB


@dataclass(frozen=True)
class Manifest:
    """Images with their labels, splits and roles; see the module for the columns.

    Args:
        table: The columns. Missing ones get their defaults, integer labels become their decimal
            text.
        root: The folder that relative paths start from.
        notes: Anything worth keeping that JSON can hold, such as licences.

    Raises:
        FormatError: The table is not a manifest: a column is missing or of another type, an id
            stands twice, a split or role is unknown, a row has no image.
    """

    table: pa.Table
    root: Path = Path()
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", conform(self.table).replace_schema_metadata(None))

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a Parquet manifest. Embedded images are read into memory with it.

        Raises:
            FormatError: There is no such file, it is not Parquet, of another format version, has
                no rows, or is not a manifest.
        """
        path = Path(path)
        try:
            with pq.ParquetFile(path) as file:
                metadata = _metadata(file.schema_arrow, path)
                groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
                table = pa.concat_tables(groups) if groups else file.schema_arrow.empty_table()
        except (OSError, pa.ArrowException) as error:
            raise FormatError(
                expected(
                    f"a Parquet manifest at {path}",
                    error,
                    "Make one with `crossbatch manifest`.",
                )
            ) from error
        _check_rows(table, path)
        return cls(table, path.absolute().parent / metadata["root"], metadata["notes"])

    def write(self, path: Path | str) -> None:
        """Write the manifest as Parquet, whole or not at all.

        A root inside the manifest's folder is stored relative to it, so that both can move
        together; any other root is stored absolute.

        Raises:
            CrossbatchError: There are no rows, or the file cannot be written.
        """
        path = Path(path)
        _check_rows(self.table, path)
        root, folder = self.root.absolute(), path.absolute().parent
        stored = root.relative_to(folder) if root.is_relative_to(folder) else root
        metadata = {"format": FORMAT, "root": stored.as_posix(), "notes": self.notes}
        write_beside(path, lambda part: _write(self.table, part, json.dumps(metadata)))

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def ids(self) -> np.ndarray:
        """The ids, ``(N,)`` int64."""
        return self.table["id"].to_numpy()

    @cached_property
    def labels(self) -> np.ndarray:
        """The labels, ``(N,)`` of str objects."""
        return self.column("label")

    @cached_property
    def classes(self) -> list[str]:
        """The distinct labels of this manifest, sorted."""
        return sorted(self.table["label"].unique().to_pylist())

    @cached_property
    def codes(self) -> np.ndarray:
        """Positions in `classes`, ``(N,)`` int64. A selection has its own classes and codes."""
        encoded = self.table["label"].combine_chunks().dictionary_encode()
        position = {label: code for code, label in enumerate(self.classes)}
        codes = np.array([position[label] for label in encoded.dictionary.to_pylist()], np.int64)
        return codes[encoded.indices.to_numpy()]

    def column(self, name: str) -> np.ndarray:
        """A column as an array; missing texts are None. Equal texts are one object, but paths."""
        if name not in self.table.column_names:
            remedy = nearest(name, self.table.column_names)
            raise CrossbatchError(expected("a column of the manifest", repr(name), remedy))
        values = self.table[name]
        if name == "path" or not pa.types.is_string(values.type):
            return values.to_numpy()
        words = values.combine_chunks().dictionary_encode(null_encoding="encode")
        return words.dictionary.to_numpy(zero_copy_only=False)[words.indices.to_numpy()]

    def with_column(self, name: str, values: np.ndarray | Sequence[Any] | pa.Array) -> Self:
        """The manifest with a column added or replaced, one value a row; NaN is nothing."""
        if len(values) != len(self):
            remedy = "Give one value a row."
            raise CrossbatchError(expected(f"{len(self)} values", len(values), remedy))
        array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
        others = [other for other in self.table.column_names if other != name]
        return replace(self, table=self.table.select(others).append_column(name, array))

    def select(self, rows: np.ndarray) -> Self:
        """The rows of a boolean mask, or the rows at integer positions in their order."""
        rows = np.asarray(rows)
        if rows.dtype != np.bool_:
            return replace(self, table=self.table.take(pa.array(rows.astype(np.int64))))
        if rows.shape != (len(self),):
            wanted = f"a mask of shape ({len(self)},), one entry a row"
            raise CrossbatchError(expected(wanted, rows.shape, "Make it from this manifest."))
        return replace(self, table=self.table.filter(pa.array(rows)))

    def split(self, name: str) -> Self:
        """The rows of one split: train, validation or test. There may be none."""
        if name not in SPLITS:
            wanted = f"a split, one of {', '.join(SPLITS)}"
            raise CrossbatchError(expected(wanted, repr(name), nearest(name, SPLITS)))
        return self.select(self.column("split") == name)

    def name(self, row: int) -> str:
        """What to call an image in a message: its path, or that it is embedded."""
        path = self.table["path"][row].as_py() or (self._image(row) or {}).get("path")
        return path or f"embedded image, id {self.ids[row]}"

    def path(self, row: int) -> Path | None:
        """Where an image's file lies, or None for an embedded image."""
        if self._image(row):
            return None
        return self.root / self.table["path"][row].as_py()

    def image_bytes(self, row: int) -> bytes:
        """The file of an image as it was, still encoded.

        Raises:
            CrossbatchError: The file cannot be read.
        """
        path = self.path(row)
        if path is None:
            return self.table["image"][row]["bytes"].as_py()
        try:
            return path.read_bytes()
        except OSError as error:
            wanted = f"an image file for row {row} (id {self.ids[row]})"
            remedy = "Put the file back or make the manifest again with `crossbatch manifest`."
            raise CrossbatchError(expected(wanted, error, remedy)) from error

    def embed(self) -> Self:
        """The manifest with every image's bytes inside, held in memory. Paths stay as names."""
        chunks = [pa.array([self._embedded(row)], IMAGE) for row in range(len(self))]
        return self.with_column("image", pa.chunked_array(chunks, IMAGE).combine_chunks())

    def digest(self) -> str:
        """A hash of all rows and images, the same wherever the files lie.

        Embedded images count with their bytes, files with path and size: a file that changes in
        place without changing its size goes unnoticed.
        """
        content = hashlib.sha256(self.image_digest().encode())
        for name in self.table.column_names:
            if name not in ("id", "path", "image"):
                content.update(f"[{json.dumps(name)}, [".encode())
                between = ""
                for values in _pieces(self.table[name]):
                    text = json.dumps(values, default=str)[1:-1]
                    content.update((between + text).encode())
                    between = ", "
                content.update(b"]]")
        return content.hexdigest()

    def image_digest(self) -> str:
        """A hash of ids and images alone, as in `digest`: what a cache of features depends on.

        Cost: one question to the disk per file, every embedded byte.
        """
        content = hashlib.sha256()
        embedded = self._embedded_rows()
        paths = chain.from_iterable(_pieces(self.table["path"]))
        for row, (i, path) in enumerate(zip(self.ids.tolist(), paths, strict=True)):
            if embedded is not None and embedded[row]:
                data = hashlib.sha256(self.image_bytes(row)).hexdigest()
            else:
                data = _size(self.root / path)
            content.update(json.dumps([i, path, data]).encode())
        return content.hexdigest()

    def _embedded_rows(self) -> np.ndarray | None:
        """Which rows hold an image's bytes; None for none."""
        if "image" not in self.table.column_names:
            return None
        return self.table["image"].flatten()[0].is_valid().to_numpy()

    def _image(self, row: int) -> dict[str, Any] | None:
        """The embedded image without its bytes, or None."""
        if "image" not in self.table.column_names:
            return None
        image = self.table["image"][row]
        if not image.is_valid or not image["bytes"].is_valid:
            return None
        return {"path": image["path"].as_py()}

    def _embedded(self, row: int) -> dict[str, Any]:
        image = self._image(row) or {"path": Path(self.name(row)).name}
        return {"bytes": self.image_bytes(row), **image}


def _pieces(column: pa.ChunkedArray) -> Iterator[list[Any]]:
    """The values of a column, some at a time."""
    for start in range(0, len(column), _PIECE):
        yield column.slice(start, _PIECE).to_pylist()


def _size(path: Path) -> int | None:
    """Of a file, in bytes; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name with a zero byte
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _write(table: pa.Table, path: Path, metadata: str) -> None:
    words = [name for name in table.column_names if table[name].type == pa.string()]
    with pq.ParquetWriter(
        path,
        table.schema,
        use_dictionary=words,  # pyright: ignore[reportArgumentType]
        compression="zstd",
        store_schema=False,
    ) as file:
        file.write_table(table, max(1, _GROUP_BYTES * len(table) // table.nbytes))
        file.add_key_value_metadata({_KEY: metadata})


def _metadata(schema: pa.Schema, path: Path) -> dict[str, Any]:
    stored = (schema.metadata or {}).get(_KEY)
    if stored is None:
        return {"root": ".", "notes": {}}
    try:
        metadata = json.loads(stored)
        version = metadata["format"]
        if version == FORMAT:
            return {"root": metadata["root"], "notes": metadata["notes"]}
    except (ValueError, TypeError, KeyError):
        version = "unreadable metadata"
    remedy = "Make it again with `crossbatch manifest`, or use the crossbatch that wrote it."
    wanted = f"{path} to be a manifest of format {FORMAT}"
    raise FormatError(expected(wanted, version, remedy))


def _check_rows(table: pa.Table, path: Path) -> None:
    if table.num_rows == 0:
        raise FormatError(
            expected(
                f"at least one row in the manifest {path}",
                "0",
                "Check the folder or list of images that it is made from.",
            )
        )

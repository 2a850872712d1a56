"""Hugging Face data sets: Parquet or Arrow files with images inside, or a name on their hub.

A column of structs ``{bytes, path}`` holds the images, another the labels: text, or integers whose
names stand in the metadata ``huggingface`` of the file (``info.features``, type ClassLabel) or in
dataset_info.json beside it. Files are told into splits by their names, such as
``data/train-00000-of-00002.parquet``, by their folders, or by the ``_split`` of state.json.
Further columns are left out. The label -1, which stands for none, becomes the empty label.

A name on the hub takes the library ``datasets``, which crossbatch does not require.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from crossbatch.data._schema import IMAGE
from crossbatch.data.importers.folder import SPLIT_NAMES
from crossbatch.data.manifest import Manifest
from crossbatch.data.problems import Imported
from crossbatch.errors import CrossbatchError, FormatError, expected, nearest


class _Columns(NamedTuple):
    image: str
    label: str


def from_huggingface(source: str, *, image: str = "image", label: str = "label") -> Imported:
    """Read a Hugging Face data set; no image is decoded.

    Args:
        source: A Parquet or Arrow file, a folder of such, or else a name on the hub.
        image: The column of the images.
        label: The column of the labels.

    Returns:
        A manifest that holds the images. Where the file holds a path alone, so does the manifest,
        and relative paths start at the folder ``source``, or that of the file.

    Raises:
        CrossbatchError: There are no such files, a column is missing or of another kind, or a
            name is given without the library.

    Cost: all images in memory.
    """
    columns, path = _Columns(image, label), Path(source)
    if path.exists():
        tables = [_read(file, columns, _split(file, path)) for file in _files(path)]
        root = path if path.is_dir() else path.parent
    else:
        tables, root = list(_from_hub(source, columns)), Path()
    notes = {"data set": source}
    return Imported(Manifest(pa.concat_tables(tables), root.absolute(), notes), ())


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    if found := [file for file in files if file.suffix in (".parquet", ".arrow")]:
        return found
    raise FormatError(
        expected(
            f"files .parquet or .arrow at {path}",
            "none",
            "Download the data set as Parquet, or save it with `save_to_disk`.",
        )
    )


def _split(file: Path, root: Path) -> str:
    """The split that a file's name, its folders or the state beside it tell; else train."""
    below = [part for part in file.parents if part != root and part.is_relative_to(root)]
    words = [file.stem, *(part.name for part in below)]
    state = file.parent / "state.json"
    if state.exists():
        words.append(str(_json(state).get("_split")))
    for word in words:
        for part in re.split(r"[^a-z]+", word.lower()):
            if part in SPLIT_NAMES:
                return SPLIT_NAMES[part]
    return "train"


def _read(file: Path, columns: _Columns, split: str) -> pa.Table:
    try:
        table = _parquet(file, columns) if file.suffix == ".parquet" else _arrow(file)
    except (OSError, pa.ArrowException) as error:
        remedy = "Get the file anew."
        raise FormatError(expected(f"a file of images at {file}", error, remedy)) from error
    info = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    beside = file.parent / "dataset_info.json"
    if not info and beside.exists():
        info = _json(beside)
    feature = (info.get("features") or {}).get(columns.label) or {}
    return _rows(table, columns, split, feature.get("names"), str(file))


def _parquet(file: Path, columns: _Columns) -> pa.Table:
    """Row group by row group: readers of nested columns stop at 2 GiB."""
    with pq.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        _check_columns(schema.names, columns, str(file))
        groups = [opened.read_row_group(i, list(columns)) for i in range(opened.num_row_groups)]
        return pa.concat_tables(groups) if groups else schema.empty_table()


def _arrow(file: Path) -> pa.Table:
    with pa.memory_map(str(file)) as source:
        try:
            return pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(source).read_all()


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(expected(f"JSON in {file}", error, "Get the file anew.")) from error


def _rows(
    table: pa.Table, columns: _Columns, split: str, names: list[str] | None, where: str
) -> pa.Table:
    _check_columns(table.column_names, columns, where)
    images = table[columns.image]
    held = [f.name for f in images.type] if pa.types.is_struct(images.type) else []
    if "bytes" not in held:
        wanted = f"`{columns.image}` in {where} to hold structs of `bytes` and `path`"
        remedy = "Name the column of the images with --image."
        raise FormatError(expected(wanted, images.type, remedy))
    parts = dict(zip(held, images.flatten(), strict=True))
    data = parts["bytes"].cast(pa.large_binary())
    none = pa.chunked_array([pa.nulls(len(table), pa.string())])
    path = parts.get("path", none).cast(pa.string())
    pairs = [
        pa.StructArray.from_arrays([d, p], fields=list(IMAGE)) for d, p in _pieces(data, path)
    ]
    alone = zip(data.is_null().to_pylist(), path.to_pylist(), strict=True)
    return pa.table(
        {
            "path": pa.array([name if empty else None for empty, name in alone], pa.string()),
            "image": pa.chunked_array(pairs, IMAGE),
            "label": _labels(table[columns.label], names, where),
            "split": pa.array([split] * len(table), pa.string()),
        }
    )


def _check_columns(names: list[str], columns: _Columns, where: str) -> None:
    for option, name in columns._asdict().items():
        if name not in names:
            remedy = f"{nearest(name, names)} Name it with --{option}."
            raise FormatError(expected(f"a column `{name}` in {where}", "none", remedy))


def _pieces(data: pa.ChunkedArray, path: pa.ChunkedArray) -> Iterator[tuple[pa.Array, pa.Array]]:
    start = 0
    for chunk in data.chunks:
        yield chunk, path.slice(start, len(chunk)).combine_chunks()
        start += len(chunk)


def _labels(column: pa.ChunkedArray, names: list[str] | None, where: str) -> pa.Array:
    if pa.types.is_integer(column.type):
        codes = column.to_pylist()
        if names is None:
            return pa.array([None if c is None else str(c) for c in codes], pa.string())
        if wrong := [c for c in codes if c is not None and not -1 <= c < len(names)]:
            wanted = f"labels of {len(names)} classes in {where}"
            raise FormatError(expected(wanted, wrong[0], "Get the file anew."))
        known = [None if c in (None, -1) else names[c] for c in codes]
        return pa.array(known, pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string()).combine_chunks()
    remedy = "Name the column of the labels with --label."
    raise FormatError(expected(f"text or integers as labels in {where}", column.type, remedy))


def _from_hub(name: str, columns: _Columns) -> Iterator[pa.Table]:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        wanted = f"files at {name}, or the library `datasets` to fetch that name from the hub"
        remedy = "Check the path, or install it: pip install datasets."
        raise CrossbatchError(expected(wanted, "neither", remedy)) from error
    for split, part in datasets.load_dataset(name).items():
        if split not in SPLIT_NAMES:
            remedy = "Save the splits that you want as Parquet, and give that folder."
            raise FormatError(expected(f"splits train, validation, test in {name}", split, remedy))
        if columns.image in part.column_names:
            part = part.cast_column(columns.image, datasets.Image(decode=False))
        names = getattr(part.features.get(columns.label), "names", None)
        table = part.with_format("arrow")[:]
        yield _rows(table, columns, SPLIT_NAMES[split], names, name)

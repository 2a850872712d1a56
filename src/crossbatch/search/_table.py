"""The table of an index: LanceDB's, whose every commit is a whole new version.

A version is files that no later version touches and one manifest that names them, renamed into
place last. A process that dies leaves files that no manifest names, and the version before. Which
version counts is told in `crossbatch.search._commits`.

Columns that begin with `_` are the index's own: `_key` tells items apart, `_digest` is the hash of
the image's content, `_about` that of its other columns, `_source` the place in the header's
sources, `_image` the image itself where it lay in a manifest.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from crossbatch.errors import CrossbatchError, FormatError, expected

TABLE = "items"
OWN = ("_key", "_digest", "_about", "_source", "_image", "vector")
KEPT = timedelta(hours=1)  # an old version, for those who still read it
FOREVER = timedelta(days=10_000)
_NO_ROOM = {
    code: text
    for code, text in (
        (errno.ENOSPC, "No space left on device"),
        (errno.EFBIG, "File too large"),
        (errno.EDQUOT, "Disk quota exceeded"),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
    )
}
_BATCH = 4_000  # ids in one condition


def schema(dim: int) -> pa.Schema:
    """Of an index without items."""
    return pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("path", pa.string()),
            pa.field("label", pa.string()),
            pa.field("_key", pa.string()),
            pa.field("_digest", pa.string()),
            pa.field("_about", pa.string()),
            pa.field("_source", pa.int32()),
            pa.field("_image", pa.large_binary()),
            pa.field("vector", pa.list_(pa.float32(), dim)),
        ]
    )


def create(folder: Path, dim: int) -> None:
    """Make the table in a new folder."""
    with translated(folder):
        _connect(folder).create_table(TABLE, schema=schema(dim))


def open_table(folder: Path, version: int | None = None) -> Any:
    """Open the table at its last version, or at an earlier one to read.

    Raises:
        FormatError: There is none.
    """
    if not (folder / f"{TABLE}.lance" / "_versions").is_dir():
        remedy = "It was deleted or damaged; make the index again."
        raise FormatError(expected(f"the items of the index at {folder}", "none", remedy))
    with translated(folder):
        table = _connect(folder).open_table(TABLE)
        if version is not None:
            table.checkout(version)
    return table


def rows(table: Any, columns: list[str], *, where: str | None = None) -> pa.Table:
    """Some columns of all rows, or of those that meet a condition."""
    query = table.search()
    if where is not None:
        query = query.where(where)
    return query.select(columns).to_arrow()


def by_ids(table: Any, ids: list[int], columns: list[str]) -> pa.Table:
    """Some columns of the items with these ids, in no order."""
    parts = [
        rows(table, columns, where=_among(ids[start : start + _BATCH]))
        for start in range(0, len(ids), _BATCH)
    ]
    return pa.concat_tables(parts) if parts else rows(table, columns, where="false")


def delete(table: Any, ids: list[int]) -> None:
    """Delete items; each few thousand of them are one commit."""
    for start in range(0, len(ids), _BATCH):
        table.delete(_among(ids[start : start + _BATCH]))


def widen(table: Any, wanted: pa.Schema, folder: Path) -> None:
    """Add the columns that are new, empty in all rows that there are.

    Raises:
        CrossbatchError: A column that is there already is of another type.
    """
    there = table.schema
    new = [field for field in wanted if field.name not in there.names]
    for field in wanted:
        if field.name in there.names and there.field(field.name).type != field.type:
            known = there.field(field.name).type
            remedy = "Convert the column, rename it, or make another index."
            want = f"column `{field.name}` to hold {known}, as in {folder}"
            raise CrossbatchError(expected(want, field.type, remedy))
    if new:
        table.add_columns(pa.schema(new))


def compact(table: Any, *, kept: timedelta) -> None:
    """Join small files, take new rows into the indices, drop versions older than ``kept``."""
    table.optimize(cleanup_older_than=kept)


@contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Say in a sentence what the table's engine could not do.

    Raises:
        CrossbatchError: There was no room or no right to write.
        FormatError: Files of the index are gone or damaged.
    """
    try:
        yield
    except CrossbatchError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        text = str(error)
        for phrase in _NO_ROOM.values():
            if phrase.lower() in text.lower():
                raise CrossbatchError(
                    f"Could not write {folder}: {phrase}. What was committed before stands. "
                    "Make room or choose another place, then run this again."
                ) from error
        gone = "not found" in text.lower() or "no such file" in text.lower()
        got = "files that are gone" if gone else (text.splitlines() or [""])[0][:200]
        remedy = "It was deleted or replaced while it was open, or is damaged. Open it again."
        raise FormatError(expected(f"the whole index at {folder}", got, remedy)) from error


def _among(ids: list[int]) -> str:
    return f"id IN ({', '.join(str(int(i)) for i in ids)})"


def _connect(folder: Path) -> Any:
    try:
        import lancedb
    except ImportError as error:
        remedy = "Install it: pip install 'crossbatch[search]'."
        raise CrossbatchError(expected("lancedb", "no such package", remedy)) from error
    return lancedb.connect(str(folder))

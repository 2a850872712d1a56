"""Features from wherever they lie: a table of ours, a NumPy file, a column of an Arrow table.

========================== ===============================================================
folder                     as :func:`crossbatch.features.extract` writes it; rows by id
``.npy``                   a matrix, mapped; its rows are those of the manifest, in order
``.feather``, ``.arrow``   columns ``id`` (integers) and ``features`` (lists of one length);
                           mapped where the file is not compressed
``.parquet``               the same columns, read
========================== ===============================================================
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.features.table import FeatureTable


def read_features(path: Path | str, ids: NDArray[np.int64]) -> NDArray[Any]:
    """The features of some images, one row each, in the order of their ids.

    Where the file has them in that order they stay mapped; otherwise they are copied.

    Args:
        path: See the module.
        ids: Of the images, shape (N,), distinct.

    Raises:
        FormatError: There is no such file, or it is in none of these formats.
        CrossbatchError: It lacks some of the ids, or a file without ids has another number of
            rows.
    """
    path = Path(path)
    if path.is_dir():
        table = FeatureTable.open(path)
        return _take(table.array, table.rows(ids))
    try:
        if path.suffix == ".npy":
            return _in_order(np.load(path, mmap_mode="r"), path, len(ids))
        if path.suffix in (".feather", ".arrow", ".parquet"):
            parquet = path.suffix == ".parquet"
            columns = ["id", "features"]
            table = (pq if parquet else feather).read_table(path, columns=columns, memory_map=True)
            return _columns(table, ids, path)
    except (OSError, EOFError, KeyError, ValueError, pa.ArrowException) as error:
        if isinstance(error, CrossbatchError):
            raise
        remedy = "Give a run, a folder of features, or a .npy, .feather or .parquet file."
        raise FormatError(expected(f"features in {path}", error, remedy)) from error
    remedy = "Give a run, a folder of features, or a .npy, .feather or .parquet file."
    got = "another kind of file" if path.exists() else "nothing there"
    raise FormatError(expected(f"features in {path}", got, remedy))


def _in_order(array: NDArray[Any], path: Path, rows: int) -> NDArray[Any]:
    if array.ndim != 2 or len(array) != rows:
        remedy = "Give features of the same manifest, or a table with ids."
        raise CrossbatchError(expected(f"{rows} rows of features in {path}", array.shape, remedy))
    return array


def _columns(table: pa.Table, ids: NDArray[np.int64], path: Path) -> NDArray[Any]:
    known = table["id"].to_numpy()
    column = table["features"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if not len(known) or column.null_count or len(flat) % len(known):
        remedy = "Write one list per image, all of one length."
        raise FormatError(expected(f"a list of features per row in {path}", "gaps", remedy))
    width = len(flat) // len(known)
    if not pa.types.is_fixed_size_list(column.type):
        lengths = np.diff(column.offsets.to_numpy())
        if (lengths != width).any():
            remedy = "Write one list per image, all of one length."
            got = f"lengths from {lengths.min()} to {lengths.max()}"
            raise FormatError(expected(f"lists of one length in {path}", got, remedy))
    order = np.argsort(known, kind="stable")
    places = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
    rows = order[places]
    missing = ids[known[rows] != ids]
    if len(missing):
        got = f"{len(missing)} others, the first: {missing[:5].tolist()}"
        raise CrossbatchError(expected(f"ids that are in {path}", got, "Extract them too."))
    return _take(flat.reshape(len(known), width), rows)


def _take(array: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Rows of an array: a view where they follow each other."""
    first = int(rows[0]) if len(rows) else 0
    if np.array_equal(rows, np.arange(first, first + len(rows))):
        return array[first : first + len(rows)]
    return array[rows]

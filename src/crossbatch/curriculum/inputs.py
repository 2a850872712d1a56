"""Features and labels as they come: checked, and read class by class."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from crossbatch.curriculum.points import Floats, Places
from crossbatch.errors import CrossbatchError, expected

_CHUNK = 2**22  # numbers read at a time
_START = 8  # columns that tell most rows apart


@dataclass(frozen=True)
class Classes:
    """Features ordered by class, none of them read yet.

    Attributes:
        x: Shape (N, D), in memory or mapped.
        names: The distinct labels in rising order, shape (C,).
        codes: Of each row, the place of its label in ``names``.
        rows: Of each class, its rows in rising order.
    """

    x: NDArray[Any]
    names: NDArray[Any]
    codes: NDArray[np.int64]
    rows: list[Places]

    @staticmethod
    def of(x: Any, y: Any) -> "Classes":
        """Check shapes and labels; numbers are checked when they are read.

        Raises:
            CrossbatchError: See :func:`check_features` and :func:`check_labels`.
        """
        x = check_features(x)
        names, codes = check_labels(y, len(x))
        order = np.argsort(codes, kind="stable")
        rows = np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])
        return Classes(x, names, codes, rows)

    def read(self, c: int) -> Floats:
        """The features of a class, float64.

        Raises:
            CrossbatchError: NaN or infinity among them; the message names rows.
        """
        return read_rows(self.x, self.rows[c])

    def chunks(self) -> Iterator[Floats]:
        """All features, float64, some rows at a time."""
        step = max(1, _CHUNK // self.x.shape[1])
        for start in range(0, len(self.x), step):
            yield read_rows(self.x, np.arange(start, min(start + step, len(self.x))))


def read_rows(x: NDArray[Any], rows: Places) -> Floats:
    """Some rows as float64, checked to be finite."""
    first, last = int(rows[0]), int(rows[-1])
    whole = last - first == len(rows) - 1
    found = np.array(x[first : last + 1] if whole else x[rows], np.float64, order="C")
    if not np.isfinite(found).all():
        bad = rows[~np.isfinite(found).all(axis=1)]
        got = f"NaN or infinity in {len(bad)} rows of a class, the first: {bad[:5].tolist()}"
        remedy = "Leave these images out, or extract their features again."
        raise CrossbatchError(expected("finite features", got, remedy))
    return found


def first_alike(x: Floats) -> Places | None:
    """Of each row the first that equals it, shape (n,); None if no two are equal.

    Cost: the first few columns sorted, and a digest of the rows that agree in these.
    """
    start = np.ascontiguousarray(x[:, :_START] + 0.0)  # −0 is 0
    words = start.view(np.dtype((np.void, start.itemsize * start.shape[1]))).ravel()
    _, group, sizes = np.unique(words, return_inverse=True, return_counts=True)
    first, seen = np.arange(len(x)), dict[bytes, int]()
    for i in np.flatnonzero(sizes[group] > 1).tolist():
        first[i] = seen.setdefault(blake2b(x[i] + 0.0, digest_size=16).digest(), i)
    return first if (first != np.arange(len(x))).any() else None


def check_features(x: Any) -> NDArray[Any]:
    """A matrix of numbers, not copied if it is an array or a memory map.

    Raises:
        CrossbatchError: Not a matrix of real numbers, or one without rows or columns.
    """
    if hasattr(x, "tocsr"):
        remedy = "Use `X.toarray()` if it fits into memory."
        raise CrossbatchError(expected("dense features", f"a sparse {type(x).__name__}", remedy))
    x = cast(NDArray[Any], x) if isinstance(x, np.ndarray) else np.asarray(x)
    if x.dtype.kind == "c":
        raise CrossbatchError(
            expected("real features", f"{x.dtype}: Complex data not supported", "Give real ones.")
        )
    if x.dtype.kind not in "fiub":
        x = x.astype(np.float64)
    if x.ndim != 2:
        remedy = "Reshape your data to one row per image."
        raise CrossbatchError(expected("`X` of shape (rows, columns)", f"shape {x.shape}", remedy))
    if not len(x) or not x.shape[1]:
        lacking = "sample" if not len(x) else "feature"
        got = f"0 {lacking}(s) (shape={x.shape}) while a minimum of 1 is required."
        raise CrossbatchError(expected("features of some images", got, "Check the file."))
    return x


def check_labels(y: Any, rows: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Distinct labels in rising order, and the place of each row's label among them.

    Args:
        y: Integers, whole floats, booleans or texts in any script, one a row.
        rows: How many.

    Raises:
        CrossbatchError: None given, another number than rows, a label that is missing, or
            numbers that are not whole.
    """
    if y is None:
        got = "None: requires y to be passed, but the target y is None"
        raise CrossbatchError(expected("a label per row", got, "Pass the labels as `y`."))
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (rows,):
        remedy = "Give one label per row of `X`."
        raise CrossbatchError(expected(f"`y` of shape ({rows},)", f"shape {y.shape}", remedy))
    if y.dtype.kind == "O":
        kinds: set[type] = {str if isinstance(label, str) else type(label) for label in y.tolist()}
        if len(kinds) != 1 or not issubclass(kinds.pop(), str | int | np.integer):
            got = "missing labels, or labels of several types"
            raise CrossbatchError(expected("texts, or whole numbers", got, "Fill the labels."))
        y = np.array(y.tolist())
    if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.floor(y))).all():
        got = "NaN, infinity or fractions: Unknown label type: continuous"
        raise CrossbatchError(expected("labels of classes", got, "Give integers or texts."))
    if y.dtype.kind not in "fiubUS":
        raise CrossbatchError(expected("labels of classes", y.dtype, "Give integers or texts."))
    names, codes = np.unique(y, return_inverse=True)
    return names, codes.reshape(-1).astype(np.int64)

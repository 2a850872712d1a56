r"""Squared distances on matrix units, each pair once, looked at before they reach memory.

a_ij of :mod:`crossbatch.curriculum.points` comes from two numbers of bfloat16 for each of float32,

    x̂ = h + l + r,    |l| ≤ 2⁻⁹ |x̂|,    |r| ≤ 2⁻¹⁸ |x̂|,    ⟨x̂, x̂'⟩ ≈ ⟨l, h'⟩ + ⟨h, l'⟩ + ⟨h, h'⟩.

That leaves out ⟨l, l'⟩ and what r makes, 3 · 2⁻¹⁸ M² together; the small products are added first
and round 2⁻⁸ of what the large ones do. So e grows by ``EXTRA``.

Columns are taken ``_COLUMNS`` at a time, by whichever thread is free. Without a compiler or matrix
units, or where one class is too small to be worth it, torch does the same.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossbatch import _native

EXTRA = (0.04, 392.0)  # of u M², for each number of a point, and at all
_COLUMNS = 1024
_WORTH = 1 << 25  # multiplications for whose sake C is compiled
_SPARE = 1024  # pairs that C may keep beyond the room it is told
_FEWEST = 1 << 12  # pairs that there is room for

Some = NDArray[np.int32]


class Centred(NamedTuple):
    """Attributes: x: x̂, shape (n, D), float32, contiguous; norms: |x̂|², shape (n,), float32."""

    x: Tensor
    norms: Tensor


class Pairs(NamedTuple):
    """Attributes: i, j: places, i < j; squares: a of them. Each of shape (p,)."""

    i: Some
    j: Some
    squares: NDArray[np.float32]

    def of(self, some: slice | NDArray[np.bool_]) -> "Pairs":
        """Some of them, in memory of their own."""
        return Pairs(self.i[some].copy(), self.j[some].copy(), self.squares[some].copy())


def at_hand(x: Tensor) -> bool:
    """Whether this is faster here for points of shape (n, D)."""
    return len(x) * x.numel() >= _WORTH and _native.units_at_hand()


def between(
    points: Centred, lo: float, hi: float, most: int
) -> tuple[NDArray[np.int64], Pairs] | None:
    """How many others of each point are at a < ``lo``, and the pairs with lo ≤ a ≤ hi.

    Args:
        points: n of them.
        lo: Of float32.
        hi: Of float32, finite.
        most: Pairs that may be kept; None if there are more.
    """

    def one(columns: slice) -> tuple[Some, Pairs] | None:
        below = np.zeros(columns.stop + 32, np.int32)
        kept = _kept(points, columns, (lo, hi), below, most)
        return None if kept is None else (below[: columns.stop], kept)

    n = len(points.x)
    below = np.zeros(n, np.int64)
    parts: list[Pairs] = []
    for found in _native.shared_out(one, _blocks(n)):
        if found is None:
            return None
        below[: len(found[0])] += found[0]
        parts.append(found[1])
    pairs = _joined(parts)
    return None if len(pairs.i) > most else (below, pairs)


def before(points: Centred, within: float, most: int) -> Pairs | None:
    """Pairs (i, j), i < j, the nearest i of each j among them, and those hardly farther.

    Args:
        points: n of them.
        within: How much greater an a may be than the least of its j.
        most: Pairs that may be kept; None if there are more.
    """

    def one(columns: slice) -> Pairs | None:
        pairs = _kept(points, columns, (0.0, within), None, most)
        if pairs is None:
            return None
        best = np.full(columns.stop - columns.start, np.inf, np.float32)
        np.minimum.at(best, pairs.j - columns.start, pairs.squares)
        near = pairs.squares <= best[pairs.j - columns.start] + np.float32(within)
        return pairs.of(near)

    parts = _native.shared_out(one, _blocks(len(points.x)))
    whole = [part for part in parts if part is not None]
    return None if len(whole) < len(parts) else _joined(whole)


def _kept(
    points: Centred, columns: slice, bounds: tuple[float, float], below: Some | None, most: int
) -> Pairs | None:
    """What C keeps of some columns."""
    room = min(max(most, _FEWEST), columns.stop * (columns.stop - columns.start))
    i, j = (np.empty(room + _SPARE, np.int32) for _ in "ij")
    squares = np.empty(room + _SPARE, np.float32)
    out = [part.ctypes.data for part in (i, j, squares)]
    counts = None if below is None else below.ctypes.data
    place = (points.x.shape[1], columns.start, columns.stop)
    count = _native.call("pairs_of_columns", *points, *place, *bounds, counts, *out, room)
    return None if count < 0 else Pairs(i, j, squares).of(slice(count))


def _blocks(n: int) -> list[slice]:
    """The columns, those with the most rows first, so that threads end together."""
    starts = range(0, n, _COLUMNS)
    return [slice(start, min(start + _COLUMNS, n)) for start in reversed(starts)]


def _joined(parts: list[Pairs]) -> Pairs:
    return Pairs(*(np.concatenate(part) for part in zip(*parts, strict=True)))

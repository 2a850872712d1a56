r"""Squared distances on matrix units, each pair once, looked at before they reach memory.

a_ij of :mod:`crossbatch.curriculum.points` comes from two numbers of bfloat16 for each of float32,

    x̂ = h + l + r,    |l| ≤ 2⁻⁸ |x̂|,    |r| ≤ 2⁻¹⁷ |x̂|,    ⟨x̂, x̂'⟩ ≈ ⟨l, h'⟩ + ⟨h, l'⟩ + ⟨h, h'⟩.

That leaves out ⟨l, l'⟩ and what r makes, 2⁻¹⁵ M² together, of which a has the double, 1,024 u M².
The 2 D small products are added first. They, and what they add to the sums of the D large ones,
round 2⁻⁵ of what those do, so a has 2⁻⁴ D u M² more than of float32. ``EXTRA`` is a little above
both.

Columns are taken ``_COLUMNS`` at a time, by whichever thread is free. Without a compiler or matrix
units, or where one class is too small to be worth it, torch does the same.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossbatch import _native

EXTRA = (0.0675, 1032.0)  # of u M², for each number of a point, and at all
_COLUMNS = 1024
_WORTH = 1 << 25  # multiplications for whose sake C is compiled
_SPARE = 1024  # pairs that C may keep beyond the room it is told
_PADDING = 32  # rows that C counts for beyond the last
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
        """Some of them."""
        return Pairs(self.i[some], self.j[some], self.squares[some])


def at_hand(x: Tensor) -> bool:
    """Whether this is faster here for points of shape (n, D)."""
    worth = x.device.type == "cpu" and len(x) * x.numel() >= _WORTH
    return worth and _native.units_at_hand()


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
    below, lock = np.zeros(len(points.x), np.int64), threading.Lock()

    def one(columns: slice) -> Pairs | None:
        counts = np.zeros(columns.stop + _PADDING, np.int32)
        pairs = _kept(points, columns, (lo, hi), counts, most)
        with lock:
            below[: columns.stop] += counts[: columns.stop]
        return pairs

    pairs = _each(one, len(below), most)
    return None if pairs is None else (below, pairs)


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

    return _each(one, len(points.x), most)


def _each(one: Callable[[slice], Pairs | None], n: int, most: int) -> Pairs | None:
    """The pairs of all columns; None, and no further block, once there are more than so many.

    Blocks with the most rows come first, so that threads end together.
    """
    lock, found, total = threading.Lock(), list[Pairs](), 0

    def next_one(start: int) -> None:
        nonlocal total
        if total > most:
            return
        pairs = one(slice(start, min(start + _COLUMNS, n)))
        with lock:
            total += most + 1 if pairs is None else len(pairs.i)
            if pairs is None or total > most:
                found.clear()
            else:
                found.append(pairs)

    starts = range(0, n, _COLUMNS)[::-1]
    threads = min(torch.get_num_threads(), len(starts))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(next_one, starts))
    else:
        for start in starts:
            next_one(start)
    if total > most:
        return None
    i, j, squares = (np.concatenate(part) for part in zip(*found, strict=True))
    return Pairs(i, j, squares)


def _kept(
    points: Centred, columns: slice, bounds: tuple[float, float], below: Some | None, most: int
) -> Pairs | None:
    """What C keeps of some columns; None where that is too much, or memory is not to be had."""
    room = min(max(most, _FEWEST), columns.stop * (columns.stop - columns.start))
    i, j = (np.empty(room + _SPARE, np.int32) for _ in "ij")
    squares = np.empty(room + _SPARE, np.float32)
    out = [part.ctypes.data for part in (i, j, squares)]
    counts = None if below is None else below.ctypes.data
    place = (points.x.shape[1], columns.start, columns.stop)
    count = _native.call("pairs_of_columns", *points, *place, *bounds, counts, *out, room)
    return None if count < 0 else Pairs(i, j, squares).of(slice(count))

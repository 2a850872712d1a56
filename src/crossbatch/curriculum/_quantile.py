r"""The quantile of all distances of a class, and how many of each point's are below it.

Exact selection without sorting, and without holding the distances of a large class:

1. Random pairs give a bracket [lo, hi] that holds the wanted a_(k) but once in a million times.
2. One sweep counts what is below lo, and keeps the pairs inside.
3. Among those kept, a_(k) is found by partition. |a − t²| ≤ e on every pair, so |t²_(k) − a_(k)|
   ≤ e: whatever is farther than 2 e from a_(k) is on the same side of t_(k) as a tells.
4. t of the pairs within 2 e gives t_(k), and who among them is below.

A bracket that missed is widened, and the sweep done again. Where too many pairs tie to be kept,
the bracket is refined by histograms of t, in as many sweeps as that takes.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbatch.curriculum.points import Block, Floats, Places, Points

_KEPT = 2**24  # pairs inside the bracket that are kept, 20 bytes each
_BINS = 2**16
_SMALL = 8192  # points: larger classes are worth a larger sample


class Cutoff(NamedTuple):
    """Attributes: distance: d_c in units of the features; below: of each point, others nearer."""

    distance: float
    below: NDArray[np.int64]


class _Swept(NamedTuple):
    below: NDArray[np.int64]
    squares: NDArray[np.float32]
    i: Places
    j: Places


def cutoff(points: Points, quantile: float) -> Cutoff:
    """The quantile of all n² ordered distances, and how many others are strictly nearer.

    Args:
        points: n ≥ 1 of them.
        quantile: q in [0, 1]; the element ⌊q n²⌋ (at most n² − 1) of the sorted distances.
    """
    n = len(points)
    k = min(int(n * n * quantile), n * n - 1)
    if not points.error:
        return Cutoff(0.0, np.zeros(n, np.int64))
    width = 5.0
    while True:
        lo, hi = _bracket(points, k / (n * n), width)
        swept = _sweep(points, lo, hi)
        if swept is None:
            return _refined(points, k, lo, hi)
        found = _decide(points, swept, k, lo, hi)
        if found is not None:
            return found
        width *= 4


def _bracket(points: Points, share: float, width: float) -> tuple[float, float]:
    """Squares between which the quantile lies, ``width`` deviations of a sample to each side."""
    n = len(points)
    pairs = 2**14 if n <= _SMALL else 2**21
    sample = points.sample(pairs)
    slack = width * math.sqrt(share * (1 - share) / pairs) + 2 / pairs
    low, high = math.floor((share - slack) * pairs), math.ceil((share + slack) * pairs)
    ends = [place for place in (low, high) if 0 <= place < pairs]
    sample.partition(ends)
    room = 4 * points.error
    return (
        float(sample[low]) - room if low >= 0 else -math.inf,
        float(sample[high]) + room if high < pairs else math.inf,
    )


def _sweep(points: Points, lo: float, hi: float) -> _Swept | None:
    """Counts below ``lo`` and the pairs in [lo, hi], or None if these are too many."""
    below = np.zeros(len(points), np.int64)
    kept: list[tuple[NDArray[np.float32], Places, Places]] = []
    total = 0
    for block in points.blocks():
        lower = block.squares < lo
        _count(below, block, lower)
        lower ^= block.squares <= hi
        inside = np.divmod(np.flatnonzero(lower), lower.shape[1])
        i, j = inside[0] + block.rows.start, inside[1] + block.columns.start
        squares = block.squares[inside]
        kept.append((squares, i, j))
        if block.mirrored:
            kept.append((squares, j, i))
        total += len(i) * (1 + block.mirrored)
        if total > _KEPT:
            return None
    squares, i, j = (np.concatenate(part) for part in zip(*kept, strict=True))
    return _Swept(below, squares, i, j)


def _count(below: NDArray[np.int64], block: Block, mask: NDArray[np.bool_]) -> None:
    below[block.rows] += np.count_nonzero(mask, axis=1)
    if block.mirrored:
        below[block.columns] += np.count_nonzero(mask, axis=0)


def _decide(points: Points, swept: _Swept, k: int, lo: float, hi: float) -> Cutoff | None:
    """Steps 3 and 4; None if the bracket missed."""
    left = k - int(swept.below.sum())
    if not 0 <= left < len(swept.squares):
        return None
    middle = float(np.partition(swept.squares, left)[left])
    first, last = middle - 2.01 * points.error, middle + 2.01 * points.error
    if first < lo or last > hi:
        return None
    nearer = swept.squares < first
    close = np.flatnonzero(~nearer & (swept.squares <= last))
    t = points.distances(swept.i[close], swept.j[close])
    left -= int(np.count_nonzero(nearer))
    d = float(np.partition(t, left)[left])
    n = len(points)
    below = swept.below + np.bincount(swept.i[nearer], minlength=n)
    below += np.bincount(swept.i[close[t < d]], minlength=n)
    return Cutoff(d * points.scale, below - (d > 0))


def _refined(points: Points, k: int, lo: float, hi: float) -> Cutoff:
    """Selection by histograms of t: memory of a few blocks whatever ties. Slow."""
    largest = 2 * math.sqrt(points.x.shape[1]) + 1
    low, high = math.sqrt(max(lo, 0.0)), min(math.sqrt(max(hi, 0.0)), largest)
    while low < high:
        before, counts, least, most = _histogram(points, low, high)
        left = k - before
        if not 0 <= left < counts.sum():
            low, high = 0.0, largest
            continue
        place = int(np.searchsorted(np.cumsum(counts), left, side="right"))
        low, high = float(least[place]), float(most[place])
    below = np.zeros(len(points), np.int64)
    for block in points.blocks():
        sure, i, j, t = _close(points, block, low, low)
        _count(below, block, sure)
        np.add.at(below, i[t < low], 1)
        if block.mirrored:
            np.add.at(below, j[t < low], 1)
    return Cutoff(low * points.scale, below - (low > 0))


def _close(
    points: Points, block: Block, low: float, high: float
) -> tuple[NDArray[np.bool_], Places, Places, Floats]:
    """Which pairs of a block are surely below ``low``, and those that may be in [low, high]."""
    first, last = low**2 - 1.01 * points.error, high**2 + 1.01 * points.error
    i, j = np.nonzero((block.squares >= first) & (block.squares <= last))
    i, j = i + block.rows.start, j + block.columns.start
    return block.squares < first, i, j, points.distances(i, j)


def _histogram(
    points: Points, low: float, high: float
) -> tuple[int, NDArray[np.int64], Floats, Floats]:
    """Ordered pairs below ``low``; in each bin of [low, high] their number, least and most."""
    before, counts = 0, np.zeros(_BINS + 1, np.int64)
    least, most = np.full(_BINS + 1, np.inf), np.full(_BINS + 1, -np.inf)
    for block in points.blocks():
        sure, _, _, t = _close(points, block, low, high)
        times = 1 + block.mirrored
        before += times * int(np.count_nonzero(sure) + np.count_nonzero(t < low))
        t = t[(t >= low) & (t <= high)]
        place = ((t - low) / (high - low) * _BINS).astype(np.intp)
        counts += times * np.bincount(place, minlength=_BINS + 1)
        np.minimum.at(least, place, t)
        np.maximum.at(most, place, t)
    return before, counts, least, most

r"""The quantile of all distances of a class, and how many of each point's are below it.

Of the n² distances in rising order the first n are those of points to themselves, and each pair
stands there twice: element k ≥ n is element ⌊(k − n) / 2⌋ of the n (n − 1) / 2 pairs. Exact
selection without sorting, in memory that grows as n:

1. Random pairs give a bracket [lo, hi] that holds the wanted a_(k) but once in a million times.
2. One sweep counts what is below lo, and keeps the pairs inside.
3. Among those kept, a_(k) is found by partition. |a − t²| ≤ e on every pair, so |t²_(k) − a_(k)|
   ≤ e: whatever is farther than 2 e from a_(k) is on the same side of t_(k) as a tells.
4. t of the pairs within 2 e gives t_(k), and who among them is below.

n² / 1,024 random pairs leave some 80 n in the bracket. A bracket that missed is widened, and the
sweep done again. Where too many pairs tie to be kept, the bracket is refined by histograms of t,
in as many sweeps as that takes.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbatch.curriculum.points import Block, Floats, Places, Points, upward

_KEPT = 256  # pairs inside the bracket that are kept, 20 bytes each, for every point
_BINS = 2**16
_FEWEST, _PER_PAIR = 2**12, 2**10  # of the sample: at least, and one of so many of n²


class Cutoff(NamedTuple):
    """Attributes: distance: d_c in units of the features; below: of each point, others nearer."""

    distance: float
    below: NDArray[np.int64]


class _Swept(NamedTuple):
    """Of each point the pairs below the bracket; the pairs inside, i < j."""

    below: NDArray[np.int64]
    squares: NDArray[np.float32]
    i: NDArray[np.integer]
    j: NDArray[np.integer]


def cutoff(points: Points, quantile: float) -> Cutoff:
    """The quantile of all n² ordered distances, and how many others are strictly nearer.

    Args:
        points: n ≥ 1 of them.
        quantile: q in [0, 1]; the element ⌊q n²⌋ (at most n² − 1) of the sorted distances.
    """
    n = len(points)
    k = min(int(n * n * quantile), n * n - 1)
    if k < n or not points.error:
        return Cutoff(0.0, np.zeros(n, np.int64))
    place = (k - n) // 2
    if place < points.same():
        return Cutoff(0.0, np.zeros(n, np.int64))
    width = 5.0
    while True:
        lo, hi = _bracket(points, place, width)
        swept = _sweep(points, lo, hi)
        if swept is None:
            return _refined(points, place, lo, hi)
        found = _decide(points, swept, place, (lo, hi))
        if found is not None:
            return found
        width *= 4


def _bracket(points: Points, place: int, width: float) -> tuple[float, float]:
    """Squares between which the pair lies, ``width`` deviations of a sample to each side."""
    n = len(points)
    share, pairs = 2 * place / (n * (n - 1)), max(_FEWEST, n * n // _PER_PAIR)
    least, most = -math.inf, float(np.finfo(np.float32).max)
    if n * n < 8 * pairs:
        return least, most
    sample = points.sample(pairs)
    slack = width * math.sqrt(share * (1 - share) / pairs) + 2 / pairs
    low, high = math.floor((share - slack) * pairs), math.ceil((share + slack) * pairs)
    sample.partition(np.clip([low, high], 0, pairs - 1))
    room = 4 * points.error
    return (
        _around(sample[low], 0, room)[0] if low >= 0 else least,
        _around(0, sample[high], room)[1] if high < pairs else most,
    )


def _around(low: float, high: float, room: float) -> tuple[float, float]:
    """Numbers of float32 below low − room and above high + room."""
    return -float(upward(room - low)), float(upward(high + room))


def _sweep(points: Points, lo: float, hi: float) -> _Swept | None:
    """Counts below ``lo`` and the pairs in [lo, hi], or None if these are too many."""
    most = max(_KEPT * len(points), _FEWEST)
    if points.in_c:
        found = points.between(lo, hi, most)
        return found and _Swept(found[0], found[1].squares, found[1].i, found[1].j)
    below, total = np.zeros(len(points), np.int64), 0
    kept: list[tuple[NDArray[np.float32], Places, Places]] = []
    for block in points.blocks():
        lower = block.squares < lo
        _count(below, block, lower)
        lower ^= block.squares <= hi
        kept.append((block.squares[lower], *block.places(lower)))
        total += len(kept[-1][0])
        if total > most:
            return None
    squares, i, j = (np.concatenate(part) for part in zip(*kept, strict=True))
    return _Swept(below, squares, i, j)


def _count(below: NDArray[np.int64], block: Block, mask: NDArray[np.bool_]) -> None:
    below[block.rows] += np.count_nonzero(mask, axis=1)
    below[block.columns] += np.count_nonzero(mask, axis=0)


def _decide(
    points: Points, swept: _Swept, place: int, bracket: tuple[float, float]
) -> Cutoff | None:
    """Steps 3 and 4; None if the bracket missed."""
    left = place - int(swept.below.sum()) // 2
    if not 0 <= left < len(swept.squares):
        return None
    middle = float(np.partition(swept.squares, left)[left])
    first, last = _around(middle, middle, 2 * points.error)
    if first < bracket[0] or last > bracket[1]:
        return None
    nearer = swept.squares < first
    close = np.flatnonzero(~nearer & (swept.squares <= last))
    t = points.distances(swept.i[close], swept.j[close])
    left -= int(np.count_nonzero(nearer))
    d = float(np.partition(t, left)[left])
    below = swept.below
    for ends in (swept.i, swept.j):
        below += np.bincount(ends[nearer], minlength=len(points))
        below += np.bincount(ends[close[t < d]], minlength=len(points))
    return Cutoff(d * points.scale, below)


def _refined(points: Points, place: int, lo: float, hi: float) -> Cutoff:
    """Selection by histograms of t: memory of a few blocks whatever ties. Slow."""
    largest = 2 * math.sqrt(points.x.shape[1]) + 1
    low, high = math.sqrt(max(lo, 0.0)), min(math.sqrt(max(hi, 0.0)), largest)
    while low < high:
        before, counts, least, most = _histogram(points, low, high)
        left = place - before
        if not 0 <= left < counts.sum():
            low, high = 0.0, largest
            continue
        at = int(np.searchsorted(np.cumsum(counts), left, side="right"))
        low, high = float(least[at]), float(most[at])
    below = np.zeros(len(points), np.int64)
    for block in points.blocks():
        sure, i, j, t = _close(points, block, low, low)
        _count(below, block, sure)
        np.add.at(below, i[t < low], 1)
        np.add.at(below, j[t < low], 1)
    return Cutoff(low * points.scale, below)


def _close(
    points: Points, block: Block, low: float, high: float
) -> tuple[NDArray[np.bool_], Places, Places, Floats]:
    """Which pairs of a block are surely below ``low``, and those that may be in [low, high]."""
    first, last = _around(low**2, high**2, points.error)
    sure = block.squares < first
    i, j = block.places(sure ^ (block.squares <= last))
    return sure, i, j, points.distances(i, j)


def _histogram(
    points: Points, low: float, high: float
) -> tuple[int, NDArray[np.int64], Floats, Floats]:
    """Pairs below ``low``; in each bin of [low, high] their number, least and most."""
    before, counts = 0, np.zeros(_BINS + 1, np.int64)
    least, most = np.full(_BINS + 1, np.inf), np.full(_BINS + 1, -np.inf)
    for block in points.blocks():
        sure, _, _, t = _close(points, block, low, high)
        before += int(np.count_nonzero(sure) + np.count_nonzero(t < low))
        t = t[(t >= low) & (t <= high)]
        at = ((t - low) / (high - low) * _BINS).astype(np.intp)
        counts += np.bincount(at, minlength=_BINS + 1)
        np.minimum.at(least, at, t)
        np.maximum.at(most, at, t)
    return before, counts, least, most

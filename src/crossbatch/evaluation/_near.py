r"""What stands before the best positive, and the nearest negatives, without a list of neighbours.

A query has the positives s_1 ≥ … ≥ s_R and the negatives n_1 ≥ n_2 ≥ …, and s_i has the rank
ρ_i = i + |{j : n_j ≥ s_i}|. R@K, CMC and MRR read ρ_1 alone: one number per query, counted. MAP@R
and R-precision read the ranks up to R, and ρ_i ≤ R is decided by n_1 … n_R: of those, no more than
the m ≥ R nearest negatives are kept.

A tile of similarities is compared twice while it is in the second cache. Against s_1: eight flags
at a time are summed as bytes of one word, so that counting costs a twentieth of the product. And
against a bound under the m-th nearest negative: the few that pass are put by, and each time that
many have gathered they are sorted, the m best stay, and the bound rises. The bound starts from a
sample: of the greatest entries of disjoint groups of columns, the m-th greatest is no greater than
n_m. If images search among themselves, S_ij = S_ji, and half the tiles serve rows and columns.

For a CPU. Cost: Q · G · D multiplications, half of them among the images themselves; memory
O(Σ m) beside the embeddings.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

# A column of flags is summed in a byte, and so is each byte of a row of words.
ROWS, WIDTH = 240, 2040
SAMPLE, GROUPS = 1024, 32  # columns of the sample, and the fewest groups of them
RECORDS = 2**21  # that gather before they are sorted
_LOWEST = float(np.finfo(np.float32).min)


class Wanted(NamedTuple):
    """What is asked of each query: its row in label order has label, s_1, floor and m.

    Attributes:
        threshold: Shape (Q,), float32: negatives that reach it are counted; inf counts none.
        floor: Shape (Q,), float32: negatives below it are of no use; inf keeps none.
        quota: Shape (Q,), how many of the nearest negatives to keep.
    """

    threshold: Array
    floor: Array
    quota: Array


class Found(NamedTuple):
    """What was found.

    Attributes:
        reached: Shape (Q,), how many negatives reach the threshold.
        start: Shape (Q + 1,), where the nearest negatives of a query begin in the next two.
        values: Shape (Σ quota,), falling per query, filled up with -inf.
        places: Shape (Σ quota,), rows of the gallery, filled up with -1.
    """

    reached: Array
    start: Array
    values: Array
    places: Array


class _Side(NamedTuple):
    embeddings: Tensor
    labels: Array


def near(
    queries: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor, wanted: Wanted
) -> Found:
    """Count and keep negatives of every query.

    Args:
        queries: Shape (Q, D), float32 on the CPU, in label order.
        query_labels: Shape (Q,), ascending.
        gallery: Shape (G, D), likewise; the very same tensor if images search among themselves.
        gallery_labels: Shape (G,), ascending.
        wanted: Of each query. Where no more than a quarter of the quotas' sum fits beside the
            embeddings, ask for fewer queries at a time.

    Returns:
        Counts, exact, and of each query the ``quota`` nearest of the negatives at or above its
        floor, fewer where there are fewer.
    """
    asked = _Side(queries, query_labels.numpy())
    held = asked if gallery is queries else _Side(gallery, gallery_labels.numpy())
    keeps = _Keeps(wanted, _bounds(asked, held, wanted))
    pairs = _half(len(queries)) if held is asked else _all(len(queries), len(gallery))
    tiles = np.empty(ROWS * max(ROWS, WIDTH), np.float32)
    for rows, columns in pairs:
        tile = _negatives(asked, held, rows, columns, tiles)
        if tile is None:
            continue
        keeps.add(tile, rows, columns)
        if held is asked and rows.start != columns.start:
            keeps.add_columns(tile, rows, columns)
    return keeps.found()


def _all(queries: int, gallery: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, queries, ROWS):
        for left in range(0, gallery, WIDTH):
            yield _slice(top, ROWS, queries), _slice(left, WIDTH, gallery)


def _half(images: int) -> Iterator[tuple[slice, slice]]:
    """A square on the diagonal, then what lies to the right of it, strip by strip."""
    for top in range(0, images, ROWS):
        rows = _slice(top, ROWS, images)
        yield rows, rows
        for left in range(rows.stop, images, WIDTH):
            yield rows, _slice(left, WIDTH, images)


def _slice(start: int, size: int, end: int) -> slice:
    return slice(start, min(start + size, end))


def _negatives(
    asked: _Side, held: _Side, rows: slice, columns: slice, tiles: Array
) -> Array | None:
    """Similarities of some pairs, -inf where both have one label; None if all have."""
    ours, theirs = asked.labels[rows], held.labels[columns]
    if ours[0] == ours[-1] == theirs[0] == theirs[-1]:
        return None
    shape = (len(ours), len(theirs))
    tile = tiles[: shape[0] * shape[1]].reshape(shape)
    torch.mm(asked.embeddings[rows], held.embeddings[columns].T, out=torch.from_numpy(tile))
    first = int(np.searchsorted(theirs, ours[0]))
    last = int(np.searchsorted(theirs, ours[-1], side="right"))
    if first < last:
        part = tile[:, first:last]
        np.copyto(part, -np.inf, where=ours[:, None] == theirs[None, first:last])
    return tile


def _bounds(asked: _Side, held: _Side, wanted: Wanted) -> Array:
    """For each query a bound that its m-th nearest negative reaches, from a sample of them."""
    bounds = np.maximum(wanted.floor, np.float32(_LOWEST))
    most = int(wanted.quota.max(initial=0))
    if most == 0:
        return bounds
    groups = max(GROUPS, 1 << (8 * most - 1).bit_length())
    size = groups * max(1, SAMPLE // groups)
    if size >= len(held.labels):
        return bounds
    chosen = np.linspace(0, len(held.labels) - 1, size).astype(np.int64)
    sample = _Side(held.embeddings[torch.from_numpy(chosen)], held.labels[chosen])
    tiles = np.empty(ROWS * size, np.float32)
    for top in range(0, len(asked.labels), ROWS):
        rows = _slice(top, ROWS, len(asked.labels))
        tile = _negatives(asked, sample, rows, slice(0, size), tiles)
        if tile is None:
            continue
        best = tile.reshape(len(tile), -1, groups).max(axis=1)
        best.sort(axis=1)
        reached = best[np.arange(len(best)), groups - np.maximum(wanted.quota[rows], 1)]
        np.maximum(bounds[rows], reached, out=bounds[rows])
    return bounds


class _Keeps:
    """Counts and nearest negatives so far."""

    def __init__(self, wanted: Wanted, bounds: Array) -> None:
        self.threshold, self.bounds, self.quota = wanted.threshold, bounds, wanted.quota
        self.counts = np.zeros(len(bounds), np.int64)
        self.start = np.concatenate([[0], wanted.quota.cumsum()])
        self.values = np.full(int(self.start[-1]), -np.inf, np.float32)
        self.places = np.full(int(self.start[-1]), -1, np.int32)
        self.keeping = len(self.values) > 0
        self.flags = np.zeros(ROWS * (max(ROWS, WIDTH) + 7), np.bool_)
        self.waiting: list[tuple[Array, Array, Array]] = []
        self.records = 0

    def add(self, tile: Array, rows: slice, columns: slice) -> None:
        """Take a tile whose rows are queries and whose columns are gallery images."""
        self.counts[rows] += _row_sums(self._reaching(tile, self.threshold[rows, None]))
        if self.keeping:
            i, j = _places(self._reaching(tile, self.bounds[rows, None]))
            self._put_by(i + rows.start, j + columns.start, tile[i, j])

    def add_columns(self, tile: Array, rows: slice, columns: slice) -> None:
        """Take a tile whose columns are queries and whose rows are gallery images."""
        flags = self._reaching(tile, self.threshold[columns]).view(np.uint8)
        sums = np.add.reduce(flags, axis=0, dtype=np.uint8)
        self.counts[columns] += sums[: tile.shape[1]]
        if self.keeping:
            i, j = _places(self._reaching(tile, self.bounds[columns]))
            self._put_by(j + columns.start, i + rows.start, tile[i, j])

    def found(self) -> Found:
        self._sort()
        return Found(self.counts, self.start, self.values, self.places)

    def _reaching(self, tile: Array, level: Array) -> Array:
        return _reaching(tile, level, self.flags)

    def _put_by(self, queries: Array, places: Array, values: Array) -> None:
        self.waiting.append((queries, places, values))
        self.records += len(values)
        if self.records > RECORDS:
            self._sort()

    def _sort(self) -> None:
        """Keep the quota of each query, and raise the bound where it is full."""
        if not self.records:
            return
        old = np.flatnonzero(self.places >= 0)
        owner = np.searchsorted(self.start, old, side="right") - 1
        self.waiting.append((owner, self.places[old], self.values[old]))
        queries, places, values = (
            np.concatenate(parts) for parts in zip(*self.waiting, strict=True)
        )
        self.waiting, self.records = [], 0
        order = np.argsort((queries.astype(np.uint64) << np.uint64(32)) | _falling(values))
        queries = queries[order]
        begins = np.flatnonzero(np.diff(queries, prepend=-1))
        lengths = np.diff(begins, append=len(queries))
        number = np.arange(len(queries)) - np.repeat(begins, lengths)
        kept = number < self.quota[queries]
        at = self.start[queries[kept]] + number[kept]
        self.values[at] = values[order[kept]]
        self.places[at] = places[order[kept]]
        seen = queries[begins]
        full = seen[lengths >= self.quota[seen]]
        last = self.values[self.start[full + 1] - 1]
        self.bounds[full] = np.maximum(self.bounds[full], np.nextafter(last, np.float32(np.inf)))


def reached(tile: Array, levels: Array) -> Array:
    """How many entries of each row reach each of its levels.

    Args:
        tile: Shape (q, T), float32.
        levels: Shape (q, R), float32.

    Returns:
        Shape (q, R), float64.
    """
    counts = np.zeros(levels.shape)
    flags = np.empty(tile.shape[0] * (min(tile.shape[1], WIDTH) + 7), np.bool_)
    for left in range(0, tile.shape[1], WIDTH):
        part = tile[:, left : left + WIDTH]
        for column in range(levels.shape[1]):
            words = _reaching(part, levels[:, column, None], flags)
            counts[:, column] += _row_sums(words)
    return counts


def _reaching(tile: Array, level: Array, flags: Array) -> Array:
    """Which entries reach the level, as words of eight flags; a row is filled up with none."""
    rows, columns = tile.shape
    width = -(-columns // 8) * 8
    flags = flags[: rows * width].reshape(rows, width)
    flags[:, columns:] = False
    np.greater_equal(tile, level, out=flags[:, :columns])
    return flags.view(np.uint64)


def _row_sums(words: Array) -> Array:
    sums = np.add.reduce(words, axis=1).view(np.uint8)
    return sums.reshape(len(words), 8).sum(axis=1, dtype=np.int64)


def _places(words: Array) -> tuple[Array, Array]:
    """Rows and columns of the flags that are up. Most words have none."""
    flat = words.reshape(-1)
    some = np.flatnonzero(flat != 0)
    which, byte = np.nonzero(flat[some].view(np.uint8).reshape(-1, 8))
    i, word = np.divmod(some[which], words.shape[1])
    return i, word * 8 + byte


def _falling(values: Array) -> Array:
    """Unsigned integers in the falling order of float32 values."""
    bits = values.view(np.int32)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return ((~rising).view(np.uint32) ^ np.uint32(0x80000000)).astype(np.uint64)

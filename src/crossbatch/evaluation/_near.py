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

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossbatch.codes import ROUNDING
from crossbatch.evaluation._screen import Screen, worth

Array = np.ndarray[Any, Any]

# A column of flags is summed in a byte, and so is each byte of a row of words.
ROWS, WIDTH = 240, 2040
SAMPLE, GROUPS = 1024, 32  # columns of the sample, and the fewest groups of them
RECORDS = 2**21  # that gather before they are sorted
# Pairs that a screen lets through, as a share of the gallery: of a query that it serves, at most;
# and the share of queries that it serves, at least.
FEW, MOST = 1 / 128, 0.75
_HIDDEN = 2**31 - 1
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

    def take(self, queries: Array) -> "Wanted":
        """Some of the queries."""
        return Wanted(*(field[queries] for field in self))


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

    def put(self, queries: Array, found: "Found") -> None:
        """Write what was found for some queries alone to their places."""
        self.reached[queries] = found.reached
        quota = np.diff(found.start)
        at = np.arange(len(found.values)) + np.repeat(
            self.start[queries] - found.start[:-1], quota
        )
        self.values[at], self.places[at] = found.values, found.places


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
    screen = Screen(queries, gallery) if worth(queries, gallery) else None
    sampled = _sampled(asked, held, wanted, screen)
    keeps = _Keeps(wanted, sampled.bounds)
    if screen is None or sampled.few.mean() < MOST:
        return _whole(asked, held, keeps)
    keeps.leave(~sampled.few)
    found = _screened(asked, held, keeps, screen)
    rest = np.flatnonzero(~sampled.few)
    if len(rest):
        at = torch.from_numpy(rest)
        some = _Side(queries[at], asked.labels[rest])
        found.put(rest, _whole(some, held, _Keeps(wanted.take(rest), sampled.bounds[rest])))
    return found


def _whole(asked: _Side, held: _Side, keeps: "_Keeps") -> Found:
    """Every similarity in float32."""
    tiles = np.empty(ROWS * max(ROWS, WIDTH), np.float32)
    for rows, columns in _tiles(asked, held):
        tile = _negatives(asked, held, rows, columns, tiles)
        if tile is None:
            continue
        keeps.add(tile, rows, columns)
        if held is asked and rows.start != columns.start:
            keeps.add_columns(tile, rows, columns)
    return keeps.found()


def _screened(asked: _Side, held: _Side, keeps: "_Keeps", screen: Screen) -> Found:
    """Those alone that may reach what is asked for."""
    tiles = torch.empty(ROWS * max(ROWS, WIDTH), dtype=torch.int32)
    flags = np.empty(ROWS * (max(ROWS, WIDTH) + 7), np.bool_)
    for rows, columns in _tiles(asked, held):
        tile = screen.products(rows, columns, tiles)
        _hide(tile, asked.labels[rows], held.labels[columns], -_HIDDEN)
        least = screen.least(keeps.level(rows), rows, columns)
        at = _places(_reaching(tile, least[:, None], flags))
        values = screen.exact(rows, columns, at)
        keeps.add_pairs(at[0] + rows.start, at[1] + columns.start, values)
        if held is asked and rows.start != columns.start:
            least = screen.least_of_columns(keeps.level(columns), rows, columns)
            at = _places(_reaching(tile, least, flags))
            values = screen.exact(rows, columns, at)
            keeps.add_pairs(at[1] + columns.start, at[0] + rows.start, values)
    return keeps.found()


def _tiles(asked: _Side, held: _Side) -> Iterator[tuple[slice, slice]]:
    images = len(asked.labels)
    return _half(images) if held is asked else _all(images, len(held.labels))


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
    shape = (len(ours), len(theirs))
    tile = tiles[: shape[0] * shape[1]].reshape(shape)
    if ours[0] == ours[-1] == theirs[0] == theirs[-1]:
        return None
    torch.mm(asked.embeddings[rows], held.embeddings[columns].T, out=torch.from_numpy(tile))
    _hide(tile, ours, theirs, -np.inf)
    return tile


def _hide(tile: Array, ours: Array, theirs: Array, by: float) -> None:
    """Overwrite pairs of one label."""
    first = int(np.searchsorted(theirs, ours[0]))
    last = int(np.searchsorted(theirs, ours[-1], side="right"))
    if first < last:
        part = tile[:, first:last]
        np.copyto(part, tile.dtype.type(by), where=ours[:, None] == theirs[None, first:last])


class _Sampled(NamedTuple):
    """What some of the gallery tells of each query.

    Attributes:
        bounds: What its m-th nearest negative reaches at least.
        few: Whether a screen will let few pairs through, as far as one can tell.
    """

    bounds: Array
    few: Array


def _sampled(asked: _Side, held: _Side, wanted: Wanted, screen: Screen | None) -> _Sampled:
    bounds = np.maximum(wanted.floor, np.float32(_LOWEST))
    few = np.ones(len(bounds), bool)
    most = int(wanted.quota.max(initial=0))
    groups = max(GROUPS, 1 << (8 * most - 1).bit_length()) if most else 1
    size, images = groups * max(1, SAMPLE // groups), len(held.labels)
    if size >= images or (most == 0 and screen is None):
        return _Sampled(bounds, few)
    chosen = np.linspace(0, images - 1, size).astype(np.int64)
    sample = _Side(held.embeddings[torch.from_numpy(chosen)], held.labels[chosen])
    error = None if screen is None else screen.error()
    tiles = np.empty(ROWS * size, np.float32)
    for top in range(0, len(asked.labels), ROWS):
        rows = _slice(top, ROWS, len(asked.labels))
        tile = _negatives(asked, sample, rows, slice(0, size), tiles)
        if tile is None:
            continue
        if most:
            best = tile.reshape(len(tile), -1, groups).max(axis=1)
            best.sort(axis=1)
            reached = best[np.arange(len(best)), groups - np.maximum(wanted.quota[rows], 1)]
            np.maximum(bounds[rows], reached - np.float32(ROUNDING), out=bounds[rows])
        if error is not None:
            threshold, bound = wanted.threshold[rows], bounds[rows]
            passing = (tile >= (np.minimum(threshold, bound) - error[rows])[:, None]).sum(axis=1)
            # Of a sample pass as many as of all, if the bound stays; if it rises with what is
            # seen, the g-th image passes with the chance of the sample times size / g.
            rising = passing * (1 + math.log(images / size)) / images
            few[rows] = np.where(threshold < bound, passing / size, rising) <= FEW
    return _Sampled(bounds, few)


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

    def leave(self, queries: Array) -> None:
        """Count and keep nothing for some queries, given as flags."""
        self.threshold = np.where(queries, np.float32(np.inf), self.threshold)
        self.bounds = np.where(queries, np.float32(np.inf), self.bounds)

    def level(self, queries: slice) -> Array:
        """Below which a negative is of no use."""
        return np.minimum(self.threshold[queries], self.bounds[queries])

    def add_pairs(self, queries: Array, places: Array, values: Array) -> None:
        """Take some pairs, among them all that reach the level."""
        np.add.at(self.counts, queries[values >= self.threshold[queries]], 1)
        if self.keeping:
            kept = values >= self.bounds[queries]
            self._put_by(queries[kept], places[kept], values[kept])

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

r"""Exact ranks of relevant images, in memory that does not grow with queries × gallery.

With cosine similarity s, the i-th relevant image of a query (the nearest is i = 1) has the rank

    ρ_i = i + |{j irrelevant : s_j ≥ s_i}|.

So ranks need no sorting of the gallery, only counting: a query's similarities to its few relevant
images come first, then one sweep over tiles of the gallery counts what stands before each.

*Ties count against the query*: an irrelevant image that is as similar as a relevant one stands
before it, so an embedding that maps everything to one point scores like the worst order, not like
the best. Float32 products carry a rounding of about √D · 2⁻²³, and similarities that differ by
less are ties too.

*Self pairs leave by id.* The image itself is not in its own ranking; a true duplicate, another id
with the same picture, is.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbatch._shapes import Float, Int
from crossbatch.references import Tile

# Similarities in one tile, and its least width. On a CPU a tile stays near the second cache.
ENTRIES = {"cpu": 2**20, "cuda": 2**25}
WIDTH = 2048
# Counting costs one pass over a tile per relevant image; sorting a tile costs as much as this
# many passes and serves any number of them.
PASSES = 48


class Ranked(NamedTuple):
    """What a sweep found for some queries.

    Attributes:
        rows: Which queries, as positions in the given order.
        ranks: Shape (q, R), float64, ascending from 1, filled up with infinity.
        neighbours: Shape (q, k), the nearest as positions in the gallery, the most similar
            first; -1 where there are fewer. Ties among them stand in no particular order.
        similarities: Shape (q, k), cosine, -inf where there is no neighbour.
    """

    rows: Int[Tensor, " q"]
    ranks: Float[Tensor, "q R"]
    neighbours: Int[Tensor, "q k"]
    similarities: Float[Tensor, "q k"]


class _Queries(NamedTuple):
    """Queries beside a gallery in label order: where each one's class and its own copy stand."""

    embeddings: Tensor
    first: Tensor
    last: Tensor
    own: Tensor

    def take(self, rows: Tensor) -> "_Queries":
        return _Queries(*(field[rows] for field in self))


def sweep(queries: Tile, gallery: Tile, *, neighbours: int = 0) -> Iterator[Ranked]:
    """Rank the relevant gallery images of every query, some queries at a time.

    Cost: one product of Q × G × D and about as much again for counting; memory O((Q + G) · D)
    plus one tile, a few MB on a CPU.

    Args:
        queries: Embeddings (Q, D) of any floating dtype and any non-zero length, labels (Q,)
            and ids (Q,).
        gallery: The same for (G, D). A query finds itself here by its id, and is left out. Ids
            are unique. May be the queries themselves: leave-one-out.
        neighbours: k, how many of the nearest to keep.

    Yields:
        Each query in exactly one :class:`Ranked`, ordered by falling number of relevant images.
    """
    order = gallery.labels.argsort(stable=True)
    labels, ids = gallery.labels[order], gallery.ids[order]
    unit = F.normalize(gallery.embeddings[order].float(), dim=1)
    table = _Queries(
        F.normalize(queries.embeddings.float(), dim=1),
        torch.searchsorted(labels, queries.labels),
        torch.searchsorted(labels, queries.labels, right=True),
        _positions(queries.ids, ids),
    )
    for rows, width in _tiles(table, len(unit)):
        ranks, places, similarities = _rank(table.take(rows), unit, width, neighbours)
        found = torch.where(similarities.isfinite(), order[places], -1)
        yield Ranked(rows, ranks, found, similarities)


def _positions(ids: Tensor, among: Tensor) -> Tensor:
    """Where each id stands in ``among``, or -1."""
    ordered, order = among.sort()
    place = torch.searchsorted(ordered, ids).clamp(max=len(among) - 1)
    return torch.where(ordered[place] == ids, order[place], -1)


def _tiles(queries: _Queries, gallery: int) -> Iterator[tuple[Tensor, int]]:
    """Rows of a query tile, classes side by side, and the width of its gallery tiles.

    The largest classes go first, so that the first row of a tile has the most relevant images.
    """
    size = queries.last - queries.first
    order = queries.first.argsort(stable=True)
    order = order[size[order].argsort(descending=True, stable=True)]
    entries = ENTRIES.get(size.device.type, ENTRIES["cpu"])
    start = 0
    while start < len(order):
        width = min(gallery, max(WIDTH, 8 * int(size[order[start]])))
        rows = max(1, entries // width)
        yield order[start : start + rows], width
        start += rows


def _rank(
    queries: _Queries, gallery: Tensor, width: int, neighbours: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks (q, R), places of the k nearest (q, k) and their similarities, for one query tile."""
    classes = _classes(queries)
    relevant = _relevant(queries, gallery, classes)
    threshold = relevant - math.sqrt(gallery.shape[1]) * torch.finfo(torch.float32).eps
    before = torch.zeros_like(relevant, dtype=torch.float64)
    places = queries.own.new_zeros(len(queries.own), 0)
    nearest = relevant.new_zeros(len(queries.own), 0)
    for start in range(0, len(gallery), width):
        similar = queries.embeddings @ gallery[start : start + width].T
        stop = start + similar.shape[1]
        mine = ((queries.own >= start) & (queries.own < stop)).nonzero()[:, 0]
        similar[mine, queries.own[mine] - start] = -math.inf
        if neighbours:
            places, nearest = _merge(places, nearest, similar, start, neighbours)
        for rows, first, last in classes:
            if first < stop and last > start:
                similar[rows, max(first - start, 0) : last - start] = -math.inf
        before += _at_least(similar, threshold)
    ranks = before + torch.arange(1, relevant.shape[1] + 1, device=before.device)
    return ranks.where(relevant > -math.inf, math.inf), places, nearest


def _classes(queries: _Queries) -> list[tuple[slice, int, int]]:
    """The rows of each class in a query tile, and where the class stands in the gallery."""
    ends = torch.stack([queries.first, queries.last], dim=1)
    places, counts = ends.unique_consecutive(dim=0, return_counts=True)
    stops = counts.cumsum(0).tolist()
    rows = [slice(stop - n, stop) for stop, n in zip(stops, counts.tolist(), strict=True)]
    return [(part, *place) for part, place in zip(rows, places.tolist(), strict=True)]


def _relevant(queries: _Queries, gallery: Tensor, classes: list[tuple[slice, int, int]]) -> Tensor:
    """Similarities to the relevant images, falling, filled up with -inf."""
    most = int((queries.last - queries.first).max())
    similar = queries.embeddings.new_full((len(queries.own), most), -math.inf)
    for rows, first, last in classes:
        similar[rows, : last - first] = queries.embeddings[rows] @ gallery[first:last].T
    mine = (queries.own >= 0).nonzero()[:, 0]
    similar[mine, (queries.own - queries.first)[mine]] = -math.inf
    return -_sorted_rows(-similar)


def _at_least(similar: Tensor, threshold: Tensor) -> Tensor:
    """How many of each row of ``similar`` (q, T) reach each ``threshold`` (q, R)."""
    if threshold.shape[1] <= PASSES:
        reached = torch.empty_like(similar)
        counts = [
            torch.ge(similar, column[:, None], out=reached).sum(dim=1)
            for column in threshold.unbind(dim=1)
        ]
        return torch.stack(counts, dim=1) if counts else torch.zeros_like(threshold)
    below = torch.searchsorted(_sorted_rows(similar), threshold.contiguous())
    return similar.shape[1] - below


def _sorted_rows(similar: Tensor) -> Tensor:
    """Sort each row in place. On a CPU numpy does, ten times faster than torch."""
    if similar.device.type != "cpu":
        return similar.sort(dim=1).values
    similar.numpy().sort(axis=1)
    return similar


def _merge(
    places: Tensor, nearest: Tensor, similar: Tensor, start: int, k: int
) -> tuple[Tensor, Tensor]:
    """The k nearest of those known and those of one more tile, the most similar first."""
    values, columns = similar.topk(min(k, similar.shape[1]), dim=1)
    values = torch.cat([nearest, values], dim=1)
    columns = torch.cat([places, columns + start], dim=1)
    values, order = values.topk(min(k, values.shape[1]), dim=1)
    return columns.gather(1, order), values

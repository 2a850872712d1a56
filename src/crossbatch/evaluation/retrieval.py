r"""Exact ranks of relevant images, in memory that does not grow with queries × gallery.

With cosine similarity s, the i-th relevant image of a query (the nearest is i = 1) has the rank

    ρ_i = i + |{j irrelevant : s_j ≥ s_i}|.

So ranks need no sorting of the gallery, only counting: a query's similarities to its few relevant
images come first, then one sweep over tiles of the gallery counts what stands before each. How
much counting there is depends on what is asked (`Depth`): of ρ_1 alone, of the ranks up to R, or
of all; `crossbatch.evaluation._near` has the first two.

*Ties count against the query*: an irrelevant image that is as similar as a relevant one stands
before it, so an embedding that maps everything to one point scores like the worst order, not like
the best. Float32 products carry a rounding of about √D · 2⁻²³, and similarities that differ by
less are ties too.

*Self pairs leave by id.* The image itself is not in its own ranking; a true duplicate, another id
with the same picture, is. *Ignored pairs* are those of one class and one camera, where cameras are
given: they are neither relevant nor irrelevant, and stand in no ranking.
"""

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from crossbatch._shapes import Float, Int
from crossbatch.evaluation import _near
from crossbatch.evaluation._labelled import (
    Cameras,
    Extra,
    Held,
    Queries,
    arrange,
    classes,
    compare,
    parts,
    positives,
    same_camera,
)
from crossbatch.references import Tile

# Similarities in one tile, and its least width. On a CPU a tile stays near the second cache.
ENTRIES = {"cpu": 2**20, "cuda": 2**25}
WIDTH = _near.WIDTH
# Counting costs one pass over a tile per relevant image; sorting a tile costs as much as this
# many passes and serves any number of them.
PASSES = 48
# Of the nearest negatives that are kept while only ranks up to R are asked for: for one query,
# and for all of them at a time.
QUOTA, KEPT = 128, 2**22


class Depth(IntEnum):
    """Which ranks are asked for."""

    FIRST = 1
    """ρ_1, exactly, and no other."""
    WITHIN = 2
    """ρ_1, and every ρ_i ≤ R, exactly; of the others only that they are above R."""
    ALL = 3
    """All, exactly."""


class Ranked(NamedTuple):
    """What a sweep found for some queries.

    Attributes:
        rows: Which queries, as positions in the given order.
        ranks: Shape (q, R), or (q, 1) where ρ_1 alone was asked for; float64, ascending from 1,
            filled up with infinity.
        neighbours: Shape (q, k), the nearest as positions in the gallery, the most similar
            first; -1 where there are fewer. Ties among them stand in no particular order.
        similarities: Shape (q, k), cosine, -inf where there is no neighbour.
    """

    rows: Int[Tensor, " q"]
    ranks: Float[Tensor, "q R"]
    neighbours: Int[Tensor, "q k"]
    similarities: Float[Tensor, "q k"]


def sweep(
    queries: Tile,
    gallery: Tile,
    *,
    neighbours: int = 0,
    depth: Depth = Depth.ALL,
    cameras: Cameras | None = None,
    extra: Extra | None = None,
) -> Iterator[Ranked]:
    """Rank the relevant gallery images of every query, some queries at a time.

    Cost: one product of Q × G × D, half of it where images search among themselves and not all
    ranks are asked for; about a third as much for counting, and the product again, or up to four
    times where R is large, for all ranks. Memory O((Q + G) · D) and at most 200 MB.

    Args:
        queries: Embeddings (Q, D) of any floating dtype and any non-zero length, labels (Q,)
            and ids (Q,).
        gallery: The same for (G, D). A query finds itself here by its id, and is left out. Ids
            are unique. May be the queries themselves: leave-one-out.
        neighbours: k, how many of the nearest to keep.
        depth: Which ranks are asked for.
        cameras: Leave out gallery images of a query's class and camera.
        extra: What re-ranking adds to similarities, columns as given; for a CPU, and to all
            depths.

    Yields:
        Each query in exactly one :class:`Ranked`.
    """
    table, held = arrange(queries, gallery, cameras)
    neighbours = min(neighbours, len(held.labels))
    if extra is not None:
        held = held._replace(extra=extra._replace(columns=held.numbers.argsort()[extra.columns]))
        depth = Depth.ALL
    few = _few(table, neighbours, depth)
    if bool(few.any()):
        for part in _near_ranks(table, held, few, neighbours, depth):
            yield _as_given(part, table, held)
    rest = table.take((~few).nonzero()[:, 0])
    entries, images = ENTRIES.get(few.device.type, ENTRIES["cpu"]), len(held.labels)

    def width(most: int) -> int:
        return min(images, max(WIDTH, 8 * most))

    for rows, most in parts(
        rest, lambda most: max(min(64, 4 * entries // width(most)), entries // width(most))
    ):
        part = _all_ranks(rest.take(rows), held, width(most), neighbours)
        yield _as_given(part._replace(rows=rows), rest, held)


def _as_given(part: Ranked, table: Queries, held: Held) -> Ranked:
    """Positions in the order in which they were given, not in label order."""
    at = part.neighbours.clamp(max=len(held.labels) - 1)
    found = torch.where(part.similarities > -math.inf, held.numbers[at], -1)
    return part._replace(rows=table.numbers[part.rows], neighbours=found)


def _slack(held: Held) -> float:
    return math.sqrt(held.embeddings.shape[1]) * torch.finfo(torch.float32).eps


def _quota(queries: Queries, neighbours: int, depth: Depth) -> Tensor:
    """How many of the nearest negatives each query needs."""
    size = queries.last - queries.first
    if depth is Depth.FIRST:
        size = torch.zeros_like(size)
    return size.clamp(min=neighbours)


def _few(queries: Queries, neighbours: int, depth: Depth) -> Tensor:
    """Which queries are served by counts and their nearest negatives."""
    quota = _quota(queries, neighbours, depth)
    if depth is Depth.ALL or quota.device.type != "cpu":
        return torch.zeros_like(quota, dtype=torch.bool)
    order = quota.argsort(stable=True)
    few = torch.zeros_like(quota, dtype=torch.bool)
    few[order] = quota[order].cumsum(0) <= KEPT
    return few & (quota <= QUOTA)


class _Best(NamedTuple):
    """The most similar positives of some queries, falling; ``places`` in the gallery."""

    rows: Tensor
    values: Tensor
    places: Tensor


def _near_ranks(
    table: Queries, held: Held, few: Tensor, neighbours: int, depth: Depth
) -> Iterator[Ranked]:
    """Ranks to the depth that is asked for, from counts and the nearest negatives."""
    shared = table.embeddings is held.embeddings
    if not bool(few.all()) and (not shared or 2 * int(few.sum()) < len(few)):
        rows = few.nonzero()[:, 0]
        some = _near_ranks(table.take(rows), held, few[rows], neighbours, depth)
        yield from (part._replace(rows=rows[part.rows]) for part in some)
        return
    best = list(_best(table, held, few, neighbours, depth))
    threshold = torch.full((len(few),), math.inf)
    floor = torch.full((len(few),), math.inf)
    for part in best:
        has = part.values[:, 0] > -math.inf
        threshold[part.rows[has]] = part.values[has, 0] - _slack(held)
        weakest = part.values.where(part.values > -math.inf, math.inf).amin(dim=1)
        floor[part.rows[has]] = weakest[has] - _slack(held)
    quota = torch.where(few, _quota(table, neighbours, depth), 0)
    if neighbours:
        floor[few & (threshold < math.inf)] = -math.inf
    floor[quota == 0] = math.inf
    wanted = _near.Wanted(threshold.numpy(), floor.numpy(), quota.numpy())
    found = _near.near(table.embeddings, table.labels, held.embeddings, held.labels, wanted)
    for part in best:
        yield _ranked(part, found, quota[part.rows], neighbours, _slack(held))


def _best(
    table: Queries, held: Held, few: Tensor, neighbours: int, depth: Depth
) -> Iterator[_Best]:
    """The positives that are asked for: all, or of a query of which only ρ_1 is, the k nearest."""
    for part, most in parts(table, lambda most: ENTRIES["cpu"] // max(1, most)):
        rows = part[few[part]]
        if not len(rows):
            continue
        queries = table.take(rows)
        similar = positives(queries, held, classes(queries))
        if similar.shape[1] == 0:
            similar = similar.new_full((len(rows), 1), -math.inf)
        if depth is Depth.FIRST and not neighbours:
            values, places = similar.amax(dim=1, keepdim=True), queries.first[:, None]
        else:
            k = most if depth is Depth.WITHIN else neighbours
            values, places = similar.topk(min(max(1, k), similar.shape[1]), dim=1)
            places += queries.first[:, None]
        yield _Best(rows, values, places)


def _ranked(
    part: _Best, found: _near.Found, quota: Tensor, neighbours: int, slack: float
) -> Ranked:
    """ρ_1 from the count; ρ_i = i + |{j : n_j ≥ s_i}| from the nearest negatives."""
    count = torch.from_numpy(found.reached)[part.rows]
    start = torch.from_numpy(found.start)[part.rows]
    most = int(quota.max())
    inside = torch.arange(most) < quota[:, None]
    at = (start[:, None] + torch.arange(most)).where(inside, 0)
    negative = torch.from_numpy(found.values)[at].where(inside, -math.inf)
    before = torch.searchsorted(-negative, slack - part.values, right=True).double()
    before[:, 0] = 0
    before = before.maximum(count[:, None])  # what stands before s_1 stands before s_i
    ranks = before + torch.arange(1, before.shape[1] + 1)
    ranks = ranks.where(part.values > -math.inf, math.inf)
    nearest = part.values.new_empty(len(at), 0)
    columns = part.places[:, :0]
    if neighbours:
        both = torch.cat([part.values, negative], dim=1)
        columns = torch.cat([part.places, torch.from_numpy(found.places)[at].long()], dim=1)
        nearest, order = both.topk(min(neighbours, both.shape[1]), dim=1)
        columns = columns.gather(1, order)
    return Ranked(part.rows, ranks, columns, nearest)


def _all_ranks(queries: Queries, held: Held, width: int, neighbours: int) -> Ranked:
    """All ranks, places of the k nearest and their similarities, for one part of the queries."""
    blocks = classes(queries)
    relevant = -_sorted_rows(-positives(queries, held, blocks))
    threshold = relevant - _slack(held)
    before = torch.zeros_like(relevant, dtype=torch.float64)
    places = queries.own.new_zeros(len(queries.own), 0)
    nearest = relevant.new_zeros(len(queries.own), 0)
    ignoring = bool((queries.cameras >= 0).any())
    for start in range(0, len(held.labels), width):
        similar = compare(queries, held, start, min(start + width, len(held.labels)))
        stop = start + similar.shape[1]
        overlapping = [b for b in blocks if b[1] < stop and b[2] > start]
        if neighbours:
            mine = ((queries.own >= start) & (queries.own < stop)).nonzero()[:, 0]
            similar[mine, queries.own[mine] - start] = -math.inf
            for rows, first, last in overlapping if ignoring else []:
                here = slice(max(first, start), min(last, stop))
                ignored = same_camera(queries.cameras[rows], held.cameras[here])
                similar[rows, here.start - start : here.stop - start].masked_fill_(
                    ignored, -math.inf
                )
            places, nearest = _merge(places, nearest, similar, start, neighbours)
        for rows, first, last in overlapping:
            similar[rows, max(first - start, 0) : last - start] = -math.inf
        before += _at_least(similar, threshold)
    ranks = before + torch.arange(1, relevant.shape[1] + 1, device=before.device)
    ranks = ranks.where(relevant > -math.inf, math.inf)
    return Ranked(queries.own, ranks, places, nearest)


def _at_least(similar: Tensor, threshold: Tensor) -> Tensor:
    """How many of each row of ``similar`` (q, T) reach each ``threshold`` (q, R)."""
    if similar.device.type == "cpu" and threshold.shape[1] <= PASSES:
        counts = _near.reached(similar.numpy(), threshold.numpy())
        return torch.from_numpy(counts)
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

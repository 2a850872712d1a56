"""Queries and gallery in label order: classes side by side, positives in one block of rows."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from crossbatch._shapes import Float, Int
from crossbatch.references import Tile


class Cameras(NamedTuple):
    """Who took the images, as integers: equal ones ≥ 0 on both sides are one camera."""

    queries: Int[Tensor, " Q"]
    gallery: Int[Tensor, " G"]


class Queries(NamedTuple):
    """Queries beside a gallery in label order.

    Attributes:
        embeddings: Shape (Q, D), unit rows.
        labels: Shape (Q,), ascending, as long as rows are not taken in another order.
        first: Shape (Q,), where the query's class begins in the gallery.
        last: Shape (Q,), and where it ends.
        own: Shape (Q,), where the query itself stands there, or -1.
        cameras: Shape (Q,), -1 where a camera does not matter.
        numbers: Shape (Q,), positions as they were given.
    """

    embeddings: Float[Tensor, "Q D"]
    labels: Int[Tensor, " Q"]
    first: Int[Tensor, " Q"]
    last: Int[Tensor, " Q"]
    own: Int[Tensor, " Q"]
    cameras: Int[Tensor, " Q"]
    numbers: Int[Tensor, " Q"]

    def take(self, rows: Int[Tensor, " q"] | slice) -> "Queries":
        """Some of the queries."""
        return Queries(*(field[rows] for field in self))


class Extra(NamedTuple):
    """What is added to some similarities: s* = weight · s + entry.

    Attributes:
        weight: Of the similarity itself.
        start: Shape (Q + 1,), where the entries of a query, as numbered by the caller, begin.
        columns: Rows of the gallery in label order.
        values: Of the entries.
    """

    weight: float
    start: Int[Tensor, " Q1"]
    columns: Int[Tensor, " n"]
    values: Float[Tensor, " n"]


class Held(NamedTuple):
    """The gallery in label order; ``numbers`` are positions as they were given."""

    embeddings: Float[Tensor, "G D"]
    labels: Int[Tensor, " G"]
    cameras: Int[Tensor, " G"]
    numbers: Int[Tensor, " G"]
    extra: Extra | None = None


def arrange(queries: Tile, gallery: Tile, cameras: Cameras | None) -> tuple[Queries, Held]:
    """Both sides in label order, unit rows of float32.

    Where the gallery is the queries, they share one tensor of embeddings.
    """
    order = gallery.labels.argsort(stable=True)
    labels, ids = gallery.labels[order], gallery.ids[order]
    unit = _unit(gallery.embeddings, order)
    taken = torch.full_like(order, -1) if cameras is None else cameras.gallery[order]
    held = Held(unit, labels, taken, order)
    itself = queries.embeddings is gallery.embeddings and torch.equal(queries.ids, gallery.ids)
    numbers = order if itself else queries.labels.argsort(stable=True)
    asked = queries.labels[numbers]
    table = Queries(
        unit if itself else _unit(queries.embeddings, numbers),
        asked,
        torch.searchsorted(labels, asked),
        torch.searchsorted(labels, asked, right=True),
        positions(queries.ids[numbers], ids),
        torch.full_like(numbers, -1) if cameras is None else cameras.queries[numbers],
        numbers,
    )
    return table, held


def _unit(embeddings: Tensor, order: Tensor) -> Tensor:
    rows = embeddings[order].float()
    return rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(1e-12))


def positions(ids: Tensor, among: Tensor) -> Tensor:
    """Where each id stands in ``among``, or -1."""
    ordered, order = among.sort()
    place = torch.searchsorted(ordered, ids).clamp(max=len(among) - 1)
    return torch.where(ordered[place] == ids, order[place], -1)


def parts(
    queries: Queries, rows_for: Callable[[int], int]
) -> Iterator[tuple[Int[Tensor, " q"], int]]:
    """Rows of some queries at a time, classes side by side, and how large their largest class is.

    The largest classes go first, so that the first row of a part has the most positives.

    Args:
        queries: All of them, in label order.
        rows_for: How many rows to take if the largest class has so many images.
    """
    size = queries.last - queries.first
    order = size.argsort(descending=True, stable=True)
    start = 0
    while start < len(order):
        most = int(size[order[start]])
        rows = max(1, rows_for(most))
        yield order[start : start + rows], most
        start += rows


def classes(queries: Queries) -> list[tuple[slice, int, int]]:
    """The rows of each class in a part of the queries, and where it stands in the gallery."""
    ends = torch.stack([queries.first, queries.last], dim=1)
    places, counts = ends.unique_consecutive(dim=0, return_counts=True)
    stops = counts.cumsum(0).tolist()
    rows = [slice(stop - n, stop) for stop, n in zip(stops, counts.tolist(), strict=True)]
    return [(part, *place) for part, place in zip(rows, places.tolist(), strict=True)]


def positives(
    queries: Queries, held: Held, blocks: list[tuple[slice, int, int]]
) -> Float[Tensor, "q R"]:
    """Similarities to the gallery images of the query's class, in their order.

    -inf stands for the query itself, for an image that its own camera took, and where a smaller
    class has no more.
    """
    most = int((queries.last - queries.first).max())
    similar = queries.embeddings.new_full((len(queries.own), most), -math.inf)
    for rows, first, last in blocks:
        similar[rows, : last - first] = compare(queries.take(rows), held, first, last)
    mine = (queries.own >= 0).nonzero()[:, 0]
    similar[mine, (queries.own - queries.first)[mine]] = -math.inf
    if bool((queries.cameras >= 0).any()):
        for rows, first, last in blocks:
            ignored = same_camera(queries.cameras[rows], held.cameras[first:last])
            similar[rows, : last - first].masked_fill_(ignored, -math.inf)
    return similar


def same_camera(queries: Tensor, gallery: Tensor) -> Tensor:
    """Which pairs of a query and a gallery image of its class come from one camera."""
    return (queries[:, None] == gallery[None, :]) & (queries >= 0)[:, None]


def compare(queries: Queries, held: Held, first: int, last: int) -> Float[Tensor, "q T"]:
    """Similarities of some queries to the gallery images from ``first`` to ``last``."""
    similar = queries.embeddings @ held.embeddings[first:last].T
    extra = held.extra
    if extra is None:
        return similar
    begin, end = extra.start[queries.numbers], extra.start[queries.numbers + 1]
    count = end - begin
    which = torch.repeat_interleave(torch.arange(len(count)), count)
    at = torch.arange(len(which)) + (begin - (count.cumsum(0) - count))[which]
    here = (extra.columns[at] >= first) & (extra.columns[at] < last)
    similar *= extra.weight
    similar[which[here], extra.columns[at[here]] - first] += extra.values[at[here]]
    return similar

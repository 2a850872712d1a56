r"""Better queries, a smoother gallery, and a second look at the neighbours, on plain arrays.

All take unit rows x, with s = ⟨x_p, x_g⟩ and N(p, n) the n nearest of p, p itself left out.

*Query expansion*: q' ∝ q + Σ_{g ∈ N(q, n)} max(s, 0)^α g. With α = 0 it is the average of *Total
Recall* (Chum, Philbin, Sivic, Isard, Zisserman, ICCV 2007); with α = 3 that of *Fine-Tuning CNN
Image Retrieval with No Human Annotation* (Radenović, Tolias, Chum, TPAMI 2019).

*Database augmentation*: the same for every image of the gallery, among the gallery (*Three Things
Everyone Should Know to Improve Object Retrieval*, Arandjelović, Zisserman, CVPR 2012).

*k-reciprocal re-ranking* (*Re-ranking Person Re-identification with k-reciprocal Encoding*, Zhong,
Zheng, Cao, Li, CVPR 2017), over queries and gallery together; here N(p, k) has p in it:

    R(p, k)  = {g ∈ N(p, k) : p ∈ N(g, k)}                                       (eq. 3)
    R*(p)    = R(p, k₁) ∪ R(q, k₁/2) for q ∈ R(p, k₁) if of the latter 2/3 are in R(p, k₁)  (eq. 4)
    V_pg     ∝ exp(−d_pg) for g ∈ R*(p), else 0; then the mean of V over N(p, k₂)   (eq. 7, 11)
    J_pg     = Σ min(V_p, V_g) / Σ max(V_p, V_g)                                    (eq. 10)
    s*_pg    = λ s_pg + (1 − λ) J_pg                                                (eq. 12)

with d = 1 − s. V and J are sparse: J vanishes unless R* of both overlap. The released code divides
distances by their largest first; the paper does not, and neither does this.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossbatch._shapes import Float, Int
from crossbatch.errors import CrossbatchError, expected

Array = np.ndarray[Any, Any]
_ENTRIES = 2**22  # of a tile of similarities, or of a part of the sparse matrices


@dataclass(frozen=True)
class Expansion:
    """Of queries or of the gallery: the n nearest, weighted by max(s, 0)^α.

    Args:
        n: At least 1.
        alpha: α ≥ 0; 0 is the plain average.
    """

    n: int = 10
    alpha: float = 3.0

    def __post_init__(self) -> None:
        if self.n < 1 or self.alpha < 0:
            got = f"n={self.n}, alpha={self.alpha}"
            remedy = "The usual are n=10 with alpha=0 or alpha=3."
            raise CrossbatchError(expected("`n` ≥ 1 and `alpha` ≥ 0", got, remedy))

    def __str__(self) -> str:
        return f"{self.n} nearest, α = {self.alpha:g}"


@dataclass(frozen=True)
class KReciprocal:
    """Re-ranking by neighbours that are mutual; the letters are the paper's.

    Args:
        k1: k₁ ≥ 1, how many neighbours must be mutual.
        k2: k₂ ≥ 1, over how many of the nearest V is averaged; at most k₁ + 1.
        weight: λ in [0, 1], of the similarity itself.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3

    def __post_init__(self) -> None:
        if not (1 <= self.k2 <= self.k1 + 1 and self.k1 >= 1 and 0 <= self.weight <= 1):
            got = f"k1={self.k1}, k2={self.k2}, weight={self.weight}"
            wanted = "`k1` ≥ 1, `k2` in [1, k1 + 1] and `weight` in [0, 1]"
            raise CrossbatchError(expected(wanted, got, "The paper's are 20, 6 and 0.3."))

    def __str__(self) -> str:
        return f"k₁ = {self.k1}, k₂ = {self.k2}, λ = {self.weight:g}"


class Sparse(NamedTuple):
    """A matrix that is zero nearly everywhere, row after row.

    Attributes:
        start: Shape (rows + 1,), where each row begins in the next two.
        columns: Rising within a row.
        values: Float32.
    """

    start: Array
    columns: Array
    values: Array

    def entries(self, rows: Array) -> tuple[Array, Array, Array]:
        """Positions within ``rows``, columns and values of all entries of these rows."""
        count = self.start[rows + 1] - self.start[rows]
        which = np.repeat(np.arange(len(rows)), count)
        at = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        at += self.start[rows][which]
        return which, self.columns[at], self.values[at]


def nearest(
    queries: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    k: int,
    *,
    own: Int[Tensor, " Q"] | None = None,
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """The k most similar of the gallery, the most similar first, and where they stand.

    Args:
        queries: Unit rows.
        gallery: Unit rows.
        k: Fewer if the gallery has fewer.
        own: Where each query stands in the gallery, which is left out (similarity -inf); -1
            where it does not.

    Returns:
        Similarities and positions. Exact; cost Q · G · D, memory O(Q · k) and a tile.
    """
    size = max(1, _ENTRIES // max(1, len(gallery)))
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(queries), size):
        similar = queries[start : start + size] @ gallery.T
        if own is not None:
            mine = (own[start : start + size] >= 0).nonzero()[:, 0]
            similar[mine, own[start : start + size][mine]] = -torch.inf
        found.append(similar.topk(min(k, len(gallery)), dim=1))
    if not found:
        return queries.new_zeros(0, k), torch.zeros(0, k, dtype=torch.int64)
    values, places = zip(*found, strict=True)
    return torch.cat(values), torch.cat(places)


def expand(
    queries: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    how: Expansion,
    *,
    own: Int[Tensor, " Q"] | None = None,
) -> Float[Tensor, "Q D"]:
    """Queries moved towards what they find, as unit rows.

    Args:
        queries: Unit rows.
        gallery: Unit rows, those that ``own`` counts.
        how: How many, and their weights.
        own: As in :func:`nearest`.
    """
    values, places = nearest(queries, gallery, how.n, own=own)
    weights = values.clamp(min=0) ** how.alpha
    weights = weights.where(values > -torch.inf, 0.0)
    moved = queries.clone()
    for column in range(places.shape[1]):
        moved += weights[:, column, None] * gallery[places[:, column]]
    return torch.nn.functional.normalize(moved, dim=1)


def augment(gallery: Float[Tensor, "G D"], how: Expansion) -> Float[Tensor, "G D"]:
    """Every image of a gallery moved towards its own nearest, as unit rows."""
    return expand(gallery, gallery, how, own=torch.arange(len(gallery), device=gallery.device))


def k_reciprocal(
    queries: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    how: KReciprocal,
    *,
    own: Int[Tensor, " Q"] | None = None,
) -> Sparse:
    """J of the queries and the gallery; s* = λ s + (1 − λ) J.

    Args:
        queries: Unit rows on the CPU.
        gallery: Unit rows.
        how: k₁, k₂ (λ is not used here).
        own: Where a query stands in the gallery; such a query is not counted twice.

    Returns:
        Shape (Q, G), J in [0, 1], entries that are zero left out. Cost: a product of all pairs
        of the N = Q + G images, and O(N k₁² k₂); memory O(N k₁ k₂).
    """
    place = torch.full((len(queries),), -1) if own is None else own
    new = (place < 0).nonzero()[:, 0]
    images = torch.cat([gallery, queries[new]])
    place = place.clone()
    place[new] = torch.arange(len(new)) + len(gallery)
    count = min(how.k1, len(images) - 1)
    _, others = nearest(images, images, count, own=torch.arange(len(images)))
    ranks = torch.cat([torch.arange(len(images))[:, None], others], dim=1).numpy()
    weights = _encode(images.numpy(), ranks, how.k1)
    if how.k2 > 1:
        weights = _averaged(weights, ranks[:, : how.k2])
    return _jaccard(weights, place.numpy(), len(gallery))


def rescored(similarities: Array, jaccard: Sparse, how: KReciprocal, *, rows: Array) -> Array:
    """s* of some queries, from their similarities (q, G) to the whole gallery."""
    found = how.weight * similarities
    which, columns, values = jaccard.entries(rows)
    found[which, columns] += (1 - how.weight) * values
    return found


def _mutual(ranks: Array, k: int, rows: Array) -> Array:
    """R(p, k) of some images, shape (rows, k + 1), -1 where a neighbour is not mutual."""
    near = ranks[:, : k + 1]
    mine = near[rows]
    mutual = (near[mine] == rows[:, None, None]).any(axis=2)
    return np.where(mutual, mine, -1)


def _encode(images: Array, ranks: Array, k1: int) -> Sparse:
    """V over R*: exp(−d), of sum 1."""
    half = round(k1 / 2)
    parts: list[tuple[Array, Array]] = []
    everyone = np.arange(len(images))
    inner = np.concatenate([_mutual(ranks, half, rows) for rows in _chunks(everyone, k1 * k1)])
    for rows in _chunks(everyone, (k1 + 1) ** 2 * (half + 1)):
        own = _mutual(ranks, k1, rows)
        theirs = np.where(own[:, :, None] >= 0, inner[own], -1)
        valid = theirs >= 0
        shared = (theirs[:, :, :, None] == own[:, None, None, :]).any(axis=3) & valid
        joins = shared.sum(axis=2) * 3 >= 2 * valid.sum(axis=2)
        theirs[~joins] = -1
        members = np.concatenate([own, theirs.reshape(len(rows), -1)], axis=1)
        i, j = np.nonzero(members >= 0)
        keys = np.unique(i * len(images) + members[i, j])
        p, g = rows[keys // len(images)], keys % len(images)
        parts.append((p, g))
    p, g = (np.concatenate(side) for side in zip(*parts, strict=True))
    values = np.empty(len(p), np.float32)
    for at in _chunks(np.arange(len(p)), images.shape[1]):
        values[at] = np.exp((images[p[at]] * images[g[at]]).sum(axis=1) - 1)
    sums = np.bincount(p, values, len(images))
    return Sparse(_starts(p, len(images)), g, (values / sums[p]).astype(np.float32))


def _averaged(weights: Sparse, near: Array) -> Sparse:
    """The mean of V over the nearest."""
    rows, columns, values = [], [], []
    images, many = near.shape
    widest = int(np.diff(weights.start).max(initial=1))
    for part in _chunks(np.arange(images), many * widest):
        which, g, v = weights.entries(near[part].reshape(-1))
        p, c, total = _summed(which // many, g, v / many, images)
        rows.append(part[p])
        columns.append(c)
        values.append(total)
    p = np.concatenate(rows)
    return Sparse(_starts(p, images), np.concatenate(columns), np.concatenate(values))


def _jaccard(weights: Sparse, queries: Array, gallery: int) -> Sparse:
    """J of some rows against the first ``gallery`` rows, through the columns that they share."""
    images = len(weights.start) - 1
    owner = np.repeat(np.arange(images), np.diff(weights.start))
    inside = owner < gallery
    order = np.argsort(weights.columns[inside], kind="stable")
    column = weights.columns[inside][order]
    inverse = Sparse(_starts(column, images), owner[inside][order], weights.values[inside][order])
    met = np.diff(inverse.start)[weights.columns]
    cost = np.concatenate([[0], np.cumsum(met)])
    cost = (cost[weights.start[1:]] - cost[weights.start[:-1]])[queries]
    rows, columns, values = [], [], []
    for part in _spans(cost):
        which, c, v = weights.entries(queries[part])
        pair, g, w = inverse.entries(c)
        p, found, total = _summed(which[pair], g, np.minimum(v[pair], w), images)
        rows.append(part[p])
        columns.append(found)
        values.append(total / (2 - total))
    if not rows:
        return Sparse(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    p = np.concatenate(rows)
    return Sparse(_starts(p, len(queries)), np.concatenate(columns), np.concatenate(values))


def _summed(rows: Array, columns: Array, values: Array, width: int) -> tuple[Array, Array, Array]:
    keys, where = np.unique(rows * width + columns, return_inverse=True)
    total = np.bincount(where.reshape(-1), values, len(keys)).astype(np.float32)
    return keys // width, keys % width, total


def _starts(rows: Array, count: int) -> Array:
    return np.searchsorted(rows, np.arange(count + 1))


def _chunks(rows: Array, each: int) -> Iterator[Array]:
    size = max(1, _ENTRIES // max(1, each))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _spans(cost: Array) -> Iterator[Array]:
    """Rows side by side whose costs sum to about as much as a part may have."""
    span = np.cumsum(cost) // _ENTRIES
    edges = np.flatnonzero(np.diff(span, prepend=-1))
    yield from (part for part in np.split(np.arange(len(cost)), edges) if len(part))

r"""A second look at what was found: the evaluator's expansion and re-ranking, at search time.

The query is first moved towards its n nearest (:class:`crossbatch.evaluation.rerank.Expansion`)
and asked again; then, of its ``pool`` nearest P, each gets

    s*_g = λ ⟨q, g⟩ + (1 − λ) J_g,    J over P and q alone

(:class:`crossbatch.evaluation.rerank.KReciprocal`). The evaluator takes J over the whole gallery;
with a pool as large as the gallery both are the same.
"""

from dataclasses import dataclass

import numpy as np
import torch

from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation.rerank import Expansion, KReciprocal, expand, k_reciprocal, rescored
from crossbatch.search.nearest import Array, Nearest, nearest


@dataclass(frozen=True)
class Refinement:
    """What is done besides one look at the gallery.

    Args:
        expand: Move each query towards its nearest, or None.
        rerank: Order the pool anew, or None.
        pool: At least 1: how many of the nearest are ordered anew. No other can be found then.

    Raises:
        CrossbatchError: The pool is empty.
    """

    expand: Expansion | None = None
    rerank: KReciprocal | None = None
    pool: int = 200

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise CrossbatchError(expected("`pool` ≥ 1", self.pool, "200 is usual."))

    def __str__(self) -> str:
        """What is named beside a result."""
        parts = [] if self.expand is None else [f"expanded by {self.expand}"]
        if self.rerank is not None:
            parts.append(f"the {self.pool} nearest re-ranked with {self.rerank}")
        return ", ".join(parts)


def refined(
    vectors: Array, queries: Array, k: int, *, how: Refinement, among: Array | None = None
) -> Nearest:
    """The k best rows of each query, with their s (or s*) in place of the similarity.

    Args:
        vectors: (N, D) float32, unit rows.
        queries: (Q, D) float32, unit rows.
        k: At most this many, and no more than the pool where it is re-ranked.
        how: What to do.
        among: Places to choose from, ascending; all by default.

    Cost: two looks at the gallery, and for each query a product of all pairs of the pool.
    """
    if how.expand is not None:
        near = nearest(vectors, queries, how.expand.n, among=among).rows
        moved = [
            _expanded(q, vectors[rows], how.expand) for q, rows in zip(queries, near, strict=True)
        ]
        queries = np.stack(moved)
    if how.rerank is None:
        return nearest(vectors, queries, k, among=among)
    pools = nearest(vectors, queries, how.pool, among=among)
    best, scores = [], []
    for query, rows, similar in zip(queries, *pools, strict=True):
        found = _rescored(query, vectors[rows], similar, how.rerank)
        order = np.argsort(-found, kind="stable")[:k]
        best.append(rows[order])
        scores.append(found[order])
    return Nearest(np.stack(best), np.stack(scores))


def _expanded(query: Array, near: Array, how: Expansion) -> Array:
    return expand(torch.from_numpy(query)[None], torch.from_numpy(near), how)[0].numpy()


def _rescored(query: Array, pool: Array, similar: Array, how: KReciprocal) -> Array:
    if not len(pool):
        return similar
    jaccard = k_reciprocal(torch.from_numpy(query)[None], torch.from_numpy(pool), how)
    return rescored(similar[None].copy(), jaccard, how, rows=np.zeros(1, np.int64))[0]

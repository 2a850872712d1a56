r"""Per-anchor statistics: commutative monoids over the pairs of an anchor.

A statistic of anchor i is a fold over its positives or over its negatives,

    m_i = ⊕_{j} t(S_ij, earlier statistics),      ⊕ ∈ {+, max, min, log-sum-exp},

so it can be taken tile by tile and shard by shard: ``merge(fold(A), fold(B)) = fold(A ∪ B)``,
and ``identity`` changes nothing. That is all that the engine needs in order to never hold the
matrix of similarities.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Stats = Mapping[str, Tensor]
"""Statistics by name. Each tensor broadcasts with the similarities it is used beside."""

Term = Callable[[Tensor, Stats], Tensor]
"""t(S, earlier statistics), elementwise."""

Side = Literal["positive", "negative"]


@dataclass(frozen=True)
class Monoid:
    """A commutative, associative operation with an identity.

    Args:
        identity: A term that changes nothing.
        fold: Reduces a block of terms (B, T) to (B,), or to (B, K) for a vector of K numbers.
        merge: Joins two partial results.
        fold_pairs: Reduces terms (n,) of pairs whose anchors are (n,), to ``rows`` results.
        start: The result of no terms, in every place.
        width: K of a vector, None of a number.
    """

    identity: float
    fold: Callable[[Tensor], Tensor]
    merge: Callable[[Tensor, Tensor], Tensor]
    fold_pairs: Callable[[Tensor, Tensor, int], Tensor]
    start: float
    width: int | None = None

    def empty(self, rows: int, like: Tensor) -> Tensor:
        """The result of no terms for ``rows`` anchors."""
        shape = (rows,) if self.width is None else (rows, self.width)
        return like.new_full(shape, self.start)


def _fold_max(block: Tensor) -> Tensor:
    return block.amax(dim=1) if block.shape[1] else block.new_full(block.shape[:1], -math.inf)


def _fold_min(block: Tensor) -> Tensor:
    return block.amin(dim=1) if block.shape[1] else block.new_full(block.shape[:1], math.inf)


def _sum_pairs(terms: Tensor, anchors: Tensor, rows: int) -> Tensor:
    return terms.new_zeros(rows).index_add_(0, anchors, terms)


def _max_pairs(terms: Tensor, anchors: Tensor, rows: int) -> Tensor:
    empty = terms.new_full((rows,), -math.inf)
    return empty.scatter_reduce_(0, anchors, terms, "amax")


def _min_pairs(terms: Tensor, anchors: Tensor, rows: int) -> Tensor:
    return -_max_pairs(-terms, anchors, rows)


def _log_sum_exp_pairs(terms: Tensor, anchors: Tensor, rows: int) -> Tensor:
    top = _max_pairs(terms, anchors, rows)
    safe = torch.where(top.isfinite(), top, 0.0)
    return safe + _sum_pairs((terms - safe[anchors]).exp_(), anchors, rows).log()


SUM = Monoid(0.0, lambda block: block.sum(dim=1), torch.add, _sum_pairs, 0.0)
MAX = Monoid(-math.inf, _fold_max, torch.maximum, _max_pairs, -math.inf)
MIN = Monoid(math.inf, _fold_min, torch.minimum, _min_pairs, math.inf)
LOG_SUM_EXP = Monoid(
    -math.inf, lambda block: block.logsumexp(dim=1), torch.logaddexp, _log_sum_exp_pairs, -math.inf
)


def histogram(bins: int) -> Monoid:
    """Counts in soft bins: a term t ∈ [0, bins − 1] adds to the two whole numbers beside it.

    Its result is a vector of ``bins`` counts for each anchor; a term of infinity adds nothing.
    """

    def fold(block: Tensor) -> Tensor:
        parts = [(1 - (block - k).abs()).clamp_(min=0).sum(dim=1) for k in range(bins)]
        return torch.stack(parts, dim=1)

    def fold_pairs(terms: Tensor, anchors: Tensor, rows: int) -> Tensor:
        shares = torch.stack([(1 - (terms - k).abs()).clamp_(min=0) for k in range(bins)], dim=1)
        return terms.new_zeros(rows, bins).index_add_(0, anchors, shares)

    return Monoid(math.inf, fold, torch.add, fold_pairs, 0.0, bins)


def top(count: int) -> Monoid:
    """The ``count`` largest terms, descending; −∞ where there are fewer."""

    def fold(block: Tensor) -> Tensor:
        padding = block.new_full((len(block), count), -math.inf)
        return torch.cat([block, padding], dim=1).topk(count, dim=1).values

    def fold_pairs(terms: Tensor, anchors: Tensor, rows: int) -> Tensor:
        order = torch.argsort(terms, descending=True, stable=True)
        order = order[torch.argsort(anchors[order], stable=True)]
        sizes = torch.bincount(anchors, minlength=rows)
        starts = sizes.cumsum(0) - sizes
        place = torch.arange(len(terms), device=terms.device) - starts[anchors[order]]
        found = terms.new_full((rows, count), -math.inf)
        kept = order[place < count]
        found[anchors[kept], place[place < count]] = terms[kept]
        return found

    return Monoid(
        -math.inf,
        fold,
        lambda a, b: torch.cat([a, b], dim=-1).topk(count, dim=-1).values,
        fold_pairs,
        -math.inf,
        count,
    )


@dataclass(frozen=True)
class Statistic:
    """A named fold over one side of every anchor's pairs.

    Args:
        name: How weights and values refer to it.
        side: Over the positives or over the negatives.
        monoid: ``SUM``, ``MAX``, ``MIN``, ``LOG_SUM_EXP`` or a :func:`histogram`.
        term: What is folded, as a function of similarity and of the statistics of earlier stages.
        bounded: Whether the term is the identity at or below the weighting's ``negative_bound``.
    """

    name: str
    side: Side
    monoid: Monoid
    term: Term
    bounded: bool = False


def similarity(sim: Tensor, stats: Stats) -> Tensor:
    """The term of a plain extreme: the similarity itself."""
    del stats
    return sim

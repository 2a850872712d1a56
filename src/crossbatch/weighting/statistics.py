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
        identity: The value that changes nothing.
        fold: Reduces a block (B, T) to (B,).
        merge: Joins two partial results (B,), (B,).
    """

    identity: float
    fold: Callable[[Tensor], Tensor]
    merge: Callable[[Tensor, Tensor], Tensor]


def _fold_max(block: Tensor) -> Tensor:
    return block.amax(dim=1) if block.shape[1] else block.new_full(block.shape[:1], -math.inf)


def _fold_min(block: Tensor) -> Tensor:
    return block.amin(dim=1) if block.shape[1] else block.new_full(block.shape[:1], math.inf)


SUM = Monoid(0.0, lambda block: block.sum(dim=1), torch.add)
MAX = Monoid(-math.inf, _fold_max, torch.maximum)
MIN = Monoid(math.inf, _fold_min, torch.minimum)
LOG_SUM_EXP = Monoid(-math.inf, lambda block: block.logsumexp(dim=1), torch.logaddexp)


@dataclass(frozen=True)
class Statistic:
    """A named fold over one side of every anchor's pairs.

    Args:
        name: How weights and values refer to it.
        side: Over the positives or over the negatives.
        monoid: ``SUM``, ``MAX``, ``MIN`` or ``LOG_SUM_EXP``.
        term: What is folded, as a function of similarity and of the statistics of earlier stages.
    """

    name: str
    side: Side
    monoid: Monoid
    term: Term


def similarity(sim: Tensor, stats: Stats) -> Tensor:
    """The term of a plain extreme: the similarity itself."""
    del stats
    return sim

r"""Retrieval metrics, computed from ranks and from nothing else.

A query has R relevant gallery images. Sorting the gallery by falling similarity gives them the
ranks ρ_1 < ρ_2 < … < ρ_R, counted from 1. Every metric is a function of these and of R:

    R@K         = 1[ρ_1 ≤ K]                          (`recall_at_k`)
    R-precision = |{i : ρ_i ≤ R}| / R                 (`r_precision`)
    MAP@R       = 1/R · Σ_{i : ρ_i ≤ R} i / ρ_i       (`map_at_r`)
    AP          = 1/R · Σ_i i / ρ_i                   (`average_precision`), its mean is mAP

since i / ρ_i is the precision among the first ρ_i. Scores never enter: where ties stand is
decided once, by who makes the ranks (`crossbatch.evaluation` sorts them against the query).

Queries have different R, so a table of ranks has shape (Q, R) with R the largest, and each row is
filled up with ∞, the rank of an image that is not there: it is within no cutoff and adds i/∞ = 0.
A query without any relevant image has no score: all metrics give NaN for it.

Sources: R@K as in *Deep Metric Learning via Lifted Structured Feature Embedding* (Oh Song, Xiang,
Jegelka, Savarese, CVPR 2016): the share of queries with a relevant image among the first K.
R-precision and MAP@R as in *A Metric Learning Reality Check* (Musgrave, Belongie, Lim, ECCV 2020).
AP as in *Introduction to Information Retrieval* (Manning, Raghavan, Schütze, 2008), section 8.4.

The doctests share two queries: one with R = 3, at ranks 1, 3 and 6, one with R = 1, at rank 2.
"""

import torch
from torch import Tensor

from crossbatch._shapes import Float, Int
from crossbatch.errors import CrossbatchError, expected


def relevant(ranks: Float[Tensor, "Q R"]) -> Int[Tensor, " Q"]:
    """R of each query: how many of its ranks are finite.

    >>> relevant(torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]]))
    tensor([3, 1])
    """
    return torch.isfinite(ranks).sum(dim=1)


def recall_at_k(ranks: Float[Tensor, "Q R"], k: int) -> Float[Tensor, " Q"]:
    """R@K: one if a relevant image is among the first ``k``, else zero.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity.
        k: At least 1.

    Returns:
        Shape (Q,), float64, in {0, 1}; NaN for a query without relevant images.

    Raises:
        CrossbatchError: ``k`` is below 1.

    >>> ranks = torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]])
    >>> recall_at_k(ranks, 1).tolist(), recall_at_k(ranks, 2).tolist()
    ([1.0, 0.0], [1.0, 1.0])
    """
    if k < 1:
        raise CrossbatchError(expected("a cutoff K ≥ 1", k, "Ranks are counted from 1."))
    return _score((ranks <= k).any(dim=1), ranks)


def r_precision(ranks: Float[Tensor, "Q R"]) -> Float[Tensor, " Q"]:
    """The share of relevant images among the first R.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity.

    Returns:
        Shape (Q,), float64, in [0, 1]; NaN for a query without relevant images.

    >>> ranks = torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]])
    >>> r_precision(ranks)                       # 2 of the 3 are among the first 3; 0 of 1
    tensor([0.6667, 0.0000], dtype=torch.float64)
    """
    total = relevant(ranks)
    return _score((ranks <= total[:, None]).double().sum(dim=1) / total, ranks)


def map_at_r(ranks: Float[Tensor, "Q R"]) -> Float[Tensor, " Q"]:
    """MAP@R: the mean over the first R places of the precision there, zero at wrong places.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity.

    Returns:
        Shape (Q,), float64, in [0, 1], never above R-precision; NaN for a query without relevant
        images.

    >>> ranks = torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]])
    >>> map_at_r(ranks)                          # (1/1 + 2/3) / 3; nothing at place 1
    tensor([0.5556, 0.0000], dtype=torch.float64)
    """
    total = relevant(ranks)
    within = _precisions(ranks).where(ranks <= total[:, None], 0.0)
    return _score(within.sum(dim=1) / total, ranks)


def average_precision(ranks: Float[Tensor, "Q R"]) -> Float[Tensor, " Q"]:
    """AP: the mean of the precisions at every relevant image. Its mean over queries is mAP.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity.

    Returns:
        Shape (Q,), float64, in (0, 1]; NaN for a query without relevant images.

    >>> ranks = torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]])
    >>> average_precision(ranks)                 # (1/1 + 2/3 + 3/6) / 3; 1/2
    tensor([0.7222, 0.5000], dtype=torch.float64)
    """
    return _score(_precisions(ranks).sum(dim=1) / relevant(ranks), ranks)


def _precisions(ranks: Tensor) -> Tensor:
    """The precision among the first ρ_i, for each i: i / ρ_i."""
    return torch.arange(1, ranks.shape[1] + 1, device=ranks.device) / ranks.double()


def _score(values: Tensor, ranks: Tensor) -> Tensor:
    return values.double().where(relevant(ranks) > 0, torch.nan)

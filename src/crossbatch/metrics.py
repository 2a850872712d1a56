r"""Retrieval metrics, computed from ranks and from nothing else.

A query has R relevant gallery images. Sorting the gallery by falling similarity gives them the
ranks ρ_1 < ρ_2 < … < ρ_R, counted from 1. Every metric is a function of these and of R:

    R@K         = 1[ρ_1 ≤ K]                          (`recall_at_k`)
    R-precision = |{i : ρ_i ≤ R}| / R                 (`r_precision`)
    MAP@R       = 1/R · Σ_{i : ρ_i ≤ R} i / ρ_i       (`map_at_r`)
    AP          = 1/R · Σ_i i / ρ_i                   (`average_precision`), its mean is mAP
    RR          = 1 / ρ_1                             (`reciprocal_rank`), its mean is MRR
    nDCG        = Σ_i d(ρ_i) / Σ_{i ≤ R} d(i)         (`ndcg`), d(ρ) = 1 / log₂(1 + ρ)
    nDCG@K      = Σ_{i : ρ_i ≤ K} d(ρ_i) / Σ_{i ≤ min(R, K)} d(i)
    CMC         = mean over queries of R@1, R@2, …    (`cmc`), the curve of re-identification

since i / ρ_i is the precision among the first ρ_i. Scores never enter: where ties stand is
decided once, by who makes the ranks: `ranks_of` from a matrix of similarities, and
`crossbatch.evaluation` without one, both against the query.

All functions take NumPy arrays or torch tensors and give back what they were given. They need
nothing but these two packages.

Queries have different R, so a table of ranks has shape (Q, R) with R the largest, and each row is
filled up with ∞, the rank of an image that is not there: it is within no cutoff and adds i/∞ = 0.
A query without any relevant image has no score: all metrics give NaN for it.

Sources: R@K as in *Deep Metric Learning via Lifted Structured Feature Embedding* (Oh Song, Xiang,
Jegelka, Savarese, CVPR 2016): the share of queries with a relevant image among the first K.
R-precision and MAP@R as in *A Metric Learning Reality Check* (Musgrave, Belongie, Lim, ECCV 2020).
AP as in *Introduction to Information Retrieval* (Manning, Raghavan, Schütze, 2008), section 8.4.
MRR as in *The TREC-8 Question Answering Track Report* (Voorhees, 1999). nDCG as in *Cumulated
Gain-Based Evaluation of IR Techniques* (Järvelin, Kekäläinen, TOIS 2002) with binary relevance and
the discount log₂(1 + ρ) of Burges et al. (ICML 2005). CMC as in *Scalable Person
Re-identification: A Benchmark* (Zheng et al., ICCV 2015): any of several right answers counts.

The doctests share two queries: one with R = 3, at ranks 1, 3 and 6, one with R = 1, at rank 2.
"""

from typing import Any, TypeVar, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from crossbatch.errors import CrossbatchError, expected

A = TypeVar("A", Tensor, NDArray[Any])


def ranks_of(similarities: A, relevant: A, ignored: A | None = None) -> A:
    """Ranks of the relevant images from a whole matrix of similarities.

    For arrays of a few thousand rows; `crossbatch.evaluation.evaluate` holds no such matrix.
    An irrelevant image that is as similar as a relevant one stands before it.

    Args:
        similarities: Shape (Q, G), larger is nearer; not NaN.
        relevant: Shape (Q, G), boolean.
        ignored: Shape (Q, G), boolean: images that are in no ranking, such as the query itself
            or what its own camera took.

    Returns:
        Shape (Q, R) with R the largest number of relevant images; float64, ascending, filled up
        with infinity. Cost: O(Q · G log G) time.

    Raises:
        CrossbatchError: Shapes that differ, no boolean masks, or NaN.

    >>> ranks_of(torch.tensor([[0.9, 0.8, 0.8, 0.1]]), torch.tensor([[True, False, True, False]]))
    tensor([[1., 3.]], dtype=torch.float64)
    """
    scores, right = torch.as_tensor(similarities).double(), torch.as_tensor(relevant)
    out = torch.zeros_like(right) if ignored is None else torch.as_tensor(ignored)
    _check_matrix(scores, right, out)
    positive = scores.where(right & ~out, -torch.inf).sort(dim=1, descending=True).values
    positive = positive[:, : int((right & ~out).sum(dim=1).max()) if len(right) else 0]
    negative = scores.where(~right & ~out, -torch.inf).sort(dim=1).values
    before = scores.shape[1] - torch.searchsorted(negative, positive.contiguous())
    ranks = before + torch.arange(1, positive.shape[1] + 1, device=before.device)
    return _like(ranks.double().where(positive > -torch.inf, torch.inf), similarities)


def relevant(ranks: A) -> A:
    """R of each query: how many of its ranks are finite.

    >>> relevant(torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]]))
    tensor([3, 1])
    """
    return _like(_total(torch.as_tensor(ranks)), ranks)


def recall_at_k(ranks: A, k: int) -> A:
    """R@K: one if a relevant image is among the first ``k``, else zero.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity, (Q, R).
        k: At least 1.

    Returns:
        Shape (Q,), float64, in {0, 1}; NaN for a query without relevant images.

    Raises:
        CrossbatchError: ``k`` is below 1.

    >>> ranks = torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]])
    >>> recall_at_k(ranks, 1).tolist(), recall_at_k(ranks, 2).tolist()
    ([1.0, 0.0], [1.0, 1.0])
    """
    _check_cutoff(k)
    table = torch.as_tensor(ranks)
    return _like(_score((table <= k).any(dim=1), table), ranks)


def cmc(ranks: A, k: int) -> A:
    """The cumulative matching characteristic: R@1 … R@k, each a mean over queries.

    Args:
        ranks: As for :func:`recall_at_k`. Queries without relevant images are left out.
        k: How far to go, at least 1.

    Returns:
        Shape (k,), float64, never falling; NaN if no query has a relevant image.

    Raises:
        CrossbatchError: ``k`` is below 1.

    >>> import numpy as np
    >>> cmc(np.array([[1.0, 3.0], [2.0, np.inf], [5.0, 6.0]]), 3)
    array([0.33333333, 0.66666667, 0.66666667])
    """
    _check_cutoff(k)
    table = torch.as_tensor(ranks)
    first = table[_total(table) > 0][:, :1].double()
    places = torch.arange(1, k + 1, device=table.device)
    counts = torch.searchsorted(first.flatten().sort().values, places.double(), right=True)
    return _like(counts.double() / len(first), ranks)


def r_precision(ranks: A) -> A:
    """The share of relevant images among the first R.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity, (Q, R).

    Returns:
        Shape (Q,), float64, in [0, 1]; NaN for a query without relevant images.

    >>> ranks = torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]])
    >>> r_precision(ranks)                       # 2 of the 3 are among the first 3; 0 of 1
    tensor([0.6667, 0.0000], dtype=torch.float64)
    """
    table = torch.as_tensor(ranks)
    total = _total(table)
    within = (table <= total[:, None]).double().sum(dim=1)
    return _like(_score(within / total, table), ranks)


def map_at_r(ranks: A) -> A:
    """MAP@R: the mean over the first R places of the precision there, zero at wrong places.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity, (Q, R).

    Returns:
        Shape (Q,), float64, in [0, 1], never above R-precision; NaN for a query without relevant
        images.

    >>> ranks = torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]])
    >>> map_at_r(ranks)                          # (1/1 + 2/3) / 3; nothing at place 1
    tensor([0.5556, 0.0000], dtype=torch.float64)
    """
    table = torch.as_tensor(ranks)
    total = _total(table)
    within = _precisions(table).where(table <= total[:, None], 0.0)
    return _like(_score(within.sum(dim=1) / total, table), ranks)


def average_precision(ranks: A) -> A:
    """AP: the mean of the precisions at every relevant image. Its mean over queries is mAP.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity, (Q, R).

    Returns:
        Shape (Q,), float64, in (0, 1]; NaN for a query without relevant images.

    >>> ranks = torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]])
    >>> average_precision(ranks)                 # (1/1 + 2/3 + 3/6) / 3; 1/2
    tensor([0.7222, 0.5000], dtype=torch.float64)
    """
    table = torch.as_tensor(ranks)
    return _like(_score(_precisions(table).sum(dim=1) / _total(table), table), ranks)


def reciprocal_rank(ranks: A) -> A:
    """RR: one over the rank of the first relevant image. Its mean over queries is MRR.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity, (Q, R).

    Returns:
        Shape (Q,), float64, in (0, 1]; NaN for a query without relevant images.

    >>> reciprocal_rank(torch.tensor([[1.0, 3.0, 6.0], [2.0, torch.inf, torch.inf]])).tolist()
    [1.0, 0.5]
    """
    table = torch.as_tensor(ranks)
    first = table.double()[:, :1].sum(dim=1)
    return _like(_score(1 / first, table), ranks)


def ndcg(ranks: A, k: int | None = None) -> A:
    """nDCG: discounted gain of the relevant images over that of the best order.

    Args:
        ranks: Ascending 1-based ranks of the relevant images, filled up with infinity, (Q, R).
        k: Count only the first ``k`` places, in the best order too. By default all of them.

    Returns:
        Shape (Q,), float64, in [0, 1]; NaN for a query without relevant images.

    Raises:
        CrossbatchError: ``k`` is below 1.

    >>> import numpy as np
    >>> ndcg(np.array([[1.0, 3.0]]))             # (1 + 1/2) / (1 + 1/log₂3)
    array([0.91972079])
    >>> ndcg(np.array([[1.0, 3.0]]), 2)          # 1 / (1 + 1/log₂3)
    array([0.61314719])
    """
    _check_cutoff(1 if k is None else k)
    cutoff = torch.inf if k is None else k
    table = torch.as_tensor(ranks).double()
    best = torch.arange(1, table.shape[1] + 1, device=table.device, dtype=torch.float64)
    best = best.expand_as(table).where(table < torch.inf, torch.inf)
    gain, ideal = (
        (1 / torch.log2(1 + places)).where(places <= cutoff, 0.0).sum(dim=1)
        for places in (table, best)
    )
    return _like(_score(gain / ideal, table), ranks)


def _total(ranks: Tensor) -> Tensor:
    return torch.isfinite(ranks).sum(dim=1)


def _precisions(ranks: Tensor) -> Tensor:
    """The precision among the first ρ_i, for each i: i / ρ_i."""
    return torch.arange(1, ranks.shape[1] + 1, device=ranks.device) / ranks.double()


def _score(values: Tensor, ranks: Tensor) -> Tensor:
    return values.double().where(_total(ranks) > 0, torch.nan)


def _like(values: Tensor, given: A) -> A:
    return cast(A, values if isinstance(given, Tensor) else values.numpy())


def _check_cutoff(k: int) -> None:
    if k < 1:
        raise CrossbatchError(expected("a cutoff K ≥ 1", k, "Ranks are counted from 1."))


def _check_matrix(scores: Tensor, relevant: Tensor, ignored: Tensor) -> None:
    shapes = [tuple(part.shape) for part in (scores, relevant, ignored)]
    kinds = [part.dtype for part in (relevant, ignored)]
    if scores.ndim != 2 or len(set(shapes)) > 1 or kinds != [torch.bool, torch.bool]:
        got = f"shapes {', '.join(map(str, shapes))}, masks of {kinds[0]} and {kinds[1]}"
        wanted = "similarities of shape (Q, G) and boolean masks of the same shape"
        raise CrossbatchError(expected(wanted, got, "Compare labels to make the masks."))
    if bool(torch.isnan(scores).any()):
        rows = [int(row) for row in torch.isnan(scores).any(dim=1).nonzero()]
        got = f"NaN in {len(rows)} rows, the first: {rows[:5]}"
        remedy = "NaN has no place in an order; look at the embeddings."
        raise CrossbatchError(expected("similarities without NaN", got, remedy))

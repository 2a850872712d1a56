r"""How sure a mean over queries is: the bootstrap, plain and paired.

A score is the mean over n queries, and other queries would have given another. The bootstrap
draws n of the n queries with replacement, many times, and takes the spread of the means for the
spread that other queries would show (Efron, *Bootstrap Methods: Another Look at the Jackknife*,
Annals of Statistics 1979); the interval is that of the percentiles.

Two embeddings are compared on the *same* queries: what is resampled is each query's difference,
so that what is hard for both cancels out (Smucker, Allan, Carterette, *A Comparison of
Statistical Significance Tests for Information Retrieval Evaluation*, CIKM 2007).

Queries of one class share their fate. To speak of other classes rather than of other queries,
give the labels as ``groups``: whole classes are drawn then, and the interval is wider.

Of m comparisons each at level 5 %, one in twenty is found by chance. With p_(1) ≤ … ≤ p_(m):

    Holm:                p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j))       any difference at all
    Bonferroni:          p̃_(i) = min(1, m p_(i))                             the same, weaker
    Benjamini-Hochberg:  p̃_(i) = min_{j ≥ i} min(1, m p_(j) / j)             share of false finds

(Holm, *A Simple Sequentially Rejective Multiple Test Procedure*, Scandinavian Journal of
Statistics 1979; Benjamini, Hochberg, *Controlling the False Discovery Rate*, JRSS B 1995). Holm's
needs no independence and is the default.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from crossbatch.errors import CrossbatchError, expected, nearest

Array = np.ndarray[Any, Any]
Correction = Literal["holm", "bonferroni", "benjamini-hochberg", "none"]
CORRECTIONS: tuple[Correction, ...] = ("holm", "bonferroni", "benjamini-hochberg", "none")
_DRAWS = 2**22  # indices held at a time


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` queries, and where 95 % (or another level) of its resamples lie."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """A difference of two means over the same ``n`` queries.

    Attributes:
        difference: Mean of the second run minus mean of the first.
        low: Lower end of the interval of the difference.
        high: Upper end.
        p_value: Twice the share of resamples on the other side of zero (or at it); at least
            2 / (resamples + 1). The chance of a difference this clear if there were none.
        wins: Queries on which the second run scores higher.
        losses: Queries on which it scores lower.
        n: Queries.
        adjusted: The p-value after the correction for other comparisons; without any, itself.
        correction: Its name, and for how many comparisons it was.
        test: What was tested how.
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    n: int
    adjusted: float = float("nan")
    correction: str = "none, 1 comparison"
    test: str = "paired bootstrap over queries"


def interval(
    scores: Array | Sequence[float],
    *,
    groups: Array | Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of per-query scores with its bootstrap interval.

    Args:
        scores: Shape (n,), finite, n ≥ 2.
        groups: Shape (n,); queries with the same value are drawn together. By default each query
            is drawn by itself.
        level: The share of resamples inside, in (0, 1).
        resamples: How often to draw. Cost O(resamples · n) time, bounded memory.
        seed: Of the draws.

    Raises:
        CrossbatchError: Wrong shape, non-finite scores, fewer than two queries or groups.

    >>> found = interval([1, 0, 1, 1, 0, 1, 1, 1, 0, 1])
    >>> found.mean, found.low, found.high
    (0.7, 0.4, 1.0)
    """
    values = _checked(scores, "scores")
    low, high, _ = _bounds(values, _clusters(values, groups), level, resamples, seed)
    return Interval(float(values.mean()), low, high, len(values))


def paired_difference(
    a: Array | Sequence[float],
    b: Array | Sequence[float],
    *,
    groups: Array | Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two runs query by query.

    Args:
        a: Scores of the baseline, shape (n,), finite, n ≥ 2.
        b: Scores of the other run for the same queries in the same order.
        groups: As for :func:`interval`.
        level: The share of resamples inside, in (0, 1).
        resamples: How often to draw.
        seed: Of the draws.

    Raises:
        CrossbatchError: Wrong shapes, non-finite scores, fewer than two queries or groups.

    >>> found = paired_difference([0, 0, 1, 0, 0, 1, 0, 1], [1, 1, 1, 0, 1, 0, 1, 1])
    >>> found.difference, found.wins, found.losses
    (0.375, 4, 1)
    """
    first, second = _checked(a, "scores of the baseline"), _checked(b, "scores")
    if len(first) != len(second):
        raise CrossbatchError(
            expected(
                "scores of the same queries from both runs",
                f"{len(first)} and {len(second)}",
                "Evaluate both on the same split of the same manifest.",
            )
        )
    values = second - first
    low, high, p_value = _bounds(values, _clusters(values, groups), level, resamples, seed)
    return Comparison(
        difference=float(values.mean()),
        low=low,
        high=high,
        p_value=p_value,
        wins=int((values > 0).sum()),
        losses=int((values < 0).sum()),
        n=len(values),
        adjusted=p_value,
        test="paired bootstrap over " + ("queries" if groups is None else "groups of queries"),
    )


def corrected(
    comparisons: Mapping[str, Comparison], *, correction: Correction = "holm"
) -> dict[str, Comparison]:
    """Comparisons with p-values that allow for how many they are.

    Args:
        comparisons: All that were made, also those that turned out dull; by name.
        correction: See the module. ``none`` says that nothing was done.

    Returns:
        The same with ``adjusted`` and ``correction`` set. Intervals stay those of one comparison.

    Raises:
        CrossbatchError: An unknown correction.

    >>> alone = paired_difference([0, 0, 1, 0, 0, 1, 0, 1], [1, 1, 1, 0, 1, 0, 1, 1])
    >>> both = corrected({"a": alone, "b": alone})
    >>> both["a"].adjusted == 2 * alone.p_value, both["a"].correction
    (True, 'holm, 2 comparisons')
    """
    names = list(comparisons)
    values = adjust([comparisons[name].p_value for name in names], correction=correction)
    told = f"{correction}, {len(names)} comparison" + ("s" if len(names) != 1 else "")
    return {
        name: replace(comparisons[name], adjusted=float(value), correction=told)
        for name, value in zip(names, values, strict=True)
    }


def adjust(p_values: Array | Sequence[float], *, correction: Correction = "holm") -> Array:
    """Corrected p-values in the order given; see the module.

    Raises:
        CrossbatchError: Not a list of numbers in [0, 1], or an unknown correction.

    >>> adjust([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        remedy = "Give the p-values of all comparisons."
        raise CrossbatchError(expected("p-values in [0, 1], shape (m,)", f"{p}", remedy))
    if correction not in CORRECTIONS:
        hint = nearest(str(correction), CORRECTIONS)
        raise CrossbatchError(expected("a correction", repr(correction), hint))
    m, order = len(p), p.argsort()
    place = np.arange(1, m + 1)
    values = p[order]
    if correction == "holm":
        values = np.maximum.accumulate((m - place + 1) * values)
    elif correction == "bonferroni":
        values = m * values
    elif correction == "benjamini-hochberg":
        values = np.minimum.accumulate((m * values / place)[::-1])[::-1]
    found = np.empty(m)
    found[order] = np.minimum(values, 1)
    return found


def _bounds(
    values: Array, clusters: tuple[Array, Array], level: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    if not 0 < level < 1 or resamples < 1:
        raise CrossbatchError(
            expected(
                "`level` in (0, 1) and `resamples` of at least 1",
                f"level={level}, resamples={resamples}",
                "The usual are 0.95 and 2000.",
            )
        )
    means = np.concatenate(list(_resampled(*clusters, resamples, np.random.default_rng(seed))))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    across = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2 * (1 + int(across)) / (1 + resamples))
    return float(low), float(high), p_value


def _resampled(
    totals: Array, sizes: Array, resamples: int, rng: np.random.Generator
) -> Iterator[Array]:
    """Means of resamples, as many at a time as fit."""
    n = len(totals)
    rows = max(1, _DRAWS // n)
    alike = bool((sizes == sizes[0]).all())
    for start in range(0, resamples, rows):
        draws = rng.integers(0, n, size=(min(rows, resamples - start), n), dtype=np.int32)
        drawn = n * sizes[0] if alike else sizes[draws].sum(axis=1)
        yield totals[draws].sum(axis=1) / drawn


def _clusters(values: Array, groups: Array | Sequence[Any] | None) -> tuple[Array, Array]:
    """What is drawn: the sum of scores and the number of queries of each group."""
    if groups is None:
        return values, np.ones(len(values))
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if codes.shape != values.shape or len(names) < 2:
        raise CrossbatchError(
            expected(
                f"`groups` of shape {values.shape} with at least two of them",
                f"shape {np.shape(groups)} with {len(names)}",
                "Give the label of each query.",
            )
        )
    return np.bincount(codes, values), np.bincount(codes).astype(np.float64)


def _checked(scores: Array | Sequence[float], name: str) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise CrossbatchError(
            expected(
                f"finite {name} of shape (n,) with n ≥ 2",
                f"shape {values.shape}, {(~np.isfinite(values)).sum()} not finite",
                "Give the `per_query` scores of an evaluation.",
            )
        )
    return values

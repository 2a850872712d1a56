r"""From numbers to subsets: exact k-means on a line, and its cuts.

k-means in one dimension is solved exactly: clusters are intervals, so with the values in rising
order x_1 ≤ ... ≤ x_m (equal ones taken together, with their weights w) the least cost of the first
j values in c clusters is

    F_c(j) = min_i F_{c−1}(i) + V(i, j),    V(i, j) = Σ w x² − (Σ w x)² / Σ w over i < l ≤ j.

The best i does not fall as j grows, so each layer takes O(m log m) by dividing (Wang, Song,
*Ckmeans.1d.dp*, The R Journal 2011; Grønlund et al., arXiv 1701.07204). Of equal costs the one
with the smaller lowest cluster is taken.

The released CurriculumNet runs Lloyd's iteration from random starts and cuts at the least density
of each cluster. Clusters on a line are intervals, so the cut gives back the cluster; where Lloyd
has found the optimum both agree, and where it has stopped early, ours costs less.
"""

import numpy as np
from numpy.typing import NDArray

from crossbatch.curriculum.points import Floats, Places

Integers = NDArray[np.int64]


def line_clusters(values: Floats, k: int) -> Integers:
    """The k-means clustering of least cost, numbered by rising values.

    Args:
        values: Shape (n,), finite.
        k: Clusters, at least 1. Fewer are made if there are fewer distinct values.

    Returns:
        Shape (n,), 0 for the cluster of the lowest values; equal values are in one cluster.

    Cost: O(n log n + k m log m) for m distinct values.
    """
    distinct, inverse, weight = np.unique(values, return_inverse=True, return_counts=True)
    m = len(distinct)
    k = min(k, m)
    if k <= 1:
        return np.zeros(len(values), np.int64)
    x = distinct - np.average(distinct, weights=weight)
    w = weight.astype(np.float64)
    sums = [np.concatenate(([0.0], np.cumsum(part))) for part in (w, w * x, w * x * x)]
    every = np.arange(m + 1)
    best = _cost(sums, np.zeros(m + 1, np.intp), every)
    cuts: list[Places] = []
    for c in range(2, k + 1):
        best, cut = _layer(sums, best, c)
        cuts.append(cut)
    cluster, last = np.empty(m, np.int64), m
    for c in range(k, 0, -1):
        first = int(cuts[c - 2][last]) if c > 1 else 0
        cluster[first:last] = c - 1
        last = first
    return cluster[inverse.reshape(-1)]


def _cost(sums: list[Floats], i: Places, j: Places) -> Floats:
    """V(i, j)."""
    w, wx, wxx = (part[j] - part[i] for part in sums)
    return np.maximum(wxx - wx * wx / np.maximum(w, 1), 0)


def _layer(sums: list[Floats], before: Floats, c: int) -> tuple[Floats, Places]:
    """F_c from F_{c−1}, and the i of each j: all middles of a depth at once."""
    m = len(before) - 1
    best, cut = np.full(m + 1, np.inf), np.zeros(m + 1, np.intp)
    low, high = np.array([c]), np.array([m])
    left, right = np.array([c - 1]), np.array([m - 1])
    while len(low):
        j = (low + high) // 2
        stop = np.minimum(right, j - 1)
        count = stop - left + 1
        start = np.cumsum(count) - count
        i: Places = np.arange(count.sum(), dtype=np.intp) - np.repeat(start - left, count)
        cost = before[i] + _cost(sums, i, np.repeat(j, count))
        best[j] = np.minimum.reduceat(cost, start)
        hit = np.flatnonzero(cost == np.repeat(best[j], count))
        owner = np.repeat(np.arange(len(j)), count)[hit]
        _, first = np.unique(owner, return_index=True)
        cut[j] = i[hit[first]]
        low, high, left, right = (
            np.concatenate([low, j + 1]),
            np.concatenate([j - 1, high]),
            np.concatenate([left, cut[j]]),
            np.concatenate([cut[j], right]),
        )
        some = low <= high
        low, high, left, right = low[some], high[some], left[some], right[some]
    return best, cut


def by_density(density: Floats, n_subsets: int) -> Integers:
    """The released code's: k-means on densities, 0 for the densest cluster.

    With fewer distinct densities than subsets only the first subsets are used; with one density
    alone all is 0.
    """
    cluster = line_clusters(density, n_subsets)
    return cluster.max(initial=0) - cluster


def by_centre(distance: Floats, n_subsets: int) -> Integers:
    """The paper's: k-means on distances to the density centre, 0 for the nearest cluster."""
    return line_clusters(distance, n_subsets)


def by_quantile(order: Places, n_subsets: int) -> Integers:
    """Subsets of equal size along an order that begins with the cleanest.

    Of n points the one at place r is in subset ⌊r · n_subsets / n⌋; one point is in subset 0.
    """
    n = len(order)
    subset = np.empty(n, np.int64)
    subset[order] = np.arange(n) * n_subsets // max(n, 1)
    return subset

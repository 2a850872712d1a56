"""The released ranking of CurriculumNet written from its description: slow and plain.

All distances of a class, all of them sorted, a loop over rows; and what exact k-means on a line
must equal: every way to cut it.
"""

from itertools import combinations, pairwise

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA


def distances(x):
    """Differences first, float64."""
    return np.array([np.sqrt(((x - row) ** 2).sum(axis=1)) for row in x])


def project(x, dim=256):
    if x.shape[1] <= dim:
        return x
    return PCA(dim, svd_solver="full").fit_transform(x)


def cutoff_densities(d, quantile=0.6):
    ordered = np.sort(d, axis=None)
    cutoff = ordered[min(int(len(ordered) * quantile), len(ordered) - 1)]
    return np.array([np.count_nonzero(row < cutoff) - 1 for row in d])


def gaussian_densities(d):
    return (np.exp(-((d / d.max()) ** 2) / 2) / np.sqrt(2 * np.pi)).sum(axis=1)


def lloyd(densities, k=3, seed=0, starts=30):
    means = KMeans(k, n_init=starts, random_state=seed, tol=0)
    return means.fit(densities.reshape(-1, 1).astype(float)).labels_


def every_cut(densities, k=3):
    """The clusters of least cost, of all cuts between two values that differ."""
    x, weight = np.unique(densities, return_counts=True)
    k = min(k, len(x))
    costs = {}
    for i in range(len(x)):
        for j in range(i + 1, len(x) + 1):
            w, part = weight[i:j], x[i:j]
            costs[i, j] = (w * (part - np.average(part, weights=w)) ** 2).sum()
    ends = ((0, *cuts, len(x)) for cuts in combinations(range(1, len(x)), k - 1))
    best = min(ends, key=lambda e: sum(costs[pair] for pair in pairwise(e)))
    return np.searchsorted(x[list(best[1:-1])], densities, side="right")


def cut(densities, clusters):
    """A point is as clean as the cleanest cluster whose least density it reaches."""
    least = sorted((densities[clusters == c].min() for c in np.unique(clusters)), reverse=True)
    labels = np.full(len(densities), len(least) - 1)
    for subset in range(len(least) - 1, -1, -1):
        labels[densities >= least[subset]] = subset
    return labels


def released(x, y, *, quantile=0.6, density="cutoff", means=every_cut, dim=256):
    subsets = np.empty(len(y), int)
    for label in sorted(set(y)):
        rows = np.flatnonzero(np.asarray(y) == label)
        d = distances(project(x[rows].astype(np.float64), dim))
        rho = cutoff_densities(d, quantile) if density == "cutoff" else gaussian_densities(d)
        subsets[rows] = cut(rho, means(rho))
    return subsets


def delta(d, densities):
    order = np.argsort(-densities, kind="stable")
    found = np.empty(len(d))
    for place, i in enumerate(order):
        found[i] = d[i, order[:place]].min() if place else d[i].max()
    return found


def cost(values, clusters):
    return sum(
        ((values[clusters == c] - values[clusters == c].mean()) ** 2).sum()
        for c in np.unique(clusters)
    )


def least_cost(values, k):
    return cost(values, every_cut(values, k))

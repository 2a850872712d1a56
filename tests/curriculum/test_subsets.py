"""k-means on a line is exact: never worse than any cut, any Lloyd."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from crossbatch.curriculum.subsets import by_density, by_quantile, line_clusters
from tests import naive_curriculum as naive


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=16), st.integers(1, 4))
def test_no_cut_costs_less(values, k):
    values = np.array(values, float)
    clusters = line_clusters(values, k)
    assert naive.cost(values, clusters) == pytest.approx(naive.least_cost(values, k), abs=1e-9)
    assert clusters.max() + 1 == min(k, len(np.unique(values)))
    order = np.argsort(values, kind="stable")
    assert (np.diff(clusters[order]) >= 0).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_no_lloyd_costs_less(seed, k):
    values = np.random.default_rng(seed).gamma(2, 40, 300).round()
    lloyd = KMeans(k, n_init=40, tol=0, random_state=seed).fit(values[:, None])
    ours = naive.cost(values, line_clusters(values, k))
    assert ours <= lloyd.inertia_ * (1 + 1e-12)
    assert ours == pytest.approx(lloyd.inertia_, rel=1e-2)


def test_the_released_cut_gives_back_the_clusters_where_lloyd_finds_the_optimum():
    found = 0
    for seed in range(12):
        values = np.random.default_rng(seed).gamma(2, 40, 200).round()
        clusters, ours = naive.lloyd(values), by_density(values, 3)
        assert np.array_equal(ours, naive.cut(values, naive.every_cut(values)))
        if naive.cost(values, clusters) <= naive.cost(values, ours) * (1 + 1e-12):
            assert np.array_equal(ours, naive.cut(values, clusters))
            found += 1
    assert found > 6  # thirty starts of Lloyd do not always find it


def test_few_distinct_values():
    assert by_density(np.array([4.0, 4, 4]), 3).tolist() == [0, 0, 0]
    assert by_density(np.array([4.0, 9, 4]), 3).tolist() == [1, 0, 1]
    assert by_density(np.array([1.0]), 3).tolist() == [0]
    assert by_quantile(np.array([2, 0, 1]), 3).tolist() == [1, 2, 0]
    assert by_quantile(np.array([0]), 3).tolist() == [0]

"""Pairs of points on matrix units beside all distances in float64."""

import numpy as np
import pytest
import torch

from crossbatch import _native
from crossbatch.curriculum import _in_c
from crossbatch.curriculum.density import cutoff_density, peaks
from crossbatch.curriculum.points import Points

pytestmark = pytest.mark.skipif(
    not _native.units_at_hand(), reason="no matrix units here, or no compiler"
)
SHAPES = pytest.mark.parametrize(
    ("n", "width"), [(1, 3), (2, 1), (31, 32), (32, 33), (33, 64), (150, 7), (257, 100)]
)


@pytest.fixture(autouse=True, params=[1, 2])
def small_parts(request, monkeypatch):
    """Several blocks of columns, on one thread and on two."""
    monkeypatch.setattr(_in_c, "_WORTH", 0)
    monkeypatch.setattr(_in_c, "_COLUMNS", 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(threads)


def drawn(n: int, width: int) -> tuple[Points, np.ndarray]:
    """Points, and the squares of all their distances in their units."""
    draw = np.random.default_rng(n + width)
    points = Points(draw.standard_normal((n, width)) * draw.choice([0.01, 1, 5], (n, 1)))
    apart = points.x[:, None] - points.x[None]
    return points, (apart * apart).sum(axis=2)


@SHAPES
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_pairs_between_two_bounds_and_counts_below(n, width, share):
    points, squares = drawn(n, width)
    lo = float(np.float32(np.quantile(squares, share / 2)))
    hi = float(np.float32(np.quantile(squares, share)))
    below, pairs = points.between(lo, hi, n * n)
    i, j = np.triu_indices(n, 1)
    true, e = squares[i, j], points.error
    surely = (true > lo + e) & (true < hi - e)
    may = (true >= lo - e) & (true <= hi + e)
    found = np.zeros((n, n), int)
    np.add.at(found, (pairs.i, pairs.j), 1)
    assert (found[i, j] <= may).all()  # each once at most, and none that is outside
    assert (found[i, j] >= surely).all()
    assert found.sum() == len(pairs.i) == found[i, j].sum()
    np.testing.assert_allclose(pairs.squares, squares[pairs.i, pairs.j], rtol=0, atol=e)
    others = squares + np.diag(np.full(n, np.inf))
    assert ((others < lo - e).sum(axis=1) <= below).all()
    assert (below <= (others < lo + e).sum(axis=1)).all()


@SHAPES
def test_the_nearest_before_a_point_is_among_those_kept(n, width):
    points, squares = drawn(n, width)
    pairs = points.before(n * n)
    assert (pairs.i < pairs.j).all()
    kept = set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))
    assert len(kept) == len(pairs.i)
    for j in range(1, n):
        assert (int(squares[:j, j].argmin()), j) in kept
    least = np.array([squares[:j, j].min() for j in pairs.j])
    assert (squares[pairs.i, pairs.j] <= least + 4.2 * points.error).all()


def test_more_pairs_than_there_may_be_are_given_up(monkeypatch):
    points, squares = drawn(257, 100)
    most = float(np.float32(squares.max() * 2))
    assert points.between(0.0, most, 4000) is None  # in a block
    monkeypatch.setattr(_in_c, "_COLUMNS", 32)
    assert points.between(0.0, most, 12_000) is None  # in all, of which none has so many
    same = Points(np.repeat(np.eye(2), 150, axis=0))
    assert same.before(12_000) is None
    assert len(same.before(300 * 300).i) == 2 * (150 * 149 // 2) + 150


MIDDLE = 1 + 2.0**-8  # as far as can be from a number of bfloat16


@pytest.mark.parametrize("width", [1, 2, 8, 31, 64, 256])
@pytest.mark.parametrize("off", [0.0, 1.14e-5, 2.29e-5, 1e-4, 2.0**-9])
def test_the_error_is_never_more_than_said(width, off):
    one = np.full((2, width), MIDDLE - off)
    points = Points(np.concatenate([one, -one]))
    _, pairs = points.between(-np.inf, 3e38, 100)
    assert len(pairs.i) == 6
    true = points.distances(pairs.i, pairs.j) ** 2
    np.testing.assert_allclose(pairs.squares, true, rtol=0, atol=points.error)


def test_what_bfloat16_holds_worst_is_ranked_all_the_same():
    off = 2.288818359375e-05
    half = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 8))
    a, b = np.full(8, MIDDLE - off), np.full(8, MIDDLE + off)
    twins = np.concatenate([[a, b, a], half, [-a, -b, -a], -half])
    units, plain = Points(twins), Points(twins)
    plain.in_c = False
    density = cutoff_density(plain, 0.6)
    assert np.array_equal(peaks(units, density).delta, peaks(plain, density).delta)
    many = np.concatenate([np.repeat([a, b, -a, -b], 50, axis=0), half[:175], -half[:175]])
    units, plain = Points(many), Points(many)
    plain.in_c = False
    assert np.array_equal(cutoff_density(units, 0.0186), cutoff_density(plain, 0.0186))


@pytest.mark.parametrize("of", [np.round, lambda x: x, lambda x: x[:, :1] * np.ones(40)])
def test_densities_and_distances_are_those_of_torch(of):
    x = of(np.random.default_rng(0).standard_normal((600, 40)) * 2)
    x[-3:] *= 1e3
    units, plain = Points(x), Points(x)
    plain.in_c = False
    assert units.in_c
    density = cutoff_density(units, 0.6)
    assert np.array_equal(density, cutoff_density(plain, 0.6))
    found, expected = peaks(units, density), peaks(plain, density)
    assert np.array_equal(found.delta, expected.delta)


def test_columns_may_stand_before_rows_in_memory():
    x = np.random.default_rng(0).standard_normal((300, 40))
    by_columns, by_rows = Points(np.asfortranarray(x)), Points(x)
    assert np.array_equal(cutoff_density(by_columns, 0.6), cutoff_density(by_rows, 0.6))

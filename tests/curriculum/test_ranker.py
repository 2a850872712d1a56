"""The density ranker gives what the released algorithm gives, whatever tiles and threads."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import crossbatch as xb
from crossbatch import _native
from crossbatch.curriculum import _in_c, _quantile, points
from crossbatch.curriculum.inputs import first_alike
from crossbatch.errors import CrossbatchError
from tests import naive_curriculum as naive
from tests.curriculum.inputs import noisy_classes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sklearn")


@pytest.fixture(params=[False, True], ids=["torch", "matrix units"])
def units(request, monkeypatch):
    """Products by torch, or by matrix units however small the class."""
    if request.param and not _native.units_at_hand():
        pytest.skip("no matrix units here, or no compiler")
    monkeypatch.setattr(_in_c, "_WORTH", 0 if request.param else 1 << 62)


with warnings.catch_warnings(action="ignore"):  # it is no BaseEstimator, and need not be
    contract = parametrize_with_checks(
        [xb.DensityRanker(), xb.DensityRanker(subsets="centre", pca=None)]
    )


@contract
def test_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("density", ["cutoff", "gaussian"])
@pytest.mark.parametrize(("seed", "images"), [(0, 120), (1, 121), (2, 200), (3, 301)])
def test_subsets_are_those_of_the_released_algorithm(seed, images, density):
    x, y = noisy_classes(seed, images=images)
    found = xb.DensityRanker(density=density).fit(x, y)
    assert np.array_equal(found.subset_, naive.released(x, y, density=density))


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.7])
def test_on_random_features_too(quantile):
    x, y = np.random.default_rng(7).normal(size=(200, 5)), np.arange(200) % 2
    found = xb.DensityRanker(quantile=quantile).fit(x, y)
    assert np.array_equal(found.subset_, naive.released(x, y, quantile=quantile))


@pytest.mark.usefixtures("units")
def test_pca_per_class_is_that_of_the_released_algorithm():
    x, y = noisy_classes(1, classes=2, images=300, width=400)
    x *= np.linspace(2, 0.5, 400)
    found = xb.DensityRanker().fit(x, y)
    assert np.array_equal(found.subset_, naive.released(x, y))
    assert not np.array_equal(found.density_, xb.DensityRanker(pca=None).fit(x, y).density_)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize(("images", "width", "k"), [(60, 30, 7), (30, 60, 7), (20, 60, 40)])
def test_pca_of_wide_and_of_tall_classes(images, width, k):
    x, y = noisy_classes(2, images=images, width=width)
    found = xb.DensityRanker(n_components=k).fit(x, y)
    for c in range(2):
        projected = naive.project(x[y == c], k) if k < images else x[y == c]
        expected = naive.cutoff_densities(naive.distances(projected))
        assert np.array_equal(found.density_[y == c], expected)


def test_pca_once_is_over_all_rows():
    x, y = noisy_classes(3, width=30)
    found = xb.DensityRanker(pca="once", n_components=5).fit(x, y)
    plain = xb.DensityRanker(pca=None).fit(naive.project(x, 5), y)
    assert np.array_equal(found.density_, plain.density_)


@pytest.mark.usefixtures("units")
def test_density_delta_rank_and_centre():
    x, y = noisy_classes(4)
    found = xb.DensityRanker().fit(x, y)
    for c in range(2):
        rows = np.flatnonzero(y == c)
        d = naive.distances(x[rows])
        rho = naive.cutoff_densities(d)
        assert np.array_equal(found.density_[rows], rho)
        np.testing.assert_allclose(found.delta_[rows], naive.delta(d, rho), rtol=1e-12)
        order = np.argsort(-rho, kind="stable")
        assert np.array_equal(np.argsort(found.rank_[rows]), order)
        assert found.centre_[c] == rows[order[0]]


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("kind", ["cutoff", "gaussian"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.0])
def test_images_that_come_again(share, kind):
    x, _ = noisy_classes(4, classes=1, images=150)
    draw = np.random.default_rng(1)
    again = draw.random(150) < share
    x[again] = x[draw.integers(0, 2, again.sum())]
    found = xb.DensityRanker(density=kind).fit(x, np.zeros(150, int))
    d = naive.distances(x)
    if kind == "cutoff":
        assert np.array_equal(found.density_, naive.cutoff_densities(d).clip(min=0))
    np.testing.assert_allclose(found.delta_, naive.delta(d, found.density_), rtol=1e-12)
    assert np.count_nonzero(found.delta_ == 0) >= again.sum() - 2


def test_images_that_come_again_cost_no_distances(monkeypatch):
    x = np.random.default_rng(0).normal(size=(900, 8))
    x[:800] = x[0]
    asked, distances = [], points.Points.distances
    monkeypatch.setattr(
        points.Points, "distances", lambda p, i, j: asked.append(len(i)) or distances(p, i, j)
    )
    xb.DensityRanker().fit(x, np.zeros(900, int))
    assert sum(asked) < 10 * 900


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_rows_that_are_alike(zero):
    x = np.random.default_rng(0).integers(0, 2, (200, 12)).astype(float)
    x[50:] = x[np.random.default_rng(1).integers(0, 60, 150)]
    x[::2][x[::2] == 0] = zero
    first = first_alike(x)
    assert first.tolist() == [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in x]
    assert first_alike(np.arange(24.0).reshape(6, 4)) is None
    assert first_alike(np.ones((1, 3))) is None


def test_a_projection_tells_no_equal_rows_apart():
    x = np.random.default_rng(0).normal(size=(40, 3))
    first = np.arange(40) // 2 * 2
    x[1::2] = x[::2] * (1 + 1e-15)
    taken = points.Points(x, first).take(np.arange(39, -1, -1))
    assert not taken.distances(np.arange(0, 40, 2), np.arange(1, 40, 2)).any()
    assert taken.first.tolist() == first[::-1].tolist()
    assert taken.same() == 20


def test_the_knn_density():
    x, y = noisy_classes(5)
    found = xb.DensityRanker(density="knn", neighbours=4).fit(x, y)
    d = np.sort(naive.distances(x[y == 1]), axis=1)[:, 1:5]
    mean = (d**2).mean(axis=1)
    np.testing.assert_allclose(found.density_[y == 1], np.exp(-mean / mean.mean()), rtol=1e-9)


def test_subsets_by_the_distance_to_the_centre():
    x, y = noisy_classes(6, classes=1)
    found = xb.DensityRanker(subsets="centre").fit(x, y)
    away = np.linalg.norm(x - x[found.centre_[0]], axis=1)
    farthest = [away[found.subset_ == s].max() for s in range(3)]
    nearest = [away[found.subset_ == s].min() for s in range(3)]
    assert farthest[0] < nearest[1]
    assert farthest[1] < nearest[2]
    parts = naive.cost(away, found.subset_)
    assert parts == pytest.approx(naive.least_cost(away[::1], 3), rel=1e-12)


def test_subsets_of_equal_size():
    x, y = noisy_classes(6, classes=1, images=100)
    found = xb.DensityRanker(subsets="quantile", n_subsets=4).fit(x, y)
    assert np.bincount(found.subset_).tolist() == [25] * 4
    assert found.rank_[found.subset_ == 0].max() < found.rank_[found.subset_ == 1].min()


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("kind", ["cutoff", "gaussian", "knn"])
def test_tiles_and_threads_change_nothing(monkeypatch, kind):
    x, y = noisy_classes(8, classes=3)
    whole = xb.DensityRanker(density=kind).fit(x, y)
    for module in ("points", "density"):
        monkeypatch.setattr(f"crossbatch.curriculum.{module}.TILE", 17)
    tiled = xb.DensityRanker(density=kind, n_jobs=3).fit(x, y)
    assert np.array_equal(whole.subset_, tiled.subset_)
    assert np.array_equal(whole.rank_, tiled.rank_)
    if kind == "cutoff":
        assert np.array_equal(whole.density_, tiled.density_)
        assert np.array_equal(whole.delta_, tiled.delta_)
    np.testing.assert_allclose(whole.density_, tiled.density_, rtol=1e-11)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_features_of_any_scale(scale):
    x, y = noisy_classes(9)
    found = xb.DensityRanker().fit(x * scale, y)
    plain = xb.DensityRanker().fit(x, y)
    assert np.mean(found.density_ == plain.density_) > 0.99
    np.testing.assert_allclose(found.delta_ / scale, plain.delta_, rtol=1e-6)


@pytest.mark.usefixtures("units")
def test_comparisons_within_the_error_of_a_product_are_decided_exactly():
    x, _ = noisy_classes(10, classes=1)
    far = np.concatenate([x, np.full((1, x.shape[1]), 1e4)])  # its square swallows the others'
    found = xb.DensityRanker(pca=None).fit(far, np.zeros(len(far), int))
    assert points.Points(far).error * points.Points(far).scale ** 2 > 1
    rho = naive.cutoff_densities(naive.distances(far))
    assert np.array_equal(found.density_, rho)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("kept", [256, 10])
@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.6, 1.0])
def test_ties(monkeypatch, kept, quantile):
    monkeypatch.setattr("crossbatch.curriculum._quantile._KEPT", kept)
    monkeypatch.setattr("crossbatch.curriculum.points.TILE", 40)
    rng = np.random.default_rng(0)
    x = np.repeat(rng.integers(0, 3, (60, 6)), 2, axis=0).astype(float)
    found = xb.DensityRanker(quantile=quantile).fit(x, np.zeros(120, int))
    d = naive.distances(x)
    rho = naive.cutoff_densities(d, quantile)
    assert np.array_equal(found.density_, np.maximum(rho, 0))
    np.testing.assert_allclose(found.delta_, naive.delta(d, found.density_), atol=1e-12)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("quantile", [0.001, 0.4, 0.6, 0.999])
def test_a_bracket_that_missed_is_widened(monkeypatch, quantile):
    sample = points.Points.sample
    monkeypatch.setattr(points.Points, "sample", lambda self, pairs: 0.5 * sample(self, pairs))
    x, y = noisy_classes(0, classes=1, images=300)
    found = xb.DensityRanker(quantile=quantile).fit(x, y)
    rho = naive.cutoff_densities(naive.distances(x), quantile)
    assert np.array_equal(found.density_, np.maximum(rho, 0))


@pytest.mark.usefixtures("units")
def test_what_is_kept_grows_with_the_points_not_with_their_square(monkeypatch):
    kept = []
    sweep = _quantile._sweep

    def watched(*arguments):
        swept = sweep(*arguments)
        kept.append(len(swept.squares))
        return swept

    monkeypatch.setattr(_quantile, "_sweep", watched)
    for images in (3000, 6000):
        x, y = noisy_classes(0, classes=1, images=images)
        xb.DensityRanker().fit(x, y)
        assert kept.pop() < 100 * images


@pytest.mark.parametrize("pca", ["per_class", "once", None])
@pytest.mark.parametrize("density", ["cutoff", "gaussian", "knn"])
def test_the_default_device_of_torch_is_not_asked(density, pca):
    x, y = noisy_classes(11)
    ranker = xb.DensityRanker(density=density, pca=pca, n_components=5)
    plain = ranker.fit(x, y).density_
    with torch.device("meta"):
        assert np.array_equal(ranker.fit(x, y).density_, plain)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
def test_dtypes_and_strides(dtype):
    x, y = noisy_classes(11)
    x = np.round(x * 4).astype(dtype)
    plain = xb.DensityRanker().fit(x.astype(float), y)
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    for given in (x, np.asfortranarray(x), wide, x[::-1][::-1]):
        assert np.array_equal(xb.DensityRanker().fit(given, y).density_, plain.density_)


def test_features_mapped_from_a_file(tmp_path):
    x, y = noisy_classes(12, dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    found = xb.DensityRanker(n_jobs=2).fit(np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    assert np.array_equal(found.subset_, xb.DensityRanker().fit(x, y).subset_)


def test_labels_in_any_script():
    x, y = noisy_classes(13, classes=3)
    names = np.array(["猫", "собака", "zebra \U0001f993"])
    found = xb.DensityRanker().fit(x, names[y])
    plain = xb.DensityRanker().fit(x, y)
    assert found.classes_.tolist() == sorted(names.tolist())
    assert np.array_equal(found.subset_, plain.subset_)
    assert np.array_equal(found.subset_, xb.DensityRanker().fit(x, list(names[y])).subset_)
    objects = names[y].astype(object)
    assert np.array_equal(found.subset_, xb.DensityRanker().fit(x, objects).subset_)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("parameter", [{}, {"density": "gaussian"}, {"density": "knn"}])
@pytest.mark.parametrize("subsets", ["density", "centre", "quantile"])
def test_small_and_constant_classes_have_a_subset(parameter, subsets):
    rng = np.random.default_rng(0)
    sizes = [1, 2, 3, 4, 6]
    x = np.concatenate([*(rng.normal(size=(n, 300)) for n in sizes), np.ones((9, 300))])
    y = np.repeat(np.arange(6), [*sizes, 9])
    found = xb.DensityRanker(subsets=subsets, **parameter).fit(x, y)
    assert found.subset_[0] == 0
    assert set(found.subset_) <= {0, 1, 2}
    assert np.isfinite(found.density_).all()
    assert np.isfinite(found.delta_).all()
    if subsets != "quantile":
        assert (found.subset_[y == 5] == 0).all()
    if subsets == "density":
        assert (found.subset_[y == 1] == 0).all()
    for c, n in enumerate([*sizes, 9]):
        assert sorted(found.rank_[y == c]) == list(range(n))


def test_classes_without_images_leave_no_trace():
    x, y = noisy_classes(14, classes=4)
    y = np.where(y >= 2, y + 1, y)  # class 2 of 0 ... 4 is empty
    found = xb.DensityRanker().fit(x, y)
    assert found.classes_.tolist() == [0, 1, 3, 4]
    assert len(found.centre_) == 4


X, Y = noisy_classes(0, classes=2, images=10)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.where(np.arange(20)[:, None] == 3, np.nan, X), Y, r"finite.*NaN.*\[3\]"),
        (np.where(np.arange(20)[:, None] == 5, np.inf, X), Y, r"infinity in 1 rows"),
        (X, Y[:-1], r"`y` of shape \(20,\).*\(19,\)"),
        (X[0], Y, r"Got shape \(12,\)"),
        (X[:0], Y[:0], r"0 sample"),
        (X, None, r"label per row"),
        (X, np.where(Y == 0, np.nan, 1.0), r"Unknown label type"),
        (X, [None, *Y[1:]], r"missing labels"),
        (X + 1j, Y, r"Complex"),
    ],
)
def test_what_cannot_be_ranked_is_said(x, y, message):
    with pytest.raises(CrossbatchError, match=message):
        xb.DensityRanker().fit(x, y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"density": "cutof"}, r"`density`.*'cutof'.*Did you mean `cutoff`"),
        ({"subsets": "means"}, r"`subsets`"),
        ({"pca": "twice"}, r"`pca`"),
        ({"n_subsets": 0}, r"`n_subsets`"),
        ({"quantile": 1.5}, r"`quantile`"),
        ({"n_jobs": 0}, r"`n_jobs`"),
        ({"neighbours": 2.5}, r"`neighbours`"),
    ],
)
def test_wrong_parameters_are_said_when_fitting(parameters, message):
    with pytest.raises(CrossbatchError, match=message):
        xb.DensityRanker(**parameters).fit(X, Y)
    with pytest.raises(CrossbatchError, match=r"Did you mean `quantile`"):
        xb.DensityRanker().set_params(quantil=1)


def test_parameters_are_the_estimator():
    ranker = xb.DensityRanker(n_subsets=2, pca=None)
    assert repr(ranker) == "DensityRanker(n_subsets=2, pca=None)"
    assert clone(ranker).get_params() == ranker.get_params()
    assert "guo2018curriculumnet" in xb.cite(ranker)


def test_it_needs_no_scikit_learn():
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['scipy'] = None\n"
        "import numpy as np, crossbatch as xb\n"
        "x = np.random.default_rng(0).normal(size=(30, 4))\n"
        "print(xb.DensityRanker().fit(x, np.arange(30) % 2).subset_.max())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "2"

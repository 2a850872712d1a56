"""Contrast repairs what density gets wrong, and trust says so beforehand."""

import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import crossbatch as xb
from crossbatch.curriculum import (
    Ranking,
    area,
    asymmetric,
    class_contrast,
    confident_learning,
    judge,
    neighbour_agreement,
    small_loss,
    symmetric,
    trust,
    write_suspects,
)
from crossbatch.errors import CrossbatchError


def clusters(classes=4, images=150, width=6, seed=0, broad=1.0):
    """Classes apart; every second one as broad as that."""
    rng = np.random.default_rng(seed)
    spread = np.where(np.arange(classes) % 2, broad, 0.3)
    x = rng.normal(size=(classes, 1, width)) * 3
    x = x + rng.normal(size=(classes, images, width)) * spread[:, None, None]
    return x.reshape(-1, width), np.repeat(np.arange(classes), images)


def test_contrast_is_the_share_of_neighbours_by_class_size(monkeypatch):
    x, y = clusters(classes=3, images=40)
    y = symmetric(y, 0.3, seed=0).labels
    found = class_contrast(x, y)
    near = NearestNeighbors(n_neighbors=33).fit(x).kneighbors(return_distance=False)
    sizes = np.bincount(y)
    for i in range(len(x)):
        shares = np.bincount(y[near[i, : sizes[y[i]] // 2]], minlength=3) / (
            sizes - (np.arange(3) == y[i])
        )
        other = np.delete(shares, y[i]).max()
        assert found[i] == pytest.approx(shares[y[i]] / (shares[y[i]] + other), abs=1e-12)
    monkeypatch.setattr("crossbatch.curriculum.contrast.TILE", 7)
    assert np.array_equal(found, class_contrast(x, y))


def test_references_and_rivals_are_samples(monkeypatch):
    x, y = clusters(classes=5, images=60)
    y = symmetric(y, 0.3, seed=0).labels
    whole = class_contrast(x, y)
    monkeypatch.setattr("crossbatch.curriculum.contrast.REFERENCES", 30)
    monkeypatch.setattr("crossbatch.curriculum.contrast.RIVALS", 3)
    some = class_contrast(x, y)
    assert not np.array_equal(some, whole)
    assert ((some < 0.5) == (whole < 0.5)).mean() > 0.9


def test_one_direction_of_noise_misleads_density_and_not_contrast():
    x, y = clusters(broad=2.5, seed=1)
    noise = asymmetric(y, 0.35, confused={0: 1, 2: 3}, seed=0)
    plain = xb.DensityRanker().fit(x, noise.labels)
    mended = xb.DensityRanker(contrast=True).fit(x, noise.labels)
    before = judge(plain.subset_, ~noise.wrong, score=-plain.rank_)
    after = judge(mended.subset_, ~noise.wrong, score=mended.contrast_)
    assert before.auc < 0.75
    assert after.auc > 0.9
    assert after.precision[0] > 0.95 > before.precision[0]
    assert np.array_equal(mended.density_, plain.density_)
    for c in range(4):
        rows = np.flatnonzero(noise.labels == c)
        order = rows[np.argsort(mended.rank_[rows])]
        assert (np.diff(mended.contrast_[order]) <= 0).all()
        assert (np.diff(mended.subset_[order]) >= 0).all()
    judged = trust(x, noise.labels, plain.subset_)
    assert judged.value < 0.7
    assert "rank by contrast" in judged.sentence


def test_density_is_trusted_where_noise_has_no_direction():
    x, y = clusters()
    noise = symmetric(y, 0.4, seed=0)
    plain = xb.DensityRanker().fit(x, noise.labels)
    judged = trust(x, noise.labels, plain.subset_)
    assert judge(plain.subset_, ~noise.wrong).precision[0] > 0.8
    assert judged.value > 0.7
    assert judged.doubted == pytest.approx(0.4, abs=0.05)
    assert "trust it" in judged.sentence


def test_nothing_to_judge():
    x, y = clusters()
    assert "matters little" in trust(x, y, xb.DensityRanker().fit(x, y).subset_).sentence
    mixed = symmetric(y, 0.3, seed=0).labels
    none = trust(x, mixed, np.zeros(len(y), int))
    assert np.isnan(none.value)
    assert "No class has subsets" in none.sentence
    assert (class_contrast(x, np.zeros(len(y))) == 1).all()
    with pytest.raises(CrossbatchError, match=r"`subset` of shape \(600,\)"):
        trust(x, y, [0])


def test_subsets_of_contrast():
    x, y = clusters()
    equal = xb.DensityRanker(contrast=True, subsets="quantile").fit(x, y)
    assert np.bincount(equal.subset_).tolist() == [200] * 3
    with pytest.raises(CrossbatchError, match=r"'centre' with `contrast`"):
        xb.DensityRanker(contrast=True, subsets="centre").fit(x, y)
    few = xb.DensityRanker(contrast=True).fit(x[:3], ["a", "a", "b"])
    assert few.contrast_[2] == 0.5
    assert set(few.subset_) <= {0, 1, 2}


def test_suspects_name_the_class_to_look_at(tmp_path):
    x, y = clusters()
    x[5] += 40
    noise = asymmetric(y, 0.1, seed=1)
    ranking = Ranking.of(xb.DensityRanker(), x, noise.labels)
    found = ranking.suspects()
    scores = [s.suspicion for s in found]
    assert scores == sorted(scores, reverse=True)
    torn = {s.row: s for s in found if s.suspicion > 0.5}
    assert set(np.flatnonzero(noise.wrong)) <= set(torn)
    right = [torn[row].rival == str(y[row]) for row in np.flatnonzero(noise.wrong)]
    assert np.mean(right) > 0.95
    stray = next(s for s in found if s.row == 5)
    assert stray.suspicion > 0.4
    alone = [s for s in found if ranking.contrast[s.row] == 0]
    assert alone
    for s in alone:
        assert s.reason == f"none of its class near it, most dense is `{s.rival}`"
    names = np.array([f"{row}, ü.jpg" for row in range(len(y))], object)
    write_suspects(tmp_path / "s.csv", found, names)
    lines = (tmp_path / "s.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,label,suspicion,nearest_other_class,reason"
    assert lines[1].startswith(f'"{found[0].row}, ü.jpg",')
    assert len(lines) == len(found) + 1


def test_an_odd_image_amid_many_classes_is_less_suspicious_than_a_claimed_one():
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(5)
    x = np.concatenate([centre + rng.normal(0, 1, (60, 5)) for centre in centres])
    y = np.repeat(np.arange(5), 60)
    x[0] = centres[1:4].mean(axis=0)
    x[1] = centres[4] + 1.5
    ranking = Ranking.of(xb.DensityRanker(), x, y)
    assert ranking.contrast[:2].tolist() == [0, 0]
    found = {s.row: s.suspicion for s in ranking.suspects()}
    assert 0.5 < found[0] < 0.9
    assert found[1] == 1


def test_the_area_under_the_curve():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 9, 200), rng.random(200) < 0.3
    assert area(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    assert np.isnan(area(score, np.ones(200, bool)))


def test_precision_and_recall_of_subsets():
    found = judge([0, 0, 1, 2, 2], [True, True, True, False, True])
    assert found.sizes.tolist() == [2, 1, 2]
    assert found.precision.tolist() == [1, 1, 0.5]
    assert found.recall.tolist() == [0.5, 0.25, 0.25]
    assert found.overall == 0.8
    assert found.auc == pytest.approx(3.5 / 4)
    assert str(found) == "100.0 / 100.0 / 50.0 % right of 80.0 % overall, AUC 0.875"
    with pytest.raises(CrossbatchError, match=r"\(2,\), \(1,\)"):
        judge([0, 1], [True])


def test_small_losses_are_clean():
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.normal(0.3, 0.1, 300), rng.normal(2.5, 0.4, 100)])
    clean = small_loss(losses)
    assert clean[:300].min() > 0.5 > clean[300:].max()
    assert small_loss([1.0, 1.0]).tolist() == [1, 1]
    with pytest.raises(CrossbatchError, match=r"not all finite"):
        small_loss([1.0, np.nan])


def test_neighbour_agreement_is_that_of_scikit_learn(monkeypatch):
    x, y = clusters(images=40)
    y = symmetric(y, 0.3, seed=0).labels
    near = KNeighborsClassifier(n_neighbors=10).fit(x, y).kneighbors(return_distance=False)
    assert np.array_equal(neighbour_agreement(x, y), (y[near] == y[:, None]).mean(axis=1))
    assert neighbour_agreement(x[:2], [0, 0], neighbours=9).tolist() == [1, 1]
    with pytest.raises(CrossbatchError, match=r"1 rows"):
        neighbour_agreement(x[:1], [0])


def test_confident_learning_if_it_is_installed(monkeypatch):
    x, y = clusters(images=30)
    with pytest.raises(CrossbatchError, match=r"smallest of 30"):
        confident_learning(x, y, folds=31)
    if "cleanlab" not in sys.modules:
        pytest.importorskip("cleanlab")
    noise = symmetric(y, 0.2, seed=0)
    assert area(confident_learning(x, noise.labels), ~noise.wrong) > 0.95
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    with pytest.raises(CrossbatchError, match=r"pip install cleanlab"):
        confident_learning(x, noise.labels)

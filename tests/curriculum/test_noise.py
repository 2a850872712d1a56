"""Injected noise is exactly as much as was asked, where it was asked, and the same each time."""

import numpy as np
import pytest

from crossbatch.curriculum import asymmetric, open_set, small_cluster, symmetric
from crossbatch.errors import CrossbatchError

LABELS = np.repeat(["猫", "dog", "cow", "ant"], [40, 30, 20, 10])
KINDS = {
    "symmetric": symmetric,
    "asymmetric": asymmetric,
    "small_cluster": small_cluster,
    "open_set": lambda *a, **k: open_set(*a, outside=60, **k),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
def test_the_rate_is_exact_and_the_seed_decides(kind, rate):
    made = KINDS[kind](LABELS, rate, seed=3)
    assert made.wrong.sum() == round(rate * 100)
    assert made.notes() == {"noise": kind, "rate": rate, "seed": 3, "wrong": round(rate * 100)}
    again, other = KINDS[kind](LABELS, rate, seed=3), KINDS[kind](LABELS, rate, seed=4)
    assert np.array_equal(made.labels, again.labels)
    assert np.array_equal(made.images, again.images)
    if rate:
        assert not np.array_equal(made.wrong, other.wrong)
    if kind != "open_set":
        assert np.array_equal(made.labels != LABELS, made.wrong)


def test_symmetric_noise_reaches_every_other_class_alike():
    labels = np.repeat(np.arange(4), 3000)
    made = symmetric(labels, 0.6, seed=0)
    counts = np.bincount(4 * labels[made.wrong] + made.labels[made.wrong], minlength=16)
    off = counts.reshape(4, 4)[~np.eye(4, dtype=bool)]
    assert abs(off - 600).max() < 100


def test_asymmetric_noise_has_one_direction_in_each_class():
    made = asymmetric(LABELS, 0.3, seed=0)
    for name, wrong in (("ant", "cow"), ("cow", "dog"), ("dog", "猫"), ("猫", "ant")):
        flipped = made.wrong[name == LABELS]
        assert flipped.sum() == round(0.3 * len(flipped))
        assert set(made.labels[(name == LABELS) & made.wrong]) == {wrong}
    some = asymmetric(LABELS, 0.3, confused={"dog": "cow"}, seed=0)
    assert set(LABELS[some.wrong]) == {"dog"}
    with pytest.raises(CrossbatchError, match=r"`confused`.*'cat'"):
        asymmetric(LABELS, 0.3, confused={"cat": "cow"}, seed=0)


def test_small_clusters_move_together():
    features = np.random.default_rng(0).normal(size=(100, 2))
    made = small_cluster(LABELS, 0.4, size=5, features=features, seed=1)
    near = far = 0.0
    for name in np.unique(LABELS[made.wrong]):
        for label in np.unique(made.labels[made.wrong & (name == LABELS)]):
            group = features[made.wrong & (name == LABELS) & (made.labels == label)]
            near += np.linalg.norm(group - group.mean(axis=0), axis=1).mean()
            far += np.linalg.norm(features - features.mean(axis=0), axis=1).mean()
    assert near < 0.8 * far


def test_open_set_noise_takes_each_outside_image_once():
    made = open_set(LABELS, 0.4, outside=45, seed=0)
    taken = made.images[made.wrong]
    assert len(set(taken)) == 40
    assert taken.max() < 45
    assert (made.images[~made.wrong] == -1).all()
    assert np.array_equal(made.labels, LABELS)
    with pytest.raises(CrossbatchError, match=r"40 outside images. Got 39"):
        open_set(LABELS, 0.4, outside=39, seed=0)


def test_what_cannot_be_made_is_said():
    with pytest.raises(CrossbatchError, match=r"`rate` in \[0, 1\]"):
        symmetric(LABELS, 1.2, seed=0)
    with pytest.raises(CrossbatchError, match=r"at least 2 classes. Got 1"):
        asymmetric(["a", "a"], 0.5, seed=0)
    with pytest.raises(CrossbatchError, match=r"`size`"):
        small_cluster(LABELS, 0.2, size=0, seed=0)

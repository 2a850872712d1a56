"""The bootstrap against what is known of it."""

import numpy as np
import pytest

from crossbatch.errors import CrossbatchError
from crossbatch.evaluation import interval, paired_difference, significance


def test_interval_of_a_share_is_the_binomial_one():
    scores = np.repeat([1.0, 0.0], [300, 700])
    found = interval(scores, resamples=8000)
    width = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found.mean == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - width, abs=0.003)
    assert found.high == pytest.approx(0.3 + width, abs=0.003)
    narrow = interval(scores, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        found = interval(rng.exponential(1.0, 120), resamples=300, seed=trial)
        inside += found.low <= 1.0 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_same_seed_same_interval_and_tiles_do_not_matter(monkeypatch):
    scores = np.random.default_rng(1).random(50)
    whole = interval(scores)
    assert whole == interval(scores)
    assert whole != interval(scores, seed=1)
    monkeypatch.setattr(significance, "_DRAWS", 170)
    assert interval(scores) == whole


def test_pairing_cancels_what_is_hard_for_both():
    rng = np.random.default_rng(2)
    hard = rng.random(400)
    a, b = hard, hard + 0.02 + 0.01 * rng.standard_normal(400)
    found = paired_difference(a, b)
    assert found.difference == pytest.approx((b - a).mean())
    assert 0.01 < found.low < found.difference < found.high < 0.03
    assert found.p_value == pytest.approx(2 / 2001)
    assert found.wins + found.losses == found.n == 400
    mirrored = paired_difference(b, a)
    assert mirrored.difference == -found.difference
    assert (mirrored.wins, mirrored.losses) == (found.losses, found.wins)


def test_no_difference_has_p_value_one():
    found = paired_difference([0, 1, 1, 0], [0, 1, 1, 0])
    assert (found.low, found.high, found.p_value, found.wins) == (0, 0, 1, 0)


def test_groups_are_drawn_together():
    scores = np.repeat([0.0, 1.0] * 10, 30)
    alone = interval(scores)
    together = interval(scores, groups=np.repeat(np.arange(20), 30))
    assert together.high - together.low > 3 * (alone.high - alone.low)
    uneven = interval([0, 0, 0, 1.0], groups=["a", "a", "a", "b"])
    assert uneven.mean == 0.25
    assert (uneven.low, uneven.high) == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval([1.0]), r"n ≥ 2. Got shape \(1,\)"),
        (lambda: interval([1.0, np.nan]), "1 not finite"),
        (lambda: interval([[1.0, 2.0]]), r"Got shape \(1, 2\)"),
        (lambda: interval([1, 2], level=1), r"`level` in \(0, 1\).*level=1"),
        (lambda: interval([1, 2], resamples=0), "resamples=0"),
        (lambda: interval([1, 2], groups=["a", "a"]), "at least two of them. Got shape"),
        (lambda: paired_difference([1, 2], [1, 2, 3]), "same queries from both runs. Got 2 and 3"),
    ],
)
def test_messages(call, message):
    with pytest.raises(CrossbatchError, match=message):
        call()

"""The bootstrap against what is known of it."""

import numpy as np
import pytest

from crossbatch.errors import CrossbatchError
from crossbatch.evaluation import corrected, interval, paired_difference, significance
from crossbatch.evaluation.significance import adjust


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
    ("correction", "wanted"),
    [
        ("holm", [0.039, 0.06, 0.06, 0.02]),
        ("bonferroni", [0.052, 0.16, 0.12, 0.02]),
        ("benjamini-hochberg", [0.026, 0.04, 0.04, 0.02]),
        ("none", [0.013, 0.04, 0.03, 0.005]),
    ],
)
def test_corrections_by_hand(correction, wanted):
    """Sorted .005 .013 .03 .04: Holm ×4 ×3 ×2 ×1 = .02 .039 .06 .04, made to rise."""
    found = adjust([0.013, 0.04, 0.03, 0.005], correction=correction)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_corrections_never_help_and_stay_below_one():
    rng = np.random.default_rng(0)
    for m in (0, 1, 7, 40):
        p = rng.random(m)
        holm, bonferroni = adjust(p), adjust(p, correction="bonferroni")
        share = adjust(p, correction="benjamini-hochberg")
        assert ((p <= share) & (share <= holm) & (holm <= bonferroni) & (bonferroni <= 1)).all()
        for values in (holm, bonferroni, share):
            assert (np.diff(values[p.argsort()]) >= 0).all()


def test_a_correction_is_named_in_each_comparison():
    rng = np.random.default_rng(1)
    a = rng.random(50)
    alone = {str(i): paired_difference(a, a + 0.05 * rng.standard_normal(50)) for i in range(3)}
    assert {c.correction for c in alone.values()} == {"none, 1 comparison"}
    assert all(c.adjusted == c.p_value for c in alone.values())
    found = corrected(alone)
    assert list(found) == list(alone)
    assert {c.correction for c in found.values()} == {"holm, 3 comparisons"}
    assert [c.adjusted for c in found.values()] == adjust(
        [c.p_value for c in alone.values()]
    ).tolist()
    grouped = paired_difference(a, a, groups=np.arange(50) // 10)
    assert grouped.test == "paired bootstrap over groups of queries"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval([1.0]), r"n ≥ 2. Got shape \(1,\)"),
        (lambda: interval([1.0, np.nan]), "1 not finite"),
        (lambda: interval([[1.0, 2.0]]), r"Got shape \(1, 2\)"),
        (lambda: interval([1, 2], level=1), r"`level` in \(0, 1\).*level=1"),
        (lambda: interval([1, 2], resamples=0), "resamples=0"),
        (lambda: interval([1, 2], groups=["a", "a"]), "at least two of them. Got shape"),
        (lambda: adjust([0.5, 1.5]), r"p-values in \[0, 1\]"),
        (lambda: adjust([0.5], correction="Holm"), r"Got 'Holm'. Did you mean `holm`"),
        (lambda: paired_difference([1, 2], [1, 2, 3]), "same queries from both runs. Got 2 and 3"),
    ],
)
def test_messages(call, message):
    with pytest.raises(CrossbatchError, match=message):
        call()

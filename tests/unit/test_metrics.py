"""Metrics of ranks counted by hand, at their limits, and in their order."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

import crossbatch as xb
from crossbatch import metrics
from crossbatch._torchvision import import_torchvision
from crossbatch.errors import CrossbatchError
from crossbatch.metrics import (
    average_precision,
    cmc,
    map_at_r,
    ndcg,
    r_precision,
    ranks_of,
    recall_at_k,
    reciprocal_rank,
    relevant,
)

import_torchvision()
peer = import_module("torchmetrics.functional.retrieval")
INF = math.inf
ALL = [
    lambda r: recall_at_k(r, 1),
    r_precision,
    map_at_r,
    average_precision,
    reciprocal_rank,
    ndcg,
    lambda r: ndcg(r, 2),
]


def ranks(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_by_hand():
    table = ranks([1, 2, 5, 10], [3, INF, INF, INF], [1, 4, INF, INF])
    assert relevant(table).tolist() == [4, 1, 2]
    assert recall_at_k(table, 2).tolist() == [1, 0, 1]
    assert recall_at_k(table, 3).tolist() == [1, 1, 1]
    assert r_precision(table).tolist() == [2 / 4, 0, 1 / 2]
    assert map_at_r(table).tolist() == [2 / 4, 0, 1 / 2]
    assert average_precision(table).tolist() == pytest.approx(
        [(1 + 1 + 3 / 5 + 4 / 10) / 4, 1 / 3, (1 + 2 / 4) / 2]
    )


@pytest.mark.parametrize("metric", ALL)
def test_perfect_is_one_and_unmatched_is_nan(metric):
    scores = metric(ranks([1, 2, 3], [1, INF, INF], [INF, INF, INF]))
    assert scores.dtype == torch.float64
    assert scores[:2].tolist() == [1, 1]
    assert math.isnan(scores[2])


@pytest.mark.parametrize("metric", ALL)
def test_padding_does_not_count(metric):
    table = ranks([2, 3, 9], [1, 4, 5])
    padded = torch.cat([table, torch.full((2, 4), INF, dtype=torch.float64)], dim=1)
    assert metric(padded).tolist() == metric(table).tolist()


@pytest.mark.parametrize("metric", ALL)
def test_no_queries_and_no_relevant_column(metric):
    assert metric(torch.zeros(0, 3)).shape == (0,)
    assert torch.isnan(metric(torch.zeros(2, 0))).all()


def test_map_at_r_is_between_zero_and_r_precision():
    generator = torch.Generator().manual_seed(1)
    table = torch.stack([torch.randperm(30, generator=generator)[:7] for _ in range(200)]) + 1
    table = table.sort(dim=1).values.double()
    assert bool((map_at_r(table) <= r_precision(table) + 1e-12).all())
    assert bool((map_at_r(table) <= average_precision(table) + 1e-12).all())
    assert bool((map_at_r(table) < r_precision(table)).any())


def test_float32_ranks_are_scored_in_float64():
    assert average_precision(torch.tensor([[3.0]])).item() == 1 / 3


def test_cutoff_below_one_is_refused():
    with pytest.raises(CrossbatchError, match=r"cutoff K ≥ 1. Got 0. Ranks are counted from 1"):
        recall_at_k(ranks([1]), 0)


def test_by_hand_of_the_discounted_and_the_first():
    table = ranks([1, 3, INF], [2, INF, INF], [4, 5, 7])
    assert reciprocal_rank(table).tolist() == [1, 1 / 2, 1 / 4]
    assert cmc(table, 4).tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])
    d = [0, *(1 / math.log2(1 + n) for n in range(1, 9))]
    wanted = [
        (d[1] + d[3]) / (d[1] + d[2]),
        d[2] / d[1],
        (d[4] + d[5] + d[7]) / (d[1] + d[2] + d[3]),
    ]
    assert ndcg(table).tolist() == pytest.approx(wanted)
    assert ndcg(table, 2).tolist() == pytest.approx([d[1] / (d[1] + d[2]), d[2] / d[1], 0])
    assert ndcg(table, 4)[2].item() == pytest.approx(d[4] / (d[1] + d[2] + d[3]))


def test_cmc_leaves_out_what_has_nothing_to_find():
    assert cmc(ranks([1, 2], [INF, INF]), 2).tolist() == [1, 1]
    assert torch.isnan(cmc(ranks([INF]), 1)).all()


@pytest.mark.parametrize("metric", ALL)
def test_arrays_come_back_as_arrays(metric):
    table = ranks([1, 2, 5], [3, INF, INF], [INF, INF, INF])
    found = metric(table.numpy())
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, metric(table).numpy())


# Similarities without ties, in which an order is one for all; halves are exact in float32.
cases = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        st.permutations(list(range(n))), st.lists(st.booleans(), min_size=n, max_size=n)
    ).filter(lambda case: any(case[1]))
)


@given(cases, st.integers(1, 12))
def test_as_other_libraries_have_them(case, k):
    """torchmetrics and scikit-learn, where they define alike.

    torchmetrics' average precision is left out: it counts only positives scored above zero.
    """
    scores, right = torch.tensor(case[0]) / 2 + 0.5, torch.tensor(case[1])
    table = ranks_of(scores[None], right[None])
    alike = {
        float(recall_at_k(table, k)): peer.retrieval_hit_rate(scores, right, min(k, len(scores))),
        float(r_precision(table)): peer.retrieval_r_precision(scores, right),
        float(reciprocal_rank(table)): peer.retrieval_reciprocal_rank(scores, right),
        float(ndcg(table)): peer.retrieval_normalized_dcg(scores, right),
        float(ndcg(table, k)): peer.retrieval_normalized_dcg(scores, right, min(k, len(scores))),
    }
    for ours, theirs in alike.items():
        assert ours == pytest.approx(float(theirs), rel=1e-5)
    assert float(average_precision(table)) == pytest.approx(
        average_precision_score(right.numpy(), scores.numpy())
    )
    if len(scores) > 1:
        wanted = ndcg_score(right.numpy()[None], scores.numpy()[None], k=k, ignore_ties=True)
        assert float(ndcg(table, k)) == pytest.approx(wanted)


def test_ties_count_against_the_query_where_scikit_learn_averages_them():
    """All four alike, one right: its rank here is 4, and scikit-learn's precision is 1/4 too;
    with two right, scikit-learn has 2/4 for both, and the worst order has (1/3 + 2/4) / 2."""
    same = np.ones((1, 4))
    for right, ours, theirs in (([0, 1, 0, 0], 1 / 4, 1 / 4), ([0, 1, 1, 0], 5 / 12, 1 / 2)):
        table = ranks_of(same, np.array([right], bool))
        assert average_precision(table)[0] == pytest.approx(ours)
        assert average_precision_score(right, same[0]) == pytest.approx(theirs)


def test_ranks_of_a_matrix_with_ignored_images():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]])
    right = torch.tensor([[True, False, True, True], [False, False, False, False]])
    ignored = torch.tensor([[True, False, False, False]] * 2)
    assert ranks_of(scores, right, ignored).tolist() == [[2, 3], [INF, INF]]
    assert ranks_of(scores, right).tolist() == [[1, 3, 4], [INF] * 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.bool)), r"shapes \(2, 3\), \(2, 2\)"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), r"masks of torch.float32"),
        ((torch.tensor([[torch.nan]]), torch.ones(1, 1, dtype=torch.bool)), r"NaN in 1 rows"),
    ],
)
def test_a_matrix_that_cannot_be_ranked(arguments, message):
    with pytest.raises(CrossbatchError, match=message):
        ranks_of(*arguments)


def test_the_door():
    assert xb.metrics is metrics

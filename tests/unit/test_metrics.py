"""Metrics of ranks counted by hand, at their limits, and in their order."""

import math

import pytest
import torch

from crossbatch.errors import CrossbatchError
from crossbatch.metrics import average_precision, map_at_r, r_precision, recall_at_k, relevant

INF = math.inf
ALL = [lambda r: recall_at_k(r, 1), r_precision, map_at_r, average_precision]


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

"""Statistics are commutative monoids, and a fold over shards is the fold over all."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossbatch.weighting import LOG_SUM_EXP, MAX, MIN, SUM
from crossbatch.weighting.statistics import histogram

MONOIDS = {"sum": SUM, "max": MAX, "min": MIN, "log-sum-exp": LOG_SUM_EXP}
monoids = pytest.mark.parametrize("m", MONOIDS.values(), ids=MONOIDS.keys())
folds = pytest.mark.parametrize(
    "m", [*MONOIDS.values(), histogram(7)], ids=[*MONOIDS.keys(), "histogram"]
)
numbers = st.lists(st.floats(-50, 50), min_size=3, max_size=3)


@monoids
@given(numbers)
def test_identity_associativity_commutativity(m, values):
    a, b, c = torch.tensor(values, dtype=torch.float64).unbind()
    identity = torch.tensor(m.identity, dtype=torch.float64)
    close = torch.testing.assert_close
    close(m.merge(a, identity), a)
    close(m.merge(a, b), m.merge(b, a))
    close(m.merge(m.merge(a, b), c), m.merge(a, m.merge(b, c)))


@folds
@pytest.mark.parametrize("shards", [1, 2, 3, 41])
def test_shards_merge_to_the_whole(m, shards):
    terms = torch.rand(5, 41, dtype=torch.float64) * 6
    merged = m.empty(5, terms)
    for part in terms.chunk(shards, dim=1):
        merged = m.merge(merged, m.fold(part))
    torch.testing.assert_close(merged, m.fold(terms))


@folds
def test_a_list_of_pairs_folds_as_the_block_that_it_is_taken_from(m):
    terms = torch.rand(5, 41, dtype=torch.float64) * 6
    kept = (torch.rand(5, 41) < 0.3) & (torch.arange(5) != 2)[:, None]  # one anchor has no pair
    anchors, _ = kept.nonzero().unbind(1)
    whole = m.fold(torch.where(kept, terms, m.identity))
    torch.testing.assert_close(m.fold_pairs(terms[kept], anchors, 5), whole)


def test_a_histogram_counts_between_two_bins():
    block = torch.tensor([[0.0, 1.25, 1.25, torch.inf]])
    assert histogram(3).fold(block).tolist() == [[1.0, 1.5, 0.5]]


@folds
def test_fold_of_nothing_is_the_start(m):
    assert torch.equal(m.fold(torch.zeros(2, 0)), m.empty(2, torch.zeros(0)))

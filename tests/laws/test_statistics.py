"""Statistics are commutative monoids, and a fold over shards is the fold over all."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossbatch.engine.compare import Anchors, compare
from crossbatch.engine.sweep import fold_tile
from crossbatch.references import Tile
from crossbatch.weighting import LOG_SUM_EXP, MAX, MIN, SUM, Statistic
from crossbatch.weighting.statistics import similarity
from tests.generators import problem

MONOIDS = {"sum": SUM, "max": MAX, "min": MIN, "log-sum-exp": LOG_SUM_EXP}
monoids = pytest.mark.parametrize("m", MONOIDS.values(), ids=MONOIDS.keys())
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


@monoids
@pytest.mark.parametrize("side", ["positive", "negative"])
@pytest.mark.parametrize("shards", [1, 2, 3, 41])
def test_shards_merge_to_the_whole(m, side, shards):
    p = problem(1)
    statistic = Statistic("s", side, m, similarity)
    anchors = Anchors.of(p.a, p.labels, p.ids)

    def fold(rows):
        tile = Tile(p.r[rows], p.ref_labels[rows], p.ref_ids[rows])
        sim = anchors.embeddings @ tile.embeddings.T
        return fold_tile(
            statistic, compare(anchors, tile, sim, candidate=anchors.candidates(tile)), {}
        )

    whole = fold(torch.arange(len(p.r)))
    merged = torch.full_like(whole, m.identity)
    for rows in torch.arange(len(p.r)).chunk(shards):
        merged = m.merge(merged, fold(rows))
    torch.testing.assert_close(merged, whole)


@monoids
def test_fold_of_nothing_is_the_identity(m):
    assert torch.equal(m.fold(torch.zeros(2, 0)), torch.full((2,), m.identity))

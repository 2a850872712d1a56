"""A second look at search time against the evaluator's, and against doing it by hand."""

import numpy as np
import pytest
import torch

from crossbatch.errors import CrossbatchError
from crossbatch.evaluation.rerank import Expansion, KReciprocal, expand, k_reciprocal
from crossbatch.search.nearest import nearest
from crossbatch.search.refine import Refinement, refined


@pytest.fixture(scope="module")
def rows():
    """A gallery of clusters and queries from them, unit rows."""
    g = np.random.default_rng(0)
    centres = g.standard_normal((8, 12))
    x = centres[g.integers(0, 8, 95)] + 0.7 * g.standard_normal((95, 12))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return x[:90], x[90:]


def test_expanding_is_asking_again(rows):
    gallery, queries = rows
    how = Expansion(5, 2.0)
    found = refined(gallery, queries, 7, how=Refinement(expand=how))
    moved = expand(torch.from_numpy(queries), torch.from_numpy(gallery), how).numpy()
    expected = nearest(gallery, moved, 7)
    assert np.array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-5)
    assert not np.array_equal(found.rows, nearest(gallery, queries, 7).rows)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_pool_of_all_is_what_the_evaluator_does(rows, weight):
    """One query at a time: the evaluator's queries are neighbours of each other."""
    gallery, queries = rows
    how = KReciprocal(6, 3, weight)
    for query in queries:
        found = refined(gallery, query[None], 90, how=Refinement(rerank=how, pool=1000))
        j = k_reciprocal(torch.from_numpy(query)[None], torch.from_numpy(gallery), how)
        scores = weight * (gallery @ query)
        scores[j.columns] += (1 - weight) * j.values
        np.testing.assert_allclose(found.similarities[0], scores[found.rows[0]], atol=1e-5)
        assert sorted(found.rows[0]) == list(range(90))
        assert (np.diff(found.similarities[0]) <= 0).all()


def test_only_the_pool_is_ordered_and_only_what_was_asked_for(rows):
    gallery, queries = rows
    among = np.arange(0, 90, 2)
    pool = nearest(gallery, queries, 10, among=among).rows
    how = Refinement(Expansion(3), KReciprocal(4, 2), pool=10)
    plain = Refinement(rerank=KReciprocal(4, 2), pool=10)
    found = refined(gallery, queries, 6, how=plain, among=among)
    assert found.rows.shape == (5, 6)
    for row, of in zip(found.rows, pool, strict=True):
        assert set(row) <= set(of)
    assert (refined(gallery, queries, 6, how=how, among=among).rows % 2 == 0).all()
    assert refined(gallery, queries, 40, how=plain, among=among).rows.shape == (5, 10)


def test_nothing_among_which_to_look(rows):
    gallery, queries = rows
    how = Refinement(Expansion(3), KReciprocal(4, 2))
    assert refined(gallery, queries, 6, how=how, among=np.zeros(0, np.int64)).rows.shape == (5, 0)


def test_it_is_named(rows):
    assert str(Refinement(Expansion(5), KReciprocal())) == (
        "expanded by 5 nearest, α = 3, the 200 nearest re-ranked with k₁ = 20, k₂ = 6, λ = 0.3"
    )
    with pytest.raises(CrossbatchError, match="`pool` ≥ 1"):
        Refinement(pool=0)

"""Exact search, near pairs and groups beside their slow twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbatch.errors import CrossbatchError
from crossbatch.search import nearest as module
from crossbatch.search.nearest import Pair, groups, near_pairs, nearest, together


def unit(rows, dim=6, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow(vectors, queries, k, among=None):
    """Sort everything, ties in the order of the rows."""
    among = np.arange(len(vectors)) if among is None else among
    rows, values = [], []
    for query in queries:
        similar = [(-float(np.dot(vectors[j], query)), j) for j in among]
        similar.sort()
        rows.append([j for _, j in similar[:k]])
        values.append([-s for s, _ in similar[:k]])
    return np.array(rows, np.int64).reshape(len(queries), -1), np.array(values)


@pytest.mark.parametrize("group", [1, 3, 64])
@pytest.mark.parametrize("entries", [1, 50, 2**20])
@pytest.mark.parametrize("queries", [1, 7])
@pytest.mark.parametrize("k", [1, 5, 40, 60])
def test_nearest_is_sorting_everything(monkeypatch, group, entries, queries, k):
    monkeypatch.setattr(module, "ENTRIES", entries)
    monkeypatch.setattr(module, "GROUP", group)
    vectors, asked = unit(40), unit(queries, seed=1)
    rows, similarities = slow(vectors, asked, k)
    found = nearest(vectors, asked, k)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.similarities, similarities.reshape(rows.shape), atol=1e-6)


def test_among_some_rows():
    vectors, asked = unit(40), unit(3, seed=1)
    among = np.array([2, 3, 11, 29, 39])
    rows, _ = slow(vectors, asked, 3, among)
    np.testing.assert_array_equal(nearest(vectors, asked, 3, among=among).rows, rows)
    assert nearest(vectors, asked, 3, among=among[:0]).rows.shape == (3, 0)


@pytest.mark.parametrize("queries", [1, 3])
def test_equal_similarities_stand_in_the_order_of_the_rows(queries, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 2)
    vectors = np.repeat(unit(4), 5, axis=0)
    found = nearest(vectors, vectors[:1].repeat(queries, axis=0), 7)
    assert found.rows[0, :5].tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.floats(-0.5, 1), st.sampled_from([16, 300, 2**20]))
def test_near_pairs_are_all_pairs_above(rows, threshold, entries):
    vectors = np.concatenate([unit(rows), unit(rows)[: rows // 2]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ENTRIES", entries)
        found = near_pairs(vectors, threshold)
    similar = vectors @ vectors.T
    doubt = np.abs(similar - threshold) < 1e-6
    expected = {
        (i, j)
        for i in range(len(vectors))
        for j in range(i + 1, len(vectors))
        if similar[i, j] >= threshold and not doubt[i, j]
    }
    pairs = {(pair.first, pair.second) for pair in found}
    assert expected <= pairs
    assert all(doubt[pair] for pair in pairs - expected)
    assert len(pairs) == len(found)
    assert [p.similarity for p in found] == sorted((p.similarity for p in found), reverse=True)


def test_too_many_pairs(monkeypatch):
    monkeypatch.setattr(module, "PAIRS", 10)
    with pytest.raises(CrossbatchError, match=r"at most 10 pairs as similar as 0.9.*threshold"):
        near_pairs(np.ones((9, 1), np.float32), 0.9)


def test_groups_are_what_pairs_connect():
    pairs = [Pair(5, 6, 1.0), Pair(0, 9, 0.9), Pair(2, 3, 0.8), Pair(3, 9, 0.7)]
    assert groups(pairs) == [[5, 6], [0, 2, 3, 9]]
    assert groups([]) == []


def test_several_pictures_are_their_mean_direction():
    found = together(np.array([[3.0, 0.0], [0.0, 0.5]]))
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5]])
    with pytest.raises(CrossbatchError, match=r"mean direction. Got a mean of length"):
        together(np.array([[1.0, 0.0], [-1.0, 0.0]]))

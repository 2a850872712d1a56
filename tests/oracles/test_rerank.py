"""Expansion, augmentation and re-ranking against loops over their definitions, with sets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbatch.errors import CrossbatchError
from crossbatch.evaluation import Expansion, Gallery, KReciprocal, Search, evaluate, rerank
from crossbatch.metrics import average_precision, ranks_of


def rows(seed, count, dim=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=generator) + 2 * torch.randn(1, dim, generator=generator)
    return F.normalize(x, dim=1)


def naive_expand(queries, gallery, how, own):
    moved = []
    for q, me in zip(queries.double(), own, strict=True):
        order = sorted(
            (j for j in range(len(gallery)) if j != me), key=lambda j: -q @ gallery[j].double()
        )
        total = q.clone()
        for j in order[: how.n]:
            total += max(float(q @ gallery[j].double()), 0.0) ** how.alpha * gallery[j].double()
        moved.append(total / total.norm())
    return torch.stack(moved)


def naive_jaccard(images, how):
    """J of all pairs: R, R*, V, its mean over the k₂ nearest, and minima over maxima."""
    x = images.double().numpy()
    s = x @ x.T
    n = len(s)
    order = [
        [p, *sorted((g for g in range(n) if g != p), key=lambda g: -s[p, g])] for p in range(n)
    ]

    def near(p, k):
        return order[p][: k + 1]

    def mutual(p, k):
        return {g for g in near(p, k) if p in near(g, k)}

    v = np.zeros((n, n))
    for p in range(n):
        members = set(mutual(p, how.k1))
        for q in mutual(p, how.k1):
            inner = mutual(q, round(how.k1 / 2))
            if len(inner & mutual(p, how.k1)) >= 2 / 3 * len(inner):
                members |= inner
        for g in members:
            v[p, g] = np.exp(s[p, g] - 1)
        v[p] /= v[p].sum()
    v = np.array([v[order[p][: how.k2]].mean(axis=0) for p in range(n)])
    return np.array([[np.minimum(a, b).sum() / np.maximum(a, b).sum() for b in v] for a in v]), s


sizes = st.tuples(st.integers(0, 1000), st.integers(1, 8), st.integers(3, 25))


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 8), st.sampled_from([0.0, 1.0, 3.0]), st.booleans())
def test_expansion(size, n, alpha, inside):
    seed, asked, held = size
    gallery, how = rows(seed, held), Expansion(n, alpha)
    own = torch.arange(held) if inside else torch.full((asked,), -1)
    queries = gallery if inside else rows(seed + 1, asked)
    found = rerank.expand(queries, gallery, how, own=own)
    torch.testing.assert_close(
        found.double(), naive_expand(queries, gallery, how, own), atol=1e-6, rtol=0
    )
    if inside:
        torch.testing.assert_close(rerank.augment(gallery, how), found)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 7), st.integers(1, 4), st.booleans())
def test_k_reciprocal(size, k1, k2, small):
    seed, asked, held = size
    queries, gallery, how = rows(seed, asked), rows(seed + 1, held), KReciprocal(k1, min(k2, k1))
    jaccard, s = naive_jaccard(torch.cat([gallery, queries]), how)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(rerank, "_ENTRIES", 50)
        found = rerank.k_reciprocal(queries, gallery, how)
    scored = rerank.rescored(s[held:, :held], found, how, rows=np.arange(asked))
    wanted = how.weight * s[held:, :held] + (1 - how.weight) * jaccard[held:, :held]
    np.testing.assert_allclose(scored, wanted, atol=2e-6)


def test_queries_of_the_gallery_are_counted_once():
    x, how = rows(3, 20), KReciprocal(6, 3)
    found = rerank.k_reciprocal(x[:5], x, how, own=torch.arange(5))
    dense = np.zeros((5, 20))
    which, columns, values = found.entries(np.arange(5))
    dense[which, columns] = values
    np.testing.assert_allclose(dense, naive_jaccard(x, how)[0][:5], atol=1e-6)


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_evaluate_ranks_what_the_loops_rank(leave_one_out):
    labels = np.random.default_rng(0).integers(0, 6, 50)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 8, generator=generator)[labels] + torch.randn(50, 8, generator=generator)
    x, how, more = F.normalize(x, dim=1), KReciprocal(8, 3, 0.4), Expansion(3, 2.0)
    asked, held = (x, x) if leave_one_out else (x[:20], x[20:])
    names = (labels, labels) if leave_one_out else (labels[:20], labels[20:])
    own = torch.arange(50) if leave_one_out else torch.full((20,), -1)
    y = naive_expand(held, held, more, torch.arange(len(held))).float()
    q = y if leave_one_out else asked
    q = naive_expand(q, y, more, own).float()
    found = evaluate(
        asked,
        names[0],
        gallery=None if leave_one_out else Gallery(held, names[1]),
        ks=(1,),
        metrics=("mAP",),
        neighbours=2,
        search=Search(augment=more, expand=more),
    )
    right = torch.from_numpy(names[0][:, None] == names[1][None])
    itself = torch.eye(50, dtype=torch.bool) if leave_one_out else torch.zeros_like(right)
    wanted = average_precision(ranks_of(q @ y.T, right, itself)).numpy()
    np.testing.assert_allclose(found.per_query["mAP"], wanted[~np.isnan(wanted)], atol=1e-6)
    assert found.search == (
        "database augmentation (3 nearest, α = 2)",
        "query expansion (3 nearest, α = 2)",
    )
    again = evaluate(
        asked,
        names[0],
        gallery=None if leave_one_out else Gallery(held, names[1]),
        ks=(1,),
        metrics=("mAP",),
        search=Search(rerank=how),
    )
    jaccard, s = naive_jaccard(x if leave_one_out else torch.cat([held, asked]), how)
    scores = torch.from_numpy(how.weight * s + (1 - how.weight) * jaccard)
    scores = scores if leave_one_out else scores[30:, :30]
    wanted = average_precision(ranks_of(scores, right, itself)).numpy()
    np.testing.assert_allclose(again.per_query["mAP"], wanted[~np.isnan(wanted)], atol=1e-6)
    assert again.search == ("k-reciprocal re-ranking (k₁ = 8, k₂ = 3, λ = 0.4)",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Expansion(0), r"`n` ≥ 1 and `alpha` ≥ 0. Got n=0"),
        (lambda: Expansion(1, -1.0), r"alpha=-1"),
        (lambda: KReciprocal(0), r"`k1` ≥ 1.* Got k1=0"),
        (lambda: KReciprocal(3, 9), r"k2=9"),
        (lambda: KReciprocal(weight=1.5), r"weight=1.5"),
    ],
)
def test_messages(make, message):
    with pytest.raises(CrossbatchError, match=message):
        make()

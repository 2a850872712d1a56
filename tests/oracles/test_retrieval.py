"""Every metric against a double loop over exact rational similarities, and against hand counts."""

import contextlib
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbatch.evaluation import Gallery, Search, _near, evaluate, retrieval

KS = (1, 2, 5)


def similarity(query, image):
    """sign(p) p² / |image|²: exact, and in the order of the cosines of one query."""
    product = sum(int(a) * int(b) for a, b in zip(query, image, strict=True))
    return Fraction(product * abs(product), sum(int(b) ** 2 for b in image))


DEPTHS = {
    1: ["MRR"],
    2: ["MRR", "R-precision", "MAP@R"],
    3: ["MRR", "R-precision", "MAP@R", "mAP", "nDCG", "nDCG@3"],
}


def naive(queries, gallery, cameras=None):
    """Scores of each query by sorting, ties against it; None without a relevant image."""
    found = {}
    for query, label, own in queries:
        others = [
            (similarity(query, g), name == label)
            for g, name, i in gallery
            if i != own and not (name == label and seen_alike(cameras, i, own))
        ]
        relevance = [right for _, right in sorted(others, key=lambda pair: (-pair[0], pair[1]))]
        total = sum(relevance)
        found[own] = None if total == 0 else naive_scores(relevance, total)
    return found


def seen_alike(cameras, a, b):
    return cameras is not None and cameras[a] is not None and cameras[a] == cameras[b]


def naive_scores(relevance, total):
    precision = [sum(relevance[: n + 1]) / (n + 1) for n in range(len(relevance))]
    hits = [n for n, right in enumerate(relevance) if right]
    gains = [right / np.log2(n + 2) for n, right in enumerate(relevance)]
    ideal = [1 / np.log2(n + 2) for n in range(total)]
    return {
        **{f"R@{k}": float(any(relevance[:k])) for k in KS},
        "MRR": 1 / (relevance.index(True) + 1),
        "nDCG": sum(gains) / sum(ideal),
        "nDCG@3": sum(gains[:3]) / sum(ideal[:3]),
        "R-precision": sum(relevance[:total]) / total,
        "MAP@R": sum(precision[n] for n in hits if n < total) / total,
        "mAP": sum(precision[n] for n in hits) / total,
    }


def assert_equal(result, expected):
    skipped = [own for own, scores in expected.items() if scores is None]
    assert result.skipped.tolist() == skipped
    assert result.query_ids.tolist() == [own for own in expected if own not in skipped]
    assert list(result.per_query)[: len(KS)] == [f"R@{k}" for k in KS]
    for name, values in result.per_query.items():
        wanted = [scores[name] for scores in expected.values() if scores]
        np.testing.assert_allclose(values, wanted, rtol=1e-12, err_msg=name)
        assert result.metrics[name] == pytest.approx(np.mean(wanted), rel=1e-12)


# Entries in {-1, 0, 1}: many ties and duplicates, and no two similarities that differ by less
# than 1e-3, so that float32 must find exactly the exact order.
rows = st.lists(st.sampled_from([-1, 0, 1]), min_size=3, max_size=3).filter(any)
images = st.lists(st.tuples(rows, st.integers(-1, 2)), min_size=3, max_size=14)


def several_classes(side):
    return len({label for _, label in side}) > 1


@contextlib.contextmanager
def small_tiles(width, entries, passes, records, kept, screens):
    """Every limit so small that these few images have several tiles, parts and sorts.

    ``screens`` is None for no codes, else the share of the gallery that may pass them.
    """
    with (
        mock.patch.object(_near, "worth", return_value=screens is not None),
        mock.patch.multiple(_near, FEW=screens, MOST=0),
        mock.patch.multiple(retrieval, WIDTH=width, ENTRIES={"cpu": entries}, PASSES=passes),
        mock.patch.multiple(retrieval, QUOTA=1 + width, KEPT=kept),
        mock.patch.multiple(_near, ROWS=1 + passes % 3, WIDTH=width, RECORDS=records, SAMPLE=1),
        mock.patch.object(_near, "GROUPS", 2),
    ):
        yield


tiles = st.builds(
    small_tiles,
    st.integers(1, 5),
    st.integers(1, 20),
    st.sampled_from([0, 1, 48]),
    st.sampled_from([0, 3, 1000]),
    st.sampled_from([6, 40, 1000]),
    st.sampled_from([None, 0, 0.3, 1]),
)
depths = st.sampled_from([1, 2, 3])
some_cameras = st.none() | st.lists(st.sampled_from(["x", "y", None]), min_size=14, max_size=14)


@settings(max_examples=150, deadline=None)
@given(images.filter(several_classes), tiles, st.integers(0, 4), depths, some_cameras)
def test_leave_one_out(side, tile, k, depth, cameras):
    gallery = [(row, label, 7 * i + 3) for i, (row, label) in enumerate(side)]
    taken = cameras and {own: cameras[i] for i, (_, _, own) in enumerate(gallery)}
    expected = naive(gallery, gallery, taken)
    matrix, labels, ids = (list(column) for column in zip(*gallery, strict=True))
    if not any(expected.values()):
        return
    with tile:
        result = evaluate(
            torch.tensor(matrix).float() * 2.5,
            labels,
            ids=np.array(ids),
            ks=KS,
            metrics=DEPTHS[depth],
            neighbours=k,
            search=Search(cameras=cameras and cameras[: len(side)]),
        )
    assert list(result.per_query)[len(KS) :] == DEPTHS[depth]
    assert_equal(result, expected)
    assert result.protocol == "leave-one-out"
    assert result.gallery == len(gallery)
    assert_neighbours(result, gallery, gallery, k, taken)


@settings(max_examples=150, deadline=None)
@given(images, images.filter(several_classes), tiles, depths, some_cameras, st.booleans())
def test_query_gallery(asked, side, tile, depth, cameras, copies):
    k = len(asked) % 4
    queries = [(row, label, i) for i, (row, label) in enumerate(asked)]
    gallery = [(row, label, 100 + i) for i, (row, label) in enumerate(side)]
    if copies:
        gallery[1] = queries[-1]
    taken = cameras and {own: cameras[own % 13] for _, _, own in [*queries, *gallery]}
    expected = naive(queries, gallery, taken)
    if not any(expected.values()) or len({label for _, label, _ in gallery}) < 2:
        return
    matrix, labels, ids = zip(*queries, strict=True)
    found = [list(column) for column in zip(*gallery, strict=True)]
    with tile:
        result = evaluate(
            np.array(matrix, np.float16),
            [str(label) for label in labels],
            ids=np.array(ids),
            gallery=Gallery(
                np.array(found[0], np.float16), [str(label) for label in found[1]], found[2]
            ),
            ks=KS,
            metrics=DEPTHS[depth],
            neighbours=k,
            search=Search(
                cameras=taken and [taken[own] for own in ids],
                gallery_cameras=taken and [taken[own] for own in found[2]],
            ),
        )
    assert_equal(result, expected)
    assert_neighbours(result, queries, gallery, k, taken)


def assert_neighbours(result, queries, gallery, k, cameras):
    images = {own: np.array(row) / np.linalg.norm(row) for row, _, own in gallery}
    label = {own: name for _, name, own in [*queries, *gallery]}
    asked = {own: np.array(row) / np.linalg.norm(row) for row, _, own in queries}
    assert result.neighbours.shape == (len(result.query_ids), min(k, len(gallery)))
    for i, own in enumerate(result.query_ids):
        cosines = {j: float(images[j] @ asked[own]) for j in images if j != own}
        if cameras and cameras[own] is not None:
            same = [j for j in cosines if label[j] == label[own] and cameras[j] == cameras[own]]
            cosines = {j: cosine for j, cosine in cosines.items() if j not in same}
        nearest = sorted(cosines.values(), reverse=True)[:k]
        np.testing.assert_allclose(result.similarities[i][: len(nearest)], nearest, atol=1e-6)
        for j, value in zip(result.neighbours[i], result.similarities[i], strict=True):
            assert (j == -1 and value == -np.inf) or abs(cosines[j] - value) < 1e-6


@pytest.mark.parametrize(("classes", "relevant"), [(700, 3), (10, 60)])
def test_large_against_argsort(classes, relevant):
    """Continuous embeddings: both ways of counting give the positions of a float64 argsort.

    Similarities closer than the rounding of float32 are ties here, so a few ranks are one higher.
    """
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(classes), relevant + 1))
    x = rng.standard_normal((classes, 16))[labels] + 2 * rng.standard_normal((len(labels), 16))
    result = evaluate(x, labels, ks=(1, 10))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    same = (labels[:, None] == labels) & ~np.eye(len(x), dtype=bool)
    right = np.take_along_axis(same, (-cosine).argsort(axis=1), axis=1)
    places = np.arange(1, len(x) + 1)
    precision = right.cumsum(axis=1) / places
    average = (precision * right).sum(axis=1) / relevant
    np.testing.assert_allclose(result.per_query["mAP"], average, rtol=1e-2)
    assert (result.per_query["mAP"] <= average + 1e-12).all()
    np.testing.assert_allclose(
        result.per_query["MAP@R"], (precision * right)[:, :relevant].sum(axis=1) / relevant, 1e-2
    )
    assert result.metrics["R@10"] == pytest.approx(right[:, :10].any(axis=1).mean())


@pytest.mark.parametrize("few", [1 / 128, 1 / 1000])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", ["round", "spiky", "copies"])
def test_what_is_screened_is_found_alike(kind, apart, few):
    """With codes or without, every rank is the same one, also of queries that are not screened."""
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat(np.arange(1100), rng.integers(1, 9, 1100)))
    x = rng.standard_normal((1100, 96))[labels] + 1.4 * rng.standard_normal((len(labels), 96))
    x = x**3 if kind == "spiky" else x
    if kind == "copies":
        x[1::3] = x[::3][: len(x[1::3])]
    x, asked = x.astype(np.float32), slice(0, 900) if apart else slice(None)
    gallery = Gallery(x[400:], labels[400:], np.arange(400, len(x))) if apart else None

    def found(screens):
        with mock.patch.multiple(_near, worth=lambda *_: screens, FEW=few, MOST=0.01):
            names = ["MRR", "R-precision", "MAP@R"]
            return [
                evaluate(x[asked], labels[asked], gallery=gallery, metrics=some, neighbours=k)
                for some, k in ((names[:1], 0), (names, 0), (names[:1], 3))
            ]

    for screened, whole in zip(found(True), found(False), strict=True):
        for name, scores in whole.per_query.items():
            np.testing.assert_array_equal(screened.per_query[name], scores, err_msg=name)
        np.testing.assert_allclose(screened.similarities, whole.similarities, atol=1e-6)
        assert screened.neighbours.shape == whole.neighbours.shape


def test_hand_computed_angles():
    """Directions at 0, 20, 40, 60, 80 degrees labelled a b a b a.

    From 0: 20(b) 40(a) 60(b) 80(a): ranks 2 4 of R = 2. From 40 both sides tie: 20(b) 60(b) come
    before 0(a) 80(a): ranks 3 4. From 80 as from 0. From 20: 0(a) and 40(a) tie before 60(b), then
    80(a): rank 3 of R = 1. From 60 as from 20: 40(a), 80(a), then 20(b) before 0(a).
    """
    angles = np.deg2rad([0, 20, 40, 60, 80])
    result = evaluate(np.stack([np.cos(angles), np.sin(angles)], 1), list("ababa"), ks=(1, 2, 3))
    third, half = (1 / 3 + 2 / 4) / 2, (1 / 2 + 2 / 4) / 2
    np.testing.assert_allclose(result.per_query["mAP"], [half, 1 / 3, third, 1 / 3, half])
    np.testing.assert_allclose(result.per_query["MAP@R"], [0.25, 0, 0, 0, 0.25])
    np.testing.assert_allclose(result.per_query["R-precision"], [0.5, 0, 0, 0, 0.5])
    assert result.metrics["R@1"] == 0
    assert result.metrics["R@2"] == pytest.approx(0.4)
    assert result.metrics["R@3"] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 3, 128, 1000])
def test_collapsed_embedding_scores_like_the_worst_order(dtype, dim):
    x = torch.rand(dim, dtype=torch.float64).add(0.1).expand(60, dim).to(dtype)
    result = evaluate(x, [i % 20 for i in range(60)], ks=(1, 57, 58))
    assert result.metrics["R@57"] == 0
    assert result.metrics["R@58"] == 1
    assert result.metrics["mAP"] == pytest.approx((1 / 58 + 2 / 59) / 2)


def test_true_duplicates_stay_and_the_image_itself_leaves():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    result = evaluate(x, ["a", "a", "b"], ks=(1,), neighbours=2)
    assert result.metrics["R@1"] == 1
    assert result.neighbours[:, 0].tolist() == [1, 0]
    assert result.similarities[:, 0].tolist() == [1, 1]

"""Laws of the engine, over every weighting of the table and both reductions."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crossbatch as xb
import crossbatch.codes
from crossbatch._recorded import Room
from crossbatch.engine import Tiling, plain
from crossbatch.engine.pairs import Anchors
from crossbatch.engine.sweep import sweep
from tests import naive
from tests.generators import problem
from tests.tables import REDUCTIONS, SINGULAR_AT_ONE, WEIGHTINGS

weightings = pytest.mark.parametrize("w", WEIGHTINGS.values(), ids=WEIGHTINGS.keys())
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)


def run(w, p, reduction="sum_per_anchor", **tiling):
    a = p.a.clone().requires_grad_()
    result = xb.pair_loss(
        a,
        p.labels,
        weighting=w,
        references=p.references,
        ids=p.ids,
        reduction=reduction,
        tiling=Tiling(**tiling),
    )
    result.value.backward()
    return result, a.grad


@weightings
@reductions
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_gradient_is_that_of_the_dense_definition(w, reduction, seed):
    p = problem(seed, twin=type(w) not in SINGULAR_AT_ONE)
    a = p.a.clone().requires_grad_()
    value = naive.loss(w, a, p.labels, p.ids, p.r, p.ref_labels, p.ref_ids, reduction)
    value.backward()
    result, gradient = run(w, p, reduction)
    torch.testing.assert_close(gradient, a.grad, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(result.value.detach(), value.detach(), rtol=1e-9, atol=1e-11)


@weightings
@reductions
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_within_a_batch_the_gradient_flows_through_both_sides(w, reduction, seed):
    p = problem(seed, anchors=12)
    a, z = p.a.clone().requires_grad_(), p.a.clone().requires_grad_()
    value = naive.loss(w, a, p.labels, p.ids, a, p.labels, p.ids, reduction)
    value.backward()
    ours = xb.pair_loss(z, p.labels, weighting=w, reduction=reduction).value
    ours.backward()
    torch.testing.assert_close(z.grad, a.grad, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ours.detach(), value.detach(), rtol=1e-9, atol=1e-11)


@weightings
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 50),
    path=st.sampled_from(["dense", "sparse", None]),
)
def test_any_tile_and_any_path(w, seed, rows, path):
    p = problem(seed)
    whole, expected = run(w, p, rows=1000, path="dense")
    tiled, gradient = run(w, p, rows=rows, path=path)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(tiled.value, whole.value, rtol=1e-9, atol=1e-12)
    for name in ("positives", "negatives", "active_positives", "active_negatives"):
        assert torch.equal(getattr(tiled, name), getattr(whole, name)), name


@weightings
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 50),
    path=st.sampled_from(["sparse", "screened"]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    halves=st.booleans(),
)
def test_a_memory_with_codes_on_any_path(w, seed, rows, path, dtype, halves):
    """Many classes, so that most references are plain."""
    twin = type(w) not in SINGULAR_AT_ONE
    p = problem(seed, references=90, classes=60, dtype=dtype, twin=twin)
    memory = xb.CrossBatchMemory(90, p.a.shape[1], dtype=dtype)
    memory.enqueue(p.r, p.ref_labels, p.ref_ids)
    whole, expected = run(w, p, rows=1000, path="dense")
    p.memory = memory
    with mock.patch("crossbatch.codes.rounds", return_value=halves):
        screened, gradient = run(w, p, rows=rows, path=path)
    near = {"rtol": 3e-4, "atol": 3e-4} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(gradient, expected, **near)  # 1/D near D = 0 enlarges rounding
    torch.testing.assert_close(screened.value, whole.value, **near)
    for name in ("positives", "negatives", "active_positives", "active_negatives"):
        assert torch.equal(getattr(screened, name), getattr(whole, name)), name
    for name, value in whole.statistics.items():
        torch.testing.assert_close(screened.statistics[name], value, **near)


LINES = {k: w for k, w in WEIGHTINGS.items() if w.negative_line is not None}


@pytest.mark.parametrize("w", LINES.values(), ids=LINES.keys())
@pytest.mark.parametrize("seed", [0, 1])
def test_the_kernel_is_the_dense_path(w, seed):
    """Through Triton's interpreter where there is no GPU."""
    pytest.importorskip("triton")
    twin = type(w) not in SINGULAR_AT_ONE
    p = problem(seed, anchors=19, references=210, classes=120, dtype=torch.float32, twin=twin)
    whole, expected = run(w, p, rows=1000, path="dense")
    anchors = Anchors.of(p.a, p.labels, p.ids)
    assert "fused" in sweep(anchors, p.references, w, rows=9, path="fused").paths
    for rows in (1000, 9):
        fused, gradient = run(w, p, rows=rows, path="fused")
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fused.value, whole.value, rtol=1e-4, atol=1e-5)
        assert torch.equal(fused.active_negatives, whole.active_negatives)


@pytest.mark.parametrize("w", LINES.values(), ids=LINES.keys())
def test_a_line_is_the_exponent(w):
    sim = torch.linspace(-1, 1, 9, dtype=torch.float64)[None]
    slope, offset = w.negative_line
    exponent = w.negative_exponent(sim, {})
    if exponent is None:  # w⁻ itself, above the bound
        exponent = w.negative(sim, {"easiest_positive": torch.tensor([[-1.0]])}).log()
        kept = exponent > -torch.inf
        exponent, sim = exponent[kept], sim[kept]
    torch.testing.assert_close(exponent, slope * sim + offset)


@weightings
def test_order_of_references_does_not_matter(w):
    p = problem(3)
    order = torch.randperm(len(p.r))
    q = problem(3)
    q.r, q.ref_labels, q.ref_ids = p.r[order], p.ref_labels[order], p.ref_ids[order]
    torch.testing.assert_close(run(w, q)[1], run(w, p)[1])


@weightings
def test_names_of_classes_do_not_matter(w):
    p, q = problem(4), problem(4)
    renamed = torch.tensor([7, -3, 0, 10**12, -(10**9), 5])
    q.labels, q.ref_labels = renamed[p.labels + 2], renamed[p.ref_labels + 2]
    torch.testing.assert_close(run(w, q)[1], run(w, p)[1])


@weightings
@reductions
def test_a_memory_that_holds_the_batch_is_the_batch(w, reduction):
    p = problem(5, anchors=20)
    memory = xb.CrossBatchMemory(64, p.a.shape[1], dtype=torch.float64)
    memory.enqueue(p.a, p.labels, p.ids)
    beside, within = p.a.clone().requires_grad_(), p.a.clone()
    loss = xb.pair_loss(
        beside, p.labels, weighting=w, references=memory, ids=p.ids, reduction=reduction
    )
    same = xb.pair_loss(within, p.labels, weighting=w, ids=p.ids, reduction=reduction)
    torch.testing.assert_close(loss.value.detach(), same.value)
    assert torch.equal(loss.active_negatives, same.active_negatives)


@weightings
def test_an_older_copy_of_the_anchor_is_no_pair(w):
    p, q = problem(6), problem(6)
    q.r[1] = -q.r[1]  # whatever the copy says now
    torch.testing.assert_close(run(w, q)[1][0], run(w, p)[1][0])


def test_a_true_duplicate_counts():
    p = problem(6)
    p.a[2], p.r[3] = p.r[3].clone(), p.r[3].clone()
    result, _ = run(xb.Contrastive(), p)
    without = xb.Batch(*(torch.cat([t[:3], t[4:]]) for t in (p.r, p.ref_labels, p.ref_ids)))
    fewer = xb.pair_loss(p.a, p.labels, weighting=xb.Contrastive(), references=without, ids=p.ids)
    assert result.positives[2] == fewer.positives[2] + 1


@weightings
def test_an_anchor_without_pairs_contributes_nothing(w):
    p = problem(7)
    p.labels[0], p.ref_labels[:] = 99, 99
    p.ref_ids[:] = p.ids[0]
    result, gradient = run(w, p)
    assert torch.isfinite(gradient).all()
    assert not gradient[0].any()
    assert not result.active_anchors[0]


@weightings
@pytest.mark.parametrize("lacking", ["positives", "negatives"])
def test_an_anchor_that_lacks_a_side_stays_finite(w, lacking):
    p = problem(8)
    p.ref_labels[:] = p.labels[0] if lacking == "negatives" else 99
    result, gradient = run(w, p)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(result.value)
    assert getattr(result, lacking)[0] == 0
    if w.needs_both:
        assert not gradient[0].any()


@weightings
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_computed_in_float32(w, dtype):
    p = problem(9, dtype=dtype)
    result, gradient = run(w, p)
    assert gradient.dtype == dtype
    assert result.value.dtype == torch.float32
    q = problem(9, dtype=torch.float32)
    q.a, q.r = p.a.float(), p.r.float()
    exact, expected = run(w, q)
    torch.testing.assert_close(result.value, exact.value)
    torch.testing.assert_close(gradient, expected.to(dtype))


@weightings
def test_autocast_changes_nothing(w):
    p = problem(10, dtype=torch.float32)
    plain, expected = run(w, p)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, gradient = run(w, p)
    assert torch.equal(gradient, expected)
    assert torch.equal(cast.value, plain.value)


@weightings
def test_equal_embeddings_stay_finite(w):
    p = problem(11)
    p.a[:], p.r[:] = p.a[0].clone(), p.a[0].clone()
    assert torch.isfinite(run(w, p)[1]).all()


@weightings
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_similarities_above_one_stay_finite(w, dtype):
    """Rounding makes them; a norm that is a little too long makes more of them."""
    p = problem(14, dtype=dtype)
    p.a, p.r = p.a * 1.0005, p.r * 1.0005
    result, gradient = run(w, p)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(result.value)


@weightings
def test_labels_that_the_references_do_not_have(w):
    p = problem(15)
    p.labels += 10**9
    result, gradient = run(w, p)
    assert torch.isfinite(gradient).all()
    assert not result.positives.any()


@weightings
def test_rows_that_are_not_finite_are_named(w):
    p = problem(16)
    p.a[3, 1] = torch.nan
    with pytest.raises(xb.CrossbatchError, match=r"NaN or infinity in 1 rows, the first: \[3\]"):
        run(w, p)


def test_from_functions_is_the_class():
    p = problem(12)
    w = xb.Contrastive(0.3)
    mine = xb.from_functions(torch.ones_like, lambda s: (s > 0.3).to(s.dtype))
    assert torch.equal(run(mine, p)[1], run(w, p)[1])


def test_the_engine_chooses_sparse_when_few_are_active_and_dense_when_many():
    p = problem(13, references=9000, classes=6000, dtype=torch.float32)
    anchors = Anchors.of(p.a, p.labels, p.ids)
    memory = xb.CrossBatchMemory(9000, p.a.shape[1])
    memory.enqueue(p.r, p.ref_labels, p.ref_ids)
    none = sweep(anchors, p.references, xb.Contrastive(1.0), rows=20)
    coded = sweep(anchors, memory, xb.Contrastive(1.0), rows=20)
    some = sweep(anchors, p.references, xb.Contrastive(0.6), rows=20)
    many = sweep(anchors, p.references, xb.Contrastive(-1.0), rows=20)
    assert set(none.paths) == {"sparse"}
    assert coded.paths[0] == "sparse"
    assert set(coded.paths[1:]) == {"screened"}
    assert "screened" not in some.paths
    assert set(many.paths) == {"dense"}


@pytest.mark.parametrize(("halves", "path"), [(True, "screened"), (False, "sparse")])
def test_what_torch_cannot_multiply_is_not_screened(monkeypatch, halves, path):
    p = problem(13, references=90, classes=60, dtype=torch.float32)
    monkeypatch.setattr(crossbatch.codes, "rounds", lambda: halves)
    monkeypatch.setattr(plain, "multiplies", lambda: False)
    memory = xb.CrossBatchMemory(90, p.a.shape[1])
    memory.enqueue(p.r, p.ref_labels, p.ref_ids)
    anchors = Anchors.of(p.a, p.labels, p.ids)
    assert set(sweep(anchors, memory, xb.Contrastive(0.3), path="screened").paths) == {path}


@weightings
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 50),
    room=st.integers(0, 120),
    path=st.sampled_from(["dense", "sparse", None]),
    own=st.booleans(),
)
def test_with_room_for_mixed_references_all_shapes_are_known(w, seed, rows, room, path, own):
    """And the sums are the same wherever the room suffices."""
    p = problem(seed, anchors=5, references=90, classes=60)
    anchors = Anchors.of(p.a, p.labels, p.ids)
    references = xb.Batch(p.a, p.labels, p.ids) if own else p.references
    known = {"rows": rows, "path": path, "reference_gradient": own}
    expected = sweep(anchors, references, w, **known)
    place = Room(room, 90, torch.device("cpu"))
    found = sweep(anchors, references, w, room=place, **known)
    assert int(found.mixed) == expected.mixed
    assert place.sufficed() == (expected.mixed <= room or room >= 90)
    if expected.mixed > room:
        return
    near = {"rtol": 1e-9, "atol": 1e-11}
    names = {"positives", "negatives", "active_positives", "active_negatives", "pull", "push"}
    names |= {s.name for s in w.report}
    for name in names - {"tied_negatives"}:  # counted for anchors that have no positives, or not
        torch.testing.assert_close(found.stats[name], expected.stats[name], **near)
    for side in ("pull_gradient", "push_gradient", "reference_pull", "reference_push"):
        torch.testing.assert_close(getattr(found, side), getattr(expected, side), **near)

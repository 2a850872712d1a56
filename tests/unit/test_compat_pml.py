"""The door from pytorch-metric-learning: the same numbers, without what it loses."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb
from crossbatch.compat.pml import CrossBatchMemory, weighting

pytest.importorskip("pytorch_metric_learning")

from pytorch_metric_learning import distances, losses, miners, reducers, regularizers

DIM, SIZE, BATCH = 8, 29, 6
PML = losses.CrossBatchMemory
COSINE = distances.CosineSimilarity()


def draw(rows=BATCH, classes=3, dtype=torch.float32):
    return torch.randn(rows, DIM, dtype=dtype), torch.randint(0, classes, (rows,))


def step(memory, z, y, **further):
    z = z.clone().requires_grad_()
    value = memory(z, y, **further)
    value.backward()
    return value.detach(), z.grad


def same(one, other, **tolerance):
    torch.testing.assert_close(one, other, **tolerance)


def contrastive(reducer=None):
    return losses.ContrastiveLoss(1, 0.1, distance=COSINE, reducer=reducer)


def triplet(reducer=None):
    return losses.TripletMarginLoss(0.2, distance=COSINE, reducer=reducer)


PAIRS = {
    "contrastive": (losses.ContrastiveLoss, None),
    "contrastive, cosine": (contrastive, None),
    "multi-similarity": (losses.MultiSimilarityLoss, miners.MultiSimilarityMiner),
    "triplet": (triplet, lambda: miners.BatchHardMiner(distance=COSINE)),
    "triplet, all": (losses.TripletMarginLoss, None),
    "triplet, triplet miner": (losses.TripletMarginLoss, miners.TripletMarginMiner),
    "circle": (losses.CircleLoss, None),
    "NCA": (losses.NCALoss, None),
    "NT-Xent": (losses.NTXentLoss, miners.PairMarginMiner),
    "SupCon": (losses.SupConLoss, None),
    "lifted": (losses.LiftedStructureLoss, None),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("masked", [False, True])
def test_a_run_is_that_of_pml(name, masked):
    loss, miner = (None if part is None else part() for part in PAIRS[name])
    theirs = PML(loss, DIM, SIZE, miner)
    ours = CrossBatchMemory(loss, embedding_size=DIM, memory_size=SIZE, miner=miner)
    mask = torch.arange(BATCH) < 2 if masked else None
    for _ in range(16):
        z, y = draw()
        same(step(ours, z, y, enqueue_mask=mask), step(theirs, z, y, enqueue_mask=mask))
        assert ours.queue_idx == theirs.queue_idx
        assert ours.has_been_filled == theirs.has_been_filled
        assert torch.equal(ours.embedding_memory, theirs.embedding_memory)
        assert torch.equal(ours.label_memory, theirs.label_memory)
        assert torch.equal(ours.curr_batch_idx, theirs.curr_batch_idx)


def reload(memory, fresh):
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


@pytest.mark.parametrize("loss", [contrastive(), xb.Contrastive(0.1)], ids=["listed", "streamed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("steps", [3, 7])
def test_a_run_that_resumes_goes_on_as_if_never_stopped(loss, dtype, steps):
    batches = [draw(dtype=dtype) for _ in range(12)]
    whole = CrossBatchMemory(loss, DIM, SIZE)
    want = [step(whole, z, y) for z, y in batches]
    cut = CrossBatchMemory(loss, DIM, SIZE)
    for z, y in batches[:steps]:
        cut(z, y)
    resumed = reload(cut, CrossBatchMemory(loss, DIM, SIZE))
    for (z, y), (value, gradient) in zip(batches[steps:], want[steps:], strict=True):
        same(step(resumed, z, y), (value, gradient), rtol=0, atol=0)
    assert torch.equal(resumed.embedding_memory, whole.embedding_memory)


def test_pml_forgets_its_memory_when_it_resumes():
    batches = [draw() for _ in range(4)]
    whole, cut = (PML(contrastive(), DIM, SIZE) for _ in range(2))
    for z, y in batches[:3]:
        whole(z, y), cut(z, y)
    resumed = reload(cut, PML(contrastive(), DIM, SIZE))
    assert (whole.queue_idx, resumed.queue_idx) == (18, 0)
    assert not torch.isclose(whole(*batches[3]), resumed(*batches[3]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [losses.ContrastiveLoss(), xb.Contrastive()], ids=["pml", "xb"])
def test_a_batch_in_half_precision_leaves_the_memory_as_it_is(loss, dtype):
    half, full = (CrossBatchMemory(loss, DIM, SIZE) for _ in range(2))
    for _ in range(3):
        z, y = draw()
        value, gradient = step(half, z.to(dtype), y)
        want, want_gradient = step(full, z.to(dtype).float(), y)
        assert half.embedding_memory.dtype == torch.float32
        assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
        same(value, want)
        same(gradient, want_gradient.to(dtype))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("rows", [1, 4, 5, 13])
@pytest.mark.parametrize("loss", [contrastive(reducers.SumReducer()), xb.Contrastive(0.1)])
def test_batches_of_any_size(size, rows, loss):
    memory = CrossBatchMemory(loss, DIM, size)
    for _ in range(3):
        z, y = draw(rows)
        places = memory.queue_idx + torch.arange(rows)
        value = memory(z, y)
        kept = slice(max(rows - size, 0), None)
        held = memory.embedding_memory[places[kept] % size]
        assert torch.equal(held, z[kept])
    sim = F.normalize(z, dim=1) @ F.normalize(memory.embedding_memory, dim=1).T
    positive = y[:, None] == memory.label_memory
    negative = ~positive & (sim > 0.1)
    index = torch.arange(rows)[kept]
    positive[index, places[kept] % size] = False
    filled = len(memory.ring)
    assert filled == min(3 * rows, size)
    want = (1 - sim)[:, :filled][positive[:, :filled]].sum()
    if isinstance(memory.loss, xb.PairLoss):
        want = (want + sim[:, :filled][negative[:, :filled]].sum()) / rows
    else:
        want = want + (sim - 0.1)[:, :filled][negative[:, :filled]].sum()
    same(value, want, rtol=1e-4, atol=1e-5)


def test_an_empty_batch_changes_nothing():
    for loss in (contrastive(), xb.Contrastive(0.1)):
        memory = CrossBatchMemory(loss, DIM, SIZE)
        z, y = draw(0)
        assert step(memory, z, y)[0] == 0
        nobody = torch.zeros(BATCH, dtype=torch.bool)
        assert step(memory, *draw(), enqueue_mask=nobody)[0] == 0
        memory(*draw())
        assert step(memory, z, y)[0] == 0
        assert step(memory, *draw(), enqueue_mask=~nobody)[0] == 0
        assert (memory.queue_idx, memory.has_been_filled) == (2 * BATCH, False)


def test_losses_of_several_steps_can_be_summed_before_backward():
    z, y = draw()
    z.requires_grad_()
    loss = losses.ContrastiveLoss(distance=distances.LpDistance(normalize_embeddings=False))
    memory = CrossBatchMemory(loss, DIM, BATCH)
    (memory(z, y) + memory(2 * z, y) + memory(*draw())).backward()
    assert torch.isfinite(z.grad).all()


CONVERTED = {
    "contrastive, mean": (contrastive(), None, "mean_over_active_pairs", 1),
    "contrastive, sum": (contrastive(reducers.SumReducer()), None, "sum_per_anchor", BATCH),
    "multi-similarity": (losses.MultiSimilarityLoss(2, 10, 0.3), None, "sum_per_anchor", 1),
    "multi-similarity, mined": (
        losses.MultiSimilarityLoss(2, 10, 0.3),
        miners.MultiSimilarityMiner(0.2),
        "sum_per_anchor",
        1,
    ),
    "triplet, mean": (
        triplet(),
        miners.BatchHardMiner(distance=COSINE),
        "mean_over_active_pairs",
        1,
    ),
    "triplet, sum": (
        triplet(reducers.SumReducer()),
        miners.BatchHardMiner(distance=COSINE),
        "sum_per_anchor",
        BATCH,
    ),
}


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("masked", [False, True])
def test_the_streamed_run_is_the_listed_run(name, masked):
    loss, miner, reduction, scale = CONVERTED[name]
    listed = CrossBatchMemory(loss, DIM, SIZE, miner)
    converted = weighting(loss, miner=miner)
    streamed = CrossBatchMemory(xb.PairLoss(converted, reduction=reduction), DIM, SIZE)
    mask = torch.arange(2 * BATCH) < BATCH if masked else None
    for _ in range(8):
        z, y = draw(2 * BATCH if masked else BATCH)
        y[-BATCH:] = torch.arange(BATCH) % 3  # every anchor has positives and negatives
        y[:BATCH] = y[-BATCH:]
        want, want_gradient = step(listed, z, y, enqueue_mask=mask)
        value, gradient = step(streamed, z, y, enqueue_mask=mask)
        if isinstance(converted, xb.Contrastive):
            value = value - converted.margin * active(streamed, z, y, mask, reduction)
        same(value * scale, want, rtol=1e-4, atol=1e-5)
        same(gradient * scale, want_gradient, rtol=1e-4, atol=1e-5)


def active(memory, z, y, mask, reduction):
    """Active negatives of an anchor, or one where the mean is taken over them."""
    if mask is not None:
        z, y = z[~mask], y[~mask]
    filled = slice(len(memory.ring))
    sim = F.normalize(z, dim=1) @ F.normalize(memory.embedding_memory[filled], dim=1).T
    count = ((y[:, None] != memory.label_memory[filled]) & (sim > 0.1)).sum()
    return count / len(z) if reduction == "sum_per_anchor" else (count > 0).float()


def test_the_weightings_are_those_of_the_losses():
    plain, mined = losses.MultiSimilarityLoss(3, 30, 0.4), miners.MultiSimilarityMiner(0.2)
    hard = miners.BatchHardMiner(distance=COSINE)
    assert weighting(contrastive()) == xb.Contrastive(0.1)
    assert weighting(plain) == xb.MultiSimilarity(3.0, 30.0, 0.4, epsilon=None)
    assert weighting(plain, miner=mined) == xb.MultiSimilarity(3.0, 30.0, 0.4, epsilon=0.2)
    assert weighting(triplet(), miner=hard) == xb.HardestTriplet(0.2)


def test_multi_similarity_without_a_miner_leaves_lone_anchors_out():
    loss = losses.MultiSimilarityLoss(2, 10, 0.3)
    z, y = draw(4)[0], torch.arange(4)
    assert PML(loss, DIM, SIZE)(z, y) > 0
    assert CrossBatchMemory(weighting(loss), DIM, SIZE)(z, y) == 0


@pytest.mark.parametrize(
    "loss", [contrastive(reducers.SumReducer()), xb.Contrastive(0.1)], ids=["listed", "streamed"]
)
def test_with_ids_no_older_copy_is_a_positive(loss):
    memory, reference = CrossBatchMemory(loss, DIM, SIZE), xb.CrossBatchMemory(SIZE, DIM)
    for turn in range(8):
        z, y = draw()
        ids = (torch.arange(BATCH) + turn * 4) % 10  # most images come again
        reference.enqueue(F.normalize(z, dim=1), y, ids)
        value, gradient = step(memory, z, y, ids=ids)
        a = z.clone().requires_grad_()
        result = xb.pair_loss(
            F.normalize(a, dim=1), y, weighting=xb.Contrastive(0.1), references=reference, ids=ids
        )
        result.value.backward()
        want = result.value.detach()
        scale = 1
        if isinstance(loss, losses.ContrastiveLoss):
            want = want * BATCH - 0.1 * result.active_negatives.sum()
            scale = BATCH
        same(value, want, rtol=1e-4, atol=1e-5)
        same(gradient, a.grad * scale, rtol=1e-4, atol=1e-5)


def test_rows_without_ids_stand_beside_rows_with_them():
    z, y = draw()
    ids = torch.arange(BATCH)
    both, plain = (CrossBatchMemory(xb.Contrastive(0.1), DIM, SIZE) for _ in range(2))
    both(z, y), plain(z, y)
    other, _ = draw()
    same(both(other, y, ids=ids), plain(other, y))


def test_a_relabelled_image_is_no_negative_of_itself():
    memory = CrossBatchMemory(triplet(), 2, SIZE, miners.BatchHardMiner(distance=COSINE))
    ids = torch.arange(2)
    memory(torch.eye(2), torch.tensor([0, 1]), ids=ids)
    same(memory(torch.eye(2), torch.tensor([1, 1]), ids=ids), torch.tensor(0.2))


@pytest.mark.parametrize("loss", [contrastive(), xb.Contrastive(-1.0)], ids=["listed", "streamed"])
def test_ids_go_with_their_rows_through_a_mask(loss):
    memory = CrossBatchMemory(loss, 2, SIZE)
    mask, ids = torch.tensor([True, False, True, False]), torch.tensor([5, 6, 6, 5])
    z, y = torch.eye(2)[ids - 5], torch.tensor([0, 0, 1, 1])
    assert memory(z, y, enqueue_mask=mask, ids=ids) == 1  # of either anchor the other image
    assert memory(z, y, enqueue_mask=mask) > 1


def test_places_hold_over_many_tiles():
    size, rows = 20_000, 64
    listed = CrossBatchMemory(contrastive(reducers.SumReducer()), 4, size)
    streamed = CrossBatchMemory(xb.Contrastive(0.1), 4, size)
    held, labels = torch.randn(size - 5, 4), torch.randint(0, 5_000, (size - 5,))
    z, y = torch.randn(rows, 4), torch.arange(rows)
    for memory in (listed, streamed):
        memory.add_to_memory(held, labels, size - 5)
    gradients = [step(memory, z, y)[1] for memory in (listed, streamed)]
    same(gradients[0], gradients[1] * rows, rtol=1e-3, atol=1e-3)


def test_pointer_and_flag_can_be_set():
    memory = CrossBatchMemory(contrastive(), DIM, SIZE)
    memory.queue_idx = 7
    assert (memory.queue_idx, memory.has_been_filled) == (7, False)
    memory.has_been_filled = True
    assert (memory.queue_idx, memory.has_been_filled) == (7, True)
    memory.embedding_memory = torch.ones(SIZE, DIM)
    memory.label_memory = torch.ones(SIZE, dtype=torch.int64)
    memory.queue_idx = 3
    z, y = draw()
    memory(z, y)
    assert torch.equal(memory.embedding_memory[3 : 3 + BATCH], z)
    assert memory.embedding_memory[:3].eq(1).all()
    memory.has_been_filled = False
    assert (memory.queue_idx, len(memory.ring)) == (9, 9)


def test_a_loss_of_ones_own_needs_no_list():
    class Mine(torch.nn.Module):
        def forward(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
            a, p, _, _ = indices_tuple
            return (embeddings[a] - ref_emb[p]).square().sum()

    memory = CrossBatchMemory(Mine(), DIM, SIZE)
    z = torch.ones(2, DIM)
    assert memory(z, torch.zeros(2).long()) == 0
    assert memory(z + 1, torch.zeros(2).long()) == 4 * DIM


def test_it_imports_and_streams_without_pml():
    code = (
        "import sys; sys.modules['pytorch_metric_learning'] = None\n"
        "import torch, crossbatch as xb\n"
        "memory = xb.compat.pml.CrossBatchMemory(xb.Contrastive(), 2, 4)\n"
        "print(float(memory(torch.eye(2), torch.tensor([0, 0]))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "1.0"


def test_what_the_guide_says_of_pml():
    theirs, ours = (kind(contrastive(), DIM, SIZE) for kind in (PML, CrossBatchMemory))
    z, y = draw(1)
    for memory, positives in ((theirs, 1), (ours, 0)):
        memory(z, y)
        found = memory.create_indices_tuple(z, y, z, y.clone(), None, True)
        assert len(found[0]) == positives
    theirs(draw()[0].bfloat16(), draw()[1])
    assert theirs.embedding_memory.dtype == torch.bfloat16
    with pytest.raises(AssertionError):
        theirs(*draw(SIZE + 1))
    with pytest.raises(IndexError):
        theirs(*draw(0))
    theirs.add_to_memory(*draw(0), 0)
    assert theirs.has_been_filled


def test_the_guide_runs():
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "pml.md").read_text()
    names = {"embeddings": torch.randn(6, 128), "labels": torch.arange(6) // 2}
    for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL):
        exec(block, names)
        assert torch.isfinite(names["loss_fn"](names["embeddings"], names["labels"]))


z, y = draw()
HARD = miners.BatchHardMiner(distance=COSINE)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CrossBatchMemory(None, DIM), r"module or a PairWeighting.*NoneType"),
        (lambda: CrossBatchMemory(losses.ArcFaceLoss(3, DIM), DIM), r"NTXentLoss.*ArcFaceLoss"),
        (lambda: CrossBatchMemory(xb.Contrastive(), DIM, 9, HARD), r"no `miner`.*BatchHardMiner"),
        (lambda: CrossBatchMemory(xb.Contrastive(), DIM, 0), r"capacity ≥ 1"),
        (lambda: CrossBatchMemory(xb.Contrastive(), DIM)(z, y, (y, y, y)), r"no `indices_tuple`"),
        (
            lambda: CrossBatchMemory(contrastive(), DIM)(z, y, None, y),
            r"`enqueue_mask` of booleans of shape \(6,\).*int64",
        ),
        (
            lambda: CrossBatchMemory(contrastive(), DIM)(z, y, (y, y, y), y > 0),
            r"mutually exclusive",
        ),
        (lambda: CrossBatchMemory(contrastive(), DIM).add_to_memory(z, y, 5), r"5 beside 6 rows"),
        (lambda: CrossBatchMemory(contrastive(), DIM)(z / 0, y), r"finite"),
        (lambda: CrossBatchMemory(contrastive(), DIM)(z, y, ids=y[:3]), r"`ids` of shape \(6,\)"),
        (lambda: weighting(xb.Contrastive()), r"object of pytorch-metric-learning.*Contrastive"),
        (lambda: weighting(losses.AngularLoss()), r"ContrastiveLoss.*AngularLoss with no miner"),
        (lambda: weighting(triplet()), r"TripletMarginLoss with BatchHardMiner.*with no miner"),
        (lambda: weighting(contrastive(), miner=HARD), r"ContrastiveLoss with BatchHardMiner"),
        (
            lambda: weighting(losses.ContrastiveLoss(1, 0.5)),
            r"distance=CosineSimilarity\(\).*LpDistance\(.*p=2, power=1\)",
        ),
        (
            lambda: weighting(losses.ContrastiveLoss(1, 0.5, distance=distances.SNRDistance())),
            r"SNRDistance",
        ),
        (
            lambda: weighting(
                losses.ContrastiveLoss(1, 0.5, distance=distances.CosineSimilarity(power=2))
            ),
            r"power=2",
        ),
        (
            lambda: weighting(triplet(), miner=miners.BatchHardMiner()),
            r"of BatchHardMiner.*LpDistance",
        ),
        (
            lambda: weighting(losses.ContrastiveLoss(0.9, 0.5, distance=COSINE)),
            r"pos_margin=1 of ContrastiveLoss.*0\.9",
        ),
        (
            lambda: weighting(losses.TripletMarginLoss(swap=True, distance=COSINE), miner=HARD),
            r"swap=False.*True",
        ),
        (
            lambda: weighting(
                triplet(), miner=miners.BatchHardMiner(distance=COSINE, allowed_pos_range=(0, 1))
            ),
            r"miner\.allowed_pos_range=None.*\(0, 1\)",
        ),
        (
            lambda: weighting(
                losses.MultiSimilarityLoss(embedding_regularizer=regularizers.LpRegularizer())
            ),
            r"embedding_regularizer=None.*LpRegularizer",
        ),
        (
            lambda: weighting(contrastive(reducers.MeanReducer())),
            r"AvgNonZeroReducer or SumReducer of ContrastiveLoss.*MeanReducer.*reduction=",
        ),
        (
            lambda: weighting(contrastive(reducers.AvgNonZeroReducer(high=0.5))),
            r"high=0\.5",
        ),
        (
            lambda: weighting(contrastive(reducers.DoNothingReducer())),
            r"DoNothingReducer",
        ),
    ],
)
def test_message(call, message):
    with pytest.raises(xb.CrossbatchError, match=message):
        call()

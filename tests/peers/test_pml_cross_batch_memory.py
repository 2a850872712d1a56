"""What PML's memory promises: nine tests that its own class and ours both pass.

PML is pytorch-metric-learning (Kevin Musgrave, MIT). Its own tests of the class have the same
nine subjects; these are written anew.
"""

import pytest
import torch

import crossbatch.compat.pml as ours

pytest.importorskip("pytorch_metric_learning")

from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

DIM, SIZE, BATCH = 16, 45, 8

pytestmark = [
    pytest.mark.parametrize(
        "memory_class", [losses.CrossBatchMemory, ours.CrossBatchMemory], ids=["pml", "ours"]
    ),
    pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str),
]


def draw(rows, dtype, classes=4):
    return torch.randn(rows, DIM, dtype=dtype), torch.randint(0, classes, (rows,))


def tuples(indices):
    return sorted(zip(*(index.tolist() for index in indices), strict=True))


def test_self_comparisons_are_told_by_place(memory_class, dtype):
    memory = memory_class(losses.ContrastiveLoss(), DIM, SIZE)
    memory.embedding_memory = memory.embedding_memory.to(dtype)
    for _ in range(3 * SIZE // BATCH):
        memory.add_to_memory(*draw(BATCH, dtype), BATCH)
        anchors = torch.arange(BATCH).repeat_interleave(SIZE)
        places = torch.arange(SIZE).repeat(BATCH)
        other = memory.curr_batch_idx[anchors] != places
        a, p, n = lmu.remove_self_comparisons(
            (anchors, places, places), memory.curr_batch_idx, SIZE
        )
        assert tuples((a, p, n)) == tuples((anchors[other], places[other], places[other]))
        a1, p, a2, n = lmu.remove_self_comparisons(
            (anchors, places, anchors, places), memory.curr_batch_idx, SIZE
        )
        assert tuples((a1, p)) == tuples((anchors[other], places[other]))
        assert tuples((a2, n)) == tuples((anchors, places))


@pytest.mark.parametrize("masked", [False, True])
def test_a_memory_of_one_batch_is_that_batch(memory_class, dtype, masked):
    loss, miner = losses.NTXentLoss(temperature=0.1), miners.TripletMarginMiner(margin=0.1)
    for size in (12, 17):
        plain = memory_class(loss, DIM, memory_size=size)
        mined = memory_class(loss, DIM, memory_size=size, miner=miner)
        for _ in range(3):
            if masked:
                z, y = draw(2 * size, dtype)
                mask = torch.arange(2 * size) >= size
                beside = (z[mask], y[mask])
                value = loss(z[~mask], y[~mask], None, *beside)
                found = miner(z[~mask], y[~mask], *beside)
                value_mined = loss(z[~mask], y[~mask], found, *beside)
            else:
                (z, y), mask = draw(size, dtype), None
                value, value_mined = loss(z, y), loss(z, y, miner(z, y))
            torch.testing.assert_close(plain(z, y, enqueue_mask=mask), value)
            torch.testing.assert_close(mined(z, y, enqueue_mask=mask), value_mined)


def test_the_distance_weighted_miner_gets_through(memory_class, dtype):
    miner = miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)
    memory = memory_class(losses.NTXentLoss(temperature=0.1), 2, memory_size=64, miner=miner)
    for _ in range(6):
        angles = torch.arange(32, dtype=dtype).deg2rad()
        z = torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()
        memory(z, torch.randint(0, 10, (32,))).backward()
        assert torch.isfinite(z.grad).all()


def test_the_loss_is_that_of_the_batch_beside_all_before(memory_class, dtype):
    loss = losses.ContrastiveLoss()
    inner, outer = miners.MultiSimilarityMiner(0.3), miners.MultiSimilarityMiner(0.2)
    plain, mined, given = (memory_class(loss, DIM, SIZE, miner=m) for m in (None, inner, inner))
    z_all, y_all = draw(0, dtype)
    for _ in range(SIZE // BATCH):
        z, y = draw(BATCH, dtype)
        z_all, y_all = torch.cat([z_all, z]), torch.cat([y_all, y])
        further = outer(z, y)
        values = plain(z, y), mined(z, y), given(z, y, further)
        place = plain.curr_batch_idx
        all_pairs = lmu.get_all_pairs_indices(y, y_all)
        all_pairs = lmu.remove_self_comparisons(all_pairs, place, SIZE)
        found = lmu.remove_self_comparisons(inner(z, y, z_all, y_all), place, SIZE)
        both = tuple(torch.cat(pair) for pair in zip(found, further, strict=True))
        for value, indices in zip(values, (all_pairs, found, both), strict=True):
            torch.testing.assert_close(value, loss(z, y, indices, z_all, y_all))


@pytest.mark.parametrize("queued", [BATCH, 3])
def test_rows_go_where_the_queue_points(memory_class, dtype, queued):
    memory = memory_class(losses.ContrastiveLoss(), DIM, SIZE)
    for step in range(20):
        z, _ = draw(BATCH, dtype)
        y = torch.arange(BATCH)
        mask = None if queued == BATCH else torch.arange(BATCH) < queued
        before = memory.queue_idx
        assert before == step * queued % SIZE
        assert bool(memory.has_been_filled) == (step * queued >= SIZE)
        memory(z, y, enqueue_mask=mask)
        places = (before + torch.arange(queued)) % SIZE
        assert torch.equal(memory.embedding_memory[places], z[:queued])
        assert torch.equal(memory.label_memory[places], y[:queued])


def test_miners_mine_in_the_memory(memory_class, dtype):
    memory = memory_class(losses.ContrastiveLoss(), DIM, SIZE)
    pair_miner = miners.PairMarginMiner(pos_margin=0, neg_margin=2)
    for _ in range(10):
        z, y = draw(BATCH, dtype)
        memory(z, y)
        rows, row_labels = memory.embedding_memory, memory.label_memory
        for a1, p, a2, n in (
            lmu.get_all_pairs_indices(y, row_labels),
            pair_miner(z, y, rows, row_labels),
            lmu.convert_to_pairs(miners.TripletMarginMiner(margin=1)(z, y, rows, row_labels), y),
        ):
            assert len(a1)
            assert len(a2)
            assert torch.equal(y[a1], row_labels[p])
            assert not (y[a2] == row_labels[n]).any()


@pytest.mark.parametrize("triplets", [False, True])
def test_given_indices_are_appended(memory_class, dtype, triplets):
    memory = memory_class(losses.ContrastiveLoss(), DIM, SIZE)
    for _ in range(10):
        z, y = draw(BATCH, dtype)
        memory(z, y)
        given = lmu.get_all_triplets_indices(y) if triplets else lmu.get_all_pairs_indices(y)
        rows = memory.embedding_memory, memory.label_memory
        a1, p, a2, n = memory.create_indices_tuple(z, y, *rows, given, True)
        found = lmu.get_all_pairs_indices(y, memory.label_memory)
        found = lmu.remove_self_comparisons(found, memory.curr_batch_idx, SIZE)
        further = lmu.convert_to_pairs(given, y)
        want = [torch.cat(pair) for pair in zip(found, further, strict=True)]
        assert tuples((a1, p)) == tuples(want[:2])
        assert tuples((a2, n)) == tuples(want[2:])


def test_indices_and_mask_exclude_each_other(memory_class, dtype):
    memory = memory_class(losses.ContrastiveLoss(), DIM, SIZE)
    z, y = draw(BATCH, dtype)
    mask = torch.arange(BATCH) < 3
    with pytest.raises(ValueError, match="mutually exclusive"):
        memory(z, y, indices_tuple=lmu.get_all_pairs_indices(y), enqueue_mask=mask)
    with pytest.raises(Exception, match="ArcFaceLoss"):
        memory_class(losses.ArcFaceLoss(4, DIM), DIM, SIZE)


def test_a_reset_queue_is_empty(memory_class, dtype):
    memory = memory_class(losses.ContrastiveLoss(), DIM, SIZE)
    z, y = draw(BATCH, dtype)
    first = memory(z, y)
    for _ in range(8):
        memory(*draw(BATCH, dtype))
    assert memory.has_been_filled
    memory.reset_queue()
    assert memory.queue_idx == 0
    assert not memory.has_been_filled
    assert not memory.embedding_memory.any()
    assert not memory.label_memory.any()
    torch.testing.assert_close(memory(z, y), first)

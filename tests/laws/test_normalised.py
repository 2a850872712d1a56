"""Moments of the memory matched to those of the batch."""

import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb
from crossbatch.memory.normalised import moments_of


def unit(rows, dim=6, seed=0, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=g, dtype=torch.float64) + shift, dim=1)


def memory_of(z, capacity=500):
    memory = xb.CrossBatchMemory(capacity, z.shape[1], dtype=torch.float64)
    memory.enqueue(z, torch.arange(len(z)), torch.arange(len(z)))
    return memory


def test_rows_take_the_moments_of_the_batch_and_unit_norm():
    old, now = unit(300, shift=0.5), unit(40, seed=1, shift=-0.3)
    rows = xb.CrossBatchNormalisation(6)(memory_of(old), now)
    expected = (old - old.mean(0)) / old.std(0, correction=0)
    expected = F.normalize(expected * now.std(0, correction=0) + now.mean(0), dim=1)
    for size in (7, 300):
        found = torch.cat([tile.embeddings for tile in rows.tiles(size)])
        torch.testing.assert_close(found, expected)
    assert len(rows) == 300


def test_moments_do_not_depend_on_the_wrap_of_the_ring():
    memory = xb.CrossBatchMemory(10, 6, dtype=torch.float64)
    z = unit(25)
    for part in z.split(5):
        memory.enqueue(part, torch.arange(5), torch.arange(5))
    mean, deviation = moments_of(memory, z[0])
    torch.testing.assert_close(mean, z[-10:].mean(0))
    torch.testing.assert_close(deviation, z[-10:].std(0, correction=0))


def test_it_is_a_kalman_filter_over_batches():
    match, memory = xb.CrossBatchNormalisation(6, noise=0.1), memory_of(unit(50))
    x = p = None
    for step in range(5):
        z = unit(8, seed=step, shift=0.1 * step)
        match(memory, z)
        if x is None:
            x, p = z.mean(0), 1.0
        else:
            p += 0.1
            gain = p / (p + 1)
            x, p = x + gain * (z.mean(0) - x), (1 - gain) * p
        torch.testing.assert_close(match.mean.double(), x, rtol=1e-5, atol=1e-6)
    again = xb.CrossBatchNormalisation(6, noise=0.1)
    again.load_state_dict(match.state_dict())
    z = unit(8, seed=9)
    first, second = (next(m(memory, z).tiles(50)).embeddings for m in (match, again))
    assert torch.equal(first, second)


def test_the_loss_streams_past_them_and_a_constant_feature_stays_finite():
    z = unit(8)
    stored = unit(50, seed=3)
    stored[:, 0] = 0.25
    rows = xb.CrossBatchNormalisation(6)(memory_of(stored), z)
    anchors = z.clone().requires_grad_()
    args = (anchors, torch.arange(8), xb.Contrastive(0.1))
    value = xb.pair_loss(
        *args[:2], weighting=args[2], references=rows, ids=torch.arange(8) + 900
    ).value
    value.backward()
    assert value > 0
    assert anchors.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"dim": 3, "noise": 0.0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(xb.CrossbatchError, match="CrossBatchNormalisation"):
        xb.CrossBatchNormalisation(**wrong)


def test_one_row_has_no_deviation():
    with pytest.raises(xb.CrossbatchError, match="two embeddings"):
        xb.CrossBatchNormalisation(6)(memory_of(unit(5)), unit(1))

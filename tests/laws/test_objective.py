"""The batch, the memory, and the weight between them."""

import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb
from tests.tables import REDUCTIONS, WEIGHTINGS


def problem(seed=0, rows=12, size=200, dim=8):
    g = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(rows, dim, generator=g, dtype=torch.float64), dim=1)
    stored = F.normalize(torch.randn(size, dim, generator=g, dtype=torch.float64), dim=1)
    labels = torch.arange(rows) // 3
    memory = xb.Batch(stored, torch.randint(0, 8, (size,), generator=g), torch.arange(size) + rows)
    return z.requires_grad_(), labels, torch.arange(rows), memory


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("beside", ["itself", "memory"])
def test_the_gradient_of_the_result_is_that_of_autograd(weighting, reduction, beside):
    z, labels, ids, memory = problem()
    how = {
        "weighting": WEIGHTINGS[weighting],
        "references": memory if beside == "memory" else None,
        "ids": ids,
        "reduction": reduction,
    }
    result = xb.pair_loss(z, labels, **how)
    (gradient,) = torch.autograd.grad(result.value, z)
    unasked = xb.pair_loss(z.detach(), labels, **how)
    torch.testing.assert_close(unasked.gradient, gradient)
    torch.testing.assert_close(result.gradient, gradient)
    assert gradient.abs().max() > 0
    assert not result.gradient.requires_grad


@pytest.mark.parametrize("weighting", ["contrastive", "multi-similarity", "supcon"])
def test_the_proportion_holds_whatever_the_size(weighting):
    for size in (50, 400):
        z, labels, ids, memory = problem(size=size)
        result = xb.memory_objective(
            z,
            labels,
            ids,
            weighting=WEIGHTINGS[weighting],
            memory=memory,
            memory_weight=xb.Proportion(0.3),
        )
        (batch,) = torch.autograd.grad(result.batch.value, z, retain_graph=True)
        (whole,) = torch.autograd.grad(result.value, z)
        torch.testing.assert_close((whole - batch).norm(), 0.3 * batch.norm())


def test_without_a_gradient_of_the_batch_the_weight_is_the_fixed_one():
    z, _, ids, memory = problem()
    apart = torch.arange(len(z))  # no positives: a triplet has nothing to say within the batch
    beside = xb.Batch(memory.embeddings, memory.labels % len(z), memory.ids)
    result = xb.memory_objective(
        z,
        apart,
        ids,
        weighting=xb.HardestTriplet(0.5),
        memory=beside,
        memory_weight=xb.Proportion(0.3, otherwise=2.0),
    )
    assert result.batch.gradient.norm() == 0
    assert result.memory.gradient.norm() > 0
    assert result.weight == 2.0


def test_a_proportion_that_means_nothing_is_refused():
    z, labels, ids, memory = problem()
    with pytest.raises(xb.CrossbatchError, match="of_batch"):
        xb.Proportion(0.0)
    with pytest.raises(xb.CrossbatchError, match="Proportion beside"):
        xb.memory_objective(
            z,
            labels,
            ids,
            weighting=xb.Contrastive(),
            memory=memory,
            memory_weight=xb.Proportion(0.5),
            objective="memory_alone",
        )

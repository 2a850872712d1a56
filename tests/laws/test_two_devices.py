"""A memory on another device than the network gives what one beside it gives."""

import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb
from tests.tables import WEIGHTINGS
from tests.two_devices import AWAY, Away, TwoDevices, move

KINDS = {
    "ring": lambda: xb.CrossBatchMemory(150, 8),
    "int8": lambda: xb.CrossBatchMemory(150, 8, dtype=torch.int8),
    "per image": lambda: xb.PerImageMemory(300, 8),
    "averaged": lambda: xb.PerImageMemory(300, 8, row_momentum=0.5),
}


def trained(memory, weighting, *, normalised=False, age=None):
    """Losses, gradients and drift of a few batches whose images come round again."""
    g = torch.Generator().manual_seed(0)
    match = xb.CrossBatchNormalisation(8)
    seen = []
    for _ in range(5):
        z = F.normalize(torch.randn(40, 8, generator=g), dim=1).requires_grad_()
        ids = torch.randperm(90, generator=g)[:40]
        drift = memory.drift(z, ids) if len(memory) else None
        memory.enqueue(z, ids % 9, ids)
        references = xb.younger(memory, age)
        references = match(references, z) if normalised else references
        result = xb.pair_loss(z, ids % 9, weighting=weighting, references=references, ids=ids)
        result.value.backward()
        seen += [result.value.detach(), z.grad, *([] if drift is None else drift)]
    return [x.to("cpu") for x in seen]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["contrastive", "multi-similarity", "supcon", "fastap"])
def test_where_the_rows_are_changes_nothing(kind, name):
    here = trained(KINDS[kind](), WEIGHTINGS[name])
    with TwoDevices():
        memory = move(KINDS[kind]())
        there = trained(memory, WEIGHTINGS[name])
        assert memory.embeddings.device == AWAY
    assert len(here) == len(there) == 18
    assert all(torch.equal(x, y) for x, y in zip(here, there, strict=True))


@pytest.mark.parametrize("how", [{"normalised": True}, {"age": 1}])
def test_nor_do_views_of_them(how):
    here = trained(KINDS["ring"](), xb.Contrastive(), **how)
    with TwoDevices():
        there = trained(move(KINDS["ring"]()), xb.Contrastive(), **how)
    assert all(torch.equal(x, y) for x, y in zip(here, there, strict=True))


def test_the_other_device_is_one():
    with TwoDevices():
        away = torch.ones(3).to(AWAY)
        assert isinstance(away + 1, Away)
        with pytest.raises(AssertionError, match="two devices"):
            away + torch.ones(3)

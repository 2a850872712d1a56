"""The young rows of a memory, and the age that drift allows."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import crossbatch as xb
import crossbatch.codes
from crossbatch.memory.young import WINDOW, YoungRows

KINDS = {
    "ring": lambda: xb.CrossBatchMemory(30, 4),
    "int8": lambda: xb.CrossBatchMemory(30, 4, dtype=torch.int8),
    "per image": lambda: xb.PerImageMemory(60, 4),
    "sharded": lambda: xb.ShardedMemory(30, 4),
}


def fill(memory, batches, seed=0):
    """What was enqueued: (step, embedding, label, id) of every row, the oldest first."""
    g = torch.Generator().manual_seed(seed)
    rows = []
    for step in range(batches):
        ids = torch.randperm(60, generator=g)[:7]
        z = F.normalize(torch.randn(7, 4, generator=g), dim=1)
        memory.enqueue(z, ids % 5, ids)
        rows += [(step, x, int(i)) for x, i in zip(z, ids, strict=True)]
    return rows


@given(
    kind=st.sampled_from(sorted(KINDS)),
    batches=st.integers(1, 12),
    age=st.integers(0, 14),
    rows=st.integers(1, 40),
)
def test_young_rows_are_those_of_the_last_batches(kind, batches, age, rows):
    memory = KINDS[kind]()
    kept = {}
    for step, x, image in fill(memory, batches):
        kept[image if kind == "per image" else (step, image)] = (step, x, image)
    last = list(kept.values())[-30:] if kind != "per image" else list(kept.values())
    expected = sorted((image, step) for step, _, image in last if batches - 1 - step <= age)
    young = xb.younger(memory, age)
    tiles = list(young.tiles(rows))
    ids = torch.cat([t.ids for t in tiles])
    assert len(young) == len(ids) == len(expected)
    assert sorted(ids.tolist()) == [image for image, _ in expected]
    assert all(0 < len(t.ids) <= rows for t in tiles)
    assert all(torch.equal(t.labels, t.ids % 5) for t in tiles)
    newest = {image: x for step, x, image in last}  # the last copy of each
    if age == 0:
        for tile in tiles:
            for image, x in zip(tile.ids.tolist(), tile.embeddings, strict=True):
                torch.testing.assert_close(x, newest[image], atol=0.01, rtol=0)


@pytest.mark.parametrize("halves", [True, False])
def test_codes_come_with_the_rows(monkeypatch, halves):
    monkeypatch.setattr(crossbatch.codes, "rounds", lambda: halves)
    memory = xb.CrossBatchMemory(30, 4)
    fill(memory, 6)
    young = YoungRows(memory, 1)
    young.encode()
    (tile,) = young.tiles(100)
    codes = tile.codes
    read = codes.values if halves else codes.values * codes.scale[:, None]
    torch.testing.assert_close(read.float(), tile.embeddings, atol=0.01, rtol=0)


def test_no_limit_is_the_memory():
    memory = xb.CrossBatchMemory(30, 4)
    assert xb.younger(memory, None) is memory


def test_the_loss_beside_young_rows_is_that_beside_a_batch_of_them():
    memory = xb.CrossBatchMemory(30, 4)
    rows = [(x, i) for step, x, i in fill(memory, 8) if step >= 6]
    ids = torch.tensor([i for _, i in rows])
    few = xb.Batch(torch.stack([x for x, _ in rows]), ids % 5, ids)
    z, own = F.normalize(torch.randn(6, 4), dim=1), torch.arange(6)
    found, expected = (
        xb.pair_loss(z, own % 5, weighting=xb.SupCon(0.2), references=references, ids=own).value
        for references in (xb.younger(memory, 1), few)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 0.02])
@pytest.mark.parametrize("bound", [0.3, 1.0, 1.7])
def test_the_limit_is_where_a_walk_meets_the_bound(rate, bound):
    limit = xb.AgeLimit(bound)
    for age in (40.0, 60.0) * (WINDOW // 2):
        limit.see(2 * (1 - math.exp(-rate * 50.0)), age, 8)
    assert limit.age == pytest.approx(-math.log(1 - bound / 2) / rate, rel=0.02, abs=1)


def test_the_limit_follows_the_last_steps():
    limit = xb.AgeLimit(1.0)
    limit.see(1.9, 10.0, 0)  # nothing came again
    assert limit.age is None
    for _ in range(WINDOW):
        limit.see(1.9, 10.0, 4)
    early = limit.age
    for _ in range(WINDOW):
        limit.see(0.1, 10.0, 4)
    assert early < 10 < limit.age
    again = xb.AgeLimit(1.0)
    again.load_state_dict(limit.state_dict())
    assert again.age == limit.age


@pytest.mark.parametrize("squared", [0.0, 2.0, 3.9])
def test_any_drift_gives_a_limit(squared):
    limit = xb.AgeLimit(1.0)
    limit.see(squared, 5.0, 1)
    assert limit.age >= 0


@pytest.mark.parametrize("bound", [0.0, 2.0, -1.0])
def test_a_bound_that_is_none_is_named(bound):
    with pytest.raises(xb.CrossbatchError, match="between 0 and 2"):
        xb.AgeLimit(bound)

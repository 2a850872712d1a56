"""One row per image, against a dict, under any sequence of batches; and what may not be done."""

import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import crossbatch as xb
from crossbatch.codes import coded
from crossbatch.memory._table import find, insert, slots_for

DIM = 2
# Ids that meet in a small table unless they are mixed, and the ends of what 64 bits hold.
SPREADS = {"near": 1, "far": 2**40, "hashes": 0x9E3779B97F4A7C15, "negative": -(2**56)}


def as_int64(number):
    return (number + 2**63) % 2**64 - 2**63


class MemoryAgainstDict(RuleBasedStateMachine):
    @initialize(capacity=st.integers(1, 40), spread=st.sampled_from(sorted(SPREADS)))
    def build(self, capacity, spread):
        self.memory = xb.PerImageMemory(capacity, DIM)
        self.rows = {}  # id: (number, label, batch), in the order of their last visits
        self.spread, self.number, self.batches = SPREADS[spread], 0, 0

    @rule(images=st.lists(st.integers(0, 60), max_size=30), label=st.integers(-3, 3))
    def enqueue(self, images, label):
        ids = [as_int64(image * self.spread - 7) for image in images]
        numbers = range(self.number, self.number + len(ids))
        x = torch.tensor([[n, -n] for n in numbers], dtype=torch.float32).reshape(-1, DIM)
        labels = torch.tensor([label + n % 4 for n in numbers], dtype=torch.int64)
        batch = x, labels, torch.tensor(ids, dtype=torch.int64)
        if len(set(ids) | set(self.rows)) > self.memory.capacity:
            with pytest.raises(xb.CrossbatchError, match=r"its `capacity`.*number of training"):
                self.memory.enqueue(*batch)
            return
        self.memory.enqueue(*batch)
        for i, n, y in zip(ids, numbers, labels.tolist(), strict=True):
            self.rows[i] = (n, y, self.batches)
        self.number += len(ids)
        self.batches += 1

    @rule()
    def clear(self):
        self.memory.clear()
        self.rows.clear()
        self.batches = 0

    @rule()
    def save_and_load(self):
        file = io.BytesIO()
        torch.save(self.memory.state_dict(), file)
        file.seek(0)
        self.memory = xb.PerImageMemory(self.memory.capacity, DIM)
        self.memory.load_state_dict(torch.load(file, weights_only=True))

    @rule()
    def convert_there_and_back(self):
        self.memory = self.memory.half().to(torch.float32)  # small integers survive

    @rule()
    def encode(self):
        self.memory.encode()

    @rule(images=st.lists(st.integers(0, 60), max_size=9))
    def ask_for_drift(self, images):
        ids = [as_int64(image * self.spread - 7) for image in images]
        found = self.memory.drift(torch.zeros(len(ids), DIM), torch.tensor(ids).long())
        held = [self.rows[i] for i in ids if i in self.rows]
        assert found.squared.tolist() == [2.0 * n * n for n, _, _ in held]
        assert found.ages.tolist() == [self.batches - batch for *_, batch in held]

    @invariant()
    def holds_the_same(self):
        if not hasattr(self, "memory"):
            return
        held = self.memory.contents()
        births = self.batches - 1 - self.memory.ages()
        found = {
            int(i): (int(x[0]), int(y), int(b))
            for x, y, i, b in zip(*held[:3], births, strict=True)
        }
        assert found == self.rows
        assert len(held.ids) == len(self.rows) == len(self.memory)
        assert births.tolist() == sorted(births.tolist())

    @invariant()
    def tiles_yield_every_image_once(self):
        if not hasattr(self, "memory"):
            return
        tiles = list(self.memory.tiles(4))
        assert all(0 < len(t.embeddings) <= 4 for t in tiles)
        assert sorted(int(i) for t in tiles for i in t.ids) == sorted(self.rows)
        for tile in tiles:
            if tile.codes is not None:
                expected = coded(tile.embeddings)
                assert all(map(torch.equal, tile.codes, expected))


TestMemoryAgainstDict = MemoryAgainstDict.TestCase
TestMemoryAgainstDict.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("spread", sorted(SPREADS))
def test_a_search_in_a_full_table_is_short(spread):
    """Linear in no case: the longest of 20,000 takes few steps, however ids are spread."""
    count = 20_000
    ids = torch.tensor([as_int64(i * SPREADS[spread]) for i in range(count)]).unique()
    held, slots = ids.clone(), torch.zeros(slots_for(len(ids)), dtype=torch.int64)
    assert 2 * len(ids) <= len(slots) < 4 * len(ids)
    insert(slots, ids, torch.arange(len(ids)))
    assert torch.equal(find(slots, held, ids), torch.arange(len(ids)))
    assert bool((find(slots, held, ids + 1)[~torch.isin(ids + 1, ids)] == -1).all())
    edges = F.pad((slots == 0).nonzero().flatten(), (1, 1), value=-1)
    edges[-1] = len(slots)
    assert int(edges.diff().max()) < 120


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_rows_are_moved_towards_the_new_embedding(dtype):
    m, ids = 0.7, torch.arange(4)
    a, b = (F.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    memory = xb.PerImageMemory(6, 8, dtype=dtype, row_momentum=m)
    memory.enqueue(a, ids, ids)
    first = memory.contents().embeddings.float()
    torch.testing.assert_close(first, a, rtol=0, atol=0.01)
    memory.enqueue(b[[0, 1, 1]], ids[[0, 1, 1]], ids[[0, 1, 1]] + torch.tensor([2, 8, 8]))
    held = memory.contents()
    rows = dict(zip(held.ids.tolist(), held.embeddings.float(), strict=True))
    moved = F.normalize(m * first[2] + (1 - m) * b[0], dim=0)
    torch.testing.assert_close(
        rows[2], moved, rtol=0, atol=0.01 if dtype != torch.float32 else 1e-6
    )
    torch.testing.assert_close(rows[9], b[1], rtol=0, atol=0.01)
    assert torch.equal(rows[0], first[0])


def test_the_given_batch_is_left_as_it_was():
    memory = xb.PerImageMemory(2, 2, row_momentum=0.5)
    z, ids = torch.eye(2, requires_grad=True), torch.arange(2)
    for _ in range(2):
        memory.enqueue(z.flip(1) if len(memory) else z, ids, ids)
    assert torch.equal(z, torch.eye(2))
    assert not memory.embeddings.requires_grad


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: xb.PerImageMemory(0, 3), r"PerImageMemory with capacity ≥ 1.*capacity=0"),
        (lambda: xb.PerImageMemory(3, 3, row_momentum=1.0), r"`row_momentum`.*\[0, 1\).*1\.0"),
        (
            lambda: xb.PerImageMemory(3, 3).enqueue(
                *(torch.zeros(1, 2), *torch.zeros(2, 1).long())
            ),
            r"\(rows, 3\) in PerImageMemory.enqueue",
        ),
        (
            lambda: xb.PerImageMemory(3, 3).drift(torch.zeros(1, 2), torch.zeros(1).long()),
            r"\(rows, 3\) in PerImageMemory.drift",
        ),
    ],
)
def test_message(call, message):
    with pytest.raises(xb.CrossbatchError, match=message):
        call()


def test_no_room_leaves_the_memory_as_it_was():
    memory, ids = xb.PerImageMemory(3, 2), torch.arange(2)
    memory.enqueue(torch.eye(2), ids, ids)
    before = {k: v.clone() for k, v in memory.state_dict().items()}
    with pytest.raises(xb.CrossbatchError, match=r"at most 3 images.*2 new ones beside 2"):
        memory.enqueue(torch.ones(3, 2), torch.zeros(3).long(), torch.tensor([1, 5, 6]))
    assert all(torch.equal(before[k], v) for k, v in memory.state_dict().items())

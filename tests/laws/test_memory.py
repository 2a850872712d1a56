"""The memory is `collections.deque(maxlen=capacity)`, saved and loaded at any moment."""

import io
from collections import deque

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crossbatch import CrossBatchMemory
from crossbatch.codes import coded

DIM = 2


class MemoryAgainstDeque(RuleBasedStateMachine):
    @initialize(capacity=st.integers(1, 9))
    def build(self, capacity):
        self.memory = CrossBatchMemory(capacity, DIM)
        self.model = deque(maxlen=capacity)
        self.rows = self.batches = 0

    @rule(size=st.integers(0, 25), label=st.integers(-3, 3))
    def enqueue(self, size, label):
        number = torch.arange(self.rows, self.rows + size)
        labels = number % 4 + label  # zero and negatives among them
        embeddings = torch.stack([number.float(), -number.float()], dim=1)
        self.memory.enqueue(embeddings, labels, number - 5)
        self.model.extend(
            (n, label, n - 5, self.batches)
            for n, label in zip(number.tolist(), labels.tolist(), strict=True)
        )
        self.rows += size
        self.batches += 1

    @rule()
    def clear(self):
        self.memory.clear()
        self.model.clear()
        self.batches = 0

    @rule()
    def save_and_load(self):
        file = io.BytesIO()
        torch.save(self.memory.state_dict(), file)
        file.seek(0)
        self.memory = CrossBatchMemory(self.memory.capacity, DIM)
        self.memory.load_state_dict(torch.load(file, weights_only=True))

    @rule()
    def convert_there_and_back(self):
        self.memory = self.memory.half().to(torch.float32)  # small integers survive

    @rule()
    def encode(self):
        self.memory.encode()
        assert all(tile.codes is not None for tile in self.memory.tiles(4))

    @rule()
    def load_into_the_same_memory(self):
        state = {name: value.clone() for name, value in self.memory.state_dict().items()}
        self.memory.load_state_dict(state)

    @rule()
    def write_from_outside(self):
        self.memory.embeddings.mul_(-1).mul_(-1)

    @invariant()
    def codes_are_those_of_the_embeddings(self):
        if not hasattr(self, "memory"):
            return
        for tile in self.memory.tiles(4):
            if tile.codes is not None:
                expected = coded(tile.embeddings)
                assert all(map(torch.equal, tile.codes, expected))

    @invariant()
    def holds_the_same(self):
        if not hasattr(self, "memory"):
            return
        held = self.memory.contents()
        ages = self.memory.ages()
        rows = [
            (int(e[0]), int(label), int(i), self.batches - 1 - int(age))
            for e, label, i, age in zip(*held[:3], ages, strict=True)
        ]
        assert rows == list(self.model)
        assert len(self.memory) == len(self.model)

    @invariant()
    def tiles_yield_every_filled_row_once(self):
        if not hasattr(self, "memory"):
            return
        tiles = list(self.memory.tiles(4))
        assert all(0 < len(t.embeddings) <= 4 for t in tiles)
        seen = sorted(int(e[0]) for t in tiles for e in t.embeddings)
        assert seen == sorted(row[0] for row in self.model)


TestMemoryAgainstDeque = MemoryAgainstDeque.TestCase
TestMemoryAgainstDeque.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_codes_are_void_once_other_embeddings_stand_at_the_same_address():
    memory, ids = CrossBatchMemory(4, DIM), torch.arange(4)
    memory.enqueue(torch.ones(4, DIM), ids, ids)
    memory.encode()
    memory.embeddings = torch.from_numpy(memory.embeddings.numpy())  # version 0 again
    memory.enqueue(-torch.ones(4, DIM), ids, ids)
    assert next(memory.tiles(4)).codes is None

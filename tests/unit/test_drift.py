"""Drift of stored rows: the newest copy of each image, its age, and what is said of it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crossbatch as xb
from crossbatch.memory import advise
from crossbatch.training import MemoryConfig, RunFolder, TrainConfig, write_config


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    capacity=st.integers(1, 40),
    batches=st.integers(0, 12),
    images=st.sampled_from([3, 30, 10**12]),
)
def test_drift_is_that_of_the_newest_row(seed, capacity, batches, images):
    g = torch.Generator().manual_seed(seed)
    memory, stored = xb.CrossBatchMemory(capacity, 4), []

    def batch():
        ids = torch.unique(torch.randint(0, images, (5,), generator=g) * 65_537 - 7)
        return torch.randn(len(ids), 4, generator=g), ids

    for number in range(batches):
        z, ids = batch()
        memory.enqueue(z, ids, ids)
        stored += [(int(i), row, number) for i, row in zip(ids, z, strict=True)]
    stored = stored[-capacity:]
    fresh, ids = batch()
    expected = []
    for row, i in zip(fresh, ids, strict=True):
        copies = [(old, number) for j, old, number in stored if j == int(i)]
        if copies:
            old, number = copies[-1]
            expected.append((batches - number, float((row - old).square().sum())))
    found = memory.drift(fresh, ids)
    assert found.ages.tolist() == [age for age, _ in expected]
    assert found.squared.tolist() == pytest.approx([squared for _, squared in expected], rel=1e-5)


def test_advice_follows_the_drift():
    assert advise([], []) is None
    assert advise([0.1], [10.0]).startswith("Stored rows are near: after 10 batches")
    assert "lag behind" in advise([0.8, 0.6], [100.0, 300.0])
    assert "after 200 batches they have moved by d² = 0.70" in advise([0.8, 0.6], [100.0, 300.0])
    assert "say little" in advise([1.5], [50.0])
    assert "momentum keys" in advise([1.5], [50.0])


def test_advice_names_no_remedy_that_is_taken(tmp_path):
    run, row = RunFolder(tmp_path), {"step": 1, "drift": 1.5, "drift_age": 50.0}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    for memory, named in (
        (MemoryConfig(), False),
        (MemoryConfig(momentum=0.0), True),
        (MemoryConfig(proportion=0.0), True),
        (MemoryConfig(objective="memory_alone"), True),
    ):
        write_config(TrainConfig("images.parquet", memory=memory), run.config)
        assert ("momentum keys" in run.advice()) == named
        assert "lower learning rate" in run.advice()


def test_bad_input_is_named(unchecked_shapes):
    memory = xb.CrossBatchMemory(4, 2)
    with pytest.raises(xb.CrossbatchError, match=r"shape \(rows, 2\) in CrossBatchMemory.drift"):
        memory.drift(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))

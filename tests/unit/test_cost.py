"""What the memory costs is told before, foretold from the first steps, and measured."""

import sys
import time

import pytest
import torch

import crossbatch as xb
import crossbatch.codes
from crossbatch.cli.train import parse
from crossbatch.data import Manifest
from crossbatch.training import Trainee, resume, steps, train
from crossbatch.training.cost import FIRST, Account, Prediction, predict
from crossbatch.training.stopwatch import Stopwatch
from tests import blobs


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return blobs.manifest(tmp_path_factory.mktemp("data") / "blobs.parquet")


def trainee(manifest, **changes):
    config = parse([str(manifest), "--out", "unused", *blobs.options(**changes)])[1]
    return Trainee(config, Manifest.read(manifest))


def test_a_stopwatch_adds_up_its_parts():
    watch = Stopwatch(torch.device("cpu"))
    with watch.part("step"):
        for _ in range(2):
            with watch.part("loss"):
                time.sleep(0.01)
        time.sleep(0.01)
    assert watch.seconds("loss") >= 0.02
    assert watch.seconds("step") >= watch.seconds("loss") + 0.01
    assert watch.seconds("other") == 0


def test_shares_are_of_the_steps_with_the_memory(manifest):
    reports = list(steps(trainee(manifest)))
    assert all(r.step_seconds > 0 for r in reports)
    assert all(r.memory_share is None for r in reports[:5])
    assert all(0 < r.memory_share < 1 for r in reports[5:])


def test_a_slow_memory_is_seen(manifest, monkeypatch):
    enqueue = xb.CrossBatchMemory.enqueue

    def slow(*arguments):
        time.sleep(0.2)
        enqueue(*arguments)

    monkeypatch.setattr(xb.CrossBatchMemory, "enqueue", slow)
    first = next(steps(trainee(manifest, **{"memory.start": 0})))
    assert first.step_seconds * first.memory_share >= 0.2


@pytest.mark.parametrize("weighting", ["Contrastive()", "Sides(Contrastive(),SupCon())"])
def test_bytes_are_those_of_the_memory(manifest, weighting):
    one = trainee(manifest, memory=5000, weighting=weighting)
    state = torch.get_rng_state()
    prediction = predict(one)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(one.memory) == 0
    assert prediction.bytes == one.memory.nbytes == 5000 * (4 * 8 + 24) + 16
    assert "5,000 rows of 8 in 280 kB" in str(prediction)
    assert "8 × 5,000 = 40,000 comparisons" in str(prediction)
    assert prediction.seconds > 0


@pytest.mark.parametrize(
    ("halves", "dtype", "codes"),
    [
        (False, torch.float32, 8 + 12),
        (True, torch.float32, 2 * 8 + 8),
        (True, torch.bfloat16, 8),  # rows are their own
        (False, torch.int8, 8),
        (True, torch.int8, 8),
    ],
)
def test_codes_count_once_they_are_there(monkeypatch, halves, dtype, codes):
    monkeypatch.setattr(crossbatch.codes, "rounds", lambda: halves)
    memory = xb.CrossBatchMemory(100, 8, dtype=dtype)
    plain = memory.nbytes
    assert plain == 100 * (dtype.itemsize * 8 + 24 + 4 * (dtype == torch.int8)) + 16
    memory.encode()
    assert memory.nbytes == plain + 100 * codes


def test_without_a_memory_nothing_is_said(manifest):
    assert predict(trainee(manifest, memory=0)) is None


class Step:
    def __init__(self, seconds, share):
        self.step_seconds, self.memory_share = seconds, share


def test_the_first_steps_foretell_and_all_of_them_tell():
    account = Account(Prediction(1000, 8, 4, bytes=56_000, codes=0, seconds=0.1))
    assert account.add(Step(9.0, None)) is None  # begins workers, and does not count
    said = [account.add(Step(seconds, None)) for seconds in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert said[:-1] == [None] * (FIRST - 1)
    assert "25 % of a step once it is full (100 ms beside 300 ms)" in said[-1]
    memory = xb.CrossBatchMemory(1000, 8)
    assert account.measured(memory) == "Memory: 56 kB; no step used it."
    assert [account.add(Step(0.4, 0.5)) for _ in range(3)] == [None] * 3
    assert "50 % of a step (200 ms beside 200 ms, measured over 3 steps)" in account.measured(
        memory
    )


def test_steps_with_the_memory_foretell_without_it():
    account = Account(Prediction(1000, 8, 4, bytes=56_000, codes=0, seconds=0.1))
    said = [account.add(Step(0.4, 0.25)) for _ in range(FIRST + 1)]
    assert "(100 ms beside 300 ms)" in said[-1]


def test_three_lines_for_a_run_and_none_if_it_is_quiet(manifest, tmp_path, capfd, monkeypatch):
    config = trainee(manifest, **{"iterations": 9}).config
    run = train(config, tmp_path / "run")
    said = [line for line in capfd.readouterr().err.splitlines() if "Memory: " in line]
    assert ["comparisons" in line for line in said] == [True, False, False]
    assert "once it is full" in said[1]
    assert said[1].endswith(", and the forward pass of its keys.")
    assert "measured over 4 steps" in said[2]
    module = sys.modules["crossbatch.training.train"]
    monkeypatch.delattr(module, "predict")  # nothing is timed in vain
    resume(run.path)
    train(config, tmp_path / "quiet", quiet=True)
    assert "Memory: " not in capfd.readouterr().err

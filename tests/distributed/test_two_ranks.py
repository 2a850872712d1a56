"""Two gloo processes against one: trainings, resumes, deaths, and the command line."""

import json
import time
from dataclasses import replace

import pytest
import torch

from crossbatch.data import Manifest
from crossbatch.engine import memory_objective, pair_loss
from crossbatch.training import RunFolder, Trainee, read_config, steps, write_config
from tests import blobs
from tests.distributed.launch import launch, start
from tests.distributed.rank import trainee_of

STEPS, MORE = 12, 3
KINDS = ("ring", "sharded")
TRAIN = ["-c", "from crossbatch.cli.main import main; main()", "train"]
LEAVES = """
import torch.distributed as dist
from crossbatch.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert dist.is_available() and not dist.is_initialized(), "the process group is still there"
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Four images for each rank; the memory starts on the third step and wraps."""
    tmp_path = tmp_path_factory.mktemp("config")
    manifest = blobs.manifest(tmp_path / "blobs.parquet")
    launch([*TRAIN, manifest, "--out", tmp_path / "run", *blobs.options(iterations=1)], world=1)
    made = RunFolder.open(tmp_path / "run").read_config()
    made = replace(
        made,
        iterations=STEPS,
        sampler=replace(made.sampler, classes=2, instances=2),
        memory=replace(made.memory, capacity=30, start=2),
    )
    write_config(made, tmp_path / "config.yaml")
    return tmp_path / "config.yaml"


def proportion(config, embeddings, pair, memory):
    """Of the gradients of all anchors, batch to memory."""
    if memory is None:
        return 1.0
    squares = [0.0, 0.0]
    for z, (_, b) in zip(embeddings, pair, strict=True):
        for place, references in enumerate((None, memory)):
            settings = {"weighting": config.weighting, "references": references, "ids": b.ids}
            squares[place] += pair_loss(z, b.codes, **settings).gradient.square().sum().item()
    return config.memory.proportion * (squares[0] / squares[1]) ** 0.5 if all(squares) else 1.0


def one_process(path):
    """What two ranks mean: local anchors, one memory of all batches, averaged gradients."""
    config = read_config(path)
    trainee = Trainee(config, Manifest.read(config.manifest))
    batches = trainee.batches()
    for step in range(STEPS):
        pair = [next(batches) for _ in range(2)]
        embeddings = [trainee.network(inputs) for inputs, _ in pair]
        memory = trainee.memory if step >= config.memory.start else None
        if memory is not None:
            memory.enqueue(
                torch.cat([trainee.keys(inputs) for inputs, _ in pair]),
                torch.cat([batch.codes for _, batch in pair]),
                torch.cat([batch.ids for _, batch in pair]),
            )
        weight = proportion(config, embeddings, pair, memory)
        losses = [
            memory_objective(
                z, b.codes, b.ids, weighting=config.weighting, memory=memory, memory_weight=weight
            ).value
            for z, (_, b) in zip(embeddings, pair, strict=True)
        ]
        for group in trainee.optimizer.param_groups:
            group["lr"] = trainee.learning_rate()
        trainee.optimizer.zero_grad()
        (sum(losses) / 2).backward()
        trainee.optimizer.step()
        trainee.keys.follow(trainee.network)
        trainee.step += 1
    trainee.warm_up.begun = True
    return trainee.state_dict()


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
    """One process, and what each of two ranks has come to with each kind of memory."""
    out = tmp_path_factory.mktemp("ranks")
    expected = one_process(config)
    torch.save(expected, out / "one.pt")
    launch(["-m", "tests.distributed.rank", "both", config, out, out / "one.pt", STEPS + MORE])
    found = {
        kind: [torch.load(out / f"{kind}{rank}.pt", weights_only=True) for rank in (0, 1)]
        for kind in KINDS
    }
    return expected, found


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_are_one_process_with_averaged_gradients(runs, kind):
    expected, (first, second) = runs[0], runs[1][kind]
    for part in ("memory", "network"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), f"{part} {name} differs between ranks"
            torch.testing.assert_close(value, expected[part][name], rtol=1e-4, atol=1e-5)
    for name in ("labels", "ids", "births", "enqueued_rows"):
        assert torch.equal(first["memory"][name], expected["memory"][name])
    assert first["sampler"] == second["sampler"] == expected["sampler"]
    losses = [[report["loss"] for report in rank["reports"]] for rank in (first, second)]
    assert losses[0] != losses[1]  # their batches are different ones


@pytest.mark.parametrize("name", ["memory_size", "drift", "drift_age"])
def test_both_kinds_of_memory_report_alike(runs, name):
    copied, spread = (  # no drift is measured before the memory has rows
        [row[name] or 0 for rank in runs[1][kind] for row in rank["reports"]] for kind in KINDS
    )
    assert copied == pytest.approx(spread, rel=1e-3)
    assert any(copied)


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_saves_and_two_ranks_go_on(runs, kind):
    expected = runs[0]["memory"]
    for rank in runs[1][kind]:
        assert all(torch.equal(rank["loaded"][name], rows) for name, rows in expected.items())
        assert [row["step"] for row in rank["resumed"]] == [STEPS + 1 + n for n in range(MORE)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_save_and_one_process_goes_on(runs, config, kind):
    trainee = trainee_of(config, kind=kind, iterations=STEPS + MORE)
    saved = runs[1][kind][0]
    trainee.load_state_dict(saved)
    loaded = trainee.state_dict()["memory"]
    assert all(torch.equal(loaded[name], rows) for name, rows in saved["memory"].items())
    assert [report.step for report in steps(trainee)] == [STEPS + 1 + n for n in range(MORE)]


@pytest.mark.parametrize(("how", "timeout"), [("dies", 600), ("is silent", 8)])
def test_a_rank_that_is_gone_ends_the_others(config, tmp_path, how, timeout):
    ranks = start(["-m", "tests.distributed.rank", "leaves", config, tmp_path, how, timeout])
    try:
        said, _ = ranks[0].communicate(timeout=100)
    finally:
        for rank in ranks:
            rank.kill()
        ranks[1].communicate()
    waited = time.time() - float((tmp_path / "gone").read_text())
    assert ranks[0].returncode not in (0, None), said
    assert "Error" in said
    assert waited < 40


def test_the_command_line_trains_and_resumes_on_two_ranks(tmp_path):
    """With a memory that is spread over the ranks, and then one that is copied; with PRISM."""
    manifest, out = blobs.manifest(tmp_path / "blobs.parquet"), tmp_path / "run"
    flags = blobs.options("fine_tune", iterations=9, **{"sampler.classes": 2})
    flags += ["--memory.noise", "0.3", "--memory.sub-centres", "2"]
    launch([*TRAIN, manifest, "--out", out, *flags, "--memory.kind", "sharded"])
    log = (out / "log.jsonl").read_text()
    assert [json.loads(line)["step"] for line in log.splitlines()] == list(range(1, 10))
    assert (out / "encoder" / "model.safetensors").exists()

    config = RunFolder.open(out).read_config()
    assert config.memory.kind == "sharded"
    config = replace(config, iterations=14, memory=replace(config.memory, kind="ring"))
    write_config(config, out / "config.yaml")
    launch(["-c", LEAVES, "train", "--resume", out])
    taken = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert taken == list(range(1, 15))
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["step"] == 14
    assert len(state["memory"]["ids"]) == 24
    assert state["prism"]["seen"] > 5

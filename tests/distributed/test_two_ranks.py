"""Two gloo processes against one: memories, gradients, and the command line."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from crossbatch.data import Manifest
from crossbatch.engine import memory_objective
from crossbatch.training import RunFolder, Trainee, read_config, write_config
from tests import blobs

STEPS = 12
TRAIN = ["-c", "from crossbatch.cli.main import main; main()", "train"]


def launch(arguments, world=2):
    """The same command on every rank; waits, and fails with what the ranks said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", *map(str, arguments)],
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(said)


@pytest.fixture
def config(tmp_path):
    """Four images for each rank; the memory starts on the third step and wraps."""
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
                torch.cat(embeddings),
                torch.cat([batch.codes for _, batch in pair]),
                torch.cat([batch.ids for _, batch in pair]),
            )
        losses = [
            memory_objective(z, b.codes, b.ids, weighting=config.weighting, memory=memory).value
            for z, (_, b) in zip(embeddings, pair, strict=True)
        ]
        for group in trainee.optimizer.param_groups:
            group["lr"] = trainee.learning_rate()
        trainee.optimizer.zero_grad()
        (sum(losses) / 2).backward()
        trainee.optimizer.step()
        trainee.step += 1
    return trainee.state_dict()


def test_two_ranks_are_one_process_with_averaged_gradients(config, tmp_path):
    launch(["-m", "tests.distributed.rank", config, tmp_path])
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    expected = one_process(config)
    for part in ("memory", "network"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), f"{part} {name} differs between ranks"
            torch.testing.assert_close(value, expected[part][name], rtol=1e-4, atol=1e-5)
    for name in ("labels", "ids", "births", "enqueued_rows"):
        assert torch.equal(first["memory"][name], expected["memory"][name])
    assert first["sampler"] == second["sampler"] == expected["sampler"]
    assert first["reports"] != second["reports"]  # their batches are different ones


def test_the_command_line_trains_and_resumes_on_two_ranks(tmp_path):
    manifest, out = blobs.manifest(tmp_path / "blobs.parquet"), tmp_path / "run"
    flags = blobs.options("fine_tune", iterations=9, **{"sampler.classes": 2})
    launch([*TRAIN, manifest, "--out", out, *flags])
    log = (out / "log.jsonl").read_text()
    assert [json.loads(line)["step"] for line in log.splitlines()] == list(range(1, 10))
    assert (out / "encoder" / "model.safetensors").exists()

    config = RunFolder.open(out).read_config()
    write_config(replace(config, iterations=14), out / "config.yaml")
    launch([*TRAIN, "--resume", out])
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 15))
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["step"] == 14
    assert len(state["memory"]["ids"]) == 24

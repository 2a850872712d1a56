"""Killed at any step and resumed equals never stopped, bit for bit."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests import blobs

RUN = [sys.executable, "-W", "ignore", "-c", "from crossbatch.cli.main import main; main()"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def crossbatch(*arguments):
    return subprocess.Popen(
        [*RUN, *map(str, arguments)], env=ONE_THREAD, stdout=subprocess.DEVNULL
    )


def kill_after(process, run, step):
    """SIGKILL as soon as the log has reached a step."""
    log = run / "log.jsonl"
    while process.poll() is None:
        if log.exists() and log.read_text().count("\n") >= step:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


def state(run):
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    return dict(flatten(checkpoint))


def flatten(value, name=""):
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from flatten(item, f"{name}/{key}")
    else:
        yield name, value


@pytest.mark.parametrize(
    ("mode", "iterations", "kills"), [("head", 200, (27, 71)), ("fine_tune", 40, (15,))]
)
def test_killed_and_resumed_equals_uninterrupted(tmp_path, mode, iterations, kills):
    manifest = blobs.manifest(tmp_path / "blobs.parquet")
    flags = blobs.options(mode, **{"encoder.dropout": 0.3, "iterations": iterations})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = crossbatch("train", manifest, "--out", cut, *flags)
    for step in kills:
        kill_after(process, cut, step)
        process = crossbatch("train", "--resume", cut)
    assert process.wait() == 0
    assert crossbatch("train", manifest, "--out", whole, *flags).wait() == 0

    expected, found = state(whole), state(cut)
    assert expected.keys() == found.keys()
    assert "/memory/embeddings" in found
    for name, value in expected.items():
        same = torch.equal(value, found[name]) if torch.is_tensor(value) else value == found[name]
        assert same, name
    for log in ("log.jsonl", "validation.jsonl"):
        strip = lambda run, log=log: [  # noqa: E731
            line.split('"images_per_second"')[0] for line in (run / log).read_text().splitlines()
        ]
        assert strip(whole) == strip(cut)
    tensors = "encoder/model.safetensors"
    assert (whole / tensors).read_bytes() == (cut / tensors).read_bytes()

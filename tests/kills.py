"""Runs that are killed and resumed, and whether they came to what they would have come to."""

import os
import signal
import subprocess
import sys
import time

import torch

RUN = [sys.executable, "-W", "ignore", "-c", "from crossbatch.cli.main import main; main()"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

KINDS = {
    "ring": {"memory.momentum": 0.0},
    "per_image": {"memory.kind": "per_image", "memory": -1},
    "momentum": {"memory.momentum": 0.9},
    "int8": {"memory.dtype": "int8"},
    "normalised": {"memory.normalise": "adaptive", "memory.start_drift": 0.5, "probe": 6},
    "young": {"memory.drift_limit": 0.3, "memory.momentum": 0.0},
    "prism": {"memory.noise": 0.3, "memory.sub_centres": 2},
    "chunks": {"sampler.chunk": 3},
    "sharded": {"memory.kind": "sharded"},
    "filled": {"memory.fill": "pass", "memory.device": "cpu"},
}
"""Every kind of memory, as changes of ``blobs.options``."""


def crossbatch(*arguments):
    return subprocess.Popen(
        [*RUN, *map(str, arguments)], env=ONE_THREAD, stdout=subprocess.DEVNULL
    )


def logged(run):
    """How many steps the log has."""
    log = run / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def kill_after(process, run, step, wait=0.0):
    """SIGKILL as soon as the log has reached a step, and some seconds more."""
    while process.poll() is None:
        if logged(run) >= step:
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


def state(run):
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    return dict(_flatten(checkpoint))


def differences(whole, cut):
    """What two runs differ in: parts of the checkpoint, lines of the logs, the encoder."""
    expected, found = state(whole), state(cut)
    names = set(expected) ^ set(found)
    for name in expected.keys() & found.keys():
        pair = expected[name], found[name]
        same = torch.equal(*pair) if torch.is_tensor(pair[0]) else pair[0] == pair[1]
        names |= set() if same else {name}
    for log in ("log.jsonl", "validation.jsonl", "drift.jsonl", "stages.jsonl"):
        lines = [
            [line.split('"step_seconds"')[0] for line in (run / log).read_text().splitlines()]
            for run in (whole, cut)
            if (run / log).exists()
        ] or [[], []]
        names |= set() if lines[0] == lines[-1] and len(lines) == 2 else {log}
    tensors = "encoder/model.safetensors"
    same = (whole / tensors).read_bytes() == (cut / tensors).read_bytes()
    return sorted(names | (set() if same else {tensors}))


def _flatten(value, name=""):
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _flatten(item, f"{name}/{key}")
    else:
        yield name, value

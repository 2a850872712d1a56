"""Kill a training over and over, at random steps, and compare it with one that was left alone.

    python -m tests.end_to_end.many_kills --kind ring --times 20 [--mode head] [--seed 0]

Each kill comes some random steps after what the log had when the run was resumed, and some random
milliseconds after that, so that it also falls into a checkpoint that is being written. Prints one
line for each kind: equal, or the parts that differ. Exits with 1 if any does.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from crossbatch.cli.train import parse
from crossbatch.training import resume, train
from tests import blobs
from tests.kills import KINDS, differences, kill_after, logged

FURTHER = {"head": (1, 60), "fine_tune": (1, 12)}  # steps of a run between two kills
FORK = multiprocessing.get_context("fork")  # what has been imported need not be again


class Forked:
    """A call in a process of its own, with the face of a Popen."""

    def __init__(self, *arguments):
        self._process = FORK.Process(target=_alone, args=arguments)
        self._process.start()

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self._process.pid, number)


def _alone(call, *arguments):
    torch.set_num_threads(1)
    call(*arguments, quiet=True)


def many_kills(kind, *, mode, times, seed):
    """What became of a run that was killed a number of times."""
    rng, started = random.Random(f"{kind} {seed}"), time.perf_counter()
    low, high = FURTHER[mode]
    iterations = times * high + 50
    with tempfile.TemporaryDirectory() as folder:
        manifest = blobs.manifest(Path(folder) / "blobs.parquet")
        changes = {"encoder.dropout": 0.3, "iterations": iterations, **KINDS[kind]}
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        config = parse([str(manifest), "--out", "", *blobs.options(mode, **changes)])[1]
        process, steps = Forked(train, config, cut), []
        for _ in range(times):
            target = logged(cut) + rng.randint(low, high)
            kill_after(process, cut, target, rng.uniform(0, 0.03))
            steps.append(logged(cut))
            process = Forked(resume, cut)
        assert process.wait() == 0
        assert Forked(train, config, whole).wait() == 0
        parts = differences(whole, cut)
    took = time.perf_counter() - started
    print(f"{kind}, {mode}, {iterations} steps: killed {times} times, at steps {steps}")
    print(f"  UNEQUAL in {parts}" if parts else f"  equal ({took:.0f} s)", flush=True)
    return not parts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--mode", choices=list(FURTHER), default="head")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds = KINDS if options.kind == "all" else [options.kind]
    settings = {"mode": options.mode, "times": options.times, "seed": options.seed}
    equal = [many_kills(kind, **settings) for kind in kinds]
    sys.exit(not all(equal))


if __name__ == "__main__":
    main()

"""One rank of a training: takes some steps and saves its state, for a test to look at."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from crossbatch.data import Manifest
from crossbatch.training import Trainee, read_config, steps


def trainee_of(path, *, kind, **changes):
    config = read_config(Path(path))
    config = replace(config, memory=replace(config.memory, kind=kind), **changes)
    return Trainee(config, Manifest.read(config.manifest))


def both(path, out, saved, more):
    """With each kind of memory: from the beginning, and on from what one process has saved."""
    one = torch.load(saved, weights_only=True)
    for kind in ("ring", "sharded"):
        trainee = trainee_of(path, kind=kind)
        reports = [report._asdict() for report in steps(trainee)]
        rank = trainee.accelerator.process_index
        state = {"reports": reports, **trainee.state_dict()}

        trainee = trainee_of(path, kind=kind, iterations=int(more))
        trainee.load_state_dict(one)
        state["loaded"] = {n: x.clone() for n, x in trainee.state_dict()["memory"].items()}
        state["resumed"] = [report._asdict() for report in steps(trainee)]
        torch.save(state, Path(out) / f"{kind}{rank}.pt")
    # The reducer of DDP must not be the last to hold the process group: its destructor keeps the
    # GIL while it waits for gloo's thread, which may want the GIL to let a tensor go.
    accelerator = trainee.accelerator
    del trainee
    accelerator.free_memory()
    accelerator.end_training()


def leaves(path, out, how, timeout):
    """The last rank is gone after some steps: dead, or alive and silent."""
    trainee = trainee_of(path, kind="sharded", rank_timeout=float(timeout))
    rank, world = trainee.accelerator.process_index, trainee.accelerator.num_processes
    for report in steps(trainee):
        if report.step == 4 and rank == world - 1:
            (Path(out) / "gone").write_text(str(time.time()))
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"both": both, "leaves": leaves}[sys.argv[1]](*sys.argv[2:])

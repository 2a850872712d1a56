"""One rank of a training: takes some steps and saves its state, for a test to look at."""

import sys
from pathlib import Path

import torch

from crossbatch.data import Manifest
from crossbatch.training import Trainee, read_config, steps


def main(config_path, out):
    torch.set_num_threads(1)
    config = read_config(Path(config_path))
    trainee = Trainee(config, Manifest.read(config.manifest))
    reports = [report._asdict() for report in steps(trainee)]
    rank = trainee.accelerator.process_index
    torch.save({"reports": reports, **trainee.state_dict()}, Path(out) / f"rank{rank}.pt")
    trainee.accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])

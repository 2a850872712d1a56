"""Training: a typed config, a generator of steps, a run folder that can always be resumed."""

from crossbatch.training.card import model_card
from crossbatch.training.code import known_weightings, parse_plan, parse_weighting
from crossbatch.training.config import (
    ClassificationConfig,
    MemoryConfig,
    OptimizerConfig,
    SamplerConfig,
    TrainConfig,
    ValidationConfig,
    read_config,
    read_plan,
    write_config,
)
from crossbatch.training.run import RunFolder
from crossbatch.training.splits import Split, load_split
from crossbatch.training.steps import StepReport, steps
from crossbatch.training.train import resume, train
from crossbatch.training.trainee import Trainee

__all__ = [
    "ClassificationConfig",
    "MemoryConfig",
    "OptimizerConfig",
    "RunFolder",
    "SamplerConfig",
    "Split",
    "StepReport",
    "TrainConfig",
    "Trainee",
    "ValidationConfig",
    "known_weightings",
    "load_split",
    "model_card",
    "parse_plan",
    "parse_weighting",
    "read_config",
    "read_plan",
    "resume",
    "steps",
    "train",
    "write_config",
]

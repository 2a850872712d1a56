"""Training: a typed config, a generator of steps, a run folder that can always be resumed."""

from crossbatch.training.code import parse_weighting
from crossbatch.training.config import (
    MemoryConfig,
    OptimizerConfig,
    SamplerConfig,
    TrainConfig,
    ValidationConfig,
    read_config,
    write_config,
)
from crossbatch.training.run import RunFolder
from crossbatch.training.steps import StepReport, Trainee, steps
from crossbatch.training.train import resume, train

__all__ = [
    "MemoryConfig",
    "OptimizerConfig",
    "RunFolder",
    "SamplerConfig",
    "StepReport",
    "TrainConfig",
    "Trainee",
    "ValidationConfig",
    "parse_weighting",
    "read_config",
    "resume",
    "steps",
    "train",
    "write_config",
]

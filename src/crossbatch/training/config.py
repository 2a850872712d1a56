"""What a training run is: typed, frozen, complete. The config is the object.

A run is a :class:`TrainConfig`. It prints as code, goes to YAML and comes back equal, and any
field can be set from the command line by its dotted name (``--optimizer.lr 1e-4``). A key that is
not known is an error that names the nearest valid one.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import (
    Annotated,
    Literal,
)

import tyro
import yaml

from crossbatch._check import check_above
from crossbatch._files import write_beside
from crossbatch.curriculum.plan import Plan
from crossbatch.engine import Objective, Reduction
from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.models import EncoderConfig
from crossbatch.training.values import convert, from_mapping, to_mapping
from crossbatch.weighting import Contrastive, PairWeighting


@dataclass(frozen=True)
class SamplerConfig:
    """What a batch is made of."""

    classes: int = 16
    """Classes in a batch."""
    instances: int = 4
    """Images of each class."""
    batch: int = 0
    """Images in a batch for classification; 0 takes classes × instances."""
    chunk: int = 0
    """Images embedded at a time, 0 embeds the batch at once; the gradient of the whole batch is
    exact in two passes."""


@dataclass(frozen=True)
class MemoryConfig:
    """The memory of past embeddings."""

    capacity: Annotated[int, tyro.conf.arg(aliases=("--memory",))] = 0
    """Rows to keep; 0 trains without a memory, -1 keeps as many as there are training images."""
    start: int = 1000
    """Iterations before the memory starts, while the embedding still moves fast."""
    start_drift: float = 0.0
    """Start earlier, once stored rows have drifted by less than this d²; 0 waits for `start`."""
    fill: Literal["empty", "warm_up", "pass"] = "empty"
    """Begin empty, with the batches of the warm-up, or with a pass over random training images."""
    drift_limit: float = 0.0
    """Show the loss only rows up to the age at which they have drifted by this d², as measured
    along the run; 0 shows all."""
    proportion: float = 1.0
    """Keep the memory's gradient at this proportion of the batch's; 0 takes `weight` instead."""
    weight: float = 1.0
    """Of the memory's loss, where no proportion sets it or there is no loss of the batch."""
    normalise: Literal["none", "batch", "adaptive"] = "none"
    """Give stored rows the moments of the batch (XBN), or of a running estimate."""
    objective: Objective = "batch_and_memory"
    """Batch loss + weight · memory loss (released code), or the memory's loss alone (paper)."""
    kind: Literal["ring", "per_image", "sharded"] = "ring"
    """The last rows, first in, first out, on every rank; one row per image, the newest; or the
    last rows spread over the ranks."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Of the stored rows."""
    device: Literal["network", "cpu"] = "network"
    """Where the rows are: beside the network, or in the CPU's memory, copied for every loss."""
    momentum: float = 0.99
    """Of a second network that follows the first and whose embeddings are stored; 0 has none."""
    noise: float = 0.0
    """Share of labels that are thought wrong: PRISM leaves out as many images, those whose labels
    the memory believes least, right or wrong; 0 believes all."""
    sub_centres: int = 1
    """Means of a class that PRISM compares with; more than one for classes of several looks."""
    momentum_schedule: Literal["constant", "cosine"] = "constant"
    """Keep the momentum, or let it rise to 1 along the run."""


@dataclass(frozen=True)
class ClassificationConfig:
    """What classification trains with."""

    label_smoothing: float = 0.0
    """The part of a label that is spread over all classes, in [0, 1)."""
    mixup: float = 0.0
    """α of Beta(α, α), by which images of a batch are mixed in pairs; 0 mixes none."""
    rand_augment: int = 0
    """Operations of RandAugment on each image, of magnitude 9; 0 has none."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a cosine schedule from `lr` to zero."""

    lr: float = 1e-4
    """Learning rate at its highest."""
    weight_decay: float = 5e-4
    """Decoupled."""
    warmup: int = 0
    """Iterations over which the learning rate rises from zero."""


@dataclass(frozen=True)
class ValidationConfig:
    """Classes taken out of training that pick the best checkpoint. Test classes never do."""

    fraction: float = 0.1
    """Of the training classes (two at least, of four or more), where the manifest has no split
    `validation`. 0 keeps the last checkpoint."""
    every: int = 500
    """Iterations between validations."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run from its manifest to its seed."""

    manifest: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MANIFEST")]]
    """The Parquet manifest; its split `train` is trained on."""
    mode: Literal["fine_tune", "head"] = "fine_tune"
    """Train the whole trunk, or a head on features that the frozen trunk gives once."""
    task: Literal["retrieval", "classification"] = "retrieval"
    """Embeddings whose neighbours are of their class, or the class itself."""
    weighting: PairWeighting = field(default_factory=Contrastive)
    """The pair weighting, as code: contrastive, or 'MultiSimilarity(alpha=2.0)'."""
    reduction: Reduction = "sum_per_anchor"
    """Of pairs to a loss."""
    classification: ClassificationConfig = ClassificationConfig()
    """The loss of `task` classification."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The network."""
    sampler: SamplerConfig = SamplerConfig()
    """The batches."""
    memory: MemoryConfig = MemoryConfig()
    """The memory."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The descent."""
    validation: ValidationConfig = ValidationConfig()
    """The choice of the best checkpoint."""
    plan: Plan | None = None
    """Stages over subsets of clean and noisy images: a file of a plan, or curriculumnet,
    two_stages, clean_only, all_at_once, or a plan as code."""
    iterations: int = 35_000
    """Optimizer steps; where every stage of a plan has its own, their sum instead."""
    ema: float = 0.0
    """Of a moving average of the weights, which is what is validated and saved; 0 has none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the network; the loss is always taken in float32."""
    workers: int = 2
    """Processes that decode images."""
    cache: str | None = None
    """A folder that `crossbatch pack` made, from which `fine_tune` reads the images."""
    save_every: int = 500
    """Iterations between checkpoints, the most that a crash can cost."""
    log_every: int = 10
    """Iterations between two lines of the log."""
    rank_timeout: float = 1800.0
    """Seconds that ranks wait for another before they end with an error; more than the first needs
    for features or a validation."""
    probe: int = 0
    """Training images embedded every ten iterations to measure drift over 10, 100 and 1,000."""
    seed: int = 0
    """Of initial weights, batches, augmentation, dropout."""

    def __post_init__(self) -> None:
        positive = {
            "iterations": self.iterations,
            "save_every": self.save_every,
            "log_every": self.log_every,
            "validation.every": self.validation.every,
            "sampler.classes": self.sampler.classes,
            "sampler.instances": self.sampler.instances,
        }
        for name, value in positive.items():
            if value < 1:
                raise CrossbatchError(expected(f"`{name}` ≥ 1", value, "Choose a whole number."))
        _check_memory(self.memory)
        check_above(self.rank_timeout, 0.0, name="rank_timeout", where="TrainConfig")
        if min(self.sampler.chunk, self.sampler.batch, self.probe) < 0:
            raise CrossbatchError(
                expected(
                    "`sampler.chunk` ≥ 0 and `sampler.batch`, `probe` ≥ 0",
                    f"{self.sampler.chunk}, {self.sampler.batch} and {self.probe}",
                    "0 embeds the batch at once, and probes nothing.",
                )
            )
        if not 0 <= self.validation.fraction < 1:
            raise CrossbatchError(
                expected(
                    "`validation.fraction` in [0, 1)",
                    self.validation.fraction,
                    "0.1 holds out a tenth of the training classes; 0 keeps the last checkpoint.",
                )
            )
        _check_task(self)


def _check_memory(memory: MemoryConfig) -> None:
    if memory.capacity < -1 or memory.start < 0:
        raise CrossbatchError(
            expected(
                "`memory.capacity` ≥ -1 and `memory.start` ≥ 0",
                f"{memory.capacity} and {memory.start}",
                "0 trains without a memory, -1 makes it as large as the training set.",
            )
        )
    if not 0 <= memory.momentum < 1:
        remedy = "0.99 follows within a hundred steps; 0 stores what the trained network says."
        raise CrossbatchError(expected("`memory.momentum` in [0, 1)", memory.momentum, remedy))
    if min(memory.proportion, memory.start_drift) < 0:
        raise CrossbatchError(
            expected(
                "`memory.proportion` ≥ 0 and `memory.start_drift` ≥ 0",
                f"{memory.proportion} and {memory.start_drift}",
                "0 leaves the weight and the start as they are set.",
            )
        )
    if not 0 <= memory.noise < 1 or memory.sub_centres < 1:
        raise CrossbatchError(
            expected(
                "`memory.noise` in [0, 1) and `memory.sub_centres` ≥ 1",
                f"{memory.noise} and {memory.sub_centres}",
                "0.2 leaves a fifth of the images out; 0 believes all labels.",
            )
        )
    if (memory.noise and not memory.capacity) or (memory.sub_centres > 1 and not memory.noise):
        raise CrossbatchError(
            expected(
                "a memory with `memory.noise`, and `memory.noise` with `memory.sub_centres`",
                f"--memory {memory.capacity} --memory.noise {memory.noise} "
                f"--memory.sub-centres {memory.sub_centres}",
                "PRISM asks the memory which labels to believe: --memory -1 --memory.noise 0.2.",
            )
        )
    if not 0 <= memory.drift_limit < 2:
        remedy = "Unrelated rows are at d² = 2; 0 shows rows of every age."
        raise CrossbatchError(
            expected("`memory.drift_limit` in [0, 2)", memory.drift_limit, remedy)
        )


def _check_task(config: TrainConfig) -> None:
    """Refuse what the task would leave unused."""
    options, ours = config.classification, config.task == "classification"
    if not 0 <= config.ema < 1:
        remedy = "0.999 averages over the last thousand steps; 0 saves the weights themselves."
        raise CrossbatchError(expected("`ema` in [0, 1)", config.ema, remedy))
    if not 0 <= options.label_smoothing < 1 or min(options.mixup, options.rand_augment) < 0:
        remedy = "0.1, 0.2 and 2 are usual; 0 leaves each of them out."
        wanted = "`label_smoothing` in [0, 1), `mixup` ≥ 0 and `rand_augment` ≥ 0"
        raise CrossbatchError(expected(wanted, options, remedy))
    if ours and (config.memory != MemoryConfig() or config.probe):
        raise CrossbatchError(
            expected(
                "no options of the memory, and no probe, with `task` classification",
                f"{config.memory} and probe {config.probe}",
                "A memory holds embeddings to compare with: --task retrieval.",
            )
        )
    if ours and (config.weighting != Contrastive() or config.reduction != "sum_per_anchor"):
        raise CrossbatchError(
            expected(
                "no weighting of pairs with `task` classification",
                f"{config.weighting}, {config.reduction}",
                "Its loss is the cross-entropy: leave them out.",
            )
        )
    if not ours and (options != ClassificationConfig() or config.sampler.batch):
        raise CrossbatchError(
            expected(
                "no options of classification with `task` retrieval",
                f"{options} and sampler.batch {config.sampler.batch}",
                "Add --task classification, or leave them out; a batch of retrieval is "
                "--sampler.classes × --sampler.instances.",
            )
        )
    if options.rand_augment and config.mode == "head":
        remedy = "Features are extracted once: --mode fine_tune."
        raise CrossbatchError(
            expected("no `rand_augment` with `mode` head", options.rand_augment, remedy)
        )


def read_config(path: Path) -> TrainConfig:
    """Read a config from YAML.

    Raises:
        FormatError: No such file, no YAML, an unknown key, a value of another type.
    """
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        remedy = "See the config.yaml of any run."
        raise FormatError(expected(f"a YAML config at {path}", error, remedy)) from error
    if not isinstance(mapping, dict) or "manifest" not in mapping:
        remedy = "Begin with a line `manifest: photos.parquet`."
        raise FormatError(expected(f"a YAML mapping with `manifest` at {path}", mapping, remedy))
    return from_mapping(TrainConfig, mapping)


def read_plan(path: Path) -> Plan:
    """Read a plan from YAML: ``stages``, a list of mappings with the fields of a stage.

    Raises:
        FormatError: No such file, no YAML, an unknown key, a value of another type.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        remedy = "See `plan` in the config.yaml of a run with one."
        raise FormatError(expected(f"a YAML plan at {path}", error, remedy)) from error
    return convert(Plan, found, where="plan")


def write_config(config: TrainConfig, path: Path) -> None:
    """Write a config as YAML."""
    text = yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)
    write_beside(path, lambda part: part.write_text(text, encoding="utf-8"))


def with_capacity(config: TrainConfig, images: int) -> TrainConfig:
    """A memory of -1 rows made as large as the training set."""
    if config.memory.capacity >= 0:
        return config
    return replace(config, memory=replace(config.memory, capacity=images))

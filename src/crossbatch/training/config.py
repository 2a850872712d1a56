"""What a training run is: typed, frozen, complete. The config is the object.

A run is a :class:`TrainConfig`. It prints as code, goes to YAML and comes back equal, and any
field can be set from the command line by its dotted name (``--optimizer.lr 1e-4``). A key that is
not known is an error that names the nearest valid one.
"""

import contextlib
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro
import yaml

from crossbatch._check import check_above
from crossbatch._files import write_beside
from crossbatch.curriculum.plan import Plan
from crossbatch.engine import Objective, Reduction
from crossbatch.errors import CrossbatchError, FormatError, expected, nearest
from crossbatch.models import EncoderConfig
from crossbatch.training.code import parse_plan, parse_weighting
from crossbatch.weighting import Contrastive, PairWeighting

T = TypeVar("T")


@dataclass(frozen=True)
class SamplerConfig:
    """What a batch is made of."""

    classes: int = 16
    """Classes in a batch."""
    instances: int = 4
    """Images of each class."""
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
    """Share of labels that are thought wrong: PRISM leaves out the images whose labels the memory
    believes least; 0 believes all."""
    sub_centres: int = 1
    """Means of a class that PRISM compares with."""
    momentum_schedule: Literal["constant", "cosine"] = "constant"
    """Keep the momentum, or let it rise to 1 along the run."""


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
    weighting: PairWeighting = field(default_factory=Contrastive)
    """The pair weighting, as code: contrastive, or 'MultiSimilarity(alpha=2.0)'."""
    reduction: Reduction = "sum_per_anchor"
    """Of pairs to a loss."""
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
        if self.memory.capacity < -1 or self.memory.start < 0:
            raise CrossbatchError(
                expected(
                    "`memory.capacity` ≥ -1 and `memory.start` ≥ 0",
                    f"{self.memory.capacity} and {self.memory.start}",
                    "0 trains without a memory, -1 makes it as large as the training set.",
                )
            )
        if not 0 <= self.memory.momentum < 1:
            remedy = "0.99 follows within a hundred steps; 0 stores what the trained network says."
            raise CrossbatchError(
                expected("`memory.momentum` in [0, 1)", self.memory.momentum, remedy)
            )
        if min(self.memory.proportion, self.memory.start_drift) < 0:
            raise CrossbatchError(
                expected(
                    "`memory.proportion` ≥ 0 and `memory.start_drift` ≥ 0",
                    f"{self.memory.proportion} and {self.memory.start_drift}",
                    "0 leaves the weight and the start as they are set.",
                )
            )
        if not 0 <= self.memory.noise < 1 or self.memory.sub_centres < 1:
            raise CrossbatchError(
                expected(
                    "`memory.noise` in [0, 1) and `memory.sub_centres` ≥ 1",
                    f"{self.memory.noise} and {self.memory.sub_centres}",
                    "0.2 leaves a fifth of the images out; 0 believes all labels.",
                )
            )
        if not 0 <= self.memory.drift_limit < 2:
            remedy = "Unrelated rows are at d² = 2; 0 shows rows of every age."
            raise CrossbatchError(
                expected("`memory.drift_limit` in [0, 2)", self.memory.drift_limit, remedy)
            )
        check_above(self.rank_timeout, 0.0, name="rank_timeout", where="TrainConfig")
        if min(self.sampler.chunk, self.probe) < 0:
            raise CrossbatchError(
                expected(
                    "`sampler.chunk` ≥ 0 and `probe` ≥ 0",
                    f"{self.sampler.chunk} and {self.probe}",
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


def to_mapping(config: Any) -> dict[str, Any]:
    """A config as nested plain values, a weighting as its code."""
    result: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if isinstance(value, PairWeighting):
            value = repr(value)
        result[f.name] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(element) for element in cast(tuple[Any, ...], value)]
    return to_mapping(value) if is_dataclass(value) else value


def from_mapping(kind: type[T], mapping: dict[str, Any], *, where: str = "") -> T:
    """The inverse of :func:`to_mapping`; missing keys take their defaults.

    Raises:
        FormatError: An unknown key (the nearest valid one is named) or a value of another type.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in hints:
            what = f"a key of {where or kind.__name__}"
            raise FormatError(expected(what, f"`{key}`", nearest(str(key), hints)))
        values[key] = _convert(hints[key], value, where=f"{where}.{key}" if where else key)
    return kind(**values)


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
    return _convert(Plan, found, where="plan")


def write_config(config: TrainConfig, path: Path) -> None:
    """Write a config as YAML."""
    text = yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)
    write_beside(path, lambda part: part.write_text(text, encoding="utf-8"))


def with_capacity(config: TrainConfig, images: int) -> TrainConfig:
    """A memory of -1 rows made as large as the training set."""
    if config.memory.capacity >= 0:
        return config
    return replace(config, memory=replace(config.memory, capacity=images))


def _convert(hint: Any, value: Any, *, where: str) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        return _convert(get_args(hint)[0], value, where=where)
    if origin is Literal:
        if value in get_args(hint):
            return value
        remedy = nearest(str(value), map(str, get_args(hint)))
        raise FormatError(expected(f"a known value of `{where}`", repr(value), remedy))
    if origin in (Union, UnionType):
        if value is None and NoneType in get_args(hint):
            return None
        return _convert(next(a for a in get_args(hint) if a is not NoneType), value, where=where)
    if hint is PairWeighting:
        return parse_weighting(str(value))
    if hint is Plan and isinstance(value, str):
        return parse_plan(value)
    if origin is tuple and isinstance(value, list | tuple):
        kind, values = get_args(hint)[0], cast(list[Any], value)
        return tuple(_convert(kind, v, where=f"{where}[{i}]") for i, v in enumerate(values))
    if is_dataclass(hint) and isinstance(value, dict):
        return from_mapping(cast(type[Any], hint), value, where=where)
    return _convert_plain(hint, value, where=where)


def _convert_plain(hint: Any, value: Any, *, where: str) -> Any:
    if get_origin(hint) is tuple:
        raise FormatError(expected(f"`{where}` as a list", repr(value), "Correct the config."))
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    if hint is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)  # YAML reads 1e-4 as text
    raise FormatError(
        expected(f"`{where}` of type {hint.__name__}", repr(value), "Correct the config.")
    )

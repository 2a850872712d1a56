r"""Training as a generator: one report per optimizer step, and no callbacks.

    z_t = f(x_t; θ_t)
    t > t₀:  memory ← enqueue(z_t)                       (before the loss, as in the paper)
    L_t = L(z_t, z_t) + w · L(z_t, memory)               (or the memory's loss alone)
    θ_{t+1} ← AdamW(θ_t, ∂L_t/∂θ),   η_t = η · cosine(t)

The gradient is taken at once, or chunk by chunk (:mod:`crossbatch.engine.chunks`).

Whoever drives the generator logs, validates and saves between two steps, in plain sight. All
state is in a :class:`Trainee`; saved and loaded, it goes on bit for bit (on a CPU).

With several ranks each takes its share of the batches, and every memory receives all of them, or
one memory is spread over the ranks: anchors are local, references are global, the gradient is
averaged.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from crossbatch.data import Manifest, PKSampler, hold_out
from crossbatch.engine import ObjectiveResult, chunked_backward, combined, pair_loss
from crossbatch.errors import CrossbatchError, TrainingError, expected
from crossbatch.memory import Drift, MomentumKeys, ShardedMemory
from crossbatch.models import Encoder
from crossbatch.training.config import TrainConfig, with_capacity
from crossbatch.training.material import CachedFeatures, Images, Material, feature_table
from crossbatch.training.memories import make_memory
from crossbatch.training.stopwatch import Stopwatch


class StepReport(NamedTuple):
    """What one step did. Losses are of the batch before the step; counts are of pairs.

    ``drift`` is the mean d² of the batch's images since their rows were stored, ``drift_age`` how
    many batches ago that was on average; None while the memory holds none of them.
    ``step_seconds`` is the time of the step, waiting for its batch included; ``memory_share`` the
    part of it that went to enqueuing and to the loss beside the memory, None without that.
    """

    step: int
    loss: float
    loss_batch: float | None
    loss_memory: float | None
    active_positives_batch: int
    active_negatives_batch: int
    active_positives_memory: int
    active_negatives_memory: int
    memory_size: int
    drift: float | None
    drift_age: float | None
    learning_rate: float
    step_seconds: float
    memory_share: float | None


@dataclass(frozen=True)
class Classes:
    """The images of some classes: their ids and class codes, and their rows in the material."""

    rows: np.ndarray
    ids: Tensor
    codes: Tensor


class Trainee:
    """All state of a training: network, optimizer, memory, place in the stream, generators.

    Args:
        config: The run.
        manifest: Its manifest. Images of the split `train` are trained on; where it has no split
            `validation`, a part of the training classes is held out as one.

    Raises:
        CrossbatchError: Fewer than two training classes, or fewer images than a batch.
    """

    def __init__(self, config: TrainConfig, manifest: Manifest) -> None:
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            cpu=not torch.accelerator.is_available(),  # else it would not see ranks on CPUs
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=config.rank_timeout))
            ],
        )
        _seed(config.seed + self.accelerator.process_index)
        manifest = _with_validation(manifest, config)
        self.training = _classes(manifest, "train")
        self.validation = _classes(manifest, "validation")
        if not len(self.training.rows):
            raise CrossbatchError(
                expected(
                    "training images in the manifest",
                    f"none in split `train` of {config.manifest}",
                    "Make a manifest whose split `train` has at least two classes.",
                )
            )
        self.config = with_capacity(config, len(self.training.rows))
        self._feed, self._place = self._sampler(), self._sampler()
        torch.manual_seed(config.seed)  # the same weights on every rank
        self.encoder = Encoder(config.encoder)
        self.material = self._material(manifest)
        torch.manual_seed(config.seed + self.accelerator.process_index)
        trained = [p for p in self.material.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
        )
        self.keys = self._keys()
        self.network, self.optimizer = self.accelerator.prepare(self.material.network, optimizer)
        size = {"dim": config.encoder.dim, "images": len(self.training.rows)}
        memory = make_memory(self.config.memory, **size)
        self.memory = None if memory is None else memory.to(self.accelerator.device)
        self.step = 0
        self.best: tuple[int, float] | None = None

    def batches(self) -> Iterator[tuple[Tensor, Classes]]:
        """Inputs, codes and ids from the current place in the stream on."""
        device = self.accelerator.device
        self._feed.load_state_dict(self._place.state_dict())
        for inputs, local in self.material.batches(self._feed, self.step):
            self._place.skip(self.accelerator.num_processes)
            chosen = Classes(local, self.training.ids[local], self.training.codes[local])
            yield inputs.to(device, non_blocking=True), chosen

    def learning_rate(self) -> float:
        """η of the next step: a linear rise, then a cosine to zero."""
        o, total = self.config.optimizer, self.config.iterations
        if self.step < o.warmup:
            return o.lr * (self.step + 1) / o.warmup
        done = (self.step - o.warmup) / max(total - o.warmup, 1)
        return o.lr * 0.5 * (1 + math.cos(math.pi * done))

    @torch.inference_mode()
    def embed(self, rows: np.ndarray) -> Tensor:
        """Embeddings of rows of the manifest without augmentation, in evaluation mode."""
        network = self.accelerator.unwrap_model(self.network)  # other ranks may not take part
        network.eval()
        parts = [
            network(x.to(self.accelerator.device)).float().cpu()
            for x in self.material.inputs(rows)
        ]
        network.train()
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; a sharded memory is gathered by all ranks."""
        network = self.accelerator.unwrap_model(self.network)
        return {
            "step": self.step,
            "best": self.best,
            "network": network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "memory": None if self.memory is None else self.memory.state_dict(),
            "keys": None if self.keys is None else self.keys.state_dict(),
            "sampler": self._place.state_dict(),
            "generators": _generators(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.step = state["step"]
        self.best = None if state["best"] is None else tuple(state["best"])
        self.accelerator.unwrap_model(self.network).load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
        if self.keys is not None:
            self.keys.load_state_dict(state["keys"])
        self._place.load_state_dict(state["sampler"])
        if self.accelerator.num_processes == 1:
            _set_generators(state["generators"])
        else:  # they are those of one rank, and ranks must not draw alike
            _seed(self.config.seed + self.accelerator.process_index + self.step)

    def _sampler(self) -> PKSampler:
        return PKSampler(
            self.training.codes.numpy(),
            classes=self.config.sampler.classes,
            instances=self.config.sampler.instances,
            seed=self.config.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    def _keys(self) -> MomentumKeys | None:
        """The second network; made before the first is wrapped for ranks and precision."""
        if not self.config.memory.momentum:
            return None
        network = self.material.network.to(self.accelerator.device)
        return MomentumKeys(network, self.config.memory.momentum)

    def _material(self, manifest: Manifest) -> Material:
        if self.config.mode == "fine_tune":
            return Images(self.encoder, manifest, self.training.rows, self.config)
        with self.accelerator.main_process_first():
            table = feature_table(self.encoder, manifest, self.config)
        return CachedFeatures(self.encoder, table, manifest, self.training.rows)


def steps(trainee: Trainee) -> Iterator[StepReport]:
    """Train, one step per item, from where the trainee stands to the end of its run.

    Raises:
        TrainingError: An embedding is not finite any more.
    """
    config = trainee.config
    trainee.network.train()
    batches = trainee.batches()
    while trainee.step < config.iterations:
        watch = Stopwatch(trainee.accelerator.device)
        with watch.part("step"):
            inputs, batch = next(batches)
            rate = trainee.learning_rate()
            for group in trainee.optimizer.param_groups:
                group["lr"] = rate
            trainee.optimizer.zero_grad()
            try:
                result, drift = _backward(trainee, inputs, batch, watch)
            except CrossbatchError as error:
                raise TrainingError(f"Step {trainee.step + 1}: {error}") from error
            trainee.optimizer.step()
            if trainee.keys is not None:
                trainee.keys.follow(trainee.accelerator.unwrap_model(trainee.network))
        trainee.step += 1
        yield _report(trainee, result, drift, rate, watch)


def _backward(
    trainee: Trainee, inputs: Tensor, batch: Classes, watch: Stopwatch
) -> tuple[ObjectiveResult, Drift | None]:
    """The losses of a batch; their gradient is left in the parameters."""
    taken: list[tuple[ObjectiveResult, Drift | None]] = []

    def loss(embeddings: Tensor) -> Tensor:
        drift = _drift(trainee, embeddings, batch)
        stored = _stored(trainee, embeddings, inputs)
        result = _objective(trainee, embeddings.float(), batch, stored, watch)
        taken.append((result, drift))
        return result.value

    if trainee.config.sampler.chunk:
        chunked_backward(trainee.network, inputs, loss, rows=trainee.config.sampler.chunk)
    else:
        trainee.accelerator.backward(loss(trainee.network(inputs)))
    return taken[0]


def _drift(trainee: Trainee, embeddings: Tensor, batch: Classes) -> Drift | None:
    if trainee.memory is None or not len(trainee.memory):
        return None
    return trainee.memory.drift(embeddings, batch.ids.to(embeddings.device))


def _stored(trainee: Trainee, embeddings: Tensor, inputs: Tensor) -> Tensor:
    """What the memory takes of a batch: its embeddings, or those of the momentum keys."""
    if trainee.keys is None or trainee.step < trainee.config.memory.start:
        return embeddings.detach().float()
    with trainee.accelerator.autocast():
        return trainee.keys(inputs).float()


def _objective(
    trainee: Trainee, embeddings: Tensor, batch: Classes, stored: Tensor, watch: Stopwatch
) -> ObjectiveResult:
    config, memory = trainee.config, trainee.memory
    device = embeddings.device
    codes, ids = batch.codes.to(device), batch.ids.to(device)
    take = partial(
        pair_loss,
        embeddings,
        codes,
        ids=ids,
        weighting=config.weighting.at(trainee.step),
        reduction=config.reduction,
    )
    if memory is None or trainee.step < config.memory.start:
        return combined(take(), None)
    alone = None if config.memory.objective == "memory_alone" else take()
    with watch.part("memory"):
        if isinstance(memory, ShardedMemory):
            memory.enqueue(stored, codes, ids)
        else:
            gather = cast(Callable[[Tensor], Tensor], trainee.accelerator.gather)
            memory.enqueue(gather(stored), gather(codes), gather(ids))
        return combined(alone, take(references=memory), memory_weight=config.memory.weight)


def _report(
    trainee: Trainee,
    result: ObjectiveResult,
    drift: Drift | None,
    rate: float,
    watch: Stopwatch,
) -> StepReport:
    batch, memory = result.batch, result.memory
    held = drift is not None and len(drift.ages) > 0
    return StepReport(
        step=trainee.step,
        loss=result.value.item(),
        loss_batch=None if batch is None else batch.value.item(),
        loss_memory=None if memory is None else memory.value.item(),
        active_positives_batch=0 if batch is None else int(batch.active_positives.sum()),
        active_negatives_batch=0 if batch is None else int(batch.active_negatives.sum()),
        active_positives_memory=0 if memory is None else int(memory.active_positives.sum()),
        active_negatives_memory=0 if memory is None else int(memory.active_negatives.sum()),
        memory_size=0 if trainee.memory is None else len(trainee.memory),
        drift=drift.squared.mean().item() if drift is not None and held else None,
        drift_age=drift.ages.float().mean().item() if drift is not None and held else None,
        learning_rate=rate,
        step_seconds=watch.seconds("step"),
        memory_share=None if memory is None else watch.seconds("memory") / watch.seconds("step"),
    )


def _with_validation(manifest: Manifest, config: TrainConfig) -> Manifest:
    """Hold out at least two training classes, where there are four or more."""
    splits = manifest.column("split")
    classes = len(set(manifest.codes[splits == "train"]))
    if not config.validation.fraction or "validation" in set(splits) or classes < 4:
        return manifest
    fraction = max(config.validation.fraction, 2 / classes)
    return hold_out(manifest, split="validation", fraction=fraction, seed=config.seed)


def _classes(manifest: Manifest, split: str) -> Classes:
    rows = np.flatnonzero(manifest.column("split") == split)
    return Classes(
        rows, torch.from_numpy(manifest.ids[rows]), torch.from_numpy(manifest.codes[rows])
    )


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (for libraries that use it)
    torch.manual_seed(seed)


def _generators() -> dict[str, Any]:
    """The state of every global generator, in types that a safe checkpoint can hold."""
    _, keys, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            torch.from_numpy(np.array(keys, np.int64)),
            int(place),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(internal), gauss_next],
    }


def _set_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))

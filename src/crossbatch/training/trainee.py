"""All state of a training, in one object that is saved and loaded."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from crossbatch.collective import Ranks
from crossbatch.data import Manifest, Sampler
from crossbatch.errors import CrossbatchError, expected
from crossbatch.memory import (
    AgeLimit,
    CrossBatchNormalisation,
    MomentumKeys,
    Prism,
    ShardedMemory,
)
from crossbatch.models import Encoder
from crossbatch.training.batch import Classes
from crossbatch.training.config import TrainConfig, with_capacity
from crossbatch.training.course import Course, Ranker, default_ranker
from crossbatch.training.generators import generators, seed_all, set_generators
from crossbatch.training.material import CachedFeatures, Images, Material, feature_table
from crossbatch.training.memories import make_memory
from crossbatch.training.tasks import make_task
from crossbatch.training.warm_up import WarmUp

ADAPTIVE_NOISE = 0.01  # of the running moments; they remember some ten batches


class Trainee:
    """All state of a training: network, optimizer, memory, place in the stream, generators.

    Args:
        config: The run.
        manifest: Its manifest. Images of the split `train` are trained on; where it has no split
            `validation`, a part of the training classes is held out as one.
        ranker: Ranks the training images again where a stage of the plan asks for it; by default
            :class:`crossbatch.DensityRanker`.

    Raises:
        CrossbatchError: Fewer than two training classes, or fewer images than a batch; a plan
            without the subsets that it needs.
    """

    def __init__(
        self, config: TrainConfig, manifest: Manifest, *, ranker: Ranker | None = None
    ) -> None:
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            cpu=not torch.accelerator.is_available(),  # else it would not see ranks on CPUs
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=config.rank_timeout))
            ],
        )
        self.ranks = Ranks.here()
        seed_all(config.seed + self.accelerator.process_index)
        self.task = make_task(config, manifest)
        manifest = self.task.manifest
        self.training = _classes(manifest, "train", self.task.codes)
        self.validation = _classes(manifest, "validation", self.task.codes)
        if not len(self.training.rows):
            raise CrossbatchError(
                expected(
                    "training images in the manifest",
                    f"none in split `train` of {config.manifest}",
                    "Make a manifest whose split `train` has at least two classes.",
                )
            )
        config = replace(config, encoder=self.task.encoder(config.encoder))
        self.config = with_capacity(config, len(self.training.rows))
        self.ranker = ranker
        self.course = self._course()
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
        self.average = self._copy(config.ema) if config.ema else None
        self.network, self.optimizer = self.accelerator.prepare(self.material.network, optimizer)
        size = {"dim": config.encoder.dim, "images": len(self.training.rows)}
        memory = make_memory(self.config.memory, **size)
        self.memory = None if memory is None else memory.to(self.memory_device)
        self.normalisation = self._normalisation()
        self.warm_up = WarmUp(self.config.memory.start, self.config.memory.start_drift)
        limit = self.config.memory.drift_limit
        self.age_limit = AgeLimit(limit) if limit else None
        noise, sub_centres = self.config.memory.noise, self.config.memory.sub_centres
        self.prism = Prism(noise, sub_centres=sub_centres) if noise else None
        self.step = 0
        self.best: tuple[int, float] | None = None

    def batches(self) -> Iterator[tuple[Tensor, Classes]]:
        """Inputs, codes and ids from the current place in the stream on."""
        device = self.accelerator.device
        weights = None if self.course is None else self.course.weights()
        self._feed.load_state_dict(self._place.state_dict())
        for inputs, local in self.material.batches(self._feed, self.step):
            self._place.skip(self.accelerator.num_processes)
            chosen = Classes(
                local,
                self.training.ids[local],
                self.training.codes[local],
                None if weights is None else weights[local],
            )
            yield self.task.vary(inputs.to(device, non_blocking=True), chosen, self.step)

    def enter(self) -> bool:
        """Begin the stage that the next step is in: whether other batches come from here on.

        Cost: where the stage ranks anew, a forward pass of every training image and the ranking.

        Raises:
            CrossbatchError: The images as they are ranked now cannot fill a batch.
        """
        if self.course is None or self.course.stage == self.course.at(self.step):
            return False
        self.course.stage = self.course.at(self.step)
        if self.course.now.rerank:
            self.course.subsets = self._rank()
        self._feed, self._place = self._sampler(), self._sampler()
        return True

    def learning_rate(self) -> float:
        """η of the next step: a linear rise, then a cosine to zero; times the stage's factor."""
        o, total = self.config.optimizer, self.config.iterations
        highest = o.lr if self.course is None else o.lr * self.course.now.lr
        if self.step < o.warmup:
            return highest * (self.step + 1) / o.warmup
        done = (self.step - o.warmup) / max(total - o.warmup, 1)
        return highest * 0.5 * (1 + math.cos(math.pi * done))

    @property
    def stage(self) -> int | None:
        """Of the plan, from 1; 0 before the first step, None without a plan."""
        return None if self.course is None else self.course.stage + 1

    @property
    def started(self) -> bool:
        """Whether the loss of the next step takes the memory in."""
        return self.memory is not None and self.warm_up.over(self.step)

    @torch.no_grad()
    def store(
        self, inputs: Tensor, embeddings: Tensor, batch: Classes, *, keep: Tensor | None = None
    ) -> None:
        """Enqueue a batch of every rank: what the keys make of the inputs, or its embeddings.

        Embeddings and batch are those of the images to keep; the keys see all of the inputs, as
        the network did: one image alone has no moments.
        """
        stored = embeddings.detach().float()
        if self.keys is not None:
            stored = stored.new_empty(len(inputs), stored.shape[1])
            rows = self.config.sampler.chunk or len(inputs)
            chunks = -(-len(inputs) // rows)
            with self.accelerator.autocast():
                for first in range(chunks):
                    stored[first::chunks] = self.keys(inputs[first::chunks]).float()
            stored = stored if keep is None else stored[keep]
        self._enqueue(stored, batch.codes, batch.ids)

    @torch.no_grad()
    def fill(self) -> None:
        """Empty the memory, and fill it with random training images, not augmented.

        Cost: one forward pass for each of its rows.
        """
        assert self.memory is not None
        self.memory.clear()
        g = torch.Generator().manual_seed(self.config.seed)
        count = min(self.config.memory.capacity, len(self.training.rows))
        drawn = torch.randperm(len(self.training.rows), generator=g)[:count]
        share = count // self.ranks.world  # of equal size: to enqueue is a collective
        drawn = drawn[self.ranks.rank :: self.ranks.world][:share]
        network = self.accelerator.unwrap_model(self.network)
        network = network if self.keys is None else self.keys.network
        network.eval()
        first = 0
        for inputs in self.material.inputs(self.training.rows[drawn.numpy()]):
            with self.accelerator.autocast():
                embeddings = network(inputs.to(self.accelerator.device)).float()
            part = drawn[first : (first := first + len(inputs))]
            self._enqueue(embeddings, self.training.codes[part], self.training.ids[part])
        network.train()

    @torch.inference_mode()
    def embed(
        self, rows: np.ndarray, of: Callable[[nn.Module, Tensor], Tensor] = nn.Module.__call__
    ) -> Tensor:
        """What the network says of rows of the manifest, not augmented, in evaluation mode.

        Args:
            rows: Of the manifest.
            of: Takes network and inputs to the rows of the result; by default the network does.
        """
        network = self._judged()
        network.eval()
        parts = [
            of(network, x.to(self.accelerator.device)).float().cpu()
            for x in self.material.inputs(rows)
        ]
        network.train()
        return torch.cat(parts)

    def save(self, folder: Path) -> None:
        """Write the encoder as it is now, or its moving average."""
        self.task.save(self.encoder, self._judged(), folder)

    def follow(self) -> None:
        """Let the copies follow the network, after a step of the optimizer.

        The moving average begins with a smaller momentum, min(m, (1 + t) / (10 + t)), so that it
        forgets the first weights.
        """
        trained = self.accelerator.unwrap_model(self.network)
        if self.keys is not None:
            rising = self.config.memory.momentum_schedule == "cosine"
            done = self.step / self.config.iterations if rising else 0.0
            self.keys.follow(trained, done=done)
        if self.average is not None:
            self.average.momentum = min(self.config.ema, (1 + self.step) / (10 + self.step))
            self.average.follow(trained)

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
            "average": None if self.average is None else self.average.state_dict(),
            "normalisation": self._moments(),
            "warm_up": self.warm_up.state_dict(),
            "prism": None if self.prism is None else self.prism.state_dict(),
            "age_limit": None if self.age_limit is None else self.age_limit.state_dict(),
            "course": None if self.course is None else self.course.state_dict(),
            "sampler": self._place.state_dict(),
            "generators": generators(),
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
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.normalisation is not None:
            self.normalisation.load_state_dict(state["normalisation"])
        self.warm_up.load_state_dict(state["warm_up"])
        if self.prism is not None:
            self.prism.load_state_dict(state["prism"])
        if self.age_limit is not None:
            self.age_limit.load_state_dict(state["age_limit"])
        if self.course is not None:
            self.course.load_state_dict(state["course"])
            self._feed, self._place = self._sampler(), self._sampler()
        self._place.load_state_dict(state["sampler"])
        if self.accelerator.num_processes == 1:
            set_generators(state["generators"])
        else:  # they are those of one rank, and ranks must not draw alike
            seed_all(self.config.seed + self.accelerator.process_index + self.step)

    def _enqueue(self, embeddings: Tensor, codes: Tensor, ids: Tensor) -> None:
        assert self.memory is not None
        rows = (embeddings, codes.to(embeddings.device), ids.to(embeddings.device))
        if not isinstance(self.memory, ShardedMemory):
            rows = self.ranks.gather(*rows)[0]
        self.memory.enqueue(*rows)

    def _judged(self) -> nn.Module:
        """What is validated and saved; not wrapped, since other ranks may not take part."""
        if self.average is not None:
            return self.average.network
        return self.accelerator.unwrap_model(self.network)

    def _normalisation(self) -> CrossBatchNormalisation | None:
        how = self.config.memory.normalise
        if how == "none" or self.memory is None:
            return None
        noise = None if how == "batch" else ADAPTIVE_NOISE
        match = CrossBatchNormalisation(self.config.encoder.dim, noise=noise)
        return match.to(self.accelerator.device)

    def _moments(self) -> dict[str, Any] | None:
        return None if self.normalisation is None else self.normalisation.state_dict()

    def _sampler(self) -> Sampler:
        rank = self.accelerator.process_index
        if self.course is not None and self.course.stage >= 0:
            return self.course.sampler(rank=rank)
        return self.task.sampler(
            self.training.codes.numpy(),
            seed=self.config.seed,
            rank=rank,
            world=self.accelerator.num_processes,
        )

    def _course(self) -> Course | None:
        if self.config.plan is None:
            return None
        if any(stage.rerank for stage in self.config.plan.stages):
            self.ranker = self.ranker or default_ranker()
            if self.ranker is None:
                remedy = "Pass one to Trainee, train and resume."
                raise CrossbatchError(
                    expected("a ranker for a plan with `rerank`", "none", remedy)
                )
        world = self.accelerator.num_processes
        course = Course(
            self.config, self.task, self.task.manifest, training=self.training, world=world
        )
        self.config = replace(self.config, iterations=course.iterations)
        return course

    def _rank(self) -> np.ndarray:
        """The subsets of the training images as the network sees them now, alike on all ranks."""
        assert self.ranker is not None
        codes = self.training.codes
        found = torch.zeros(len(codes), dtype=torch.int64)
        if self.accelerator.is_main_process:
            features = self.embed(self.training.rows, self.task.features)
            self.ranker.fit(features.numpy(), codes.numpy())
            found = torch.from_numpy(np.asarray(self.ranker.subset_, np.int64))
        found = found.to(self.accelerator.device)
        self.ranks.add(found)  # the others add nothing
        return found.cpu().numpy()

    @property
    def memory_device(self) -> torch.device:
        """Where rows are kept."""
        if self.config.memory.device == "cpu":
            return torch.device("cpu")
        return self.accelerator.device

    def _keys(self) -> MomentumKeys | None:
        """The second network; made before the first is wrapped for ranks and precision."""
        if not self.config.memory.momentum or not self.config.memory.capacity:
            return None
        return self._copy(self.config.memory.momentum)

    def _copy(self, momentum: float) -> MomentumKeys:
        return MomentumKeys(self.material.network.to(self.accelerator.device), momentum)

    def _material(self, manifest: Manifest) -> Material:
        rows, network = self.training.rows, self.task.network(self.encoder)
        if self.config.mode == "fine_tune":
            return Images(self.encoder, manifest, rows, self.config, network)
        with self.accelerator.main_process_first():
            table = feature_table(self.encoder, manifest, self.config)
        return CachedFeatures(self.encoder, table, manifest, rows, network)


def _classes(manifest: Manifest, split: str, codes: np.ndarray) -> Classes:
    rows = np.flatnonzero(manifest.column("split") == split)
    return Classes(rows, torch.from_numpy(manifest.ids[rows]), torch.from_numpy(codes[rows]))

r"""A plan laid out over a training: which stage a step is in, and what its batches are made of.

The part of subset k in the batches of stage s is a stream of its own, seeded by (seed, s, k). Of a
batch of B it has π_k B images, in whole classes of K for retrieval. A subset that cannot fill its
share gives what it has, an empty one nothing, and the cleanest subset with room takes the places:
no image is repeated to make up numbers. Which part of a subset a stage uses, where it does not use
all, is drawn by (seed, s, k), too.
"""

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import crossbatch.curriculum
from crossbatch.curriculum.plan import Plan, Stage, allot
from crossbatch.data import Manifest, MixedSampler, Sampler
from crossbatch.errors import CrossbatchError, expected
from crossbatch.training.batch import Classes
from crossbatch.training.config import TrainConfig
from crossbatch.training.tasks import Task

_RANK = "Rank the images first: crossbatch rank."


class Ranker(Protocol):
    """Parts images into subsets, such as :class:`crossbatch.DensityRanker`."""

    subset_: np.ndarray
    """Of each image, ``(N,)`` integers; 0 is clean."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Any:
        """Rank images by features ``(N, F)`` and labels ``(N,)``."""
        ...


def default_ranker() -> Ranker | None:
    """The density ranker with its defaults."""
    kind = getattr(crossbatch.curriculum, "DensityRanker", None)
    return None if kind is None else kind()


class Course:
    """A plan over the training images of a run.

    Args:
        config: The run, with a plan.
        task: Makes the batches of a part.
        manifest: Its column `subset` says which images are clean.
        training: The training images.
        world: How many ranks train.

    Raises:
        CrossbatchError: The subsets are not known, or a stage has too few images for a batch.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        manifest: Manifest,
        *,
        training: Classes,
        world: int,
    ) -> None:
        assert config.plan is not None
        self.plan: Plan = config.plan
        self.stage = -1
        self._task, self._seed, self._world = task, config.seed, world
        self._codes = training.codes.numpy()
        known = _subsets(manifest, training, self.plan)
        self.subsets = np.zeros(len(training.rows), np.int64) if known is None else known
        images = None
        if known is not None or not self.plan.ranked:
            images = [sum(map(len, self._parts(s))) for s in range(len(self.plan.stages))]
        self.lengths = self.plan.lengths(
            config.iterations, images=images, batch=task.batch * world
        )
        for s, stage in enumerate(self.plan.stages):  # what can be known is told before step 1
            if stage.rerank:
                break
            self._sampler(s, rank=0)

    @property
    def iterations(self) -> int:
        """Of all stages."""
        return sum(self.lengths)

    @property
    def now(self) -> Stage:
        """The stage that has begun last."""
        return self.plan.stages[max(self.stage, 0)]

    def at(self, step: int) -> int:
        """The number of the stage, from 0, that the step after so many is in."""
        ends = np.cumsum(self.lengths)
        return min(int(np.searchsorted(ends, step, side="right")), len(ends) - 1)

    def sampler(self, *, rank: int) -> Sampler:
        """The batches of the stage that has begun, from its first on."""
        return self._sampler(self.stage, rank=rank)

    def weights(self) -> Tensor | None:
        """Of the loss of each training image, ``(N,)``; None where all are 1."""
        stage = self.now
        if not stage.weights or set(stage.weights) == {1.0}:
            return None
        found = torch.ones(len(self.subsets))
        for k in stage.subsets:
            found[torch.from_numpy(self.subsets == k)] = stage.weight(k)
        return found

    def describe(self) -> dict[str, Any]:
        """The stage that has begun, for the log: what it is, its images, a batch of it."""
        parts = self._parts(self.stage)
        return {
            "stage": self.stage + 1,
            "iterations": self.lengths[self.stage],
            "subsets": list(self.now.subsets),
            "images": [len(rows) for rows in parts],
            "batch": [units * self._task.unit for units in self._units(self.stage, parts)]
            if self.now.shares
            else [self._task.batch],
            "weights": [self.now.weight(k) for k in self.now.subsets],
            "lr": self.now.lr,
            "reranked": self.now.rerank,
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the course stands, and the subsets as they are ranked now."""
        return {
            "stage": self.stage,
            "lengths": list(self.lengths),
            "subsets": torch.from_numpy(self.subsets),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            CrossbatchError: The stages were of other lengths: epochs of another number of ranks.
        """
        if list(self.lengths) != state["lengths"]:
            remedy = "Resume with as many ranks as the run was begun with, or plan in iterations."
            raise CrossbatchError(
                expected(f"stages of {state['lengths']} iterations", self.lengths, remedy)
            )
        self.stage, self.subsets = state["stage"], state["subsets"].numpy()

    def _parts(self, number: int) -> list[np.ndarray]:
        """The rows that each part of a batch is drawn from: of every subset, or of all."""
        stage = self.plan.stages[number]
        if not stage.subsets:
            return [np.arange(len(self.subsets))]
        rows = [np.flatnonzero(self.subsets == k) for k in stage.subsets]
        for place, fraction in enumerate(stage.fractions):
            drawn = np.random.default_rng([self._seed, number, stage.subsets[place], 1])
            count = math.ceil(fraction * len(rows[place]))
            rows[place] = np.sort(drawn.permutation(rows[place])[:count])
        return rows if stage.shares else [np.sort(np.concatenate(rows))]

    def _units(self, number: int, parts: list[np.ndarray]) -> tuple[int, ...]:
        rooms = [self._task.room(self._codes[rows]) for rows in parts]
        shares = self.plan.stages[number].shares
        return allot(shares, rooms, self._task.batch // self._task.unit)

    def _sampler(self, number: int, *, rank: int) -> Sampler:
        stage, parts = self.plan.stages[number], self._parts(number)
        seeds = [self._part_seed(number, k) for k in stage.subsets or (0,)]
        classes = len(np.unique(self._codes[np.concatenate(parts)]))
        try:
            if classes < 2:
                wanted = "images of at least two classes"
                raise CrossbatchError(expected(wanted, classes, _RANK))
            units = self._units(number, parts) if stage.shares else (None,)
            even, codes = stage.balanced, self._codes
            drawn = [
                (rows, self._task.sampler(codes[rows], units=n, seed=seed, balanced=even))
                for rows, n, seed in zip(parts, units, seeds, strict=False)
                if n != 0
            ]
        except CrossbatchError as error:
            of = f"subsets {', '.join(map(str, stage.subsets))}" if stage.subsets else "all images"
            raise CrossbatchError(f"Stage {number + 1}, of {of}: {error}") from error
        return MixedSampler(drawn, rank=rank, world=self._world)

    def _part_seed(self, number: int, subset: int) -> int:
        state = np.random.SeedSequence([self._seed, number, subset]).generate_state(1, np.uint32)
        return int(state[0])


def _subsets(manifest: Manifest, training: Classes, plan: Plan) -> np.ndarray | None:
    """Of the training images; None where the first stage ranks them, or none asks."""
    if not plan.ranked or plan.stages[0].rerank:
        return None
    if "subset" not in manifest.table.column_names:
        got = f"columns {', '.join(manifest.table.column_names)}"
        raise CrossbatchError(expected("a column `subset` in the manifest for a plan", got, _RANK))
    column = manifest.table["subset"].combine_chunks().take(training.rows)
    if column.null_count:
        got = f"none in {column.null_count} of {len(column)}"
        raise CrossbatchError(expected("a `subset` for every training image", got, _RANK))
    return column.to_numpy().astype(np.int64)

r"""Plans: in which order a training sees the subsets of a noisy collection.

An image belongs to a subset k: 0 is clean, the last one highly noisy. A stage s says how many
iterations T_s it lasts, which subsets take part, and for each of them

    π_k  its share of every batch, Σ_k π_k = 1        (none: images are drawn from all alike)
    w_k  the weight of its images' loss in [0, ∞)

and the learning rate of the stage is λ_s η_t, with η_t the schedule of the whole training. Weights
and shares are two things: one says how much an image counts, the other how often it comes.

*CurriculumNet: Weakly Supervised Learning from Large-Scale Web Images* (Guo, Huang, Zhang, Zhuang,
Dong, Scott, Huang, ECCV 2018), section 3.3 for the stages; their models A to D are
:meth:`Plan.all_at_once`, :meth:`Plan.clean_only`, :meth:`Plan.two_stages` and
:meth:`Plan.curriculumnet`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from crossbatch.errors import CrossbatchError, expected

_CHOOSE = "Choose for example Stage(subsets=(0, 1), shares=(0.5, 0.5), weights=(1.0, 0.5))."


@dataclass(frozen=True)
class Stage:
    """A part of a training that draws its batches in one way.

    Raises:
        CrossbatchError: A value is out of range, or not there once for each subset.

    >>> Stage(subsets=(0, 1), shares=(0.5, 0.5), weights=(1.0, 0.5)).weight(1)
    0.5
    """

    subsets: tuple[int, ...] = ()
    """Those that take part, cleanest first; () for every image, whatever its subset."""
    shares: tuple[float, ...] = ()
    """Of each subset in a batch, positive, summing to 1; () draws from all of them alike."""
    weights: tuple[float, ...] = ()
    """Of the loss of each subset's images, 0 or more; () for 1."""
    fractions: tuple[float, ...] = ()
    """The part of each subset's images, chosen at random, that the stage uses, in (0, 1]; () for
    all of them."""
    iterations: int = 0
    """How long the stage lasts; 0 where `epochs` says it, or the run."""
    epochs: float = 0.0
    """How long it lasts, in passes over its images; 0 where `iterations` says it, or the run."""
    lr: float = 1.0
    """Factor of the learning rate, positive."""
    balanced: bool = False
    """Every class as often as any other. Batches for retrieval, of P classes × K images, always
    are."""
    rerank: bool = False
    """Before the stage embed the training images anew, and rank them again."""

    def __post_init__(self) -> None:
        if not all(map(_whole, self.subsets)) or len(set(self.subsets)) < len(self.subsets):
            raise _wrong("different whole numbers `subsets`, each 0 or more", self.subsets)
        for name in ("shares", "weights", "fractions"):
            self._check_numbers(name)
        if self.shares and (min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6):
            raise _wrong("positive `shares` that sum to 1", self.shares)
        if self.weights and max(self.weights) == 0:
            raise _wrong("`weights`, one of them positive", self.weights)
        if not all(0 < x <= 1 for x in self.fractions):
            raise _wrong("`fractions` in (0, 1]", self.fractions)
        if not 0 < self.lr < math.inf:
            raise _wrong("a positive factor `lr`", self.lr)
        self._check_length()

    def _check_numbers(self, name: str) -> None:
        got = getattr(self, name)
        if got and len(got) != len(self.subsets):
            raise _wrong(f"`{name}` one for each of {len(self.subsets)} `subsets`", got)
        if not all(0 <= x < math.inf for x in got):
            raise _wrong(f"finite `{name}` of 0 or more", got)

    def _check_length(self) -> None:
        lengths = f"{self.iterations} and {self.epochs}"
        if not _whole(self.iterations) or not 0 <= self.epochs < math.inf:
            raise _wrong("a whole number `iterations` and `epochs` of 0 or more", lengths)
        if self.iterations and self.epochs:
            raise _wrong("either `iterations` or `epochs`", lengths)

    def weight(self, subset: int) -> float:
        """w_k, of a subset that takes part."""
        if not self.weights:
            return 1.0
        return self.weights[self.subsets.index(subset)]


@dataclass(frozen=True)
class Plan:
    """Stages, one after the other. A value: it compares, prints as code, and stands in a config.

    Args:
        stages: At least one.

    Raises:
        CrossbatchError: There is no stage.

    >>> plan = Plan.curriculumnet()
    >>> print(*(stage.subsets for stage in plan.stages))
    (0,) (0, 1) (0, 1, 2)
    >>> plan.lengths(3000)
    (1000, 1000, 1000)
    """

    stages: tuple[Stage, ...]

    cites: ClassVar[tuple[str, ...]] = ("guo2018curriculumnet",)

    def __post_init__(self) -> None:
        if not self.stages or {type(stage) for stage in self.stages} != {Stage}:
            raise CrossbatchError(expected("one or more stages in a plan", self.stages, _CHOOSE))

    @staticmethod
    def curriculumnet(iterations: tuple[int, ...] = (), highly_noisy: float = 0.5) -> "Plan":
        """Model D, three stages: clean, then noisy, then highly noisy images join.

        Of a batch of 256: 256; 128 + 128; 128 + 64 + 64. Weights of the loss 1, 0.5, 0.5. The
        first stage is balanced by class.

        Args:
            iterations: Of each stage; () parts those of the run evenly.
            highly_noisy: The part of the highly noisy images that is used, in (0, 1]. Half of
                them did best in the paper.
        """
        last = Stage(
            subsets=(0, 1, 2),
            shares=(0.5, 0.25, 0.25),
            weights=(1.0, 0.5, 0.5),
            fractions=(1.0, 1.0, highly_noisy),
        )
        return _timed((*Plan.two_stages().stages, last), iterations)

    @staticmethod
    def two_stages(iterations: tuple[int, ...] = ()) -> "Plan":
        """Model C: clean images, then noisy ones beside them, half of a batch each."""
        second = Stage(subsets=(0, 1), shares=(0.5, 0.5), weights=(1.0, 0.5))
        return _timed((*Plan.clean_only().stages, second), iterations)

    @staticmethod
    def clean_only(iterations: tuple[int, ...] = ()) -> "Plan":
        """Model B: clean images alone, balanced by class."""
        return _timed((Stage(subsets=(0,), balanced=True),), iterations)

    @staticmethod
    def all_at_once(iterations: tuple[int, ...] = ()) -> "Plan":
        """Model A: every image from the beginning, with the same weight; the subsets do not count.

        It needs no ranking.
        """
        return _timed((Stage(),), iterations)

    def lengths(
        self, iterations: int, *, images: Sequence[int] | None = None, batch: int = 1
    ) -> tuple[int, ...]:
        """T_s: the iterations of each stage, at least one of each.

        Stages that say nothing of their length part evenly what the others leave of the run's
        iterations. Where all of them say it, the run is as long as they are.

        Args:
            iterations: Of the run.
            images: How many take part in each stage; needed where a stage counts epochs.
            batch: Images in an iteration, of all ranks together.

        Raises:
            CrossbatchError: Too few iterations are left, or epochs are asked for of images that
                are not known.
        """
        found = [stage.iterations for stage in self.stages]
        for s, stage in enumerate(self.stages):
            if stage.epochs:
                if images is None:
                    raise CrossbatchError(
                        expected(
                            "`iterations` of a stage whose images are not known yet",
                            f"`epochs` {stage.epochs} in stage {s + 1}",
                            "Rank the images first (`crossbatch rank`), or give `iterations`.",
                        )
                    )
                found[s] = max(1, math.ceil(stage.epochs * images[s] / batch))
        open_ = [s for s, length in enumerate(found) if not length]
        left = iterations - sum(found)
        if open_ and left < len(open_):
            raise CrossbatchError(
                expected(
                    f"`iterations` of {sum(found) + len(open_)} or more for this plan",
                    iterations,
                    "Lengthen the run, or shorten the stages.",
                )
            )
        for n, s in enumerate(open_):
            found[s] = left * (n + 1) // len(open_) - left * n // len(open_)
        return tuple(found)

    @property
    def ranked(self) -> bool:
        """Whether a stage asks for subsets."""
        return any(stage.subsets for stage in self.stages)


RECIPES = ("curriculumnet", "two_stages", "clean_only", "all_at_once")
"""Static methods of :class:`Plan` that give one."""


def allot(shares: Sequence[float], rooms: Sequence[int], total: int) -> tuple[int, ...]:
    """How many of ``total`` places each part takes: Σ = total, each at most its room.

    Places are given by largest remainder. What a part has no room for goes to the first part that
    has some: to the cleaner images. A part without room takes none.

    Args:
        shares: π_k, summing to 1.
        rooms: The most that each part can take, 0 or more.
        total: At most the sum of the rooms.

    Raises:
        CrossbatchError: There is not room for all.

    >>> allot((0.5, 0.25, 0.25), (99, 99, 99), 256 // 4)
    (32, 16, 16)
    >>> allot((0.5, 0.25, 0.25), (99, 9, 0), 64)
    (55, 9, 0)
    """
    if sum(rooms) < total:
        raise CrossbatchError(
            expected(
                f"room for {total} in a batch",
                f"room for {sum(rooms)}",
                "Make the batch smaller, or let more subsets take part in the stage.",
            )
        )
    exact = [share * total for share in shares]
    found = [math.floor(x + 1e-9) for x in exact]
    by_rest = sorted(range(len(exact)), key=lambda k: (found[k] - exact[k], k))
    for k in by_rest[: total - sum(found)]:
        found[k] += 1
    found = [min(n, room) for n, room in zip(found, rooms, strict=True)]
    for k, room in enumerate(rooms):
        found[k] += min(room - found[k], total - sum(found))
    return tuple(found)


def _timed(stages: tuple[Stage, ...], iterations: tuple[int, ...]) -> Plan:
    if not iterations:
        return Plan(stages)
    if len(iterations) != len(stages):
        wanted = f"`iterations` of {len(stages)} stages, or ()"
        raise CrossbatchError(expected(wanted, iterations, "Give one number for each stage."))
    pairs = zip(stages, iterations, strict=True)
    return Plan(tuple(replace(stage, iterations=length) for stage, length in pairs))


def _whole(value: object) -> bool:
    """Whether it is an integer of 0 or more."""
    return isinstance(value, int) and value >= 0


def _wrong(wanted: str, got: object) -> CrossbatchError:
    return CrossbatchError(expected(f"{wanted} in a stage", got, _CHOOSE))

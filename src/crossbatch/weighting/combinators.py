r"""Weightings made of weightings: swap a side, cut it, clip it, balance it, schedule it.

Each takes weightings and is one, so they nest. A combination has no value but Σ w⁻ S − Σ w⁺ S,
the value of directly assigned weights. Statistics of two parts keep apart by a prefix.

*Rethinking Deep Contrastive Learning with Embedding Memory* (Zhang, Wang, Huang, Scott, 2021)
studies the sides of losses apart by such swaps.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_between
from crossbatch.errors import CrossbatchError, expected
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import SUM, Statistic, Stats, Term, similarity, top


@dataclass(frozen=True)
class Sides(PairWeighting):
    """The positive side of one weighting with the negative side of another.

    Args:
        pull: Whose w⁺ is taken.
        push: Whose w⁻ is taken.

    >>> from crossbatch import Contrastive, MultiSimilarity
    >>> Sides(Contrastive(), MultiSimilarity()).pull
    Contrastive(margin=0.5)
    """

    pull: PairWeighting
    push: PairWeighting

    cites: ClassVar[tuple[str, ...]] = ("zhang2021rethinking",)

    def __post_init__(self) -> None:
        _check_parts("Sides", self.pull, self.push)

    @property
    def needs_both(self) -> bool:  # pyright: ignore  # noqa: D102
        return self.pull.needs_both or self.push.needs_both

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        pulled = [_prefixed(stage, "pull.") for stage in self.pull.stages]
        pushed = [_prefixed(stage, "push.") for stage in self.push.stages]
        return (*pulled, *pushed)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.pull.positive(sim, _part(stats, "pull."))

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.push.negative(sim, _part(stats, "push."))

    def negative_bound(self, stats: Stats) -> Tensor | float | None:  # noqa: D102
        return self.push.negative_bound(_part(stats, "push."))


@dataclass(frozen=True)
class Thresholded(PairWeighting):
    """Without the negatives at or below a similarity.

    Args:
        inner: The weighting.
        base: λ, in [-1, 1].

    >>> from crossbatch import SupCon
    >>> Thresholded(SupCon(), 0.3)
    Thresholded(inner=SupCon(temperature=0.1), base=0.3)
    """

    inner: PairWeighting
    base: float

    cites: ClassVar[tuple[str, ...]] = ("zhang2021rethinking",)

    def __post_init__(self) -> None:
        _check_parts("Thresholded", self.inner)
        check_between(self.base, -1.0, 1.0, name="base", where="Thresholded")

    @property
    def needs_both(self) -> bool:  # pyright: ignore  # noqa: D102
        return self.inner.needs_both

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        return tuple(_unbounded(stage) for stage in self.inner.stages)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.inner.positive(sim, stats)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.inner.negative(sim, stats) * (sim > self.base)

    def negative_bound(self, stats: Stats) -> float:  # noqa: D102
        del stats
        return self.base


@dataclass(frozen=True)
class TopK(PairWeighting):
    """The hardest negatives of each anchor alone; more than k where similarities tie.

    Args:
        inner: The weighting.
        k: How many, k ≥ 1.

    >>> from crossbatch import Contrastive
    >>> TopK(Contrastive(), 10).k
    10
    """

    inner: PairWeighting
    k: int

    cites: ClassVar[tuple[str, ...]] = ("zhang2021rethinking",)

    def __post_init__(self) -> None:
        _check_parts("TopK", self.inner)
        if self.k < 1:
            raise CrossbatchError(expected("`k` of TopK ≥ 1", self.k, "Choose a larger number."))

    @property
    def needs_both(self) -> bool:  # pyright: ignore  # noqa: D102
        return self.inner.needs_both

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        hardest = Statistic("hardest_negatives", "negative", top(self.k), similarity)
        return (*map(_unbounded, self.inner.stages), (hardest,))

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.inner.positive(sim, stats)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        kept = sim >= stats["hardest_negatives"][..., -1]
        return self.inner.negative(sim, stats) * kept

    def rising_bound(self, stats: Stats) -> Tensor | None:  # noqa: D102
        if any(s.side == "negative" for stage in self.inner.stages for s in stage):
            return None
        last = stats["hardest_negatives"][..., -1]
        return torch.nextafter(last, torch.full_like(last, -torch.inf))


@dataclass(frozen=True)
class Clipped(PairWeighting):
    """Both weights kept within a range.

    Args:
        inner: The weighting.
        low: The least weight.
        high: The largest weight.

    >>> from crossbatch import Margin
    >>> Clipped(Margin(), 0.0, 2.0).high
    2.0
    """

    inner: PairWeighting
    low: float
    high: float

    cites: ClassVar[tuple[str, ...]] = ("zhang2021rethinking",)

    def __post_init__(self) -> None:
        _check_parts("Clipped", self.inner)
        if not self.low < self.high:
            got = f"{self.low} and {self.high}"
            raise CrossbatchError(expected("`low` < `high` in Clipped", got, "Swap them."))

    @property
    def needs_both(self) -> bool:  # pyright: ignore  # noqa: D102
        return self.inner.needs_both

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        return self.inner.stages

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.inner.positive(sim, stats).clamp(self.low, self.high)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.inner.negative(sim, stats).clamp(self.low, self.high)

    def negative_bound(self, stats: Stats) -> Tensor | float | None:  # noqa: D102
        return self.inner.negative_bound(stats) if self.low <= 0 <= self.high else None


@dataclass(frozen=True)
class Balanced(PairWeighting):
    """Each side's weights of an anchor sum to one: Σ |w⁺| = Σ |w⁻| = 1.

    Args:
        inner: The weighting.

    >>> from crossbatch import Contrastive
    >>> Balanced(Contrastive())
    Balanced(inner=Contrastive(margin=0.5))
    """

    inner: PairWeighting

    cites: ClassVar[tuple[str, ...]] = ("zhang2021rethinking",)

    def __post_init__(self) -> None:
        _check_parts("Balanced", self.inner)

    @property
    def needs_both(self) -> bool:  # pyright: ignore  # noqa: D102
        return self.inner.needs_both

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        totals = (
            Statistic("total_positive", "positive", SUM, _magnitude(self.inner.positive)),
            Statistic("total_negative", "negative", SUM, _magnitude(self.inner.negative), True),
        )
        return (*self.inner.stages, totals)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.inner.positive(sim, stats) / _some(stats["total_positive"])

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.inner.negative(sim, stats) / _some(stats["total_negative"])

    def negative_bound(self, stats: Stats) -> Tensor | float | None:  # noqa: D102
        return self.inner.negative_bound(stats)


@dataclass(frozen=True)
class Scheduled(PairWeighting):
    """One weighting turning into another while training goes on.

    Before ``begin`` it is ``first``, after ``end`` it is ``last``, between them a mixture whose
    share of ``last`` grows evenly. A trainer asks :meth:`PairWeighting.at` for the weighting of a
    step; asked directly, it is ``first``.

    Args:
        first: The weighting at the beginning.
        last: The weighting at the end.
        begin: The step at which it begins to turn.
        end: The step at which it has turned, at least ``begin``.

    >>> from crossbatch import Contrastive
    >>> Scheduled(Contrastive(0.5), Contrastive(0.3), begin=0, end=100).at(50).share
    0.5
    """

    first: PairWeighting
    last: PairWeighting
    begin: int
    end: int

    cites: ClassVar[tuple[str, ...]] = ("zhang2021rethinking",)

    def __post_init__(self) -> None:
        _check_parts("Scheduled", self.first, self.last)
        if not 0 <= self.begin <= self.end:
            got = f"{self.begin} and {self.end}"
            raise CrossbatchError(
                expected("0 ≤ `begin` ≤ `end` in Scheduled", got, "Give steps of training.")
            )

    @property
    def needs_both(self) -> bool:  # pyright: ignore  # noqa: D102
        return self.first.needs_both

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        return self.first.stages

    def at(self, step: int) -> PairWeighting:  # noqa: D102
        if step <= self.begin:
            return self.first.at(step)
        if step >= self.end:
            return self.last.at(step)
        share = (step - self.begin) / (self.end - self.begin)
        return Mixed(self.first.at(step), self.last.at(step), share)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.first.positive(sim, stats)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self.first.negative(sim, stats)

    def negative_bound(self, stats: Stats) -> Tensor | float | None:  # noqa: D102
        return self.first.negative_bound(stats)


@dataclass(frozen=True)
class Mixed(PairWeighting):
    """(1 − share) times the weights of one and share times those of another.

    Args:
        first: One weighting.
        last: The other.
        share: Of the other, in [0, 1].

    >>> from crossbatch import Contrastive
    >>> Mixed(Contrastive(0.5), Contrastive(0.3), 0.5).negative(torch.tensor([0.4]), {})
    tensor([0.5000])
    """

    first: PairWeighting
    last: PairWeighting
    share: float

    cites: ClassVar[tuple[str, ...]] = ("zhang2021rethinking",)

    def __post_init__(self) -> None:
        _check_parts("Mixed", self.first, self.last)
        check_between(self.share, 0.0, 1.0, name="share", where="Mixed")

    @property
    def needs_both(self) -> bool:  # pyright: ignore  # noqa: D102
        return self.first.needs_both and self.last.needs_both

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        first = [_prefixed(stage, "first.") for stage in self.first.stages]
        return (*first, *(_prefixed(stage, "last.") for stage in self.last.stages))

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        first = self.first.positive(sim, _part(stats, "first."))
        return torch.lerp(first, self.last.positive(sim, _part(stats, "last.")), self.share)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        first = self.first.negative(sim, _part(stats, "first."))
        return torch.lerp(first, self.last.negative(sim, _part(stats, "last.")), self.share)

    def negative_bound(self, stats: Stats) -> Tensor | float | None:  # noqa: D102
        first = self.first.negative_bound(_part(stats, "first."))
        last = self.last.negative_bound(_part(stats, "last."))
        if first is None or last is None:
            return None
        if isinstance(first, Tensor):
            return first.clamp(max=last)
        return last.clamp(max=first) if isinstance(last, Tensor) else min(first, last)


def _check_parts(owner: str, *parts: object) -> None:
    """Raise unless all parts are weightings."""
    for part in parts:
        if not isinstance(part, PairWeighting):
            remedy = "Give for example Contrastive(margin=0.5)."
            raise CrossbatchError(expected(f"weightings in {owner}", repr(part), remedy))


def _prefixed(stage: Stage, prefix: str) -> Stage:
    """A part's stage among those of a combination: its names, and what its terms see, are its own.

    Its terms keep nothing of what the part said of its bound.
    """

    def own(term: Term) -> Term:
        return lambda sim, stats: term(sim, _part(stats, prefix))

    return tuple(replace(s, name=prefix + s.name, term=own(s.term), bounded=False) for s in stage)


def _unbounded(stage: Stage) -> Stage:
    return tuple(replace(s, bounded=False) for s in stage)


def _part(stats: Stats, prefix: str) -> Stats:
    counts = {name: stats[name] for name in ("positives", "negatives") if name in stats}
    own = {n.removeprefix(prefix): value for n, value in stats.items() if n.startswith(prefix)}
    return counts | own


def _magnitude(weight: Term) -> Term:
    return lambda sim, stats: weight(sim, stats).abs()


def _some(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1.0)

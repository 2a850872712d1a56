r"""Ranked list loss: positives within a sphere, negatives beyond a larger one, near ones first.

    L_i = (1/|P*_i|) Σ_{P*_i} (D_ij − α + m) + Σ_{N*_i} π_ij (α − D_ij),    D = √(2 − 2S),
    P*_i = {D > α − m},  N*_i = {D < α},  π_ij = e^{T(α − D_ij)} / Σ_{N*_i} e^{T(α − D)}, constant,
    w⁺ = 1 / (|P*_i| D),    w⁻ = π / D.

*Ranked List Loss for Deep Metric Learning* (Wang, Hua, Kodirov, Hu, Garnier, Robertson, CVPR
2019), with both terms summed.

Requires: nothing; an anchor may lack either side. Cost: one sweep for the weights and one for the
value, both past pairs within α alone.

Relations: :class:`Margin` with negatives in a softmax.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_above, check_between
from crossbatch.weighting._distance import distance, similarity_at
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import LOG_SUM_EXP, SUM, Statistic, Stats


@dataclass(frozen=True)
class RankedList(PairWeighting):
    """Violated positives alike, violated negatives by how near they are.

    Args:
        margin: m, in [0, 2].
        alpha: α, the distance beyond which negatives rest, in [0, 2].
        temperature: T > 0 of the weighting of negatives.

    Raises:
        CrossbatchError: A value is out of its range.

    >>> RankedList()
    RankedList(margin=0.4, alpha=1.2, temperature=10.0)
    """

    margin: float = 0.4
    alpha: float = 1.2
    temperature: float = 10.0

    cites: ClassVar[tuple[str, ...]] = ("wang2019ranked",)

    def __post_init__(self) -> None:
        check_between(self.margin, 0.0, 2.0, name="margin", where="RankedList")
        check_between(self.alpha, 0.0, 2.0, name="alpha", where="RankedList")
        check_above(self.temperature, 0.0, name="temperature", where="RankedList")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        violated = Statistic("violated", "positive", SUM, lambda s, _: (self._far(s) > 0).to(s))
        log = Statistic("log_negative", "negative", LOG_SUM_EXP, self._exponent, bounded=True)
        return ((violated, log),)

    @property
    def report(self) -> Stage:  # noqa: D102
        return (
            Statistic("positive_value", "positive", SUM, lambda s, _: self._far(s)),
            Statistic("negative_value", "negative", SUM, self._near_value, bounded=True),
        )

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return (self._far(sim) > 0) / distance(sim) / stats["violated"].clamp(min=1)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return self._share(sim, stats) / distance(sim)

    def negative_bound(self, stats: Stats) -> float:  # noqa: D102
        del stats
        return similarity_at(self.alpha) - 1e-6

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        mean = stats["positive_value"] / stats["violated"].clamp(min=1)
        return mean, stats["negative_value"]

    def _far(self, sim: Tensor) -> Tensor:
        return torch.relu(distance(sim) - self.alpha + self.margin)

    def _exponent(self, sim: Tensor, stats: Stats) -> Tensor:
        del stats
        within = self.alpha - distance(sim)
        return (self.temperature * within).masked_fill_(within <= 0, -torch.inf)

    def _share(self, sim: Tensor, stats: Stats) -> Tensor:
        total = stats["log_negative"]
        total = torch.where(total.isfinite(), total, 0.0)
        return torch.exp(self._exponent(sim, stats) - total)

    def _near_value(self, sim: Tensor, stats: Stats) -> Tensor:
        return self._share(sim, stats) * torch.relu(self.alpha - distance(sim))

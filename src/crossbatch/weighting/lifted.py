r"""Lifted structure, generalised: the soft hardest positive against the soft hardest negative.

    L_i = (1/γ) [ log Σ_{P_i} e^{−γ S_ij} + log Σ_{N_i} e^{γ S_ij} + γ m ]₊,
    w⁺ = e^{−γS} / Σ_{P_i} e^{−γS},    w⁻ = e^{γS} / Σ_{N_i} e^{γS},    0 where the hinge rests.

*Deep Metric Learning via Lifted Structured Feature Embedding* (Song, Xiang, Jegelka, Savarese,
CVPR 2016), with all positives of an anchor as in *In Defense of the Triplet Loss for Person
Re-Identification* (Hermans, Beyer, Leibe, 2017), here in similarities.

Requires: positives and negatives for an anchor. Cost: one sweep.

Relations: :class:`HardestTriplet` as γ → ∞; :class:`Circle` without its self-paced factors.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_above, check_between
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import LOG_SUM_EXP, Statistic, Stats


@dataclass(frozen=True)
class LiftedStructure(PairWeighting):
    """A hinge on two log-sums.

    Args:
        margin: m, in [0, 2].
        scale: γ > 0, the sharpness of both log-sums.

    Raises:
        CrossbatchError: A value is out of its range.

    >>> LiftedStructure()
    LiftedStructure(margin=1.0, scale=1.0)
    """

    margin: float = 1.0
    scale: float = 1.0

    cites: ClassVar[tuple[str, ...]] = ("song2016lifted", "hermans2017defense")
    needs_both: ClassVar[bool] = True
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_between(self.margin, 0.0, 2.0, name="margin", where="LiftedStructure")
        check_above(self.scale, 0.0, name="scale", where="LiftedStructure")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        positive = Statistic("log_positive", "positive", LOG_SUM_EXP, self._positive_exponent)
        negative = Statistic("log_negative", "negative", LOG_SUM_EXP, self.negative_term)
        return ((positive, negative),)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        weight = (self._positive_exponent(sim, stats) - stats["log_positive"]).exp_()
        return weight * (self._hinge(stats) > 0)

    def negative_exponent(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return sim * self.scale

    @property
    def negative_line(self) -> tuple[float, float]:  # noqa: D102
        return (self.scale, 0.0)

    def negative_log_factor(self, stats: Stats) -> Tensor:  # noqa: D102
        return torch.where(self._hinge(stats) > 0, -stats["log_negative"], -torch.inf)

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        hinge = torch.relu(self._hinge(stats)) / self.scale
        return hinge, torch.zeros_like(hinge)

    def _hinge(self, stats: Stats) -> Tensor:
        return stats["log_positive"] + stats["log_negative"] + self.scale * self.margin

    def _positive_exponent(self, sim: Tensor, stats: Stats) -> Tensor:
        del stats
        return sim * -self.scale

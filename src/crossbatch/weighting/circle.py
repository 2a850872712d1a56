r"""Circle loss: pairs far from their optimum weigh more.

    L_i = log(1 + Σ_{N_i} e^{γ α⁻ (S_ij − m)} Σ_{P_i} e^{−γ α⁺ (S_ij − 1 + m)}),
    α⁻ = [S + m]₊,  α⁺ = [1 + m − S]₊, both taken as constants,
    w⁻ = γ α⁻ σ(L⁺ + L⁻) e^{γ α⁻ (S − m)} / e^{L⁻},    L⁻ = log Σ_{N_i}, L⁺ = log Σ_{P_i} as above,
    w⁺ = γ α⁺ σ(L⁺ + L⁻) e^{−γ α⁺ (S − 1 + m)} / e^{L⁺}.

Because the self-paced factors α are constants, these weights are not the derivative of the value.
*Circle Loss: A Unified Perspective of Pair Similarity Optimization* (Sun, Cheng, Zhang, Zhang,
Zheng, Wang, Wei, CVPR 2020), equations 6 to 8.

Requires: positives and negatives for an anchor. Cost: one sweep.

Relations: :class:`LiftedStructure` with factors of its own for every pair.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbatch._check import check_above, check_between
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import LOG_SUM_EXP, Statistic, Stats


@dataclass(frozen=True)
class Circle(PairWeighting):
    """Two log-sums, whose pairs are paced by their own distance from the optimum.

    Args:
        margin: m, in [0, 1]: the relaxation; 0.25 for retrieval of faces and people, 0.4 of
            products.
        scale: γ > 0.

    Raises:
        CrossbatchError: A value is out of its range.

    >>> Circle()
    Circle(margin=0.4, scale=80.0)
    """

    margin: float = 0.4
    scale: float = 80.0

    cites: ClassVar[tuple[str, ...]] = ("sun2020circle",)
    needs_both: ClassVar[bool] = True
    coupled: ClassVar[bool] = True
    negative_vanishes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_between(self.margin, 0.0, 1.0, name="margin", where="Circle")
        check_above(self.scale, 0.0, name="scale", where="Circle")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        positive = Statistic("log_positive", "positive", LOG_SUM_EXP, self._positive_logit)
        negative = Statistic("log_negative", "negative", LOG_SUM_EXP, self._negative_logit)
        return ((positive, negative),)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        share = torch.exp(self._positive_logit(sim, stats) - stats["log_positive"])
        pace = self.scale * torch.relu(1 + self.margin - sim)
        return pace * share * torch.sigmoid(stats["log_positive"] + stats["log_negative"])

    def negative_exponent(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        pace = torch.relu(sim + self.margin)
        return self._negative_logit(sim, stats) + pace.log_()

    def negative_log_factor(self, stats: Stats) -> Tensor:  # noqa: D102
        total = stats["log_positive"] + stats["log_negative"]
        scale = torch.full_like(total, self.scale).log()
        return F.logsigmoid(total) - stats["log_negative"] + scale

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        value = F.softplus(stats["log_positive"] + stats["log_negative"])
        return value, torch.zeros_like(value)

    def _positive_logit(self, sim: Tensor, stats: Stats) -> Tensor:
        del stats
        return -self.scale * torch.relu(1 + self.margin - sim) * (sim - 1 + self.margin)

    def _negative_logit(self, sim: Tensor, stats: Stats) -> Tensor:
        del stats
        return torch.relu(sim + self.margin).mul_(sim - self.margin).mul_(self.scale)

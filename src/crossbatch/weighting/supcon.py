r"""Supervised contrastive loss: every positive against everything else.

    L_i = −(1/|P_i|) Σ_{p ∈ P_i} log ( e^{S_ip/τ} / Z_i ),    Z_i = Σ_{P_i ∪ N_i} e^{S_ij/τ},
    w⁺ = (1/τ) (1/|P_i| − e^{S/τ} / Z_i),    w⁻ = (1/τ) e^{S/τ} / Z_i.

w⁺ is negative for a positive that holds more than its share of Z: easy positives are pushed away.
*Supervised Contrastive Learning* (Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu,
Krishnan, NeurIPS 2020), equation 2 (the sum outside of the logarithm).

Requires: positives for an anchor. Cost: one sweep.

Relations: with one positive equal to :class:`NTXent`; with the positives out of Z
:class:`DecoupledContrastive`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_above
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import LOG_SUM_EXP, SUM, Statistic, Stats, similarity


@dataclass(frozen=True)
class SupCon(PairWeighting):
    """The softmax over all references; every positive is to have an equal share of all of it.

    Args:
        temperature: τ > 0.

    Raises:
        CrossbatchError: ``temperature`` is not above 0.

    >>> SupCon()
    SupCon(temperature=0.1)
    """

    temperature: float = 0.1

    cites: ClassVar[tuple[str, ...]] = ("khosla2020supcon",)
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_above(self.temperature, 0.0, name="temperature", where="SupCon")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        return (
            (
                Statistic("log_positive", "positive", LOG_SUM_EXP, self.negative_exponent),
                Statistic("sum_positive", "positive", SUM, similarity),
                Statistic("log_negative", "negative", LOG_SUM_EXP, self.negative_term),
            ),
        )

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        share = torch.exp(sim / self.temperature - self._log_all(stats))
        return (1 / stats["positives"].clamp(min=1) - share) / self.temperature

    def negative_exponent(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return sim / self.temperature

    @property
    def negative_line(self) -> tuple[float, float]:  # noqa: D102
        return (1 / self.temperature, 0.0)

    def negative_log_factor(self, stats: Stats) -> Tensor:  # noqa: D102
        factor = -self._log_all(stats) - math.log(self.temperature)
        return torch.where(stats["positives"] > 0, factor, -torch.inf)

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        mean = stats["sum_positive"] / stats["positives"].clamp(min=1) / self.temperature
        value = torch.where(stats["positives"] > 0, self._log_all(stats) - mean, 0.0)
        return value, torch.zeros_like(value)

    def _log_all(self, stats: Stats) -> Tensor:
        return torch.logaddexp(stats["log_positive"], stats["log_negative"])

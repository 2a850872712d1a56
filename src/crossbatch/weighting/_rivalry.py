r"""What losses share in which each positive stands alone against all negatives.

    L_i = (1/|P_i|) Σ_{p ∈ P_i} log(1 + Z_i e^{−g(S_ip)}),    Z_i = Σ_{N_i} e^{h S_ij},
    w⁺ = (1/|P_i|) g'(S) Z_i / (e^{g(S)} + Z_i),
    w⁻ = (1/|P_i|) h e^{h S} Σ_{p ∈ P_i} 1 / (e^{g(S_ip)} + Z_i).

They differ in the logit g of a positive, and in h, the inverse temperature.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbatch.weighting.base import Stage
from crossbatch.weighting.statistics import LOG_SUM_EXP, SUM, Statistic, Stats


class Rivalry:
    """Stages, weights and value in terms of the logit of a positive and of h."""

    needs_both: ClassVar[bool] = True
    coupled: ClassVar[bool] = True

    @abstractmethod
    def logit(self, sim: Tensor) -> Tensor:
        """The g of S."""

    @abstractmethod
    def slope(self, sim: Tensor) -> Tensor:
        """The derivative g'."""

    @property
    @abstractmethod
    def sharpness(self) -> float:
        """The h."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        rivals = Statistic("log_negative", "negative", LOG_SUM_EXP, self.negative_exponent)
        reach = Statistic("log_share", "positive", LOG_SUM_EXP, self._log_share)
        value = Statistic("sum_positive", "positive", SUM, self._loss)
        return ((rivals,), (reach, value))

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:
        weight = torch.sigmoid(stats["log_negative"] - self.logit(sim)) * self.slope(sim)
        return weight / stats["positives"].clamp(min=1)

    def negative_exponent(self, sim: Tensor, stats: Stats) -> Tensor:
        del stats
        return sim * self.sharpness

    @property
    def negative_line(self) -> tuple[float, float]:
        return (self.sharpness, 0.0)

    def negative_log_factor(self, stats: Stats) -> Tensor:
        mean = self.sharpness / stats["positives"].clamp(min=1)
        return stats["log_share"] + mean.log()

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:
        value = stats["sum_positive"] / stats["positives"].clamp(min=1)
        return value, torch.zeros_like(value)

    def _log_share(self, sim: Tensor, stats: Stats) -> Tensor:
        return -torch.logaddexp(self.logit(sim), stats["log_negative"])

    def _loss(self, sim: Tensor, stats: Stats) -> Tensor:
        return F.softplus(stats["log_negative"] - self.logit(sim))

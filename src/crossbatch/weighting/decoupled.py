r"""Decoupled contrastive loss: no positive in the denominator.

    L_i = −(1/|P_i|) Σ_{p ∈ P_i} S_ip/τ + log Σ_{N_i} e^{S_ij/τ},
    w⁺ = 1 / (τ |P_i|),    w⁻ = (1/τ) e^{S/τ} / Σ_{N_i} e^{S/τ}.

Positives are not weighted at all, and an easy positive does not lessen the push of the negatives.
*Decoupled Contrastive Learning* (Yeh, Hong, Hsu, Liu, Chen, LeCun, ECCV 2022).

Requires: positives and negatives for an anchor. Cost: one sweep.

Relations: :class:`SupCon` with the positives out of its denominator.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_above
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import LOG_SUM_EXP, Statistic, Stats


@dataclass(frozen=True)
class DecoupledContrastive(PairWeighting):
    """Equal pull, softmax push.

    Args:
        temperature: τ > 0.

    Raises:
        CrossbatchError: ``temperature`` is not above 0.

    >>> DecoupledContrastive()
    DecoupledContrastive(temperature=0.1)
    """

    temperature: float = 0.1

    cites: ClassVar[tuple[str, ...]] = ("yeh2022decoupled",)
    needs_both: ClassVar[bool] = True
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_above(self.temperature, 0.0, name="temperature", where="DecoupledContrastive")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        return ((Statistic("log_negative", "negative", LOG_SUM_EXP, self.negative_term),),)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        weight = 1 / (self.temperature * stats["positives"].clamp(min=1))
        return weight * torch.ones_like(sim)

    def negative_exponent(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return sim / self.temperature

    @property
    def negative_line(self) -> tuple[float, float]:  # noqa: D102
        return (1 / self.temperature, 0.0)

    def negative_log_factor(self, stats: Stats) -> Tensor:  # noqa: D102
        return -stats["log_negative"] - math.log(self.temperature)

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        return -stats["pull"], stats["log_negative"]

r"""Neighbourhood components: the chance that a random neighbour is a positive.

    L_i = −log ( Σ_{P_i} e^{S_ij/τ} / Z_i ),    Z_i = Σ_{P_i ∪ N_i} e^{S_ij/τ},
    w⁺ = (1/τ) (e^{S/τ} / Σ_{P_i} e^{S/τ} − e^{S/τ} / Z_i),    w⁻ = (1/τ) e^{S/τ} / Z_i.

One near positive is enough: w⁺ goes to those that are near already.
*Neighbourhood Components Analysis* (Goldberger, Roweis, Hinton, Salakhutdinov, NeurIPS 2004); with
a temperature, the soft nearest neighbour loss of *Analyzing and Improving Representations with the
Soft Nearest Neighbor Loss* (Frosst, Papernot, Hinton, ICML 2019).

Requires: positives and negatives for an anchor. Cost: one sweep.

Relations: :class:`NTXent` asks every positive to be near; with one positive the two are equal.
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
class NCA(PairWeighting):
    """The softmax over all references, of which the positives' share counts.

    Args:
        temperature: τ > 0.

    Raises:
        CrossbatchError: ``temperature`` is not above 0.

    >>> NCA()
    NCA(temperature=0.1)
    """

    temperature: float = 0.1

    cites: ClassVar[tuple[str, ...]] = ("goldberger2004nca", "frosst2019softnn")
    needs_both: ClassVar[bool] = True
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_above(self.temperature, 0.0, name="temperature", where="NCA")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        positive = Statistic("log_positive", "positive", LOG_SUM_EXP, self.negative_exponent)
        negative = Statistic("log_negative", "negative", LOG_SUM_EXP, self.negative_term)
        return ((positive, negative),)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        exponent = sim / self.temperature
        near = torch.exp(exponent - stats["log_positive"])
        return (near - torch.exp(exponent - self._log_all(stats))) / self.temperature

    def negative_exponent(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return sim / self.temperature

    @property
    def negative_line(self) -> tuple[float, float]:  # noqa: D102
        return (1 / self.temperature, 0.0)

    def negative_log_factor(self, stats: Stats) -> Tensor:  # noqa: D102
        return -self._log_all(stats) - math.log(self.temperature)

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        lack = self._log_all(stats) - stats["log_positive"]
        return lack, torch.zeros_like(lack)

    def _log_all(self, stats: Stats) -> Tensor:
        return torch.logaddexp(stats["log_positive"], stats["log_negative"])

r"""Proxy-Anchor: a proxy pulls its hard images and pushes the hard ones of others.

    L_i = log(1 + Σ_{P_i} e^{−α (S_ij − δ)}) + log(1 + Σ_{N_i} e^{α (S_ij + δ)}),
    w⁺ = α e^{−α(S − δ)} / (1 + Σ_{P_i} e^{−α(S − δ)}),
    w⁻ = α e^{α(S + δ)} / (1 + Σ_{N_i} e^{α(S + δ)}).

Anchors are proxies of classes and references the images of a batch
(:func:`crossbatch.proxy_anchor`).
*Proxy Anchor Loss for Deep Metric Learning* (Kim, Kim, Cho, Kwak, CVPR 2020), equation 4.

Requires: nothing; an anchor may lack either side. Cost: one sweep.

Relations: :class:`MultiSimilarity` without mining, with a gap of 2δ, and not divided by α.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_above, check_between
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import LOG_SUM_EXP, Statistic, Stats


@dataclass(frozen=True)
class ProxyAnchor(PairWeighting):
    """The pairs of a side share one softmax beside a threshold.

    Args:
        alpha: α > 0, the sharpness.
        delta: δ, in [0, 1], half the gap between the thresholds.

    Raises:
        CrossbatchError: A value is out of its range.

    >>> ProxyAnchor()
    ProxyAnchor(alpha=32.0, delta=0.1)
    """

    alpha: float = 32.0
    delta: float = 0.1

    cites: ClassVar[tuple[str, ...]] = ("kim2020proxyanchor",)

    def __post_init__(self) -> None:
        check_above(self.alpha, 0.0, name="alpha", where="ProxyAnchor")
        check_between(self.delta, 0.0, 1.0, name="delta", where="ProxyAnchor")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        positive = Statistic("log_positive", "positive", LOG_SUM_EXP, self._positive_exponent)
        negative = Statistic("log_negative", "negative", LOG_SUM_EXP, self.negative_term)
        return ((positive, negative),)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        exponent = self._positive_exponent(sim, stats)
        return self.alpha * torch.exp(exponent - _with_one(stats["log_positive"]))

    def negative_exponent(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return (sim + self.delta).mul_(self.alpha)

    @property
    def negative_line(self) -> tuple[float, float]:  # noqa: D102
        return (self.alpha, self.alpha * self.delta)

    def negative_log_factor(self, stats: Stats) -> Tensor:  # noqa: D102
        return math.log(self.alpha) - _with_one(stats["log_negative"])

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        return _with_one(stats["log_positive"]), _with_one(stats["log_negative"])

    def _positive_exponent(self, sim: Tensor, stats: Stats) -> Tensor:
        del stats
        return -self.alpha * (sim - self.delta)


def _with_one(log_sum: Tensor) -> Tensor:
    return torch.logaddexp(log_sum, torch.zeros_like(log_sum))

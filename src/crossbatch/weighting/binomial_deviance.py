r"""Binomial deviance: a smooth hinge for every pair by itself.

    L_i = Σ_{P_i} log(1 + e^{−α(S_ij − λ)}) + Σ_{N_i} log(1 + e^{β(S_ij − λ)}),
    w⁺ = α σ(−α(S − λ)),    w⁻ = β σ(β(S − λ)).

*Deep Metric Learning for Person Re-Identification* (Yi, Lei, Liao, Li, ICPR 2014).

Requires: nothing; an anchor may lack either side. Cost: one sweep.

Relations: :class:`MultiSimilarity` puts the pairs of a side into one logarithm.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbatch._check import check_above, check_between
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import SUM, Statistic, Stats


@dataclass(frozen=True)
class BinomialDeviance(PairWeighting):
    """Two logistic curves around one similarity.

    Args:
        alpha: α > 0, the sharpness on positives.
        beta: β > 0, the sharpness on negatives.
        base: λ, in [-1, 1].

    Raises:
        CrossbatchError: A value is out of its range.

    >>> import torch
    >>> BinomialDeviance(beta=40.0).negative(torch.tensor([0.5]), {})
    tensor([20.])
    """

    alpha: float = 2.0
    beta: float = 40.0
    base: float = 0.5

    cites: ClassVar[tuple[str, ...]] = ("yi2014deep",)

    def __post_init__(self) -> None:
        check_above(self.alpha, 0.0, name="alpha", where="BinomialDeviance")
        check_above(self.beta, 0.0, name="beta", where="BinomialDeviance")
        check_between(self.base, -1.0, 1.0, name="base", where="BinomialDeviance")

    @property
    def report(self) -> Stage:  # noqa: D102
        return (
            Statistic("positive_value", "positive", SUM, lambda s, _: F.softplus(self._easy(s))),
            Statistic("negative_value", "negative", SUM, lambda s, _: F.softplus(self._hard(s))),
        )

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return self.alpha * torch.sigmoid(self._easy(sim))

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return torch.sigmoid(self._hard(sim)).mul_(self.beta)

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        return stats["positive_value"], stats["negative_value"]

    def _easy(self, sim: Tensor) -> Tensor:
        return -self.alpha * (sim - self.base)

    def _hard(self, sim: Tensor) -> Tensor:
        return (sim - self.base).mul_(self.beta)

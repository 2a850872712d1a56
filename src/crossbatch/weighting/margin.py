r"""Margin loss: a hinge on either side of a boundary between near and far.

    L_i = Σ_{P_i} [D_ij − β + α]₊ + Σ_{N_i} [β + α − D_ij]₊,      D = √(2 − 2S),
    w⁺ = 1[D > β − α] / D,    w⁻ = 1[D < β + α] / D.

1/D makes every pair's pull or push along the sphere equally strong, however near the two are.
*Sampling Matters in Deep Embedding Learning* (Wu, Manmatha, Smola, Krähenbühl, ICCV 2017); its
distance-weighted sampling makes up for small batches and is not needed beside a memory.

Requires: nothing; an anchor may lack either side. Cost: one sweep, pairs farther than β + α are
left out. β can be learned: :class:`crossbatch.LearnableMargin`.

Relations: :class:`Contrastive` in distances, with a boundary that both sides share.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_between
from crossbatch.weighting._distance import distance, similarity_at
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import SUM, Statistic, Stats


@dataclass(frozen=True)
class Margin(PairWeighting):
    """Hinges at the distances β − α and β + α.

    Args:
        alpha: α, half the width of the gap, in [0, 2].
        beta: β, the boundary, in [0, 2].

    Raises:
        CrossbatchError: A value is out of its range.

    >>> import torch
    >>> Margin().negative(torch.tensor([0.0, 0.5]), {})
    tensor([0., 1.])
    """

    alpha: float = 0.2
    beta: float = 1.2

    cites: ClassVar[tuple[str, ...]] = ("wu2017sampling",)

    def __post_init__(self) -> None:
        check_between(self.alpha, 0.0, 2.0, name="alpha", where="Margin")
        check_between(self.beta, 0.0, 2.0, name="beta", where="Margin")

    @property
    def report(self) -> Stage:  # noqa: D102
        return (
            Statistic("positive_value", "positive", SUM, lambda s, _: self._above(s)),
            Statistic(
                "negative_value", "negative", SUM, lambda s, _: self._below(s), bounded=True
            ),
        )

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return (self._above(sim) > 0) / distance(sim)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return (self._below(sim) > 0) / distance(sim)

    def negative_bound(self, stats: Stats) -> float:  # noqa: D102
        del stats
        return similarity_at(self.beta + self.alpha) - 1e-6

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        return stats["positive_value"], stats["negative_value"]

    def _above(self, sim: Tensor) -> Tensor:
        return torch.relu(distance(sim) - self.beta + self.alpha)

    def _below(self, sim: Tensor) -> Tensor:
        return torch.relu(self.beta + self.alpha - distance(sim))

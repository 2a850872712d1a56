r"""What the released code of cross-batch memory trains under the name of triplet loss.

    P'_i = {S_ij < max_{N_i} S + ε},    N'_i = {S_ij > max(λ, max_{P_i} S) − ε},
    L_i = Σ_{P'_i} (1 − S_ij) + Σ_{N'_i} S_ij,    w⁺ = 1 on P',  w⁻ = 1 on N'.

There is no hinge over triplets in it: it is a contrastive loss with mining on both sides. Figures
of *Cross-Batch Memory for Embedding Learning* (Wang, Zhang, Huang, Scott, CVPR 2020) that are
labelled triplet may come from it.

Requires: positives and negatives for an anchor. Cost: two sweeps, one of them past mined pairs.

Relations: :class:`Contrastive` with bounds that move; :class:`MultiSimilarity` mines alike.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from crossbatch._check import check_between
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import MAX, Statistic, Stats, similarity


@dataclass(frozen=True)
class ReleasedTriplet(PairWeighting):
    """Ones for mined pairs.

    Args:
        epsilon: ε of the mining, in [0, 2].
        base: λ, the least similarity of the easiest positive that negatives are measured by.

    Raises:
        CrossbatchError: A value is out of its range.

    >>> ReleasedTriplet()
    ReleasedTriplet(epsilon=0.1, base=0.6)
    """

    epsilon: float = 0.1
    base: float = 0.6

    cites: ClassVar[tuple[str, ...]] = ("wang2020xbm",)
    needs_both: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_between(self.epsilon, 0.0, 2.0, name="epsilon", where="ReleasedTriplet")
        check_between(self.base, -1.0, 1.0, name="base", where="ReleasedTriplet")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        easiest = Statistic("easiest_positive", "positive", MAX, similarity)
        hardest = Statistic("hardest_negative", "negative", MAX, similarity)
        return ((easiest,), (hardest,))

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return (sim < stats["hardest_negative"] + self.epsilon).to(sim.dtype)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        return (sim > self.negative_bound(stats)).to(sim.dtype)

    def negative_bound(self, stats: Stats) -> Tensor:  # noqa: D102
        return stats["easiest_positive"].clamp(min=self.base) - self.epsilon

    @property
    def negative_line(self) -> tuple[float, float]:  # noqa: D102
        return (0.0, 0.0)

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        return stats["active_positives"] - stats["pull"], stats["push"]

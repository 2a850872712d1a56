r"""Tuplet margin: each positive, an angle nearer than it is, against all negatives.

    L_i = (1/|P_i|) Σ_{p ∈ P_i} log(1 + Σ_{N_i} e^{γ (cos θ_ij − cos(θ_ip − β))}),    S = cos θ,
    w⁺ = (1/|P_i|) γ (sin(θ − β)/sin θ) Z_i / (e^{γ cos(θ − β)} + Z_i).

The slack β lets go of the hardest positives: where θ is small, w⁺ is less than without it.
*Deep Metric Learning with Tuplet Margin Loss* (Yu, Tao, ICCV 2019), without its intra-pair
variance term, which is a loss of its own.

Requires: positives and negatives for an anchor. Cost: one sweep.

Relations: :class:`NPairs` at β = 0; :class:`ArcFace` has the margin on the other side.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from crossbatch._check import check_above, check_between
from crossbatch.weighting._angle import turned, turned_slope
from crossbatch.weighting._rivalry import Rivalry
from crossbatch.weighting.base import PairWeighting


@dataclass(frozen=True)
class TupletMargin(Rivalry, PairWeighting):
    """The logistic loss of every positive, helped by an angle, against all negatives.

    Args:
        slack: β in radians, in [0, 1]. The paper's is 0.1 (5.73°).
        scale: γ > 0.

    Raises:
        CrossbatchError: A value is out of its range.

    >>> TupletMargin()
    TupletMargin(slack=0.1, scale=64.0)
    """

    slack: float = 0.1
    scale: float = 64.0

    cites: ClassVar[tuple[str, ...]] = ("yu2019tuplet",)

    def __post_init__(self) -> None:
        check_between(self.slack, 0.0, 1.0, name="slack", where="TupletMargin")
        check_above(self.scale, 0.0, name="scale", where="TupletMargin")

    @property
    def sharpness(self) -> float:  # noqa: D102
        return self.scale

    def logit(self, sim: Tensor) -> Tensor:  # noqa: D102
        return self.scale * turned(sim, -self.slack)

    def slope(self, sim: Tensor) -> Tensor:  # noqa: D102
        return self.scale * turned_slope(sim, -self.slack)

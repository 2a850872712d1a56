r"""N-pairs: one positive against many negatives, on plain inner products.

    L_i = (1/|P_i|) Σ_{p ∈ P_i} log(1 + Σ_{N_i} e^{γ (S_ij − S_ip)}),
    w⁺ = (γ/|P_i|) Z_i / (e^{γS} + Z_i),    Z_i = Σ_{N_i} e^{γ S_ij},
    w⁻ = (γ/|P_i|) e^{γS} Σ_{p ∈ P_i} 1 / (e^{γS_ip} + Z_i).

*Improved Deep Metric Learning with Multi-class N-pair Loss Objective* (Sohn, NeurIPS 2016). The
paper does not normalise embeddings and adds a penalty on their norms; with unit vectors γ stands
for the square of the norm that they would have.

Requires: positives and negatives for an anchor. Cost: one sweep.

Relations: :class:`NTXent` with γ = 1/τ.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_above
from crossbatch.weighting._rivalry import Rivalry
from crossbatch.weighting.base import PairWeighting


@dataclass(frozen=True)
class NPairs(Rivalry, PairWeighting):
    """The logistic loss of every positive against all negatives.

    Args:
        scale: γ > 0.

    Raises:
        CrossbatchError: ``scale`` is not above 0.

    >>> NPairs()
    NPairs(scale=1.0)
    """

    scale: float = 1.0

    cites: ClassVar[tuple[str, ...]] = ("sohn2016npair",)

    def __post_init__(self) -> None:
        check_above(self.scale, 0.0, name="scale", where="NPairs")

    @property
    def sharpness(self) -> float:  # noqa: D102
        return self.scale

    def logit(self, sim: Tensor) -> Tensor:  # noqa: D102
        return sim * self.scale

    def slope(self, sim: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(sim, self.scale)

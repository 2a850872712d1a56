r"""NT-Xent, or InfoNCE: each positive is to be told from all negatives.

    L_i = −(1/|P_i|) Σ_{p ∈ P_i} log ( e^{S_ip/τ} / (e^{S_ip/τ} + Z_i) ),
    w⁺ = (1/(τ|P_i|)) Z_i / (e^{S/τ} + Z_i),    Z_i = Σ_{N_i} e^{S_ij/τ},
    w⁻ = (1/(τ|P_i|)) e^{S/τ} Σ_{p ∈ P_i} 1 / (e^{S_ip/τ} + Z_i).

*Representation Learning with Contrastive Predictive Coding* (van den Oord, Li, Vinyals, 2018), *A
Simple Framework for Contrastive Learning of Visual Representations* (Chen, Kornblith, Norouzi,
Hinton, ICML 2020), with any number of positives: other positives are not rivals.

Requires: positives and negatives for an anchor. Cost: one sweep.

Relations: :class:`NPairs` at τ = 1; :class:`SupCon` has the other positives among the rivals;
beside proxies of classes it is the softmax loss of ProxyNCA++ (:class:`crossbatch.Proxies`).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_above
from crossbatch.weighting._rivalry import Rivalry
from crossbatch.weighting.base import PairWeighting


@dataclass(frozen=True)
class NTXent(Rivalry, PairWeighting):
    """The logistic loss of every positive against the softmax of the negatives.

    Args:
        temperature: τ > 0.

    Raises:
        CrossbatchError: ``temperature`` is not above 0.

    >>> NTXent(temperature=0.07)
    NTXent(temperature=0.07)
    """

    temperature: float = 0.1

    cites: ClassVar[tuple[str, ...]] = ("oord2018cpc", "chen2020simclr")

    def __post_init__(self) -> None:
        check_above(self.temperature, 0.0, name="temperature", where="NTXent")

    @property
    def sharpness(self) -> float:  # noqa: D102
        return 1 / self.temperature

    def logit(self, sim: Tensor) -> Tensor:  # noqa: D102
        return sim / self.temperature

    def slope(self, sim: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(sim, 1 / self.temperature)

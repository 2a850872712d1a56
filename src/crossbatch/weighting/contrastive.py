r"""Contrastive loss: weight one for every positive and for every negative above the margin.

    L_i = Σ_{j ∈ P_i} (1 − S_ij) + Σ_{j ∈ N_i, S_ij > λ} S_ij,
    w⁺ = 1,    w⁻ = 1[S > λ].

It is the loss of choice beside a memory: it discards easy negatives and does not weigh positives,
which is what *Rethinking Deep Contrastive Learning with Embedding Memory* finds to matter.

Requires: nothing; an anchor may lack either side. Cost: one sweep, columns below λ are left out.

Relations: the loss of Hadsell, Chopra and LeCun (*Dimensionality Reduction by Learning an
Invariant Mapping*, CVPR 2006) in similarities instead of squared distances, in the form of
*Cross-Batch Memory for Embedding Learning* (Wang, Zhang, Huang, Scott, CVPR 2020), equation 3.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_between
from crossbatch.weighting.base import PairWeighting
from crossbatch.weighting.statistics import Stats


@dataclass(frozen=True)
class Contrastive(PairWeighting):
    """w⁺ = 1, w⁻ = 1[S > margin].

    Args:
        margin: λ, the similarity above which a negative counts, in [-1, 1].

    Raises:
        CrossbatchError: ``margin`` is out of its range.

    >>> import torch
    >>> Contrastive(margin=0.5)
    Contrastive(margin=0.5)
    >>> Contrastive(0.3).negative(torch.tensor([0.2, 0.4]), {})
    tensor([0., 1.])
    """

    margin: float = 0.5

    cites: ClassVar[tuple[str, ...]] = ("hadsell2006contrastive", "wang2020xbm")

    def __post_init__(self) -> None:
        check_between(self.margin, -1.0, 1.0, name="margin", where="Contrastive")

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return torch.ones_like(sim)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return torch.gt(sim, self.margin, out=torch.empty_like(sim))

    def negative_bound(self, stats: Stats) -> float:  # noqa: D102
        del stats
        return self.margin

    @property
    def negative_line(self) -> tuple[float, float]:  # noqa: D102
        return (0.0, 0.0)

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        return stats["positives"] - stats["pull"], stats["push"]

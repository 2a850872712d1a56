r"""Softmax losses with a margin, for anchors beside one proxy of each class.

    L_i = log(1 + Σ_{N_i} e^{γ S_ij} e^{−g(S_ip)}),
    CosFace: g = γ (S − m),    ArcFace: g = γ cos(θ + m),    S = cos θ.

*CosFace: Large Margin Cosine Loss for Deep Face Recognition* (Wang et al., CVPR 2018), *ArcFace:
Additive Angular Margin Loss for Deep Face Recognition* (Deng, Guo, Xue, Zafeiriou, CVPR 2019). The
references are the rows of a classifier: :class:`crossbatch.Proxies`. Beside images instead of
proxies they are :class:`NTXent` with a margin.

Requires: positives and negatives for an anchor. Cost: one sweep.

Relations: :class:`NTXent` at m = 0; :class:`TupletMargin` is ArcFace with m = −β.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_above, check_between
from crossbatch.weighting._angle import turned, turned_slope
from crossbatch.weighting._rivalry import Rivalry
from crossbatch.weighting.base import PairWeighting


@dataclass(frozen=True)
class CosFace(Rivalry, PairWeighting):
    """The positive's similarity counts for less by m.

    Args:
        margin: m, in [0, 1].
        scale: γ > 0.

    Raises:
        CrossbatchError: A value is out of its range.

    >>> CosFace()
    CosFace(margin=0.35, scale=64.0)
    """

    margin: float = 0.35
    scale: float = 64.0

    cites: ClassVar[tuple[str, ...]] = ("wang2018cosface",)

    def __post_init__(self) -> None:
        check_between(self.margin, 0.0, 1.0, name="margin", where="CosFace")
        check_above(self.scale, 0.0, name="scale", where="CosFace")

    @property
    def sharpness(self) -> float:  # noqa: D102
        return self.scale

    def logit(self, sim: Tensor) -> Tensor:  # noqa: D102
        return self.scale * (sim - self.margin)

    def slope(self, sim: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(sim, self.scale)


@dataclass(frozen=True)
class ArcFace(Rivalry, PairWeighting):
    """The positive's angle counts for more by m.

    Args:
        margin: m in radians, in [0, 1]. Angles beyond π − m are not treated apart.
        scale: γ > 0.

    Raises:
        CrossbatchError: A value is out of its range.

    >>> ArcFace()
    ArcFace(margin=0.5, scale=64.0)
    """

    margin: float = 0.5
    scale: float = 64.0

    cites: ClassVar[tuple[str, ...]] = ("deng2019arcface",)

    def __post_init__(self) -> None:
        check_between(self.margin, 0.0, 1.0, name="margin", where="ArcFace")
        check_above(self.scale, 0.0, name="scale", where="ArcFace")

    @property
    def sharpness(self) -> float:  # noqa: D102
        return self.scale

    def logit(self, sim: Tensor) -> Tensor:  # noqa: D102
        return self.scale * turned(sim, self.margin)

    def slope(self, sim: Tensor) -> Tensor:  # noqa: D102
        return self.scale * turned_slope(sim, self.margin)

"""From a map of features ``(B, C, H, W)`` to one vector an image ``(B, C)``.

With x the H·W values of a channel: mean(x), max(x), or the generalised mean
mean(x^p)^(1/p), which is the mean at p = 1 and tends to the maximum as p grows.
"""

import torch
from torch import Tensor, nn

from crossbatch._shapes import Float
from crossbatch.models.config import PoolingName


class Average(nn.Module):
    """The mean over positions."""

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C"]:
        """``(B, C)``."""
        return maps.mean(dim=(2, 3))


class Maximum(nn.Module):
    """The maximum over positions."""

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C"]:
        """``(B, C)``."""
        return maps.amax(dim=(2, 3))


class GeM(nn.Module):
    """The generalised mean over positions, its exponent learned.

    Radenović, Tolias, Chum: Fine-tuning CNN image retrieval with no human annotation, TPAMI 2019.

    Args:
        p: The exponent to begin with, positive.
        eps: What smaller values (and so all negative ones) are raised to.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C"]:
        """``(B, C)``, computed in float32 at least."""
        x = maps.to(torch.promote_types(maps.dtype, torch.float32)).clamp(min=self.eps)
        return x.pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


def make_pooling(name: PoolingName) -> nn.Module:
    """The pooling of a configuration."""
    match name:
        case "avg":
            return Average()
        case "max":
            return Maximum()
        case "gem":
            return GeM()

r"""Momentum keys: rows of the memory from a network that moves more slowly than the one trained.

    θ' ← m θ' + (1 − m) θ     after every step; buffers (statistics of batch normalisation) copied
    memory ← f(x; θ')         the batch a second time, without gradient; the loss takes f(x; θ)

A larger m makes rows of different ages more alike, and all of them older, by some
1 / (1 − m) steps. m may rise along a training of T steps, so that the copy comes to rest:

    m_t = 1 − (1 − m) (1 + cos(π t / T)) / 2,

*Bootstrap Your Own Latent* (Grill et al., NeurIPS 2020).

*Momentum Contrast for Unsupervised Visual Representation Learning* (He, Fan, Wu, Xie, Girshick,
CVPR 2020); with labels, *Rethinking Deep Contrastive Learning with Embedding Memory* (Zhang, Wang,
Huang, Scott, 2021). An average of stored rows is something else: see ``row_momentum`` of
:class:`crossbatch.PerImageMemory`.
"""

import copy
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbatch._shapes import Float
from crossbatch.errors import CrossbatchError, expected


class MomentumKeys(nn.Module):
    """A copy of a network that follows it, and says what the memory stores.

    Args:
        network: Copied as it is now; nothing of it is shared. Make the copy before the network is
            wrapped for several devices.
        momentum: m in [0, 1). 0 copies every step.

    Raises:
        CrossbatchError: ``momentum`` is outside of [0, 1).

    >>> import torch
    >>> from torch import nn
    >>> encoder = nn.Linear(3, 2)
    >>> keys = MomentumKeys(encoder, momentum=0.9)
    >>> with torch.no_grad():
    ...     _ = encoder.bias.add_(1.0)  # a step of an optimizer
    >>> keys.follow(encoder)
    >>> x = torch.ones(1, 3)
    >>> torch.allclose(encoder(x) - keys(x), torch.tensor(0.9))
    True
    """

    cites: ClassVar[tuple[str, ...]] = ("he2020moco", "zhang2021rethinking", "grill2020byol")

    def __init__(self, network: nn.Module, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise CrossbatchError(
                expected(
                    "`momentum` in [0, 1) in MomentumKeys",
                    momentum,
                    "0.99 follows within a hundred steps, 0.999 within a thousand.",
                )
            )
        self.network = copy.deepcopy(network).requires_grad_(False).train()
        self.momentum = momentum

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Float[Tensor, "B D"]:
        """What the copy makes of inputs, without gradient: of the same shape as the network's.

        Dropout draws from the global generator, after what the trained network drew.

        Cost: one forward pass.
        """
        return self.network(inputs)

    @torch.no_grad()
    def follow(self, network: nn.Module, *, done: float = 0.0) -> None:
        """Move a step towards the trained network, which has the same shape.

        Args:
            network: The trained one.
            done: t / T in [0, 1], the part of the training that is over, for a momentum that rises
                along a cosine; 0 throughout keeps it as it is.

        Cost: one read of its parameters.
        """
        step = (1 - self.momentum) * (1 + math.cos(math.pi * done)) / 2
        for old, new in zip(self.network.parameters(), network.parameters(), strict=True):
            old.lerp_(new, step)
        for old, new in zip(self.network.buffers(), network.buffers(), strict=True):
            old.copy_(new)

    def extra_repr(self) -> str:
        """Prints as code."""
        return f"momentum={self.momentum}"

r"""Momentum keys: rows of the memory from a network that moves more slowly than the one trained.

    θ' ← m θ' + (1 − m) θ     after every step; buffers (statistics of batch normalisation) copied
    memory ← f(x; θ')         the batch a second time, without gradient; the loss takes f(x; θ)

A larger m makes rows of different ages more alike, and all of them older, by some
1 / (1 − m) steps.

*Momentum Contrast for Unsupervised Visual Representation Learning* (He, Fan, Wu, Xie, Girshick,
CVPR 2020); with labels, *Rethinking Deep Contrastive Learning with Embedding Memory* (Zhang, Wang,
Huang, Scott, 2021). An average of stored rows is something else: see ``row_momentum`` of
:class:`crossbatch.PerImageMemory`.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class MomentumKeys:
    """A copy of a network that follows it.

    Args:
        network: Copied as it is now; nothing of it is shared.
        momentum: m in (0, 1).
    """

    def __init__(self, network: nn.Module, momentum: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).train()
        self.momentum = momentum

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Embeddings of inputs in training mode, (B, …) to (B, D).

        Dropout draws from the global generator, after what the trained network drew.
        """
        return self.network(inputs)

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Move a step towards a network of the same shape. Cost: one read of its parameters."""
        for old, new in zip(self.network.parameters(), network.parameters(), strict=True):
            old.lerp_(new, 1 - self.momentum)
        for old, new in zip(self.network.buffers(), network.buffers(), strict=True):
            old.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """θ' and the buffers."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.network.load_state_dict(state)

"""What one training does otherwise than another: the part that depends on its task."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from crossbatch.data import Manifest, Sampler
from crossbatch.engine import ObjectiveResult
from crossbatch.models import Encoder, EncoderConfig
from crossbatch.training.batch import Classes


class Task(Protocol):
    """A task of the images of a manifest."""

    manifest: Manifest
    """With its validation images."""
    codes: np.ndarray
    """The class of each row of the manifest; below 0 where it is not one of this task."""
    score: str
    """The metric that chooses the best encoder; more is better."""
    batch: int
    """Images in a batch of one rank."""
    unit: int
    """Images that a subset's share of a batch is counted in."""

    def encoder(self, config: EncoderConfig) -> EncoderConfig:
        """What to build."""
        ...

    def network(self, encoder: Encoder) -> nn.Module:
        """What is trained: it shares the encoder's parameters and maps inputs to rows."""
        ...

    def features(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """What images are ranked by, ``(B, F)``."""
        ...

    def room(self, codes: np.ndarray) -> int:
        """Units of a batch that images of these classes can fill."""
        ...

    def sampler(
        self,
        codes: np.ndarray,
        *,
        units: int | None = None,
        seed: int,
        balanced: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> Sampler:
        """Batches of images of these classes: whole ones, or a part of so many units."""
        ...

    def vary(self, inputs: Tensor, batch: Classes, step: int) -> tuple[Tensor, Classes]:
        """What is done to a batch before the network sees it."""
        ...

    def loss(self, outputs: Tensor, batch: Classes) -> ObjectiveResult | None:
        """The loss of the network's outputs; None for that of pairs, with the memory."""
        ...

    def measure(self, outputs: Tensor, images: Classes) -> dict[str, float]:
        """Metrics of images that were held out, the score among them."""
        ...

    def save(self, encoder: Encoder, network: nn.Module, folder: Path) -> None:
        """Write the encoder with the weights of a network of the shape that is trained."""
        ...


def with_weights(
    encoder: Encoder, network: nn.Module, wrap: Callable[[Encoder], nn.Module]
) -> Encoder:
    """The encoder with a network's weights: itself where the network shares them, else a copy.

    Args:
        encoder: Of the training.
        network: Of the shape that ``wrap`` gives.
        wrap: Makes of an encoder the network that is trained.
    """
    ours, theirs = next(wrap(encoder).parameters()), next(network.parameters())
    if ours is theirs:
        return encoder
    other = copy.deepcopy(encoder)
    wrap(other).load_state_dict(network.state_dict())
    return other

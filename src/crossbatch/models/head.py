"""From pooled features ``(B, F)`` to a vector ``(B, D)``, not yet of unit norm."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from crossbatch._shapes import Float
from crossbatch.errors import CrossbatchError, expected
from crossbatch.models.config import HeadName

_BLOCK = 16_384  # rows read at a time; the table of features may be larger than the memory


class Standardise(nn.Module):
    """(x - mean) / std, feature by feature: the identity until `fit`. Saved with the model."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, features: np.ndarray | Tensor) -> None:
        """Take mean and deviation from ``features`` (N, F); a constant feature keeps deviation 1.

        Reads the features twice, block by block, and sums in float64.

        Raises:
            CrossbatchError: There are fewer than two rows, the width is another, or a feature is
                not finite.
        """
        rows, width = len(features), self.mean.numel()
        if features.ndim != 2 or features.shape[1] != width or rows < 2:
            wanted = f"features of shape (2 or more, {width}) to standardise by"
            remedy = "Give the features of all training images, as `Encoder.features` makes them."
            raise CrossbatchError(expected(wanted, tuple(features.shape), remedy))
        mean = torch.stack([block.sum(0) for block in _blocks(features)]).sum(0) / rows
        squares = torch.stack([(block - mean).square().sum(0) for block in _blocks(features)])
        deviation = (squares.sum(0) / rows).sqrt()
        if not bool(torch.isfinite(deviation).all()):
            remedy = "Look for a broken image, or a trunk that overflows in low precision."
            raise CrossbatchError(
                expected("finite features to standardise by", "NaN or infinity", remedy)
            )
        # What rounding alone leaves of a constant is no deviation.
        constant = deviation <= 1e-6 * mean.abs()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, 1.0, deviation))

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """``(B, F)``."""
        return (features - self.mean) / self.std


class Head(nn.Module):
    """Standardisation if asked for, dropout, then one linear layer or an MLP of one hidden layer.

    The MLP is linear (F to F), batch normalisation, ReLU, linear (F to D); while training it
    needs two images or more.

    Args:
        width: F, of the features.
        dim: D, of the embedding.
        kind: ``linear`` or ``mlp``.
        dropout: Share of the features dropped while training.
        standardise: Begin with a `Standardise` layer.
    """

    def __init__(
        self, width: int, dim: int, *, kind: HeadName, dropout: float, standardise: bool
    ) -> None:
        super().__init__()
        self.standardise = Standardise(width) if standardise else None
        self.dropout = nn.Dropout(dropout)
        if kind == "linear":
            self.layers = nn.Sequential(nn.Linear(width, dim))
        else:
            self.layers = nn.Sequential(
                nn.Linear(width, width, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(),
                nn.Linear(width, dim),
            )

    def fit(self, features: np.ndarray | Tensor) -> None:
        """Set the standardisation from ``features`` (N, F), once, before training.

        Raises:
            CrossbatchError: The head has no standardisation, or see `Standardise.fit`.
        """
        if self.standardise is None:
            remedy = "Configure the encoder with standardise=True, or leave `fit` out."
            raise CrossbatchError(
                expected("a head that standardises its features", "standardise=False", remedy)
            )
        self.standardise.fit(features)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B D"]:
        """``(B, D)``."""
        if self.standardise is not None:
            features = self.standardise(features)
        return self.layers(self.dropout(features))


def _blocks(features: np.ndarray | Tensor) -> Iterator[Tensor]:
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK]
        if isinstance(block, np.ndarray):
            block = torch.from_numpy(np.array(block))  # a copy: torch wants writable memory
        yield block.detach().double().cpu()

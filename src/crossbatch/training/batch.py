r"""The rows of a batch or of a split, and how much each of them counts.

The weight of an image scales the gradient that its embedding sends to the network,

    z' = sg(z) + w (z − sg(z)),     ∂L/∂z = w ∂L/∂z',

where sg stops the gradient. The value is that of z to the last bit, so what the image does as a
positive or a negative of others is not touched, and any loss of any pairs can be weighted, with
the memory or without.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Images that were mixed with others: λ x + (1 − λ) x[partner]."""

    partner: Tensor
    share: float


@dataclass(frozen=True)
class Classes:
    """The images of some classes: their ids and class codes, and their rows in the material.

    ``weights`` are those of the loss, None where all are 1; ``mixed`` says what the inputs of a
    batch are mixtures of, None where they are plain.
    """

    rows: np.ndarray
    ids: Tensor
    codes: Tensor
    weights: Tensor | None = None
    mixed: Mixture | None = None

    def only(self, keep: Tensor) -> "Classes":
        """Those of the rows for which a mask is true; of plain images."""
        keep = keep.cpu()
        weights = None if self.weights is None else self.weights[keep]
        return Classes(self.rows[keep.numpy()], self.ids[keep], self.codes[keep], weights)


def weighted(embeddings: Tensor, weights: Tensor | None) -> Tensor:
    """z', of shape (B, D), for weights (B,); z itself without any."""
    if weights is None:
        return embeddings
    still = embeddings.detach()
    return still + weights.to(embeddings)[:, None] * (embeddings - still)

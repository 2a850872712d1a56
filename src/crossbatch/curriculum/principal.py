r"""Principal components, of one class or of all rows.

With X centred, the covariance C = Xᵀ X has eigenvectors V; X V_k are the coordinates along the k
directions of greatest variance, and distances are between those. Where there are fewer rows than
columns, X Xᵀ = U Λ Uᵀ gives the same coordinates as U_k Λ_k^½. Where k reaches the rank that the
rows can have, the projection is a rotation, which changes no distance, and is left out: so a class
of fewer images than k, where the released CurriculumNet fails, is as any other.

Products and eigenvectors are float64: coordinates are good to about 1e-12 of the largest. Torch
takes both, since it is faster than numpy here and keeps to the threads that it is given.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from crossbatch.curriculum.points import Floats

_PANEL = 256


class Basis(NamedTuple):
    """Attributes: mean: shape (D,); directions: shape (D, k), the greatest variance first."""

    mean: Floats
    directions: Floats

    def project(self, x: Floats) -> Floats:
        """Coordinates (n, k) of rows (n, D)."""
        return (x - self.mean) @ self.directions


def reduced(x: Floats, k: int) -> Floats:
    """Rows in the space of their own k first principal components.

    Args:
        x: Shape (n, D).
        k: Components; n, D or more of them change no distance, and ``x`` is returned.

    Returns:
        Shape (n, k). Signs, and directions of equal variance, are as the eigensolver gives them.

    Cost: n D² / 2 + 4 D³ multiplications, D replaced by n where n < D.
    """
    n, width = x.shape
    if k >= width or k >= n:
        return x
    centred = torch.as_tensor(x - x.mean(axis=0), device="cpu")
    if n < width:
        values, vectors = _greatest(_gram(centred.T), k)
        return (vectors * values.clamp(min=0).sqrt()).numpy()
    return (centred @ _greatest(_gram(centred), k)[1]).numpy()


def common_basis(chunks: Callable[[], Iterator[Floats]], k: int) -> Basis:
    """The k first principal components of many rows, in two passes over chunks of them.

    Args:
        chunks: Gives the rows anew at each call, float64, shapes (·, D).
        k: Components, below D.
    """
    rows, total = 0, np.zeros(())
    for chunk in chunks():
        rows, total = rows + len(chunk), total + chunk.sum(axis=0)
    mean = total / rows
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device="cpu")
    for chunk in chunks():
        covariance += _gram(torch.as_tensor(chunk - mean, device="cpu"))
    return Basis(mean, _greatest(covariance, k)[1].numpy())


def _gram(x: Tensor) -> Tensor:
    """The lower triangle of Xᵀ X by panels, and what the panels hold above it."""
    width = x.shape[1]
    found = x.new_zeros(width, width)
    for start in range(0, width, _PANEL):
        found[start:, start : start + _PANEL] = x[:, start:].T @ x[:, start : start + _PANEL]
    return found


def _greatest(gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest eigenvalues, falling, and their vectors; of the lower triangle alone."""
    values, vectors = cast(tuple[Tensor, Tensor], cast(Any, torch.linalg).eigh(gram))
    return values[-k:].flip(0), vectors[:, -k:].flip(1)

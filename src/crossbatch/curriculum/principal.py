r"""Principal components, of one class or of all rows.

With X centred, the covariance C = Xᵀ X has eigenvectors V; X V_k are the coordinates along the k
directions of greatest variance, and distances are between those. Where there are fewer rows than
columns, X Xᵀ = U Λ Uᵀ gives the same coordinates as U_k Λ_k^½. Where k reaches the rank that the
rows can have, the projection is a rotation, which changes no distance, and is left out: so a class
of fewer images than k, where the released CurriculumNet fails, is as any other.

Products and eigenvectors are float64: coordinates are good to about 1e-12 of the largest.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from crossbatch.curriculum.points import Floats


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
    x = x - x.mean(axis=0)
    if n < width:
        values, vectors = np.linalg.eigh(x @ x.T)
        return vectors[:, : -k - 1 : -1] * np.sqrt(np.maximum(values[: -k - 1 : -1], 0))
    _, vectors = np.linalg.eigh(x.T @ x)
    return x @ vectors[:, : -k - 1 : -1]


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
    covariance = np.zeros((len(mean), len(mean)))
    for chunk in chunks():
        centred = chunk - mean
        covariance += centred.T @ centred
    return Basis(mean, np.linalg.eigh(covariance)[1][:, : -k - 1 : -1])

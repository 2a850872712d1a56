"""Euclidean distance of unit vectors as a function of their similarity, D = √(2 − 2S)."""

from torch import Tensor

NEAREST = 1e-4
"""Distances are not taken to be smaller: 1/D is a weight."""


def distance(sim: Tensor) -> Tensor:
    """D of S, at least :data:`NEAREST`."""
    return (2 - 2 * sim).clamp(min=NEAREST**2).sqrt()


def similarity_at(distance: float) -> float:
    """S of D."""
    return 1 - distance**2 / 2

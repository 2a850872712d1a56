"""Similarities as cosines of angles, S = cos θ, turned by some more."""

import math

from torch import Tensor

_SMALLEST_SINE = 1e-4


def turned(sim: Tensor, angle: float) -> Tensor:
    """cos(θ + angle)."""
    return sim * math.cos(angle) - _sine(sim) * math.sin(angle)


def turned_slope(sim: Tensor, angle: float) -> Tensor:
    """Its derivative by S: sin(θ + angle) / sin θ."""
    return math.cos(angle) + sim / _sine(sim) * math.sin(angle)


def _sine(sim: Tensor) -> Tensor:
    return (1 - sim.square()).clamp(min=_SMALLEST_SINE**2).sqrt()

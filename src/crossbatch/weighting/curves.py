r"""Weight curves: plain functions of similarity, to be assigned directly to a side.

A curve is a value: it prints as code and stands in a config. Those that grow are for negatives;
``falling=True`` mirrors one for positives, where low similarity is hard.

    constant 1 · step 1[S > λ] · ramp [S − λ]₊/(1 − λ) · polynomial [(S + 1)/2]^p ·
    exponential e^{β(S − 1)} · sigmoid σ(β(S − λ))

The study grid of *Rethinking Deep Contrastive Learning with Embedding Memory* (Zhang, Wang, Huang,
Scott, 2021) is made of such curves.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from crossbatch._check import check_above, check_between


class Curve(ABC):
    """A weight as a function of similarity. Finals are frozen dataclasses."""

    falling: bool

    def __call__(self, sim: Tensor) -> Tensor:
        """Weights of similarities, elementwise."""
        return self.rise(-sim if self.falling else sim)

    def least(self) -> float | None:
        """A similarity at or below which the weight is zero, or None."""
        return None

    @abstractmethod
    def rise(self, sim: Tensor) -> Tensor:
        """The curve as it grows with similarity."""


@dataclass(frozen=True)
class Constant(Curve):
    """The same weight for every pair.

    >>> Constant(2.0)(torch.tensor([0.1, 0.9]))
    tensor([2., 2.])
    """

    weight: float = 1.0
    falling: bool = False

    def rise(self, sim: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(sim, self.weight)


@dataclass(frozen=True)
class Step(Curve):
    """One above a similarity, nothing below.

    >>> Step(0.5)(torch.tensor([0.1, 0.9]))
    tensor([0., 1.])
    """

    base: float = 0.5
    falling: bool = False

    def __post_init__(self) -> None:
        check_between(self.base, -1.0, 1.0, name="base", where="Step")

    def rise(self, sim: Tensor) -> Tensor:  # noqa: D102
        return (sim > self.base).to(sim.dtype)

    def least(self) -> float | None:  # noqa: D102
        return None if self.falling else self.base


@dataclass(frozen=True)
class Ramp(Curve):
    """From zero at a similarity to one at the highest.

    >>> Ramp(0.5)(torch.tensor([0.1, 0.75, 1.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """

    base: float = 0.0
    falling: bool = False

    def __post_init__(self) -> None:
        check_between(self.base, -1.0, 0.99, name="base", where="Ramp")

    def rise(self, sim: Tensor) -> Tensor:  # noqa: D102
        return torch.relu(sim - self.base) / (1 - self.base)

    def least(self) -> float | None:  # noqa: D102
        return None if self.falling else self.base


@dataclass(frozen=True)
class Polynomial(Curve):
    """A power of (S + 1)/2.

    >>> Polynomial(2.0)(torch.tensor([0.0, 1.0]))
    tensor([0.2500, 1.0000])
    """

    power: float = 2.0
    falling: bool = False

    def __post_init__(self) -> None:
        check_above(self.power, 0.0, name="power", where="Polynomial")

    def rise(self, sim: Tensor) -> Tensor:  # noqa: D102
        return ((sim + 1) / 2).clamp(min=0).pow(self.power)


@dataclass(frozen=True)
class Exponential(Curve):
    """Grows by e within 1/β.

    >>> Exponential(1.0)(torch.tensor([0.0, 1.0]))
    tensor([0.3679, 1.0000])
    """

    beta: float = 10.0
    falling: bool = False

    def __post_init__(self) -> None:
        check_above(self.beta, 0.0, name="beta", where="Exponential")

    def rise(self, sim: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(self.beta * (sim - 1))


@dataclass(frozen=True)
class Sigmoid(Curve):
    """Half at a similarity.

    >>> Sigmoid(base=0.5)(torch.tensor([0.5]))
    tensor([0.5000])
    """

    beta: float = 10.0
    base: float = 0.5
    falling: bool = False

    def __post_init__(self) -> None:
        check_above(self.beta, 0.0, name="beta", where="Sigmoid")
        check_between(self.base, -1.0, 1.0, name="base", where="Sigmoid")

    def rise(self, sim: Tensor) -> Tensor:  # noqa: D102
        return torch.sigmoid(self.beta * (sim - self.base))

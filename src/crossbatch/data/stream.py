"""Endless streams of batches, which any rank enters at any place.

Batch k is a function of k and of what the stream is made of (data, seed, sizes), drawn by
generators that are made for it. So one integer need be kept to go on, and rank r of W takes
batches r, r + W, r + 2W, ... of the one stream.
"""

import hashlib
from abc import ABC, abstractmethod
from typing import Protocol, Self

import numpy as np

from crossbatch.errors import CrossbatchError, expected


class Sampler(Protocol):
    """Row numbers of batch after batch, without end; what a few integers tell."""

    rank: int
    """Which share of the stream this process takes."""
    world: int
    """How many processes share the stream."""

    @property
    def batch_size(self) -> int:
        """Rows of every batch."""
        ...

    def __iter__(self) -> Self: ...

    def __next__(self) -> np.ndarray:
        """The next batch of this rank, ``(B,)`` int64."""
        ...

    def skip(self, batches: int) -> None:
        """Pass over batches of the whole stream (of all ranks) without drawing them."""
        ...

    def state_dict(self) -> dict[str, int]:
        """The place in the stream, and what the stream is made of."""
        ...

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to the place that `state_dict` told."""
        ...


class Stream(ABC):
    """A sampler that draws its batches by their numbers.

    Args:
        content: The data, as far as batches depend on them.
        seed: Of the stream, ≥ 0.
        rank: Which share of the stream this process takes, in [0, world).
        world: How many processes share the stream.

    Raises:
        CrossbatchError: A number is out of range.
    """

    def __init__(self, content: bytes, *, seed: int, rank: int, world: int) -> None:
        self._check_at_least("seed", seed, 0)
        self._check_at_least("world", world, 1)
        if not 0 <= rank < world:
            remedy = "Give each process its own rank, counted from 0."
            wanted = f"`rank` of {type(self).__name__} in [0, {world})"
            raise CrossbatchError(expected(wanted, rank, remedy))
        self.seed, self.rank, self.world = seed, rank, world
        self._digest = int.from_bytes(hashlib.sha256(content).digest()[:6])
        self._place = 0

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """B, the number of rows of every batch."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> np.ndarray:
        """The next batch of this rank, ``(B,)`` int64. Afterwards all ranks stand alike."""
        rows = self._draw(self._place + self.rank)
        self._place += self.world
        return rows

    def skip(self, batches: int) -> None:
        """Pass over batches of the whole stream (of all ranks) without drawing them."""
        self._check_at_least("batches", batches, 0)
        self._place += batches

    def state_dict(self) -> dict[str, int]:
        """The place in the stream, the same on every rank, and what the stream is made of."""
        return {"place": self._place, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to the place that `state_dict` told. The number of ranks may differ.

        Raises:
            CrossbatchError: The state is of other data, another seed or other sizes.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                what = "the same data" if name == "data" else f"`{name}` {value}"
                remedy = "Resume with the manifest and the settings that the state comes from."
                wanted = f"the state of a sampler with {what}"
                raise CrossbatchError(expected(wanted, state.get(name), remedy))
        place = state.get("place", -1)
        if place < 0:
            wanted = "a `place` of 0 or more in the state of a sampler"
            raise CrossbatchError(expected(wanted, place, "Use an unaltered state."))
        self._place = place

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, **self._settings(), "data": self._digest}

    def _check_at_least(self, name: str, value: int, low: int) -> None:
        if value < low:
            wanted = f"`{name}` of {type(self).__name__} to be {low} or more"
            raise CrossbatchError(expected(wanted, value, "Choose a larger one."))

    @abstractmethod
    def _draw(self, batch: int) -> np.ndarray:
        """The rows of a batch, ``(B,)`` int64."""

    @abstractmethod
    def _settings(self) -> dict[str, int]:
        """On which batches depend, beside the seed and the data."""

r"""Which pairs may reach a level, from eight-bit codes: the similarity of the others is not taken.

Queries and gallery are rounded on one scale c (:mod:`crossbatch.codes`),

    a = c q_a + ε_a,   r = c q + ε,   |⟨a, r⟩ − c² ⟨q_a, q⟩| ≤ ρ_a (‖r‖ + ρ) + ‖a‖ ρ,   ρ = ‖ε‖,

so a query's level becomes an integer, which products of integers are compared with. On processors
that multiply bytes these cost a quarter of float32 products or less. Those that reach it are taken
in float32, one by one, which costs as much as a hundred of a whole product: worth it for queries
of which few negatives come near the level, and nothing for the others.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossbatch.codes import (
    ROUNDING,
    best_scale,
    encode,
    integer_product,
    multiplies,
    similarities,
)

Array = np.ndarray[Any, Any]

LEAST = 256  # numbers in an embedding, below which products in float32 are no slower
_FEWEST = 4096  # images of a gallery, below which codes are not worth their making
_SAMPLE = 1024  # rows that tell the scale
_LIMIT = 2.0**31 - 128


class Screen:
    """Codes of queries and gallery, unit rows or zeros."""

    def __init__(self, queries: Tensor, gallery: Tensor) -> None:
        self.queries, self.gallery = queries, gallery
        self.scale = best_scale(gallery[:: math.ceil(len(gallery) / _SAMPLE)])
        self._held, self._held_off = self._encoded(gallery)
        same = gallery is queries
        self._asked, self._asked_off = (
            (self._held, self._held_off) if same else self._encoded(queries)
        )

    def _encoded(self, rows: Tensor) -> tuple[Tensor, Array]:
        codes = encode(rows, scale=self.scale)
        return codes.values, codes.residual.numpy()

    def products(self, rows: slice, columns: slice, out: Tensor) -> Array:
        """⟨q_a, q⟩ of a tile of queries and gallery, in a place for at least so many int32."""
        a, b = self._asked[rows], self._held[columns]
        tile = out[: len(a) * len(b)].view(len(a), len(b))
        integer_product(a, b, out=tile)
        return tile.numpy()

    def least(self, level: Array, rows: slice, columns: slice) -> Array:
        """For each query of a tile the least product of a pair that may reach its level."""
        return self._least(level, self._asked_off[rows], self._held_off[columns])

    def least_of_columns(self, level: Array, rows: slice, columns: slice) -> Array:
        """The same where the columns are queries and the rows are gallery images."""
        return self._least(level, self._asked_off[columns], self._held_off[rows])

    def error(self) -> Array:
        """Of each query, how far similarities may be off at most."""
        return _error(self._asked_off, self._held_off)

    def _least(self, level: Array, own: Array, other: Array) -> Array:
        least = np.floor((level - _error(own, other)) / self.scale**2)
        return least.clip(-_LIMIT, _LIMIT).astype(np.int32)

    def exact(self, rows: slice, columns: slice, at: tuple[Array, Array]) -> Array:
        """Similarities of some pairs of a tile, given by their places in it, ascending by row."""
        room = torch.empty(len(at[0]))
        sim = similarities(self.queries[rows], self.gallery[columns], at, room=room)
        return sim.numpy()


def worth(queries: Tensor, gallery: Tensor) -> bool:
    """Whether codes can be had and may save time."""
    return queries.shape[1] >= LEAST and len(gallery) >= _FEWEST and multiplies()


def _error(own: Array, other: Array) -> Array:
    most = float(other.max())
    norm = 1 + 1e-5  # of rows in float32 that were divided by theirs
    return own.astype(np.float64) * (norm + most) + norm * most + ROUNDING

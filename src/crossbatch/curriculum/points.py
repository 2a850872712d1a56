r"""The points of one class and their distances, in an arithmetic that no tile or thread changes.

    t_ij = √(Σ_k (x_ik − x_jk)²)        float64, differences first, summed by numpy in one order
    a_ij = |x̂_i|² + |x̂_j|² − 2 ⟨x̂_i, x̂_j⟩ ≈ t_ij²,   x̂ = float32((x − mean) / s)

Products of matrices give a quickly, and t takes its time. With u = 2⁻²⁴ and M = max |x̂| it holds
for any order of summation that

    |a_ij − t_ij²| ≤ e,    e = u M² (2 D + 24) · 1.01

(2 D u M² from the product, the rest from rounding x̂, the two norms and the two additions). So a
decides every comparison that is not within e, and t decides the others: what is asked of the
distances is answered as if all were t. s is a power of two, so features may have any scale.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

TILE = 1024  # side of a tile: 4 MiB of float32, which stay in the caches
_CHUNK = 2**21  # numbers in one chunk of differences


class Block(NamedTuple):
    """A tile of a, or of the squared distances in float64.

    Attributes:
        rows: Its rows among the points.
        columns: Its columns. Where they are others than the rows, the block stands for its
            mirror image too.
        squares: Shape (rows, columns). Zero on the diagonal. To be changed by whoever asked.
    """

    rows: slice
    columns: slice
    squares: NDArray[np.floating]

    @property
    def mirrored(self) -> bool:
        """Whether the pairs (j, i) are in no other block."""
        return self.rows != self.columns


class Points:
    """The n points of a class, in units of ``scale``.

    Args:
        x: Shape (n, D), finite, float64.

    Attributes:
        x: Shape (n, D), divided by ``scale``.
        scale: s, a power of two: distances here times s are those of the features.
        error: e, in units of s².
    """

    def __init__(self, x: Floats) -> None:
        centred = x - x.mean(axis=0)
        largest = float(np.abs(centred).max(initial=0.0))
        self.scale = float(2.0 ** np.frexp(largest)[1]) if largest else 1.0
        centred /= self.scale
        self.x = np.ascontiguousarray(x / self.scale)
        self._set(centred)

    def _set(self, centred: Floats) -> None:
        self._double = torch.as_tensor(centred)
        self._single = self._double.float()
        self._squares = self._double.square().sum(dim=1)
        width = centred.shape[1]
        top = float(self._squares.max()) * (1 + 2.0**-20) if len(centred) else 0.0
        self.error = 2.0**-24 * top * (2 * width + 24) * 1.01

    def __len__(self) -> int:
        return len(self.x)

    def take(self, order: Places) -> "Points":
        """The same points in another order."""
        other = object.__new__(Points)
        other.scale, other.x = self.scale, self.x[order]
        other._set(self._double.numpy()[order])
        return other

    def squares(
        self, rows: slice, columns: slice, *, double: bool = False
    ) -> NDArray[np.floating]:
        """A of some rows against some columns, or float64 in its place. Cost: one product."""
        x = self._double if double else self._single
        norms = self._squares.to(x.dtype)
        found = torch.addmm(norms[columns], x[rows], x[columns].T, alpha=-2)
        found += norms[rows, None]
        if rows == columns:
            found.fill_diagonal_(0)
        return found.numpy()

    def blocks(self, *, double: bool = False) -> Iterator[Block]:
        """All pairs: tiles on and above the diagonal."""
        n = len(self)
        places = [slice(start, min(start + TILE, n)) for start in range(0, n, TILE)]
        for at, rows in enumerate(places):
            for columns in places[at:]:
                yield Block(rows, columns, self.squares(rows, columns, double=double))

    def distances(self, i: Places, j: Places) -> Floats:
        """The distances t of some pairs, a chunk of differences at a time."""
        found = np.empty(len(i))
        step = max(1, _CHUNK // max(1, self.x.shape[1]))
        for start in range(0, len(i), step):
            part = slice(start, start + step)
            difference = self.x[i[part]] - self.x[j[part]]
            found[part] = np.multiply(difference, difference, out=difference).sum(axis=1)
        return np.sqrt(found, out=found)

    def sample(self, pairs: int) -> NDArray[np.float32]:
        """A of ordered pairs drawn at random, the same ones each time."""
        draw = np.random.default_rng(0)
        i, j = draw.integers(0, len(self), (2, pairs))
        found = np.empty(pairs, np.float32)
        step = max(1, _CHUNK // max(1, self.x.shape[1]))
        single = self._single.numpy()
        for start in range(0, pairs, step):
            part = slice(start, start + step)
            difference = single[i[part]] - single[j[part]]
            found[part] = np.einsum("pd,pd->p", difference, difference)
        return found

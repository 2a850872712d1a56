r"""The points of one class and their distances, in an arithmetic that no tile or thread changes.

    t_ij = √(Σ_k (x_ik − x_jk)²)        float64, differences first, summed by numpy in one order
    a_ij = |x̂_i|² + |x̂_j|² − 2 ⟨x̂_i, x̂_j⟩ ≈ t_ij²,   x̂ = float32((x − mean) / s)

Products of matrices give a quickly, and t takes its time. With u = 2⁻²⁴ and M = max |x̂| it holds
for any order of summation that

    |a_ij − t_ij²| ≤ e,    e = u M² (2 D + 24) · 1.01

(2 D u M² from the product, the rest from rounding x̂, the two norms and the two additions). So a
decides every comparison that is not within e, and t decides the others: what is asked of the
distances is answered as if all were t. s is a power of two, so features may have any scale. Where
matrix units take the product (:mod:`crossbatch.curriculum._in_c`) e is somewhat greater.
"""

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from crossbatch.curriculum import _in_c

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

TILE = 512  # side of a tile: 1 MiB of float32, which stays in a core's cache
_CHUNK = 2**17  # numbers in one chunk of differences: 1 MiB, which stay in a core's cache


class Block(NamedTuple):
    """A tile of a, or of the squared distances in float64.

    Attributes:
        rows: Its rows among the points.
        columns: Its columns, none before the first of the rows.
        squares: Shape (rows, columns). Infinite where the column is not after the row. To be
            changed by whoever asked.
    """

    rows: slice
    columns: slice
    squares: NDArray[np.floating]

    def places(self, mask: NDArray[np.bool_]) -> tuple[Places, Places]:
        """Where a mask of the block is true, as places among the points."""
        i, j = np.divmod(np.flatnonzero(mask), mask.shape[1])
        return i + self.rows.start, j + self.columns.start


class Points:
    """The n points of a class, in units of ``scale``.

    Args:
        x: Shape (n, D), finite, float64.
        first: Of each point the first that is the same, where some are (images that come again).

    Attributes:
        x: Shape (n, D), divided by ``scale``.
        scale: s, a power of two: distances here times s are those of the features.
        error: e, in units of s².
        in_c: Whether :meth:`between` and :meth:`before` are to be asked.
        first: As given, or the numbers of all.

    Memory: 12 n D bytes beside ``x`` as given, and 8 n D where some are the same.
    """

    def __init__(self, x: Floats, first: Places | None = None) -> None:
        self.first = np.arange(len(x)) if first is None else first
        x = x if first is None else x[first]  # a projection may tell them apart by rounding
        self._mean = x.mean(axis=0)
        centred = x - self._mean
        largest = float(np.abs(centred).max(initial=0.0))
        self.scale = float(2.0 ** np.frexp(largest)[1]) if largest else 1.0
        centred /= self.scale
        self._single = torch.as_tensor(centred, device="cpu").float().contiguous()
        self._squares = torch.as_tensor(np.einsum("ij,ij->i", centred, centred), device="cpu")
        self.x = np.divide(x, self.scale, out=centred)
        self._mean /= self.scale
        top = float(self._squares.max()) * (1 + 2.0**-20) if len(x) else 0.0
        self.in_c = _in_c.at_hand(self._single)
        for_each, at_all = _in_c.EXTRA if self.in_c else (0.0, 0.0)
        of_products = (2 + for_each) * x.shape[1] + 24 + at_all
        self.error = 2.0**-24 * top * of_products * 1.01

    def __len__(self) -> int:
        return len(self.x)

    def take(self, order: Places) -> "Points":
        """The same points in another order."""
        other = copy(self)
        other.x, other.first = self.x[order], self.first[order]
        rows = torch.as_tensor(order, device="cpu")
        other._single, other._squares = self._single[rows], self._squares[rows]
        return other

    def same(self) -> int:
        """How many pairs are of one point that comes again: t is 0 there."""
        sizes = np.unique(self.first, return_counts=True)[1]
        return int((sizes * (sizes - 1) // 2).sum())

    def squares(self, rows: slice, columns: slice, *, double: bool = False) -> Tensor:
        """A of some rows against some columns, or float64 in its place. Cost: one product."""
        of_rows, of_columns = (self._part(part, double) for part in (rows, columns))
        norms = of_rows[1][:, None] + of_columns[1]
        return norms.addmm_(of_rows[0], of_columns[0].T, alpha=-2)

    def _part(self, rows: slice, double: bool) -> tuple[Tensor, Tensor]:
        """Some points centred, and the squares of their norms."""
        if double:
            return torch.as_tensor(self.x[rows] - self._mean, device="cpu"), self._squares[rows]
        return self._single[rows], self._squares[rows].float()

    def blocks(self, *, double: bool = False) -> Iterator[Block]:
        """Every pair once: tiles on and above the diagonal."""
        n = len(self)
        places = [slice(start, min(start + TILE, n)) for start in range(0, n, TILE)]
        for at, rows in enumerate(places):
            for columns in places[at:]:
                found = self.squares(rows, columns, double=double)
                if rows == columns:
                    found += torch.full_like(found, torch.inf).tril_()
                yield Block(rows, columns, found.numpy())

    def between(
        self, lo: float, hi: float, most: int
    ) -> tuple[NDArray[np.int64], _in_c.Pairs] | None:
        """Of each point the others at a < lo, and the pairs in [lo, hi]; None if too many."""
        return _in_c.between(self._centred(), lo, hi, most)

    def before(self, most: int) -> _in_c.Pairs | None:
        """Of each point the nearest before it, and what may be as near; None if too many."""
        within = float(upward(2.1 * self.error))  # what a sum is rounded by is below e / 10
        return _in_c.before(self._centred(), within, most)

    def _centred(self) -> _in_c.Centred:
        return _in_c.Centred(self._single, self._squares.float())

    def distances(self, i: NDArray[np.integer], j: NDArray[np.integer]) -> Floats:
        """The distances t of some pairs, a chunk of differences at a time."""
        found = np.empty(len(i))
        step = max(1, _CHUNK // max(1, self.x.shape[1]))
        for start in range(0, len(i), step):
            part = slice(start, start + step)
            difference = self.x[i[part]] - self.x[j[part]]
            found[part] = np.multiply(difference, difference, out=difference).sum(axis=1)
        return np.sqrt(found, out=found)

    def sample(self, pairs: int) -> NDArray[np.float32]:
        """A of pairs of two drawn at random, the same ones each time. There must be two points."""
        draw, n = np.random.default_rng(0), len(self)
        i = draw.integers(0, n, pairs)
        j = (i + draw.integers(1, n, pairs)) % n
        found = np.empty(pairs, np.float32)
        step = max(1, _CHUNK // max(1, self.x.shape[1]))
        single = self._single.numpy()
        for start in range(0, pairs, step):
            part = slice(start, start + step)
            difference = single[i[part]] - single[j[part]]
            found[part] = np.einsum("pd,pd->p", difference, difference)
        return found


def upward(bound: ArrayLike) -> NDArray[np.float32]:
    """The float32 above a bound: what is not greater than the bound is not greater than this."""
    return np.nextafter(np.asarray(bound, np.float32), np.float32(np.inf))

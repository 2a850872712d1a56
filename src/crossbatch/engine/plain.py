r"""The long way past the plain references, block by block, by the cheapest path that is exact.

    dense      S = A Rᵀ; every pair is handed on.
    sparse     S = A Rᵀ; pairs above the weighting's bound are handed on.
    screened   S̃ ≥ S from codes (:mod:`crossbatch.codes`); S itself only where S̃ passes the bound.
    fused      one kernel for similarity, weight and product (:mod:`crossbatch.engine.fused`).

Which pairs have a weight is the same on each path. It is chosen tile by tile, from the share of
pairs above the bound among some references spread over the tile. A block of similarities fits half
of a second-level cache; a tile is several blocks, whose surviving pairs are handed on together.

On a CPU numpy compares and searches three times faster than torch; hence its use below.
"""

import math
import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from crossbatch import _native
from crossbatch.codes import Codes, Rounded, multiplies, rounds
from crossbatch.engine.fused import fits, fused_sums
from crossbatch.engine.pairs import Hidden, Split, above, places_of
from crossbatch.engine.push import Block, Bound, Pairs, Push
from crossbatch.engine.scratch import Scratch
from crossbatch.engine.screen import Screen, by_matrix_units, slices
from crossbatch.references import Encodable, Tile

Path = Literal["dense", "sparse", "screened", "fused"]
Line = tuple[float, float] | None

_SCREENED_BELOW = 0.01  # share of pairs above the bound
_CHEAPLY_BELOW = 0.04  # the same with codes of bfloat16, or where C looks at what may pass
_NATIVE_BELOW = 0.2  # the same where C does all of it
_SPARSE_BELOW = 0.03
_PROBE = 1 << 12  # similarities that tell the share
_WORTH_CODES = 4096  # references
_DENSE_BLOCKS = 4  # that the dense path takes at once on a CPU: float32 products gain by it

_KEPT = threading.local()
"""The scratch of a thread's last sweep on a CPU."""


class PlainSweep:
    """One way past all plain references.

    Args:
        split: Anchors and references.
        bound: Pairs at or below it have no weight and no term: a number, one for each anchor
            (B,), or None.
        line: (u, v) of the weighting's exponent, where the only sink takes a kernel's sums.
        path: Forces a path; None chooses.
    """

    def __init__(
        self, split: Split, *, bound: Bound, line: Line = None, path: Path | None = None
    ) -> None:
        self._split, self._bound, self._line = split, bound, line
        x = split.anchors.embeddings
        if line is not None and path in (None, "fused") and (x.is_cuda or path) and fits(x):
            path = "fused"
        elif bound is None or path == "fused":
            path = "dense"
        self._forced: Path | None = path
        self._x = x
        self._cpu = x.device.type == "cpu"
        self._sums = line == (0.0, 0.0)  # sums of rows above the bound are all that is asked for
        self._screen: Screen | None = None
        self._share = 0.0  # of pairs of the present tile that are above the bound
        self._scratch = Scratch()
        self.taken: list[Path] = []

    def run(self, sinks: Sequence[Push]) -> None:
        """Hand every plain pair, or every one above the bound, to each of the sinks."""
        if self._forced == "screened" and isinstance(self._split.references, Encodable):
            self._split.references.encode()
        self._scratch, _KEPT.scratch = getattr(_KEPT, "scratch", None) or self._scratch, None
        try:
            self._pass(sinks)
        finally:
            _KEPT.scratch = self._scratch if self._cpu else None

    def _pass(self, sinks: Sequence[Push]) -> None:
        for start, tile, mixed in self._split.plain_tiles():
            path = self._choose(tile)
            self.taken.append(path)
            if path == "fused":
                self._fused(tile, mixed, sinks)
            elif path == "dense":
                self._dense(start, tile, mixed, sinks)
            elif path == "sparse":
                self._hand(self._sparse(tile, mixed), sinks)
            else:
                self._screened(tile, mixed, sinks)

    def _hand(self, pairs: Pairs, sinks: Sequence[Push]) -> None:
        for sink in sinks:
            sink.pairs(pairs)

    def _choose(self, tile: Tile) -> Path:
        path = self._forced
        if self._cpu and path in (None, "screened"):
            self._share = self._passing_share(tile)
        if path is None:
            path = self._cheapest(tile)
        if path == "screened" and not (self._cpu and self._encoded(tile)):
            return "sparse" if self._forced or self._share < _SPARSE_BELOW else "dense"
        return path

    def _cheapest(self, tile: Tile) -> Path:
        if not self._cpu:
            return "dense"  # looking for pairs would wait for the device
        if self._share < self._screened_below(tile) and self._x.dtype == torch.float32:
            return "screened"
        return "sparse" if self._share < _SPARSE_BELOW else "dense"

    def _passing_share(self, tile: Tile) -> float:
        """Of pairs with some references, spread over the tile, how many are above the bound."""
        stride = max(len(tile.labels) * len(self._x) // _PROBE, 1)
        few = tile.embeddings[::stride].detach().to(self._x.dtype)
        return _share_above(self._x @ few.T, self._row_bound())

    def _screened_below(self, tile: Tile) -> float:
        codes = tile.codes
        if by_matrix_units(tile.embeddings, self._x) and not isinstance(codes, Rounded):
            return math.inf if self._sums else _NATIVE_BELOW
        rounded = rounds() and not isinstance(codes, Codes)
        cheap = rounded or _native.at_hand(tile.embeddings, self._x)
        return _CHEAPLY_BELOW if cheap else _SCREENED_BELOW

    def _encoded(self, tile: Tile) -> bool:
        """Whether there are codes that can be multiplied; asks for some for the tiles to come."""
        if tile.codes is None:
            references = self._split.references
            if isinstance(references, Encodable) and len(references) >= _WORTH_CODES:
                references.encode()
        if isinstance(tile.codes, Codes):
            return multiplies() or by_matrix_units(tile.embeddings, self._x)
        return tile.codes is not None

    def _columns_bound(self) -> Tensor | float:
        assert self._bound is not None
        return self._bound

    def _row_bound(self) -> Tensor | float:
        bound = self._columns_bound()
        return bound[:, None] if isinstance(bound, Tensor) else bound

    def _blocks(self, tile: Tile, at_once: int = 1) -> list[slice]:
        return slices(len(tile.labels), self._split.rows * at_once)

    def _fused(self, tile: Tile, mixed: Hidden, sinks: Sequence[Push]) -> None:
        assert self._line is not None
        hidden = mixed.mask(len(tile.labels))
        bound = self._bound
        if isinstance(bound, float | int):
            bound = self._x.new_full((len(self._x),), bound)
        references = tile.embeddings.detach()
        sums = fused_sums(self._x, references, hidden, line=self._line, bound=bound)
        for sink in sinks:
            sink.sums(sums)

    def _dense(self, start: int, tile: Tile, mixed: Hidden, sinks: Sequence[Push]) -> None:
        for part in self._blocks(tile, _DENSE_BLOCKS if self._cpu else 1):
            references = tile.embeddings[part].detach().to(self._x.dtype)
            sim = self._scratch.matrix((len(self._x), len(references)), self._x)
            torch.mm(self._x, references.T, out=sim)
            place = slice(start + part.start, start + part.stop)
            block = Block(sim, mixed.of(part), references, place, spare=len(sinks) == 1)
            for sink in sinks:
                sink.block(block)

    def _sparse(self, tile: Tile, mixed: Hidden) -> Pairs:
        shape = len(self._x), len(tile.labels)
        sim = self._scratch.matrix(shape, self._x)
        passing = self._scratch.matrix(shape, self._x, torch.bool)
        bound = self._row_bound()
        for part in self._blocks(tile):
            references = tile.embeddings[part].detach().to(self._x.dtype)
            torch.mm(self._x, references.T, out=sim[:, part])
            above(sim[:, part], bound, out=passing[:, part])
        anchor, column, flat = _coordinates(passing, mixed)
        return Pairs(anchor, column, sim.view(-1).index_select(0, flat), tile.embeddings)

    def _screened(self, tile: Tile, mixed: Hidden, sinks: Sequence[Push]) -> None:
        if self._screen is None:
            self._screen = Screen(self._x, self._columns_bound(), self._scratch)
        sums = self._screen.sums(tile, mixed, self._share) if self._sums else None
        if sums is not None:
            for sink in sinks:
                sink.sums(sums)
            return
        pairs = self._screen.above(tile, mixed, self._split.rows)
        self._hand(Pairs(*pairs, tile.embeddings), sinks)


def _share_above(sim: Tensor, bound: Tensor | float) -> float:
    passing = torch.empty(sim.shape, dtype=torch.bool)
    above(sim, bound, out=passing)
    return int(np.count_nonzero(passing.numpy())) / max(passing.numel(), 1)


def _coordinates(passing: Tensor, mixed: Hidden) -> tuple[Tensor, Tensor, Tensor]:
    """Anchor, column and flat place of the pairs that pass, without mixed references."""
    mixed.fill(passing, 0.0, dim=1)
    flat = places_of(passing)
    anchor = flat.div(passing.shape[1], rounding_mode="floor")
    return anchor, flat - anchor * passing.shape[1], flat

r"""Which pairs are what: anchors beside references, split into a mixed few and a plain rest.

    positive  P = {(i, j) : same label, other id}
    excluded  X = {(i, j) : same label or same id},   negative  N = everything but X

Only few references carry a label or an id of the batch. They are *mixed*: gathered, and compared
pair by pair. All others are *plain*: every pair with them is a negative, and nobody needs to ask.
So the price of labels and ids is one look-up per reference instead of one comparison per pair, and
whatever regards positives alone goes over the mixed few. The look-up hashes: it may find a few
references too many, which the comparison then tells apart exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossbatch._lookup import Lookup
from crossbatch._shapes import Bool, Float, Int
from crossbatch.references import References, Tile

BLOCKS = 32
"""Blocks of similarities in a tile."""
_MIXED_BELOW = 0.25  # share of mixed references above which gathering them does not pay
_KEPT = 1 << 21  # similarities of mixed references that are kept from sweep to sweep


@dataclass(frozen=True)
class Anchors:
    """The B rows whose loss is taken, in the precision of the computation."""

    embeddings: Float[Tensor, "B D"]
    labels: Int[Tensor, " B"]
    ids: Int[Tensor, " B"]

    @staticmethod
    def of(embeddings: Tensor, labels: Tensor, ids: Tensor) -> "Anchors":
        """Detach and upcast to at least float32; statistics and weights never see less."""
        precise = torch.promote_types(embeddings.dtype, torch.float32)
        return Anchors(embeddings.detach().to(precise), labels.long(), ids.long())

    def __len__(self) -> int:
        return self.embeddings.shape[0]


@dataclass(frozen=True)
class Mixed:
    """All anchors beside some references, pair by pair; ``place`` is that among all references."""

    references: Float[Tensor, "T D"]
    sim: Float[Tensor, "B T"]
    positive: Bool[Tensor, "B T"]
    negative: Bool[Tensor, "B T"]
    place: Int[Tensor, " T"]


class Split:
    """References split for some anchors.

    Args:
        anchors: The B anchors.
        references: The M references.
        rows: References in a block.
    """

    def __init__(self, anchors: Anchors, references: References, rows: int) -> None:
        self.anchors, self.references, self.rows = anchors, references, rows
        tables = Lookup.of(anchors.labels), Lookup.of(anchors.ids)
        found = [_candidates(tile, *tables) for tile in references.tiles(rows * BLOCKS)]
        count = sum(len(places) for places in found)
        self.all_mixed = count > _MIXED_BELOW * len(references)
        self._found = found
        self._kept: list[Mixed] | None = None
        self._keep = not self.all_mixed and count * len(anchors) <= _KEPT
        self.plain = 0 if self.all_mixed else len(references) - count

    def mixed(self) -> Iterator[Mixed]:
        """Blocks of mixed references, the same ones in every sweep."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Mixed] = []
        for tile, place in self._gathered():
            block = self._compare(tile, place)
            if self._keep:
                kept.append(block)
            yield block
        if self._keep:
            self._kept = kept

    def plain_tiles(self) -> Iterator[tuple[int, Tile, np.ndarray]]:
        """Where each tile begins, the tile, and which of its rows are mixed, ascending."""
        if self.all_mixed:
            return
        start = 0
        for tile, places in zip(self._tiles(), self._found, strict=True):
            yield start, tile, places.cpu().numpy()
            start += len(tile.labels)

    def _gathered(self) -> Iterator[tuple[Tile, Tensor]]:
        pieces: list[tuple[Tile, Tensor]] = []
        start = 0
        for tile, places in zip(self._tiles(), self._found, strict=True):
            if self.all_mixed:
                yield from self._cut(tile, start)
            elif len(places):
                pieces.append((_rows(tile, places), places + start))
                if sum(len(place) for _, place in pieces) >= self.rows:
                    yield _join(pieces)
                    pieces = []
            start += len(tile.labels)
        if pieces:
            yield _join(pieces)

    def _tiles(self) -> Iterator[Tile]:
        """All references, brought to the anchors."""
        for tile in self.references.tiles(self.rows * BLOCKS):
            yield tile.to(self.anchors.embeddings.device)

    def _cut(self, tile: Tile, start: int) -> Iterator[tuple[Tile, Tensor]]:
        for first in range(0, len(tile.labels), self.rows):
            part = slice(first, first + self.rows)
            block = Tile(tile.embeddings[part], tile.labels[part], tile.ids[part])
            place = torch.arange(len(block.labels), device=tile.labels.device)
            yield block, place + (start + first)

    def _compare(self, tile: Tile, place: Tensor) -> Mixed:
        x = self.anchors
        references = tile.embeddings.detach().to(x.embeddings.dtype)
        same_label = x.labels[:, None] == tile.labels.long()[None, :]
        other_id = x.ids[:, None] != tile.ids.long()[None, :]
        sim = x.embeddings @ references.T
        return Mixed(references, sim, same_label & other_id, ~same_label & other_id, place)


def _candidates(tile: Tile, labels: Lookup, ids: Lookup) -> Int[Tensor, " C"]:
    """Rows that may carry a label or an id of the batch: all that do, and few more."""
    device = labels.table.device
    same_label = labels.may_hold(tile.labels.to(device))
    return places_of(same_label.logical_or_(ids.may_hold(tile.ids.to(device))))


def places_of(mask: Bool[Tensor, "..."]) -> Int[Tensor, " C"]:
    """Where a mask is true, counted through its rows; on a CPU by numpy, which is far faster."""
    if mask.device.type == "cpu":
        return as_tensor(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().flatten()


def above(sim: Tensor, bound: Tensor | float, *, out: Tensor) -> None:
    """Write ``sim > bound`` into booleans; on a CPU by numpy, which is four times faster."""
    if sim.device.type != "cpu":
        torch.gt(sim, bound, out=out)
        return
    limit = bound.numpy() if isinstance(bound, Tensor) else sim.numpy().dtype.type(bound)
    np.greater(sim.numpy(), limit, out=out.numpy())


def as_tensor(places: np.ndarray) -> Tensor:
    """Places that numpy found, not copied."""
    return torch.from_numpy(places)  # pyright: ignore[reportUnknownMemberType]


def _rows(tile: Tile, places: Tensor) -> Tile:
    x, labels, ids = (part.index_select(0, places) for part in tile[:3])
    return Tile(x, labels, ids)


def _join(pieces: list[tuple[Tile, Tensor]]) -> tuple[Tile, Tensor]:
    tiles = [tile for tile, _ in pieces]
    whole = Tile(
        torch.cat([tile.embeddings for tile in tiles]),
        torch.cat([tile.labels for tile in tiles]),
        torch.cat([tile.ids for tile in tiles]),
    )
    return whole, torch.cat([place for _, place in pieces])

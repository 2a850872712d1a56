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

from crossbatch import _native
from crossbatch._lookup import Lookup
from crossbatch._recorded import Room
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
        return Anchors(embeddings.detach().to(precise).contiguous(), labels.long(), ids.long())

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, labels and ids."""
        return self.embeddings, self.labels, self.ids

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def tiles(self, rows: int) -> Iterator[Tile]:
        """Yield them as references of each other."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            yield Tile(self.embeddings[part], self.labels[part], self.ids[part])


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
        room: For how many mixed references of a tile there is room. Every shape is then known
            before the look-up, and the host never waits for the device; whoever gave it is told
            the ``count``, and must see that it is no more. None takes as much as is needed.

    Attributes:
        count: How many references are mixed; with room a tensor.
        plain: How many are not, likewise.
        any_plain: Whether any are; with room, whether any may be.
        all_mixed: So many are that all are compared pair by pair.
    """

    def __init__(
        self, anchors: Anchors, references: References, rows: int, *, room: Room | None = None
    ) -> None:
        self.anchors, self.references, self.rows, self.room = anchors, references, rows, room
        self._masks: list[Tensor] = []
        self._found: list[Tensor] = []
        self.count: int | Tensor = len(references)
        kept = self._look_up() if references is not anchors else len(anchors)
        self.all_mixed = kept > _MIXED_BELOW * len(references)
        self.any_plain = not self.all_mixed and (room is not None or kept < len(references))
        self.plain = 0 if self.all_mixed else len(references) - self.count
        self._kept: list[Mixed] | None = None
        self._keep = (len(references) if self.all_mixed else kept) * len(anchors) <= _KEPT

    def _look_up(self) -> int:
        """Find the mixed ones; how many rows they take."""
        tiles = self.references.tiles(self.rows * BLOCKS)
        if self.room is None and self.anchors.embeddings.device.type == "cpu":
            self._found = [_places(tile, self.anchors) for tile in tiles]
            return self._counted()
        tables = Lookup.of(self.anchors.labels), Lookup.of(self.anchors.ids)
        self._masks = [_candidates(tile, *tables) for tile in tiles]
        if self.room is None:
            self._found = [places_of(mask) for mask in self._masks]
            return self._counted()
        counts = [mask.sum() for mask in self._masks]
        self.count = counts[0] if len(counts) == 1 else torch.stack(counts).sum()
        self.room.tell(self.count)
        return self.room.size * len(counts)

    def _counted(self) -> int:
        self.count = sum(len(places) for places in self._found)
        return self.count

    def mixed(self) -> Iterator[Mixed]:
        """Blocks of mixed references, the same ones in every sweep."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Mixed] = []
        found = self._gathered() if self.room is None else self._padded(self.room.size)
        for tile, place in self._all() if self.all_mixed else found:
            block = self._compare(tile, place)
            if self._keep:
                kept.append(block)
            yield block
        if self._keep:
            self._kept = kept

    def plain_tiles(self) -> Iterator[tuple[int, Tile, "Hidden"]]:
        """Where each tile begins, the tile, and which of its rows are mixed."""
        if self.all_mixed:
            return
        start = 0
        known = self.room is None and self.anchors.embeddings.device.type == "cpu"
        for tile, found in zip(self._tiles(), self._found if known else self._masks, strict=True):
            yield start, tile, Hidden(found.to(self.anchors.embeddings.device))
            start += len(tile.labels)

    def _padded(self, room: int) -> Iterator[tuple[Tile, Tensor]]:
        """The mixed references of each tile in as many rows as there is room for."""
        start = 0
        for tile, mask in zip(self._tiles(), self._masks, strict=True):
            places = _first_places(mask, room)
            rows = _rows(tile, places.clamp(min=0))
            yield rows, torch.where(places < 0, -1, places + start) if start else places
            start += len(tile.labels)

    def _gathered(self) -> Iterator[tuple[Tile, Tensor]]:
        """The mixed references of all tiles, about a block at a time."""
        pieces: list[tuple[Tile, Tensor]] = []
        start = 0
        for tile, places in zip(self._tiles(), self._found, strict=True):
            if len(places):
                pieces.append((_rows(tile, places), places + start))
                if sum(len(place) for _, place in pieces) >= self.rows:
                    yield _join(pieces)
                    pieces = []
            start += len(tile.labels)
        if pieces:
            yield _join(pieces)

    def _all(self) -> Iterator[tuple[Tile, Tensor]]:
        """All references, a block at a time."""
        start = 0
        for tile in self._tiles():
            for first in range(0, len(tile.labels), self.rows):
                part = slice(first, first + self.rows)
                block = Tile(tile.embeddings[part], tile.labels[part], tile.ids[part])
                place = torch.arange(len(block.labels), device=tile.labels.device)
                yield block, place + (start + first)
            start += len(tile.labels)

    def _tiles(self) -> Iterator[Tile]:
        """All references, brought to the anchors."""
        for tile in self.references.tiles(self.rows * BLOCKS):
            yield tile.to(self.anchors.embeddings.device)

    def _compare(self, tile: Tile, place: Tensor) -> Mixed:
        x = self.anchors
        references = tile.embeddings.detach().to(x.embeddings.dtype)
        same_label = x.labels[:, None] == tile.labels.long()[None, :]
        other_id = x.ids[:, None] != tile.ids.long()[None, :]
        sim = x.embeddings @ references.T
        if self.room is not None and not self.all_mixed:
            other_id &= place >= 0
            place = place.clamp(min=0)
        return Mixed(references, sim, same_label & other_id, ~same_label & other_id, place)


class Hidden:
    """Which rows of a tile are mixed.

    Args:
        rows: Their places, ascending, or a mask, for which nobody has to wait on a GPU.
    """

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self._masked = rows.dtype == torch.bool

    def of(self, part: slice) -> "Hidden":
        """Those of some rows in a row."""
        if self._masked:
            return Hidden(self._rows[part])
        first, last = np.searchsorted(self._rows.numpy(), (part.start, part.stop))
        return Hidden(self._rows[first:last] - part.start)

    def mask(self, rows: int) -> Bool[Tensor, " T"]:
        """Whether each of so many rows is."""
        if self._masked:
            return self._rows
        mask = torch.zeros(rows, dtype=torch.bool, device=self._rows.device)
        return mask.index_fill_(0, self._rows, True)

    def places(self) -> Int[Tensor, " H"]:
        """Where they are, ascending."""
        return places_of(self._rows) if self._masked else self._rows

    def count(self) -> Tensor | int:
        """How many are."""
        return self._rows.sum() if self._masked else len(self._rows)

    def fill(self, values: Tensor, by: float, *, dim: int) -> Tensor:
        """Overwrite, in place, what belongs to them in a matrix."""
        if self._masked:
            return values.masked_fill_(self._rows[:, None] if dim == 0 else self._rows, by)
        return values.index_fill_(dim, self._rows, by) if len(self._rows) else values


def _places(tile: Tile, anchors: Anchors) -> Int[Tensor, " C"]:
    """Where those rows are, on a CPU."""
    columns = tile.labels, tile.ids
    if _native.at_hand(*columns, dtype=torch.int64):
        few = anchors.labels, anchors.ids
        return _native.occurring(*zip(columns, few, strict=True))
    return places_of(_candidates(tile, Lookup.of(anchors.labels), Lookup.of(anchors.ids)))


def _candidates(tile: Tile, labels: Lookup, ids: Lookup) -> Bool[Tensor, " T"]:
    """Rows that may carry a label or an id of the batch: all that do, and few more."""
    device = labels.table.device
    same_label = labels.may_hold(tile.labels.to(device))
    return same_label.logical_or_(ids.may_hold(tile.ids.to(device)))


def _first_places(mask: Bool[Tensor, " T"], room: int) -> Int[Tensor, " K"]:
    """Where a mask is true, so many of them; −1 fills up."""
    slot = mask.cumsum(0).clamp_(max=room + 1).mul_(mask)  # 0 and the last are for nobody
    places = torch.full((room + 2,), -1, dtype=torch.int64, device=mask.device)
    return places.scatter_(0, slot, torch.arange(len(mask), device=mask.device))[1 : room + 1]


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

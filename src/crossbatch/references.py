"""References: what anchors are compared with, as a source of tiles.

A pair loss compares B anchors with M references. It needs no matrix of B × M similarities, and no
references side by side in one tensor: it sweeps over *tiles* of a few thousand rows. The batch
itself, a memory of past batches, or a memory spread over machines differ only in where their
tiles come from.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from crossbatch._check import check_embeddings, check_integers
from crossbatch._shapes import Float, Int
from crossbatch.codes import Codes, Rounded
from crossbatch.collective import Ranks


class Tile(NamedTuple):
    """Some rows of references.

    Two references may share a label (they are positives of each other), and they may share an id
    (they are copies of one image, and are no pair at all). True duplicates, two files with the
    same picture, have two ids. Codes, where there are some, are those of the embeddings.
    """

    embeddings: Float[Tensor, "T D"]
    labels: Int[Tensor, " T"]
    ids: Int[Tensor, " T"]
    codes: Codes | Rounded | None = None

    def rows(self, place: Int[Tensor, " n"]) -> "Tile":
        """A copy of some of them."""
        codes = None if self.codes is None else self.codes.rows(place)
        return Tile(self.embeddings[place], self.labels[place], self.ids[place], codes)

    def to(self, device: torch.device) -> "Tile":
        """The tile on a device; itself where it is there already."""
        if self.embeddings.device == device:
            return self
        codes = self.codes
        if codes is not None:
            codes = type(codes)(*(x.to(device) for x in codes))
        return Tile(self.embeddings.to(device), self.labels.to(device), self.ids.to(device), codes)


@runtime_checkable
class References(Protocol):
    """Anything that yields tiles: the second argument of every pair loss.

    They may be on another device than the anchors, who are brought a tile at a time.
    """

    def __len__(self) -> int:
        """The number of rows that :meth:`tiles` yields in all."""
        ...

    def tiles(self, rows: int) -> Iterator[Tile]:
        """Yield every row once, in tiles of at most ``rows`` rows."""
        ...


@runtime_checkable
class Encodable(Protocol):
    """References that can keep codes of their rows, once they are asked to."""

    def encode(self) -> None:
        """Make codes; tiles that are yielded from now on carry them."""
        ...


@runtime_checkable
class Standing(Protocol):
    """References whose tiles are views of tensors that stay where they are."""

    def standing(self, device: torch.device) -> Hashable | None:
        """What they are, how many and where; None unless they are on this device."""
        ...


@runtime_checkable
class Sharded(Protocol):
    """References of which every rank holds a part. They stay; anchors and sums go round."""

    @property
    def ranks(self) -> Ranks:
        """Who holds the parts."""
        ...

    @property
    def part(self) -> References:
        """The rows of this rank, perhaps none."""
        ...


@dataclass(frozen=True)
class Batch:
    """Rows held in one tensor. Gradients flow to ``embeddings`` if it asks for them.

    Args:
        embeddings: Shape (M, D), any floating dtype.
        labels: Shape (M,), integers; any value is an ordinary label.
        ids: Shape (M,), integers; equal ids mean the same image.
    """

    embeddings: Float[Tensor, "M D"]
    labels: Int[Tensor, " M"]
    ids: Int[Tensor, " M"]

    def __post_init__(self) -> None:
        check_embeddings(self.embeddings, where="Batch")
        rows = self.embeddings.shape[0]
        check_integers(self.labels, name="labels", rows=rows, where="Batch")
        check_integers(self.ids, name="ids", rows=rows, where="Batch")

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def tiles(self, rows: int) -> Iterator[Tile]:
        """Yield the rows in order, in tiles of at most ``rows`` rows."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            yield Tile(self.embeddings[part], self.labels[part], self.ids[part])

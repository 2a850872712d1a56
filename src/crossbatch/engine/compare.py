r"""Anchors beside one tile: similarities, and which pairs are what.

    positive  P = {(i, j) : same label, other id}
    excluded  X = {(i, j) : same label or same id},   negative  N = everything but X

Only few columns of a tile carry a label or an id of the batch, the *candidates*. Every pair is
treated as a negative first; the candidates, a narrow strip (B, C), are mended afterwards. So the
price of labels and ids is one look-up per reference, not one comparison per pair. The look-up
hashes: it may find a few candidates too many, which the strip then tells apart exactly.

On a CPU ``index_select`` is five times faster than indexing with ``[]``, and a comparison written
into floats three times faster than one written into booleans; hence their use below.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from crossbatch._shapes import Bool, Float, Int
from crossbatch.references import Tile


@dataclass(frozen=True)
class Anchors:
    """The B rows whose loss is taken, in the precision of the computation."""

    embeddings: Float[Tensor, "B D"]
    labels: Int[Tensor, " B"]
    ids: Int[Tensor, " B"]
    label_table: Bool[Tensor, " H"]
    id_table: Bool[Tensor, " H"]

    @staticmethod
    def of(embeddings: Tensor, labels: Tensor, ids: Tensor) -> "Anchors":
        """Detach and upcast to at least float32; statistics and weights never see less."""
        precise = torch.promote_types(embeddings.dtype, torch.float32)
        labels, ids = labels.long(), ids.long()
        x = embeddings.detach().to(precise)
        return Anchors(x, labels, ids, _table(labels), _table(ids))

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def candidates(self, tile: Tile) -> Bool[Tensor, " T"]:
        """Which references may carry a label or an id of the batch: all that do, and few more."""
        by_label = self.label_table.index_select(0, _hash(tile.labels))
        return by_label.logical_or_(self.id_table.index_select(0, _hash(tile.ids)))


_HASHES = 1 << 16


def _hash(values: Tensor) -> Tensor:
    values = values.long()
    return (values ^ (values >> 16)).bitwise_and_(_HASHES - 1)


def _table(values: Tensor) -> Tensor:
    """Which hashes occur."""
    return torch.zeros(_HASHES, dtype=torch.bool, device=values.device).index_fill_(
        0, _hash(values), True
    )


@dataclass(frozen=True)
class Comparison:
    """The anchors beside T references, of which C are candidates.

    ``sim`` is work space: whoever reads ``strip`` first may overwrite ``sim``.
    """

    references: Float[Tensor, "T D"]
    sim: Float[Tensor, "B T"]
    columns: Int[Tensor, " C"]
    strip: Float[Tensor, "B C"]
    positive: Bool[Tensor, "B C"]
    excluded: Bool[Tensor, "B C"]

    def fill_excluded(self, block: Float[Tensor, "B T"], value: float) -> Float[Tensor, "B T"]:
        """Overwrite what is no negative."""
        if len(self.columns):
            mended = block.index_select(1, self.columns).masked_fill_(self.excluded, value)
            block.index_copy_(1, self.columns, mended)
        return block

    def positives(self) -> Int[Tensor, " B"]:
        """How many positives each anchor has here."""
        return self.positive.sum(dim=1)

    def negatives(self) -> Int[Tensor, " B"]:
        """How many negatives each anchor has here."""
        return self.sim.shape[1] - self.excluded.sum(dim=1)


def compare(
    anchors: Anchors, tile: Tile, sim: Float[Tensor, "B T"], *, candidate: Bool[Tensor, " T"]
) -> Comparison:
    """Tell positives, negatives and copies of the anchor's own image apart."""
    columns = candidate.nonzero().flatten()
    same_label = anchors.labels[:, None] == tile.labels[columns][None, :]
    same_id = anchors.ids[:, None] == tile.ids[columns][None, :]
    return Comparison(
        references=tile.embeddings,
        sim=sim,
        columns=columns,
        strip=sim.index_select(1, columns),
        positive=same_label & ~same_id,
        excluded=same_label | same_id,
    )

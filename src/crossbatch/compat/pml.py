"""pytorch-metric-learning (PML): its memory with all state kept, and its losses as weightings.

Written beside PML 2.9. Nothing here imports it: whoever passes its objects has it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbatch import memory
from crossbatch._shapes import Bool, Float, Int
from crossbatch.compat._indices import Indices, all_pairs, append, keep
from crossbatch.compat._weighting import BESIDE_REFERENCES, of_pml, weighting
from crossbatch.engine import PairLoss
from crossbatch.errors import CrossbatchError, expected
from crossbatch.references import Tile
from crossbatch.weighting import PairWeighting

__all__ = ["CrossBatchMemory", "weighting"]


class CrossBatchMemory(nn.Module):
    """PML's class of this name: change the import, keep the calls.

    With a loss of PML it lists all pairs, as PML does; with a weighting of crossbatch it streams
    them through the engine and holds no matrix of pairs. Both normalise as PML's distances do:
    the stored rows are what came, the compared ones have unit norm.

    What PML loses is kept: pointer and filling are in the ``state_dict``, a batch in half
    precision leaves the memory's dtype as it is, batches have any size, and with ``ids`` an image
    is no positive of its own older copy. An empty memory turns to float64 for a batch in float64.
    The memory follows the batch's device.

    Args:
        loss: A pair or triplet loss of PML, any module that is called like one, a
            ``PairWeighting``, or a ``PairLoss``. A weighting is wrapped in a ``PairLoss``.
        embedding_size: D ≥ 1.
        memory_size: M ≥ 1, the rows that are kept.
        miner: A miner of PML, for its losses. It mines in the memory; pairs of one image are
            removed from what it found.

    Attributes:
        embedding_memory: Shape (M, D).
        label_memory: Shape (M,).
        queue_idx: Where the next row goes.
        has_been_filled: Whether all M rows are in use.
        curr_batch_idx: Where the rows of the last batch went, shape (B,).

    Raises:
        CrossbatchError: The loss cannot be beside a memory, or a miner is beside a weighting.

    >>> import torch
    >>> import crossbatch as xb
    >>> memory = CrossBatchMemory(xb.Contrastive(0.5), embedding_size=2, memory_size=3)
    >>> memory(torch.eye(2), torch.tensor([0, 1]))
    tensor(0.)
    >>> memory(torch.eye(2), torch.tensor([1, 0]))
    tensor(1.)
    >>> memory.queue_idx, memory.has_been_filled
    (1, True)
    """

    curr_batch_idx: Tensor

    def __init__(
        self,
        loss: nn.Module | PairWeighting,
        embedding_size: int,
        memory_size: int = 1024,
        miner: Callable[..., Indices] | None = None,
    ) -> None:
        super().__init__()
        if of_pml(loss):
            self.check_loss_support(type(loss).__name__)
        self.loss = PairLoss(loss) if isinstance(loss, PairWeighting) else loss
        if not isinstance(self.loss, nn.Module):
            raise CrossbatchError(
                expected(
                    "a module or a PairWeighting as `loss` of CrossBatchMemory",
                    type(loss).__name__,
                    "Pass a loss of pytorch-metric-learning, or such as Contrastive(0.5).",
                )
            )
        if isinstance(self.loss, PairLoss) and miner is not None:
            raise CrossbatchError(
                expected(
                    "no `miner` beside a weighting in CrossBatchMemory",
                    type(miner).__name__,
                    "A weighting mines by itself; see compat.pml.weighting(loss, miner=...).",
                )
            )
        self.miner = miner
        self.embedding_size, self.memory_size = embedding_size, memory_size
        self.ring = memory.CrossBatchMemory(memory_size, embedding_size)
        self.curr_batch_idx = torch.zeros(0, dtype=torch.int64)
        self.register_load_state_dict_pre_hook(_keep_float64)

    @staticmethod
    def supported_losses() -> list[str]:
        """Losses of PML that compare a batch with references."""
        return list(BESIDE_REFERENCES)

    @classmethod
    def check_loss_support(cls, loss_name: str) -> None:
        """Raise CrossbatchError unless PML's loss of this name compares with references."""
        if loss_name not in BESIDE_REFERENCES:
            raise CrossbatchError(
                expected(
                    f"one of {', '.join(BESIDE_REFERENCES)} in CrossBatchMemory",
                    loss_name,
                    "Use it without a memory, or choose a loss of pairs.",
                )
            )

    @property
    def embedding_memory(self) -> Float[Tensor, "M D"]:
        """The stored embeddings, in places 0 to M - 1."""
        return self.ring.embeddings

    @embedding_memory.setter
    def embedding_memory(self, rows: Float[Tensor, "M D"]) -> None:
        self.ring.embeddings = rows

    @property
    def label_memory(self) -> Int[Tensor, " M"]:
        """The stored labels, in places 0 to M - 1."""
        return self.ring.labels

    @label_memory.setter
    def label_memory(self, labels: Int[Tensor, " M"]) -> None:
        self.ring.labels = labels

    @property
    def queue_idx(self) -> int:
        """Where the next row goes."""
        return int(self.ring.enqueued_rows) % self.memory_size

    @queue_idx.setter
    def queue_idx(self, place: int) -> None:
        self.ring.enqueued_rows.fill_(
            place % self.memory_size + self.memory_size * self.has_been_filled
        )

    @property
    def has_been_filled(self) -> bool:
        """Whether all M rows are in use."""
        return len(self.ring) == self.memory_size

    @has_been_filled.setter
    def has_been_filled(self, filled: bool) -> None:
        self.ring.enqueued_rows.fill_(self.queue_idx + self.memory_size * filled)

    def reset_queue(self) -> None:
        """Forget every row."""
        self.ring.clear()
        self.ring.embeddings.zero_()
        self.ring.labels.zero_()

    def add_to_memory(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        batch_size: int,
        *,
        ids: Int[Tensor, " B"] | None = None,
    ) -> None:
        """Copy a batch in, over the oldest rows.

        Args:
            embeddings: Shape (B, D), finite; B may be 0 or more than the memory holds.
            labels: Shape (B,), integers.
            batch_size: B, as in PML.
            ids: Shape (B,), not negative: which image each row is. A row without an id is an
                image of its own.
        """
        if batch_size != len(embeddings):
            raise CrossbatchError(
                expected(
                    "`batch_size` equal to the rows of `embeddings` in add_to_memory",
                    f"{batch_size} beside {len(embeddings)} rows",
                    "Pass len(embeddings).",
                )
            )
        if embeddings.dtype == torch.float64 and not len(self.ring):
            self.ring.double()
        if ids is None:
            ids = torch.full((batch_size,), -1, device=embeddings.device)
        rows = torch.arange(batch_size, device=embeddings.device)
        places = (rows + self.queue_idx) % self.memory_size
        self.ring.enqueue(embeddings, labels, ids)
        self.curr_batch_idx = places

    def forward(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        indices_tuple: Indices | None = None,
        enqueue_mask: Bool[Tensor, " B"] | None = None,
        *,
        ids: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, ""]:
        """Enqueue the batch, then take its loss beside the whole memory.

        Args:
            embeddings: Shape (B, D).
            labels: Shape (B,), integers.
            indices_tuple: Further pairs or triplets, for losses of PML. As in PML 2 anchors are
                rows of the batch and the others are places in the memory.
            enqueue_mask: Shape (B,): rows to enqueue; the others are the anchors. None enqueues
                all rows, and all are anchors.
            ids: Shape (B,), not negative: the number of each image in the data set. Pairs of
                equal ids are no pairs. Without ids only a row and its own fresh copy are none.

        Returns:
            A scalar: zero where there are no anchors or no rows in the memory.

        Raises:
            CrossbatchError: Wrong shapes or dtypes, non-finite embeddings, ``indices_tuple``
                beside a mask or beside a weighting.
        """
        self._check(embeddings, indices_tuple, enqueue_mask)
        self.ring.to(embeddings.device)
        labels = labels.to(embeddings.device)
        ids = None if ids is None else ids.to(embeddings.device)
        if enqueue_mask is None:
            self.add_to_memory(embeddings, labels, len(embeddings), ids=ids)
        else:
            queued, kept = enqueue_mask.to(embeddings.device), ~enqueue_mask.to(embeddings.device)
            self.add_to_memory(
                embeddings[queued],
                labels[queued],
                int(queued.sum()),
                ids=None if ids is None else ids[queued],
            )
            embeddings, labels = embeddings[kept], labels[kept]
            ids = None if ids is None else ids[kept]
        if not len(embeddings) or not len(self.ring):
            return embeddings.sum() * 0
        precise = torch.promote_types(embeddings.dtype, torch.float32)
        embeddings = embeddings.to(torch.promote_types(precise, self.embedding_memory.dtype))
        in_memory = enqueue_mask is None
        if isinstance(self.loss, PairLoss):
            return self._streamed(embeddings, labels, ids, in_memory=in_memory)
        return self._listed(embeddings, labels, indices_tuple, ids=ids, in_memory=in_memory)

    def create_indices_tuple(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        E_mem: Float[Tensor, "N D"],
        L_mem: Int[Tensor, " N"],
        input_indices_tuple: Indices | None,
        do_remove_self_comparisons: bool,
        *,
        ids: Int[Tensor, " B"] | None = None,
    ) -> Indices:
        """The pairs, or the triplets of a triplet miner, of a batch beside the memory.

        Args:
            embeddings: Shape (B, D).
            labels: Shape (B,).
            E_mem: The filled rows, shape (N, D).
            L_mem: Their labels, shape (N,).
            input_indices_tuple: Appended; converted to pairs or triplets where it is the other.
            do_remove_self_comparisons: Whether the batch is the one enqueued last, so that no row
                is a positive of its own copy.
            ids: Shape (B,): pairs of equal ids are removed.
        """
        if self.miner is None:
            found = all_pairs(labels, L_mem)
        else:
            found = self.miner(embeddings, labels, E_mem, L_mem)
        own = self._own_places(labels, in_memory=do_remove_self_comparisons)
        stored = self.ring.ids[: len(L_mem)]

        def differ(anchors: Tensor, others: Tensor) -> Tensor:
            other_row = own[anchors] != others
            return other_row if ids is None else other_row & (ids[anchors] != stored[others])

        found = keep(found, differ)
        return found if input_indices_tuple is None else append(found, input_indices_tuple)

    def extra_repr(self) -> str:
        """Prints as code."""
        return f"embedding_size={self.embedding_size}, memory_size={self.memory_size}"

    def _check(
        self, embeddings: Tensor, indices_tuple: Indices | None, enqueue_mask: Tensor | None
    ) -> None:
        if indices_tuple is not None and isinstance(self.loss, PairLoss):
            raise CrossbatchError(
                expected(
                    "no `indices_tuple` beside a weighting in CrossBatchMemory",
                    f"{len(indices_tuple)} index tensors",
                    "A weighting sees all pairs and weighs them; choose one that mines.",
                )
            )
        if enqueue_mask is None:
            return
        if indices_tuple is not None:
            raise CrossbatchError(
                expected(
                    "`indices_tuple` or `enqueue_mask` in CrossBatchMemory",
                    "both",
                    "They are mutually exclusive: leave one out.",
                )
            )
        if enqueue_mask.dtype != torch.bool or enqueue_mask.shape != embeddings.shape[:1]:
            raise CrossbatchError(
                expected(
                    f"`enqueue_mask` of booleans of shape ({len(embeddings)},)",
                    f"{enqueue_mask.dtype} of shape {tuple(enqueue_mask.shape)}",
                    "Give one boolean per embedding.",
                )
            )

    def _own_places(self, labels: Tensor, *, in_memory: bool) -> Tensor:
        """Where each anchor's own copy stands, or -1 if it does not."""
        if not in_memory:
            return torch.full_like(labels, -1, dtype=torch.int64)
        place = self.curr_batch_idx.clone()
        place[: max(len(place) - self.memory_size, 0)] = -1
        return place

    def _listed(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Indices | None,
        *,
        ids: Tensor | None,
        in_memory: bool,
    ) -> Tensor:
        """The loss of PML over a list of pairs. A copy of the memory outlives the next enqueue."""
        filled = slice(len(self.ring))
        rows = self.ring.embeddings[filled].to(embeddings.dtype, copy=True)
        row_labels = self.ring.labels[filled].clone()
        indices = self.create_indices_tuple(
            embeddings, labels, rows, row_labels, indices_tuple, in_memory, ids=ids
        )
        return self.loss(embeddings, labels, indices, rows, row_labels)

    def _streamed(
        self, embeddings: Tensor, labels: Tensor, ids: Tensor | None, *, in_memory: bool
    ) -> Tensor:
        """The engine over tiles of the memory. Without ids, places are the ids."""
        references = _Normalised(self.ring, by_place=ids is None)
        if ids is None:
            ids = self._own_places(labels, in_memory=in_memory)
        unit = F.normalize(embeddings, dim=1)
        return self.loss(unit, labels, ids=ids, references=references)


@dataclass(frozen=True)
class _Normalised:
    """The rows of a memory with unit norm; ``by_place`` makes their places their ids."""

    ring: memory.CrossBatchMemory
    by_place: bool

    def __len__(self) -> int:
        return len(self.ring)

    def tiles(self, rows: int) -> Iterator[Tile]:
        place = 0
        for embeddings, labels, ids, _ in self.ring.tiles(rows):
            if self.by_place:
                ids = torch.arange(place, place + len(ids), device=ids.device)
            place += len(ids)
            precise = torch.promote_types(embeddings.dtype, torch.float32)
            yield Tile(F.normalize(embeddings.to(precise), dim=1), labels, ids)


def _keep_float64(
    module: CrossBatchMemory, state: dict[str, Tensor], prefix: str, *rest: Any
) -> None:
    """A memory that was saved in float64 comes back in float64."""
    del rest
    saved = state.get(f"{prefix}ring.embeddings")
    if saved is not None and saved.dtype == torch.float64:
        module.ring.double()

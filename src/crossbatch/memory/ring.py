r"""The cross-batch memory: the last M embeddings of training, first in, first out.

Row number n that was ever enqueued stands at place n mod M, so the memory holds exactly the last
min(n, M) rows, through any wrap and for batches of any size. What is not filled is never seen.

*Cross-Batch Memory for Embedding Learning* (Wang, Zhang, Huang, Scott, CVPR 2020): embeddings
drift so slowly that rows of past iterations stand for what the network would say now.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbatch._check import check_embeddings, check_integers
from crossbatch._lookup import Lookup
from crossbatch._shapes import Float, Int
from crossbatch.codes import Codes, encode
from crossbatch.errors import CrossbatchError, expected
from crossbatch.memory.drift import Drift
from crossbatch.references import Tile


class CrossBatchMemory(nn.Module):
    """A ring of embeddings, labels and ids: the references of a pair loss.

    All of its state is in buffers, so it moves with ``.to()`` and is in the ``state_dict`` of
    whatever module holds it; a training that resumes finds its memory where it was.

    Args:
        capacity: M ≥ 1, the rows that are kept. Their cost is M · (4 D + 24) bytes, and
            M · (D + 12) more once the engine asks for codes (:meth:`encode`).
        dim: D ≥ 1, the width of the embeddings.
        dtype: Of the stored embeddings; a batch of another dtype is converted, never the memory.

    Raises:
        CrossbatchError: ``capacity`` or ``dim`` is below 1, or ``dtype`` is not floating.

    >>> import torch
    >>> memory = CrossBatchMemory(capacity=3, dim=2)
    >>> memory.enqueue(torch.eye(2), torch.tensor([0, 1]), torch.tensor([10, 11]))
    >>> memory.enqueue(torch.eye(2), torch.tensor([2, 3]), torch.tensor([12, 13]))
    >>> memory.contents().ids
    tensor([11, 12, 13])
    >>> len(memory), memory.ages()
    (3, tensor([1, 0, 0]))
    """

    cites: ClassVar[tuple[str, ...]] = ("wang2020xbm",)

    embeddings: Tensor
    labels: Tensor
    ids: Tensor
    births: Tensor
    enqueued_rows: Tensor
    enqueued_batches: Tensor

    def __init__(self, capacity: int, dim: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if capacity < 1 or dim < 1 or not dtype.is_floating_point:
            raise CrossbatchError(
                expected(
                    "CrossBatchMemory with capacity ≥ 1, dim ≥ 1 and a floating dtype",
                    f"capacity={capacity}, dim={dim}, dtype={dtype}",
                    "To train without a memory, leave it out.",
                )
            )
        self.capacity, self.dim = capacity, dim
        self.register_buffer("embeddings", torch.zeros(capacity, dim, dtype=dtype))
        self.register_buffer("labels", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("ids", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("births", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("enqueued_rows", torch.zeros((), dtype=torch.int64))
        self.register_buffer("enqueued_batches", torch.zeros((), dtype=torch.int64))
        self._codes: Codes | None = None
        self._coded: tuple[Tensor, int] | None = None

    def __len__(self) -> int:
        """How many rows are filled."""
        return min(int(self.enqueued_rows), self.capacity)

    @torch.no_grad()
    def enqueue(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        ids: Int[Tensor, " B"],
    ) -> None:
        """Copy a batch in, over the oldest rows. Detaches; converts to the memory's dtype.

        Args:
            embeddings: Shape (B, D); B may be 0, 1, or more than the capacity, in which case the
                last rows of the batch stay.
            labels: Shape (B,), integers; any value is an ordinary label.
            ids: Shape (B,), integers: which image each row is.

        Raises:
            CrossbatchError: Wrong shapes or dtypes, non-finite embeddings, another device. The
                memory is unchanged then.
        """
        check_embeddings(embeddings, where="CrossBatchMemory.enqueue", dim=self.dim)
        rows = len(embeddings)
        check_integers(labels, name="labels", rows=rows, where="CrossBatchMemory.enqueue")
        check_integers(ids, name="ids", rows=rows, where="CrossBatchMemory.enqueue")
        if embeddings.device != self.embeddings.device:
            raise CrossbatchError(
                expected(
                    f"`embeddings` on {self.embeddings.device} in CrossBatchMemory.enqueue",
                    embeddings.device,
                    "Move the memory to the model's device once: memory.to(device).",
                )
            )
        fresh = self._fresh()
        kept = min(rows, self.capacity)
        first = int(self.enqueued_rows) + rows - kept
        place = torch.arange(first, first + kept, device=self.ids.device) % self.capacity
        self.embeddings[place] = embeddings[rows - kept :].detach().to(self.embeddings.dtype)
        self.labels[place] = labels[rows - kept :].to(self.labels)
        self.ids[place] = ids[rows - kept :].to(self.ids)
        self.births[place] = self.enqueued_batches
        if self._codes is not None and fresh:
            for part, rows_of in zip(self._codes, encode(self.embeddings[place]), strict=True):
                part[place] = rows_of
            self._coded = (self.embeddings, self._writes())
        self.enqueued_rows += rows
        self.enqueued_batches += 1

    @torch.no_grad()
    def drift(self, embeddings: Float[Tensor, "B D"], ids: Int[Tensor, " B"]) -> Drift:
        """How far the images of a batch have moved since their newest rows were stored.

        Args:
            embeddings: Fresh ones, shape (B, D), of images that are not enqueued yet.
            ids: Shape (B,). Images that the memory does not hold are left out.

        Cost: one look-up per row.
        """
        check_embeddings(embeddings, where="CrossBatchMemory.drift", dim=self.dim)
        check_integers(ids, name="ids", rows=len(embeddings), where="CrossBatchMemory.drift")
        filled = self.ids[: len(self)]
        few = Lookup.of(ids).may_hold(filled).nonzero().flatten()
        same = ids[:, None] == filled[few][None, :]
        newest = (few - self.enqueued_rows) % self.capacity + 1  # 1 … M, the newest row highest
        recency = (same * newest).amax(dim=1) if len(few) else torch.zeros_like(ids)
        held = recency > 0
        place = (recency[held] - 1 + self.enqueued_rows) % self.capacity
        old = self.embeddings[place].float()
        squared = (embeddings[held].detach().float() - old).square().sum(dim=1)
        return Drift(self.enqueued_batches - self.births[place], squared)

    def clear(self) -> None:
        """Forget every row."""
        self.enqueued_rows.zero_()
        self.enqueued_batches.zero_()

    def tiles(self, rows: int) -> Iterator[Tile]:
        """Yield every filled row once, in tiles of at most ``rows`` rows; views, not copies."""
        filled = len(self)
        for start in range(0, filled, rows):
            part = slice(start, min(start + rows, filled))
            codes = self._codes.rows(part) if self._codes is not None and self._fresh() else None
            yield Tile(self.embeddings[part], self.labels[part], self.ids[part], codes)

    def encode(self) -> None:
        """Keep eight-bit codes beside the embeddings from now on (M · (D + 12) bytes).

        The engine asks for them where they save time. They follow from the embeddings and are in
        no checkpoint; whatever else writes to the embeddings makes them void.
        """
        if self.embeddings.is_inference():
            return  # they tell nobody when they change
        if self._codes is None or not self._fresh():
            self._codes = encode(self.embeddings)
            self._coded = (self.embeddings, self._writes())

    def _writes(self) -> int:
        """Rises whenever the stored embeddings are written to, whoever writes."""
        return -1 if self.embeddings.is_inference() else self.embeddings._version

    def _fresh(self) -> bool:
        """Whether the codes are those of this tensor (not of its address) as it is now."""
        coded, version = self._coded or (None, 0)
        return coded is self.embeddings and version == self._writes()

    def contents(self) -> Tile:
        """A copy of every filled row, the oldest first."""
        order = self._order()
        return Tile(self.embeddings[order], self.labels[order], self.ids[order])

    def ages(self) -> Int[Tensor, " M"]:
        """How many batches have been enqueued since each row was, the oldest row first."""
        return self.enqueued_batches - 1 - self.births[self._order()]

    def extra_repr(self) -> str:
        """Prints as code."""
        return f"capacity={self.capacity}, dim={self.dim}, dtype={self.embeddings.dtype}"

    def _order(self) -> Tensor:
        total, filled = int(self.enqueued_rows), len(self)
        return torch.arange(total - filled, total, device=self.ids.device) % self.capacity

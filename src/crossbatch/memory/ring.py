r"""The cross-batch memory: the last M embeddings of training, first in, first out.

Row number n that was ever enqueued stands at place n mod M, so the memory holds exactly the last
min(n, M) rows, through any wrap and for batches of any size. What is not filled is never seen.

*Cross-Batch Memory for Embedding Learning* (Wang, Zhang, Huang, Scott, CVPR 2020): embeddings
drift so slowly that rows of past iterations stand for what the network would say now.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from crossbatch import _recorded
from crossbatch._lookup import Lookup
from crossbatch._shapes import Float, Int
from crossbatch.memory._rows import Rows
from crossbatch.memory.drift import Drift

_COMPARED = 1 << 24  # pairs of ids that a GPU compares instead of looking rows up


class CrossBatchMemory(Rows):
    """A ring of embeddings, labels and ids: the references of a pair loss.

    All of its state is in buffers, so it moves with ``.to()`` and is in the ``state_dict`` of
    whatever module holds it; a training that resumes finds its memory where it was. It may stay
    on another device than the network: each loss then copies its filled rows over, M · D numbers.

    Args:
        capacity: M ≥ 1, the rows that are kept. Their cost is M · (4 D + 24) bytes, and
            up to M · (2 D + 8) more once the engine asks for codes (:meth:`encode`).
        dim: D ≥ 1, the width of the embeddings.
        dtype: Of the stored embeddings; a batch of another dtype is converted, never the memory.
            ``torch.int8`` keeps D + 4 bytes of a row, off by √D max |r| / 254 at most in any
            similarity with a unit vector.

    Raises:
        CrossbatchError: ``capacity`` or ``dim`` is below 1, or ``dtype`` is neither floating nor
            ``torch.int8``.

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

    enqueued_rows: Tensor

    def __init__(self, capacity: int, dim: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(capacity, dim, dtype=dtype)
        self.register_buffer("enqueued_rows", torch.zeros((), dtype=torch.int64))
        self._recorders = _recorded.Recorders()

    def __getstate__(self) -> dict[str, Any]:
        """Without recordings, which know where the tensors of this memory stand."""
        return {**super().__getstate__(), "_recorders": _recorded.Recorders()}

    def __len__(self) -> int:
        """How many rows are filled."""
        return min(self._counter.read(self.enqueued_rows), self.capacity)

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
            CrossbatchError: Wrong shapes or dtypes, non-finite embeddings. The memory is unchanged
                then.
        """
        self._check(embeddings, labels, ids)
        embeddings, labels, ids = self._here(embeddings, labels, ids)
        rows = len(embeddings)
        kept = min(rows, self.capacity)
        first = self._counter.read(self.enqueued_rows) + rows - kept
        place = self._places(first, kept)
        last = slice(rows - kept, None)
        self._write(place, embeddings[last], labels[last], ids[last])
        self._counter.add(self.enqueued_rows, rows)

    @torch.no_grad()
    def drift(self, embeddings: Float[Tensor, "B D"], ids: Int[Tensor, " B"]) -> Drift:
        """How far the images of a batch have moved since their newest rows were stored.

        Args:
            embeddings: Fresh ones, shape (B, D), of images that are not enqueued yet.
            ids: Shape (B,). Images that the memory does not hold are left out.

        Cost: one look-up per row of the memory.
        """
        self._check_drift(embeddings, ids)
        x, ids = self._here(embeddings, ids)
        if self._compares(len(ids)) and _recorded.possible(x):
            place = [(part.dtype, part.data_ptr()) for part in self.buffers()]
            key = x.shape, x.dtype, ids.dtype, _recorded.stream(x), len(self), *place
            found = self._recorders.of(key).take((x, ids), self._moved, tell=dict)
        else:
            found = self._moved(x, ids)
        held = (found["number"] >= 0).nonzero().flatten()
        return Drift(found["age"].index_select(0, held), found["squared"].index_select(0, held))

    def newest(self, ids: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The number of each image's newest row among all ever enqueued; −1 where none is held.

        Args:
            ids: Shape (B,).

        Cost: one look-up per row.
        """
        filled = self.ids[: len(self)]
        if self._compares(len(ids)):
            few = torch.arange(len(filled), device=filled.device)
        else:
            few = Lookup.of(ids).may_hold(filled).nonzero().flatten()
            filled = filled.index_select(0, few)
        if not len(few):
            return torch.full_like(ids, -1, dtype=torch.int64)
        last = self.enqueued_rows - 1
        same = ids[:, None] == filled[None, :]
        return torch.where(same, last - (last - few) % self.capacity, -1).amax(dim=1)

    def clear(self) -> None:
        """Forget every row."""
        self.enqueued_rows.zero_()
        self.enqueued_batches.zero_()

    def _compares(self, rows: int) -> bool:
        """Whether ids are compared one by one: more work, but in few calls, and nobody waits."""
        return self.ids.is_cuda and len(self) * rows <= _COMPARED

    def _moved(self, x: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Number, age and d² of the newest row of each image; anything where the number is −1."""
        number = self.newest(ids)
        drift = self._drift(number % self.capacity, x)
        return {"number": number, "age": drift.ages, "squared": drift.squared}

    def _places(self, first: int, count: int) -> slice | Tensor:
        """Of row numbers from the first on: a slice where they do not go round."""
        start = first % self.capacity
        if start + count <= self.capacity:
            return slice(start, start + count)
        return torch.arange(first, first + count, device=self.ids.device) % self.capacity

    def _order(self) -> Int[Tensor, " M"]:
        total, filled = self._counter.read(self.enqueued_rows), len(self)
        return torch.arange(total - filled, total, device=self.ids.device) % self.capacity

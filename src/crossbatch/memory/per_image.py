r"""The memory with one row per image: the last embedding of every image seen so far.

    row(id) ← z            the first time that an image comes, and every time it comes again.

No image stands in it twice, and none leaves: a row is as old as the image's last visit, without a
bound. On a data set that fits, the references of a loss are then the whole data set.

*Robust and Decomposable Average Precision for Image Retrieval* (Ramzi, Thome, Rambour, Audebert,
Bitot, NeurIPS 2021): its released code keeps such a memory, keyed by the path of an image. The
ring of the last M embeddings (:class:`crossbatch.CrossBatchMemory`) bounds the age instead, and
holds an image several times where it is longer than an epoch.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbatch._shapes import Float, Int
from crossbatch.errors import CrossbatchError, expected
from crossbatch.memory._rows import Rows
from crossbatch.memory._table import find, insert, slots_for
from crossbatch.memory.drift import Drift


class PerImageMemory(Rows):
    """One row per image, keyed by id: the references of a pair loss.

    Learns ids as they come. All of its state is in buffers, as that of
    :class:`crossbatch.CrossBatchMemory`, with the same methods.

    Args:
        capacity: M ≥ 1, the most images that it can hold: those of the training set. Their cost
            is M · (4 D + 24) bytes and up to M · 32 for finding them.
        dim: D ≥ 1, the width of the embeddings.
        dtype: Of the stored embeddings; ``torch.int8`` as in
            :class:`crossbatch.CrossBatchMemory`.
        row_momentum: m in [0, 1). An image that comes again leaves the row
            normalise(m · old + (1 - m) · new), an average of its past embeddings. This is not
            momentum of keys, where the network is averaged and every row comes from one network;
            here rows average what different networks said.

    Raises:
        CrossbatchError: ``capacity`` or ``dim`` is below 1, ``dtype`` is neither floating nor
            ``torch.int8``, or ``row_momentum`` is outside of [0, 1).

    >>> import torch
    >>> memory = PerImageMemory(capacity=3, dim=2)
    >>> memory.enqueue(torch.eye(2), torch.tensor([0, 1]), torch.tensor([10, 11]))
    >>> memory.enqueue(-torch.eye(2), torch.tensor([0, 2]), torch.tensor([10, 12]))
    >>> held = memory.contents()
    >>> held.ids, held.embeddings[1]
    (tensor([11, 10, 12]), tensor([-1., -0.]))
    >>> len(memory), memory.ages()
    (3, tensor([1, 0, 0]))
    """

    cites: ClassVar[tuple[str, ...]] = ("ramzi2021roadmap",)

    slots: Tensor
    images: Tensor

    def __init__(
        self,
        capacity: int,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        row_momentum: float = 0.0,
    ) -> None:
        super().__init__(capacity, dim, dtype=dtype)
        if not 0 <= row_momentum < 1:
            raise CrossbatchError(
                expected(
                    "`row_momentum` of PerImageMemory in [0, 1)",
                    row_momentum,
                    "0 keeps the newest embedding of each image.",
                )
            )
        self.row_momentum = row_momentum
        self.register_buffer("slots", torch.zeros(slots_for(capacity), dtype=torch.int64))
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """How many images have been seen."""
        return self._counter.read(self.images)

    @torch.no_grad()
    def enqueue(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        ids: Int[Tensor, " B"],
    ) -> None:
        """Copy a batch in, each row over the old row of its image. Detaches; converts the dtype.

        Args:
            embeddings: Shape (B, D), any B. Of an image that comes twice the last row stays.
            labels: Shape (B,), integers; any value is an ordinary label.
            ids: Shape (B,), any 64-bit integers: which image each row is.

        Raises:
            CrossbatchError: Wrong shapes or dtypes, non-finite embeddings, or more images in all
                than the capacity. The memory is unchanged then.

        Cost: one look-up per row of the batch, whatever the capacity.
        """
        self._check(embeddings, labels, ids)
        x, labels, ids = self._here(embeddings, labels, ids)
        last = _last_of_each(ids)
        x, ids = x[last], ids[last].to(self.ids)
        place = find(self.slots, self.ids, ids)
        new = (place < 0).nonzero().flatten()
        filled = len(self)
        if filled + len(new) > self.capacity:
            raise CrossbatchError(
                expected(
                    f"at most {self.capacity} images in PerImageMemory.enqueue, its `capacity`",
                    f"{len(new)} new ones beside {filled}",
                    "Make the capacity the number of training images, check that an image keeps "
                    "its id, or take a CrossBatchMemory, which lets the oldest rows go.",
                )
            )
        if self.row_momentum:
            x = self._averaged(x, place)
        rows = torch.arange(filled, filled + len(new), device=ids.device)
        place[new] = rows
        self._write(place, x, labels[last], ids)
        insert(self.slots, ids[new], rows)
        self._counter.add(self.images, len(new))

    @torch.no_grad()
    def drift(self, embeddings: Float[Tensor, "B D"], ids: Int[Tensor, " B"]) -> Drift:
        """How far the images of a batch have moved since their rows were stored.

        Args:
            embeddings: Fresh ones, shape (B, D), of images that are not enqueued yet.
            ids: Shape (B,). Images that the memory does not hold are left out.

        Cost: one look-up per row of the batch.
        """
        self._check_drift(embeddings, ids)
        embeddings, ids = self._here(embeddings, ids)
        place = find(self.slots, self.ids, ids.to(self.ids))
        held = place >= 0
        return self._drift(place[held], embeddings[held])

    def clear(self) -> None:
        """Forget every row."""
        for state in (self.slots, self.images, self.enqueued_batches):
            state.zero_()

    def extra_repr(self) -> str:
        """Prints as code."""
        moved = f", row_momentum={self.row_momentum}" if self.row_momentum else ""
        return super().extra_repr() + moved

    def _averaged(self, x: Float[Tensor, "B D"], place: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Rows of known images beside what they were; those of new ones as they are."""
        known = (place >= 0).nonzero().flatten()
        old = self._read(place[known])
        x = x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
        x[known] = F.normalize(old.to(x.dtype).lerp(x[known], 1 - self.row_momentum), dim=1)
        return x

    def _order(self) -> Int[Tensor, " M"]:
        return self.births[: len(self)].argsort(stable=True)


def _last_of_each(ids: Int[Tensor, " B"]) -> Int[Tensor, " n"]:
    """Where each id comes for the last time, ascending."""
    order = ids.argsort(stable=True)
    ends = torch.ones_like(order, dtype=torch.bool)
    ends[:-1] = ids[order[1:]] != ids[order[:-1]]
    return order[ends].sort().values

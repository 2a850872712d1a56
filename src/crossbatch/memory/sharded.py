r"""The cross-batch memory spread over W ranks: the same rows, M / W of them on each.

Row number n that was ever enqueued stands at place p = n mod M, as in one ring, and place p
belongs to rank p mod W. Its places, in order, are a ring of their own,

    p = l · W + r,    l = 0 … M_r − 1,    M_r = ⌈(M − r) / W⌉,

and row number m of that ring is row number ⌊m / M_r⌋ · M + (m mod M_r) · W + r of the whole. So
the ranks together hold exactly what one :class:`CrossBatchMemory` holds that receives the batches
of all ranks, one rank after the other.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossbatch._check import check_embeddings, check_integers
from crossbatch._shapes import Float, Int
from crossbatch.collective import Ranks
from crossbatch.errors import CrossbatchError, expected
from crossbatch.memory._rows import Counter
from crossbatch.memory.drift import Drift
from crossbatch.memory.ring import CrossBatchMemory
from crossbatch.references import Tile

_SENT = 1 << 16  # rows of each rank that are sent at a time when the whole is gathered


class ShardedMemory(nn.Module):
    """A ring of embeddings, labels and ids of which every rank keeps a part.

    Beside it :func:`crossbatch.pair_loss` brings the anchors of all ranks to each part; what is
    kept never moves. With one rank, or without a process group, it is a :class:`CrossBatchMemory`.

    All ranks call ``enqueue``, ``drift``, ``whole``, ``contents``, ``ages``, ``tiles`` and
    ``state_dict`` together. A ``state_dict`` is that of the whole memory in one
    :class:`CrossBatchMemory`, on the CPU of every rank; loading one, of whichever kind of memory
    and from however many ranks, takes this rank's part.

    Keep it outside the module that is wrapped for parallel training, which would copy the buffers
    of the first rank to the others.

    Args:
        capacity: M, the rows that all ranks keep together, at least one each. They cost each rank
            M / W · (4 D + 24) bytes, and M / W · (2 D + 8) more at most once the engine asks for
            codes.
        dim: D ≥ 1, the width of the embeddings.
        dtype: Of the stored embeddings; a batch of another dtype is converted, never the memory.

    Raises:
        CrossbatchError: ``capacity`` is below the number of ranks, ``dim`` is below 1, or
            ``dtype`` is neither floating nor ``torch.int8``.

    >>> import torch
    >>> memory = ShardedMemory(capacity=3, dim=2)
    >>> memory.enqueue(torch.eye(2), torch.tensor([0, 1]), torch.tensor([10, 11]))
    >>> memory.enqueue(torch.eye(2), torch.tensor([2, 3]), torch.tensor([12, 13]))
    >>> memory.contents().ids
    tensor([11, 12, 13])
    """

    cites: ClassVar[tuple[str, ...]] = ("wang2020xbm",)

    enqueued_rows: Tensor

    def __init__(self, capacity: int, dim: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.ranks = Ranks.here()
        rank, world = self.ranks.rank, self.ranks.world
        if capacity < world:
            raise CrossbatchError(
                expected(
                    f"ShardedMemory with capacity ≥ {world}, the number of ranks",
                    f"capacity={capacity}",
                    "A memory this small is kept whole on every rank: CrossBatchMemory.",
                )
            )
        self.capacity, self.dim, self._counter = capacity, dim, Counter()
        self.part = CrossBatchMemory(-((rank - capacity) // world), dim, dtype=dtype)
        self.register_buffer("enqueued_rows", torch.zeros((), dtype=torch.int64))
        self.register_state_dict_post_hook(_gather_state)  # pyright: ignore
        self.register_load_state_dict_pre_hook(_take_part)  # pyright: ignore

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's part, filled or not, and of its codes."""
        return self.part.nbytes

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored embeddings."""
        return self.part.dtype

    def __len__(self) -> int:
        """How many rows are filled, on all ranks together."""
        return min(self._counter.read(self.enqueued_rows), self.capacity)

    @torch.no_grad()
    def enqueue(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        ids: Int[Tensor, " B"],
    ) -> None:
        """Copy the batches of all ranks in, over the oldest rows, as one batch in rank order.

        Args:
            embeddings: This rank's batch, shape (B, D); ranks may differ in B, which may be 0.
            labels: Shape (B,), integers; any value is an ordinary label.
            ids: Shape (B,), integers: which image each row is.

        Raises:
            CrossbatchError: Wrong shapes or dtypes, non-finite embeddings, another device; the
                other ranks then wait for this one until it ends.

        Cost: every rank receives the batches of all.
        """
        self._check(embeddings, ids, where="enqueue")
        check_integers(labels, name="labels", rows=len(embeddings), where="ShardedMemory.enqueue")
        dtype = self.dtype
        stored = embeddings.detach().to(dtype if dtype.is_floating_point else torch.float32)
        (x, y, image), _ = self.ranks.gather(stored, labels.long(), ids.long())
        number = torch.arange(len(x), device=x.device) + self.enqueued_rows
        mine = number % self.capacity % self.ranks.world == self.ranks.rank
        self.part.enqueue(x[mine], y[mine], image[mine])
        self._counter.add(self.enqueued_rows, len(x))

    @torch.no_grad()
    def drift(self, embeddings: Float[Tensor, "B D"], ids: Int[Tensor, " B"]) -> Drift:
        """How far the images of this rank's batch have moved since their newest rows were stored.

        Args:
            embeddings: Fresh ones, shape (B, D), of images that are not enqueued yet.
            ids: Shape (B,). Images that no rank holds are left out.

        Cost: one look-up per row of the part and anchor of any rank.
        """
        self._check(embeddings, ids, where="drift")
        (x, image), sizes = self.ranks.gather(embeddings.detach().float(), ids.long())
        number = self._whole_number(self.part.newest(image))
        newest = self.ranks.merge(number, torch.maximum)
        here = (number == newest) & (newest >= 0)
        found = self.part.drift(x[here], image[here])
        ages, squared = torch.zeros_like(image), torch.zeros_like(x[:, 0])
        ages[here], squared[here] = found.ages, found.squared
        self.ranks.add(ages, squared)
        own = self.ranks.of(self.ranks.rank, sizes)
        held = newest[own] >= 0
        return Drift(ages[own][held], squared[own][held])

    def clear(self) -> None:
        """Forget every row; on all ranks, or they go apart."""
        self.enqueued_rows.zero_()
        self.part.clear()

    def whole(self, *, device: torch.device | str | None = None) -> CrossBatchMemory:
        """A copy of everything that all ranks hold, as one memory on every rank.

        Args:
            device: Where to; None is where the part is.

        Cost: M · (4 D + 24) bytes there, and every row is sent to every rank.
        """
        there = self.part.embeddings.device if device is None else torch.device(device)
        dtype = self.dtype
        whole = CrossBatchMemory(self.capacity, self.dim, dtype=dtype).to(there)
        rows = dict(self.part.named_buffers())
        for name, buffer in whole.named_buffers():
            if not buffer.ndim:
                buffer.copy_(self.enqueued_rows if name == "enqueued_rows" else rows[name])
                continue
            for start in range(0, -(-self.capacity // self.ranks.world), _SENT):
                (sent,), sizes = self.ranks.gather(rows[name][start : start + _SENT])
                for rank in range(self.ranks.world):
                    piece = sent[self.ranks.of(rank, sizes)].to(there)
                    first = start * self.ranks.world + rank
                    buffer[first :: self.ranks.world][: len(piece)] = piece
        return whole

    def tiles(self, rows: int) -> Iterator[Tile]:
        """Yield every filled row of every rank once; gathers all, which the engine never does."""
        return self.whole().tiles(rows)

    def contents(self) -> Tile:
        """A copy of every filled row of every rank, the oldest first."""
        return self.whole().contents()

    def ages(self) -> Int[Tensor, " M"]:
        """How many batches have been enqueued since each row was, the oldest row first."""
        return self.whole().ages()

    def extra_repr(self) -> str:
        """Prints as code."""
        return f"capacity={self.capacity}, dim={self.dim}, dtype={self.dtype}"

    def _whole_number(self, number: Tensor) -> Tensor:
        """The number among all rows of a row of the part; −1 stays."""
        turn, place = number // self.part.capacity, number % self.part.capacity
        whole = turn * self.capacity + place * self.ranks.world + self.ranks.rank
        return torch.where(number >= 0, whole, -1)

    def _check(self, embeddings: Tensor, ids: Tensor, *, where: str) -> None:
        """Refuse what ranks must not be sent."""
        where = f"ShardedMemory.{where}"
        check_embeddings(embeddings, where=where, dim=self.dim)
        check_integers(ids, name="ids", rows=len(embeddings), where=where)
        if embeddings.device != self.part.embeddings.device:
            raise CrossbatchError(
                expected(
                    f"`embeddings` on {self.part.embeddings.device} in {where}",
                    embeddings.device,
                    "Move the memory to the model's device once: memory.to(device).",
                )
            )


def _gather_state(memory: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put the whole memory in the place of the part."""
    assert isinstance(memory, ShardedMemory)
    for name, value in memory.whole(device="cpu").state_dict().items():
        state.pop(f"{prefix}part.{name}")
        state[prefix + name] = value


def _take_part(memory: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Put this rank's part in the place of the whole memory."""
    assert isinstance(memory, ShardedMemory)
    rank, world, capacity = memory.ranks.rank, memory.ranks.world, memory.capacity
    errors: list[str] = rest[-1]
    for name, buffer in memory.part.named_buffers():
        value: Tensor | None = state.get(prefix + name)
        if value is None:
            continue
        if buffer.ndim and len(value) != capacity:
            errors.append(
                expected(
                    f"`{prefix}{name}` of {capacity} rows, the capacity of this ShardedMemory",
                    f"{len(value)} rows",
                    "Build the memory with the capacity that it was saved with.",
                )
            )
        if name == "enqueued_rows":
            turns, rows = divmod(int(value), capacity)
            value = value.new_tensor(turns * memory.part.capacity - ((rank - rows) // world))
        else:
            del state[prefix + name]
            value = value[rank::world] if buffer.ndim else value
        state[f"{prefix}part.{name}"] = value

r"""The ranks of a training, and the three things that they tell each other.

    gather   rows of all ranks, one rank after the other, however many each has
    merge    m_1 ⊕ … ⊕ m_W of one tensor from each rank, for any commutative ⊕
    add      the same for +, in place

This is the only module that knows of process groups. Every call is a *collective*: all ranks make
it, in the same order, or those that did wait until the process group's timeout and then fail.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """The processes of the default process group, seen from one of them.

    Args:
        rank: Which of them this one is.
        world: W, how many there are; with one nothing is ever sent.
    """

    rank: int = 0
    world: int = 1

    @staticmethod
    def here() -> "Ranks":
        """Of the process group that is there now; one rank if there is none."""
        if not dist.is_available() or not dist.is_initialized():
            return Ranks()
        return Ranks(dist.get_rank(), dist.get_world_size())

    def gather(self, *columns: Tensor) -> tuple[list[Tensor], list[int]]:
        """The rows of all ranks, and how many each had.

        Args:
            columns: Tensors with equally many rows, which may be others on other ranks, of dtypes
                and widths that are the same on all.

        Cost: two collectives; every rank receives W times the rows of the fullest.
        """
        rows = len(columns[0])
        if self.world == 1:
            return list(columns), [rows]
        sizes = [int(n) for n in self._all(torch.tensor([rows], device=columns[0].device))]
        flat = [_bytes(column) for column in columns]
        padded = flat[0].new_zeros(max(sizes), sum(part.shape[1] for part in flat))
        torch.cat(flat, dim=1, out=padded[:rows])
        parts = [part[:n] for part, n in zip(self._all(padded), sizes, strict=True)]
        together, whole, first = torch.cat(parts), list[Tensor](), 0
        for column, width in zip(columns, (part.shape[1] for part in flat), strict=True):
            cut = together[:, first : first + width].contiguous().view(column.dtype)
            whole.append(cut.reshape(sum(sizes), *column.shape[1:]))
            first += width
        return whole, sizes

    @staticmethod
    def of(rank: int, sizes: list[int]) -> slice:
        """Where a rank's rows stand among those that were gathered."""
        first = sum(sizes[:rank])
        return slice(first, first + sizes[rank])

    def merge(self, value: Tensor, merge: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """One tensor of each rank, merged in the order of ranks: equal on all, bit for bit."""
        return functools.reduce(merge, self._all(value))

    def add(self, *values: Tensor) -> None:
        """Sum each tensor over the ranks, in place; all are of one dtype. One collective."""
        if self.world == 1:
            return
        flat = torch.cat([value.flatten() for value in values])
        dist.all_reduce(flat)  # pyright: ignore
        start = 0
        for value in values:
            value.copy_(flat[start : start + value.numel()].view_as(value))
            start += value.numel()

    def _all(self, value: Tensor) -> list[Tensor]:
        """One tensor of each rank, all of one shape."""
        if self.world == 1:
            return [value]
        parts = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(parts, value.contiguous())  # pyright: ignore
        return parts


def leave() -> None:
    """End the default process group, if there is one; the last call of every rank."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _bytes(column: Tensor) -> Tensor:
    """Rows as bytes, which every backend sends for every dtype."""
    width = math.prod(column.shape[1:])
    return column.reshape(len(column), width).contiguous().view(torch.uint8)

r"""Which row each image has: a hash table of row numbers, in one buffer.

    slots[(h(id) + k) mod S] = row + 1,   k the first of 0, 1, 2, … whose slot was free.

A free slot is 0. S ≥ 2 M is a power of two, so a search ends soon; nothing is ever taken out. The
ids stand beside the rows, so that the table needs none; any 64-bit integers do, for h mixes them.
"""

import torch
from torch import Tensor

from crossbatch._shapes import Int

_FACTORS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47)  # odd, modulo 2^64; of splitmix64


def slots_for(rows: int) -> int:
    """S: the power of two from 2 M on."""
    return 1 << (2 * rows - 1).bit_length()


def find(
    slots: Int[Tensor, " S"], held: Int[Tensor, " M"], ids: Int[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """The row of each id, or -1.

    Args:
        slots: The table.
        held: The id of each row.
        ids: Any.

    Cost: a few steps over B ids, whatever M is.
    """
    found = torch.full_like(ids, -1)
    asking, place = torch.arange(len(ids), device=ids.device), _home(slots, ids)
    while len(asking):
        row = slots[place] - 1
        hit = (row >= 0) & (held[row.clamp(min=0)] == ids[asking])
        found[asking[hit]] = row[hit]
        on = (row >= 0) & ~hit
        asking, place = asking[on], _next(slots, place[on])
    return found


def insert(slots: Int[Tensor, " S"], ids: Int[Tensor, " B"], rows: Int[Tensor, " B"]) -> None:
    """Add ids, distinct and not there yet, each with its row."""
    place = _home(slots, ids)
    while len(rows):
        free = slots[place] == 0
        slots[place[free]] = rows[free] + 1  # where several meet, one of them stays
        lost = slots[place] != rows + 1
        rows, place = rows[lost], _next(slots, place[lost])


def _home(slots: Tensor, ids: Tensor) -> Tensor:
    mixed = ids
    for factor in _FACTORS:
        mixed = (mixed ^ (mixed >> 30)) * factor
    return (mixed ^ (mixed >> 31)) & (len(slots) - 1)


def _next(slots: Tensor, place: Tensor) -> Tensor:
    return (place + 1) & (len(slots) - 1)

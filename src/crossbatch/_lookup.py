"""Which of many integers occur among few: one look-up each, few false alarms, no misses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from crossbatch._shapes import Bool, Int

_HASHES = 1 << 18
_PRIME = 262_139  # the largest below


@dataclass(frozen=True)
class Lookup:
    """A table of which hashes occur."""

    table: Bool[Tensor, " H"]

    @staticmethod
    def of(values: Int[Tensor, " B"]) -> "Lookup":
        """The few."""
        table = torch.zeros(_HASHES, dtype=torch.bool, device=values.device)
        return Lookup(table.index_fill_(0, _hash(values), True))

    def may_hold(self, values: Int[Tensor, " M"]) -> Bool[Tensor, " M"]:
        """Which of the many may be among the few: all that are, and few more."""
        return self.table.index_select(0, _hash(values))


def _hash(values: Tensor) -> Tensor:
    values = values.long()
    if values.is_cuda:  # where calls are dear and division is not
        return values.remainder(_PRIME)
    return (values ^ (values >> 16)).bitwise_and_(_HASHES - 1)

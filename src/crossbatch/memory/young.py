r"""An age limit that follows the drift: only rows that still say what the network says.

Rows forget. If each step turns an embedding a little, in a direction of its own, the similarity of
a row with its image decays with the row's age Δ, and with unit rows

    E ⟨z(t), z(t − Δ)⟩ = e^{−rΔ},    d²(Δ) = 2 (1 − e^{−rΔ}),

from 0 to the 2 of unrelated rows. The rate r follows from means of d² and Δ over the last steps,
and the limit is the age at which a bound d*² is met:

    r = −ln(1 − d̄²/2) / Δ̄,    Δ* = −ln(1 − d*²/2) / r.

The rows beyond it stay in the memory, unseen, and are seen again when the embedding settles.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

from crossbatch.collective import Ranks
from crossbatch.errors import CrossbatchError, expected
from crossbatch.memory._rows import Rows
from crossbatch.memory.sharded import ShardedMemory
from crossbatch.references import References, Tile

WINDOW = 20
"""Steps that the means are taken over; only those count in which a stored image came again."""

_UNRELATED = 2.0
_NEAR = 1e-3  # of 0 and of 2, where the logarithm says nothing


class AgeLimit:
    """The age in batches up to which rows drift by less than a bound, as last measured.

    Args:
        drift: d*², in (0, 2).

    Raises:
        CrossbatchError: The bound is none.

    >>> limit = AgeLimit(1.0)
    >>> limit.age is None
    True
    >>> limit.see(squared=1.0, age=300.0, count=16)  # after 300 batches rows are at the bound
    >>> limit.age
    300
    """

    def __init__(self, drift: float) -> None:
        if not 0 < drift < _UNRELATED:
            raise CrossbatchError(
                expected(
                    "a bound of d² between 0 and 2 in AgeLimit",
                    drift,
                    "1 keeps rows whose similarity with their image is above 0.5 on average.",
                )
            )
        self.drift = drift
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    @property
    def age(self) -> int | None:
        """Δ*, or None where nothing was measured."""
        if not self._recent:
            return None
        squared = sum(s for s, _ in self._recent) / len(self._recent)
        age = sum(a for _, a in self._recent) / len(self._recent)
        rate = _turns(squared) / max(age, 1.0)
        return math.floor(_turns(self.drift) / rate + 1e-6)

    def see(self, squared: float, age: float, count: int) -> None:
        """Take in a step: mean d² and mean Δ of so many stored images that came again."""
        if count:
            self._recent.append((squared, age))

    def state_dict(self) -> dict[str, Any]:
        """What has been seen."""
        return {"recent": [list(seen) for seen in self._recent]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._recent = deque(((s, a) for s, a in state["recent"]), maxlen=WINDOW)


class YoungRows:
    """References: the rows of a memory that were enqueued at most so many batches ago.

    Args:
        memory: A memory that is not sharded.
        age: In batches, ≥ 0; 0 is the newest batch alone.
    """

    def __init__(self, memory: Rows, age: int) -> None:
        self._memory = memory
        self._young = memory.births[: len(memory)] >= memory.enqueued_batches - 1 - age
        self._count = int(self._young.sum())

    def __len__(self) -> int:
        return self._count

    def tiles(self, rows: int) -> Iterator[Tile]:
        """Yield every young row once: views, copies where young and old are mixed."""
        first = 0
        for tile in self._memory.tiles(rows):
            young = self._young[first : first + len(tile.labels)]
            first += len(tile.labels)
            count = int(young.sum())
            if count == len(young):
                yield tile
            elif count:
                yield tile.rows(young.nonzero().flatten())

    def encode(self) -> None:
        """As the memory does."""
        self._memory.encode()


class YoungShard:
    """References: the young rows of a sharded memory. All ranks make it together.

    Args:
        memory: The sharded memory.
        age: In batches, ≥ 0.
    """

    def __init__(self, memory: ShardedMemory, age: int) -> None:
        self.ranks: Ranks = memory.ranks
        self.part: References = YoungRows(memory.part, age)
        count = memory.enqueued_rows.new_tensor(len(self.part))
        self.ranks.add(count)
        self._count, self._memory, self._age = int(count), memory, age

    def __len__(self) -> int:
        return self._count

    def tiles(self, rows: int) -> Iterator[Tile]:
        """Yield every young row of every rank once; gathers all, which the engine never does."""
        return YoungRows(self._memory.whole(), self._age).tiles(rows)


def younger(memory: Rows | ShardedMemory, age: int | None) -> References:
    """The rows of a memory up to an age; the memory itself where there is no limit.

    >>> import torch
    >>> import crossbatch as xb
    >>> memory = xb.CrossBatchMemory(capacity=8, dim=2)
    >>> for step in range(3):
    ...     memory.enqueue(torch.eye(2), torch.tensor([0, 1]), torch.tensor([step, 10 + step]))
    >>> len(younger(memory, 1)), len(younger(memory, None))
    (4, 6)
    """
    if age is None:
        return memory
    return YoungShard(memory, age) if isinstance(memory, ShardedMemory) else YoungRows(memory, age)


def _turns(squared: float) -> float:
    """rΔ of a mean squared drift."""
    return -math.log1p(-min(max(squared, _NEAR), _UNRELATED - _NEAR) / _UNRELATED)

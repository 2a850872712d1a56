r"""When the memory starts: after a number of steps, or once its rows have stopped moving.

Early embeddings move fast, and rows of the past mislead. A fixed number of steps is a guess; what
it stands for can be measured. While warming up, batches are enqueued but take no part in the loss,
and each image that comes again tells how far it has moved (:mod:`crossbatch.memory.drift`). The
memory starts when the mean of d² over the last steps, of rows in the older half of its ages, is
below a bound.
"""

from collections import deque
from typing import Any

WINDOW = 20
"""Steps that the mean is taken over; only those count in which an old row came again."""


class WarmUp:
    """Whether the memory has started.

    Args:
        steps: It starts after these at the latest.
        drift: d² below which it starts earlier, or 0 to wait for ``steps``.
    """

    def __init__(self, steps: int, drift: float) -> None:
        self.steps, self.drift = steps, drift
        self.settled = False
        self.begun = False
        self._recent: deque[float] = deque(maxlen=WINDOW)

    @property
    def watches(self) -> bool:
        """Whether drift can still end it."""
        return bool(self.drift) and not self.settled and not self.begun

    def over(self, step: int) -> bool:
        """Whether the loss of this step takes the memory in."""
        return self.settled or step >= self.steps

    def see(self, squared: float, count: int) -> None:
        """Take in a step's sum of d² over so many images whose old rows came again."""
        if count:
            self._recent.append(squared / count)
        full = len(self._recent) == WINDOW
        self.settled = full and sum(self._recent) / WINDOW < self.drift

    def state_dict(self) -> dict[str, Any]:
        """What has been seen."""
        return {"settled": self.settled, "begun": self.begun, "recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.settled, self.begun = state["settled"], state["begun"]
        self._recent = deque(state["recent"], maxlen=WINDOW)

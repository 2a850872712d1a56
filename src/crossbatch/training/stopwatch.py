"""The time of a step and of its parts, taken without waiting for the device."""

import contextlib
import time
from collections.abc import Generator

import torch


class Stopwatch:
    """Seconds of named parts: by the host's clock, on CUDA by events in the stream.

    A part costs microseconds. Reading waits for the last event; behind a value that the host has
    fetched anyway, such as the loss of the step, nothing is left to wait for.

    Args:
        device: Where the work is done.

    >>> watch = Stopwatch(torch.device("cpu"))
    >>> with watch.part("step"):
    ...     with watch.part("loss"):
    ...         pass
    >>> 0 <= watch.seconds("loss") <= watch.seconds("step")
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._host: dict[str, float] = {}
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Generator[None]:
        """Add the time within to that of a part."""
        if self._cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.setdefault(name, []).append((start, end))
        else:
            began = time.perf_counter()
            yield
            self._host[name] = self.seconds(name) + time.perf_counter() - began

    def seconds(self, name: str) -> float:
        """Of a part, 0 if it never was."""
        total = self._host.get(name, 0.0)
        for start, end in self._events.get(name, ()):
            end.synchronize()
            total += start.elapsed_time(end) / 1000
        return total

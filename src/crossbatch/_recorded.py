r"""A function of tensors again without the host: recorded as a CUDA graph, and played.

Where a GPU is done in less time than Python needs to ask for many small operations, the host is
the limit. So a function that has been taken three times with everything alike is recorded, with
all shapes known, and from then on played: inputs are copied in, one call, results copied out.

It is never needed for correctness: whatever cannot be recorded is taken step by step.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

_ALIKE = 3  # times before a function is recorded
_KINDS = 8  # of functions that one who asks keeps recorded
_PATIENCE = 1.0  # seconds until one asks what a device is at
_Told = TypeVar("_Told")

Found = dict[str, Tensor]
"""Tensors by name."""
Function = Callable[..., Found]
"""Of tensors."""
Play = Callable[[], object]


def possible(x: Tensor) -> bool:
    """Whether a function of this tensor may be recorded, here and now."""
    return (
        x.is_cuda
        and x.device.index == torch.cuda.current_device()
        and not torch.cuda.is_current_stream_capturing()
        and not torch.is_inference_mode_enabled()  # what is made there is not written to outside
        and not torch.compiler.is_compiling()
    )


def stream(x: Tensor) -> int:
    """The current one of a tensor's device; on another stream a recording is another one."""
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0


def record(function: Callable[[], Found]) -> tuple[Found, Play]:
    """Record what a function asks of the device: what it leaves, and how to do it again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()  # whatever is made on first use is made now
    side.synchronize()  # what it told is told before anybody listens
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = function()
    return found, graph.replay


class Room:
    """For how many of something there is room in a recorded function, and how many came.

    The function tells as soon as it knows, and the host looks without waiting for the rest.

    Args:
        size: There is room for so many.
        most: No more than so many ever come; nobody asks where there is room for all of them.
        device: That of the function.
    """

    def __init__(self, size: int, most: int, device: torch.device) -> None:
        self.size = size
        self._told: Tensor | None = None
        if size < most:
            self._told = torch.empty((), dtype=torch.int64, pin_memory=device.type == "cuda")

    def tell(self, count: Tensor) -> None:
        """So many came."""
        if self._told is not None:
            self._told.copy_(count, non_blocking=True)

    def clear(self) -> None:
        """Nobody has told yet."""
        if self._told is not None:
            self._told.fill_(-1)

    def sufficed(self) -> bool:
        """Whether there was room for all, once it is told."""
        if self._told is None:
            return True
        told = self._told.numpy()  # reads what the device writes
        end = time.perf_counter() + _PATIENCE
        while told[()] < 0:
            if time.perf_counter() > end:
                torch.cuda.synchronize()  # so that whatever went wrong there is raised here
        return bool(told[()] <= self.size)


class Recorder:
    """Takes a function of tensors that are alike, and records it when some have come."""

    def __init__(self) -> None:
        self._alike = 0
        self._recording: _Recording | None = None
        self._room: Room | None = None  # as long as the recording, which writes to it

    def take(
        self,
        inputs: Sequence[Tensor],
        function: Function,
        *,
        fixed: Callable[[Found], tuple[Function, Room]] | None = None,
        tell: Callable[[Found], _Told],
    ) -> _Told:
        """``tell(function(*inputs))``.

        Args:
            inputs: Of the same shapes and dtypes each time.
            function: Leaves tensors by name.
            fixed: From what it left, a form of it whose shapes are known beforehand, and the room
                in them. None as they are known.
            tell: Makes something of what was left, before it is known whether there was room.
        """
        if self._recording is not None:
            if self._room is not None:
                self._room.clear()
            told = tell(self._recording.play(inputs))
            if self._room is None or self._room.sufficed():
                return told
            self._recording = None
        found = function(*inputs)
        self._alike += 1
        if self._alike >= _ALIKE:
            try:
                form, self._room = (function, None) if fixed is None else fixed(found)
                self._recording = _Recording(form, inputs)
            except RuntimeError:  # what cannot be recorded is not tried again
                self._alike = -(1 << 62)
        return tell(found)


class Recorders(OrderedDict[Hashable, Recorder]):
    """The last few that were asked for."""

    def of(self, key: Hashable) -> Recorder:
        """Whoever takes functions of this kind."""
        recorder = self.setdefault(key, Recorder())
        self.move_to_end(key)
        while len(self) > _KINDS:
            self.popitem(last=False)
        return recorder


class _Recording:
    """A recorded function: inputs at fixed places, and one tensor with everything it leaves."""

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        self._inputs = [x.clone() for x in inputs]
        self._parts: list[tuple[str, torch.dtype, torch.Size]] = []

        def packed() -> Found:
            found = function(*self._inputs)
            widest_first = sorted(found.items(), key=lambda part: -part[1].element_size())
            self._parts = [(name, value.dtype, value.shape) for name, value in widest_first]
            every = [value.contiguous().view(-1) for _, value in widest_first]
            return {"all": torch.cat([value.view(torch.uint8) for value in every])}

        found, self._play = record(packed)
        self._packed = found["all"]
        self._groups = self._grouped()

    def play(self, inputs: Sequence[Tensor]) -> Found:
        """What the function leaves for other inputs of the same shapes."""
        for here, new in zip(self._inputs, inputs, strict=True):
            here.copy_(new)
        self._play()
        packed = self._packed.clone()
        parts: list[Tensor] = []
        start = 0
        for dtype, sizes in self._groups:
            end = start + sum(sizes) * dtype.itemsize
            parts += packed[start:end].view(dtype).split_with_sizes(sizes)
            start = end
        return {
            name: part if len(shape) == 1 else part.view(shape)
            for part, (name, _, shape) in zip(parts, self._parts, strict=True)
        }

    def _grouped(self) -> list[tuple[torch.dtype, list[int]]]:
        """The parts of each dtype, as they follow each other."""
        groups: list[tuple[torch.dtype, list[int]]] = []
        for _, dtype, shape in self._parts:
            if not groups or groups[-1][0] != dtype:
                groups.append((dtype, []))
            groups[-1][1].append(math.prod(shape))
        return groups

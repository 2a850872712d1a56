r"""The same sums again without the host: a CUDA graph of one pair loss, played step after step.

Beside a memory of 55,000 rows a GPU is done in less time than Python needs to ask for the many
small operations of a loss. So once a loss has been taken three times with everything alike
(shapes, weighting, reduction, where in memory the references stand) its operations are recorded,
with all shapes known (:class:`crossbatch.engine.pairs.Split`), and from then on played: inputs are
copied in, one call, results copied out. Then the host looks once whether the room sufficed; where
it did not the loss is taken as if there were no graph, and recorded anew.

It is never needed for correctness: whatever cannot be recorded is taken step by step.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from crossbatch.engine.pairs import Anchors
from crossbatch.references import Batch, References, Standing
from crossbatch.weighting import PairWeighting

_ALIKE = 3  # losses before one is recorded
_LEAST_ROOM = 64
_KINDS = 8  # of losses that are kept recorded for one memory

Found = dict[str, Tensor]
"""Tensors by name; ``mixed``, how many references are mixed, is among them."""
Compute = Callable[[Anchors, References, int | None], Found]
"""From anchors, references and room for mixed ones."""
Play = Callable[[], None]


def possible(x: Tensor) -> bool:
    """Whether a loss of these anchors may be recorded, here and now."""
    return (
        x.is_cuda
        and x.device.index == torch.cuda.current_device()
        and not torch.cuda.is_current_stream_capturing()
        and not torch.compiler.is_compiling()
    )


def record(function: Callable[[], Found]) -> tuple[Found, Play]:
    """Record what a function asks of the device: what it leaves, and how to do it again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()  # whatever is made on first use is made now
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = function()
    return found, graph.replay


class Recorder:
    """Takes losses that are alike, and records them when some have come."""

    def __init__(self) -> None:
        self._alike = 0
        self._recording: _Recording | None = None

    def take(self, anchors: Anchors, references: References | None, compute: Compute) -> Found:
        """What ``compute`` says; None as references are the anchors themselves."""
        if self._recording is not None:
            found = self._recording.play(anchors)
            if found is not None:
                return found
            self._recording = None
        found = compute(anchors, itself(anchors) if references is None else references, None)
        self._alike += 1
        if self._alike >= _ALIKE:
            room = max(_LEAST_ROOM, 1 << (2 * int(found["mixed"])).bit_length())
            try:
                self._recording = _Recording(anchors, references, compute, room=room)
            except RuntimeError:  # what cannot be recorded is not tried again
                self._alike = -(1 << 62)
        return found


class _Recording:
    """A recorded loss: inputs at fixed places, and one tensor with everything that it leaves."""

    def __init__(
        self, anchors: Anchors, references: References | None, compute: Compute, *, room: int
    ) -> None:
        self._inputs = Anchors(*(x.clone() for x in anchors.columns))
        beside = itself(self._inputs) if references is None else references
        self._shapes: dict[str, torch.Size] = {}
        self._always_fits = room >= len(beside)

        def packed() -> Found:
            found = compute(self._inputs, beside, room)
            found["fits"] = found.pop("mixed") <= room
            self._shapes = {name: value.shape for name, value in found.items()}
            dtype = self._inputs.embeddings.dtype
            return {"all": torch.cat([value.reshape(-1).to(dtype) for value in found.values()])}

        found, self._play = record(packed)
        self._packed = found["all"]

    def play(self, anchors: Anchors) -> Found | None:
        """What the loss leaves for other anchors of one shape, or None where room was short."""
        for here, new in zip(self._inputs.columns, anchors.columns, strict=True):
            here.copy_(new)
        self._play()
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = torch.split(self._packed.clone(), sizes)
        found = {
            name: part.view(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
        fits = found.pop("fits")  # to look at it is to wait for the device
        return found if self._always_fits or bool(fits) else None


class _Recorders(OrderedDict[Hashable, Recorder]):
    """The last few that were asked for."""

    def of(self, key: Hashable) -> Recorder:
        """Whoever takes losses of this kind."""
        recorder = self.setdefault(key, Recorder())
        self.move_to_end(key)
        while len(self) > _KINDS:
            self.popitem(last=False)
        return recorder


_BESIDE: "WeakKeyDictionary[References, _Recorders]" = WeakKeyDictionary()
_OWN = _Recorders()


def take(
    anchors: Anchors,
    references: References | None,
    compute: Compute,
    *,
    weighting: PairWeighting,
    alike: Hashable,
) -> Found:
    """What ``compute`` says of anchors and references, recorded and played where that is possible.

    Args:
        anchors: The B anchors.
        references: The M references, or None for the anchors themselves.
        compute: Takes the loss.
        weighting: Its weight functions.
        alike: Whatever else ``compute`` reads.
    """
    x = anchors.embeddings
    place = () if references is None else standing(references, x.device)
    if place is None or not possible(x) or not is_value(weighting):
        return compute(anchors, itself(anchors) if references is None else references, None)
    stream = torch.cuda.current_stream().cuda_stream if x.is_cuda else 0
    key = (x.shape, x.dtype, x.device, stream, place, weighting, alike)
    recorders = _OWN if references is None else _BESIDE.setdefault(references, _Recorders())
    return recorders.of(key).take(anchors, references, compute)


def itself(anchors: Anchors) -> Batch:
    """Anchors as references."""
    return Batch(*anchors.columns)


def standing(references: References, device: torch.device) -> Hashable | None:
    """Where references are, if they are on the device to stay."""
    return references.standing(device) if isinstance(references, Standing) else None


def is_value(weighting: object) -> bool:
    """Whether something is one of our weightings or curves, made of numbers and of its like."""
    if weighting is None or isinstance(weighting, int | float | str):
        return True
    if isinstance(weighting, tuple):
        return all(map(is_value, cast("tuple[object, ...]", weighting)))
    if not is_dataclass(weighting) or not type(weighting).__module__.startswith("crossbatch."):
        return False
    return all(is_value(getattr(weighting, field.name)) for field in fields(weighting))

r"""Which pair losses are recorded as CUDA graphs (:mod:`crossbatch._recorded`), and as what.

Beside a memory of 55,000 rows a GPU is done in less time than Python needs to ask for the many
small operations of a loss. Losses are alike that have shapes, weighting, reduction and the place
of the references in common. What is recorded has room for so many mixed references
(:class:`crossbatch.engine.pairs.Split`), that all shapes are known; where it did not suffice the
loss is taken as if there were no graph, and recorded anew.
"""

from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from crossbatch import _recorded
from crossbatch._recorded import Found, Function, Recorders, Room
from crossbatch.engine.pairs import Anchors
from crossbatch.references import References, Standing
from crossbatch.weighting import PairWeighting

_LEAST_ROOM = 64
_Told = TypeVar("_Told")

Compute = Callable[[Anchors, References, Room | None], Found]
"""From anchors, references and room for mixed ones; leaves ``mixed``, how many there are, too."""
_BESIDE: "WeakKeyDictionary[References, Recorders]" = WeakKeyDictionary()
_OWN = Recorders()


def take(
    anchors: Anchors,
    references: References | None,
    compute: Compute,
    *,
    weighting: PairWeighting,
    alike: Hashable,
    tell: Callable[[Found], _Told],
) -> _Told:
    """What ``compute`` says of anchors and references, recorded and played where that is possible.

    Args:
        anchors: The B anchors.
        references: The M references, or None for the anchors themselves.
        compute: Takes the loss.
        weighting: Its weight functions.
        alike: Whatever else ``compute`` reads.
        tell: Makes something of it.
    """

    def function(room: Room | None) -> Function:
        def found(*columns: Tensor) -> Found:
            own = Anchors(*columns)
            parts = compute(own, own if references is None else references, room)
            return parts if room is None else {k: v for k, v in parts.items() if k != "mixed"}

        return found

    def fixed(found: Found) -> tuple[Function, Room]:
        size = max(_LEAST_ROOM, 1 << (2 * int(found["mixed"])).bit_length())
        most = len(anchors) if references is None else len(references)
        room = Room(size, most, x.device)
        return function(room), room

    x = anchors.embeddings
    place = () if references is None else standing(references, x.device)
    if place is None or not _recorded.possible(x) or not is_value(weighting):
        return tell(function(None)(*anchors.columns))
    key = (x.shape, x.dtype, x.device, _recorded.stream(x), place, weighting, alike)
    recorders = _OWN if references is None else _BESIDE.setdefault(references, Recorders())
    return recorders.of(key).take(anchors.columns, function(None), fixed=fixed, tell=tell)


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

"""Checks of tensors that come from outside. Each error names the place, the want and the find."""

import math
import weakref

import torch
from torch import Tensor

from crossbatch.errors import CrossbatchError, expected

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_embeddings(embeddings: Tensor, *, where: str, dim: int | None = None) -> None:
    """Raise unless ``embeddings`` is a finite floating tensor of shape (rows, dim).

    Costs one read of the tensor, and on a GPU one synchronisation; nothing for the tensor that was
    found finite last and has not been written to.
    """
    want = f"`embeddings` of shape (rows, {'dim' if dim is None else dim}) in {where}"
    if embeddings.ndim != 2 or (dim is not None and embeddings.shape[1] != dim):
        raise CrossbatchError(
            expected(want, tuple(embeddings.shape), "Flatten or project the embeddings to fit.")
        )
    if not embeddings.is_floating_point():
        raise CrossbatchError(
            expected(f"floating {want}", embeddings.dtype, "Call `.float()` on the embeddings.")
        )
    if _found_finite(embeddings):
        return
    rows = [int(row) for row in (~torch.isfinite(embeddings).all(dim=1)).nonzero()]
    if rows:
        raise CrossbatchError(
            expected(
                f"finite {want}",
                f"NaN or infinity in {len(rows)} rows, the first: {rows[:5]}",
                "Look for a division by a zero norm, or lower the learning rate.",
            )
        )


_last: tuple[weakref.ref[Tensor], float] | None = None
"""A tensor that was finite, and how often it had been written to."""


def _found_finite(x: Tensor) -> bool:
    """Whether the sum is: if so every number is; if not the sum may have overflowed."""
    global _last
    version = math.nan if x.is_inference() else x._version
    if _last is not None and _last[0]() is x and _last[1] == version:
        return True
    wide = torch.promote_types(x.dtype, torch.float32)
    finite = math.isfinite(x.detach().sum(dtype=wide).item())
    if finite:
        _last = weakref.ref(x), version
    return finite


def check_integers(values: Tensor, *, name: str, rows: int, where: str) -> None:
    """Raise unless ``values`` is an integer tensor of shape (rows,)."""
    want = f"integer `{name}` of shape ({rows},) in {where}"
    if values.dtype not in _INTEGERS:
        raise CrossbatchError(
            expected(want, values.dtype, f"Map each {name[:-1]} to an integer and use int64.")
        )
    if values.shape != (rows,):
        raise CrossbatchError(
            expected(want, f"shape {tuple(values.shape)}", f"Give one of `{name}` per embedding.")
        )


def check_above(value: float, low: float, *, name: str, where: str) -> None:
    """Raise unless ``value > low`` and it is finite."""
    if not low < value < math.inf:
        raise CrossbatchError(
            expected(f"`{name}` of {where} above {low:g}", value, "Choose a larger number.")
        )


def check_between(value: float, low: float, high: float, *, name: str, where: str) -> None:
    """Raise unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise CrossbatchError(
            expected(f"`{name}` of {where} in [{low}, {high}]", value, "Choose a value inside.")
        )


def check_device(name: torch.device | str) -> torch.device:
    """The device of that name, or raise if it is not there."""
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        remedy = "Use `cpu`, or `cuda` on a machine that has one."
        raise CrossbatchError(
            expected("a device that is there", repr(str(name)), remedy)
        ) from error
    return place

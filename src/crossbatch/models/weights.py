"""Pretrained weights for a trunk, from timm or from a local file.

A file's tensors are matched by name; what the trunk does not have (a classifier) is left over.
Where the names are others, as in another library's file of the same network, tensors are matched
in order, if every shape agrees and no more than a classifier's weight and bias are left over.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from crossbatch._torchvision import import_torchvision
from crossbatch.errors import CrossbatchError, FormatError, expected

import_torchvision()

import timm  # noqa: E402
import timm.models  # noqa: E402

_CLASSIFIER = 2  # tensors: weight and bias
_NAMED = 4  # tensors named in a message

Tensors = Mapping[str, Tensor]


def load_weights(trunk: nn.Module, path: Path) -> None:
    """Load a local file into a trunk.

    Raises:
        FormatError: There is no such file, it holds no tensors, or they do not fit the trunk.
    """
    theirs = _without_counters(_read(path))
    ours = _without_counters(trunk.state_dict())
    chosen = match_tensors(ours, theirs, where=str(path))
    trunk.load_state_dict({**trunk.state_dict(), **chosen})


def match_tensors(ours: Tensors, theirs: Tensors, *, where: str) -> dict[str, Tensor]:
    """A tensor of ``theirs`` for each name of ``ours``, by name or else in order.

    Raises:
        FormatError: Neither fits; the message names the tensors that do not.
    """
    wrong_names = differences(ours, theirs)
    if not wrong_names:
        return {name: theirs[name] for name in ours}
    pairs = list(zip(ours.items(), theirs.items(), strict=False))
    wrong_order = [
        _difference(name, tensor, other, found)
        for (name, tensor), (other, found) in pairs
        if tensor.shape != found.shape
    ]
    over = len(theirs) - len(ours)
    if not wrong_order and 0 <= over <= _CLASSIFIER:
        return {name: found for (name, _), (_, found) in pairs}
    by_name = len(wrong_names) < len(ours) / 2
    raise FormatError(
        expected(
            f"weights in {where} that fit the trunk's {len(ours)} tensors by name or in order",
            f"{len(theirs)} tensors, which do not: "
            + some(wrong_names if by_name else wrong_order or _unmatched(ours, theirs)),
            "Name the trunk that the file was made for, or another file.",
        )
    )


def differences(ours: Tensors, theirs: Tensors) -> list[str]:
    """What ``theirs`` lacks of ``ours``, by name, and what has another shape."""
    return [
        _difference(name, tensor, name, theirs.get(name))
        for name, tensor in ours.items()
        if name not in theirs or theirs[name].shape != tensor.shape
    ]


def pretrained_trunk(name: str) -> Any:
    """A trunk of timm with timm's weights, fetched or from its cache.

    Raises:
        CrossbatchError: There are none, or they could not be fetched.
    """
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, global_pool="")
    except Exception as error:  # whatever a download can raise
        raise CrossbatchError(
            expected(
                f"timm to bring pretrained weights for `{name}`",
                f"{type(error).__name__}: {error}",
                "Check the connection, or give a local file as `weights` "
                "(.safetensors, .pth), or `none` to begin from random weights.",
            )
        ) from error


def _read(path: Path) -> Tensors:
    wanted, remedy = f"a file of weights at {path}", "Give a .safetensors or .pth file."
    if not path.is_file():
        remedy = f"{remedy} `timm` stands for timm's pretrained weights, `none` for random ones."
        raise FormatError(expected(wanted, "no file", remedy))
    try:
        stored = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each have their own
        raise FormatError(expected(wanted, f"{type(error).__name__}: {error}", remedy)) from error
    tensors = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
    if not tensors:
        raise FormatError(expected(wanted, "no tensors in it", remedy))
    return tensors


def _without_counters(tensors: Tensors) -> dict[str, Tensor]:
    """Without batch normalisation's counts of batches: unused here, and older files lack them."""
    return {k: v for k, v in tensors.items() if v.ndim or v.is_floating_point()}


def _difference(name: str, tensor: Tensor, other: str, found: Tensor | None) -> str:
    if found is None:
        return f"{name} is missing"
    shapes = f"{tuple(tensor.shape)} wanted, {tuple(found.shape)} found"
    return f"{name}: {shapes}" if name == other else f"{name} and {other}: {shapes}"


def _unmatched(ours: Tensors, theirs: Tensors) -> list[str]:
    if len(theirs) < len(ours):
        return [f"{name} is missing" for name in list(ours)[len(theirs) :]]
    return [f"{name} is left over" for name in list(theirs)[len(ours) :]]


def some(names: list[str]) -> str:
    """The first few of many names."""
    more = len(names) - _NAMED
    return "; ".join(names[:_NAMED]) + (f"; and {more} more" if more > 0 else "")

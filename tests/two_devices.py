"""A second device without one: tensors that are on the CPU and say that they are not.

Within :class:`TwoDevices` the device ``meta`` is another device with its own memory. What is on it
computes as on the CPU; an operation on tensors of both fails, as between a GPU and the CPU.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

AWAY = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Away(torch.Tensor):
    """A tensor on the other device."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            dtype=held.dtype,
            device=AWAY,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
        )

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return dispatch(op, args, kwargs or {})


class TwoDevices(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return dispatch(op, args, kwargs or {})


def dispatch(op, args, kwargs):
    tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
    away = [isinstance(x, Away) for x in tensors]
    if op not in COPIES and any(away):
        mixed = [x for x in tensors if not isinstance(x, Away) and x.ndim]
        assert not mixed, f"{op} of tensors on two devices"
    there = any(away) if op not in COPIES else away[0]
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]) == AWAY
    if not there and not any(away):
        return op(*args, **kwargs)
    result = op(*tree_map(held, args), **tree_map(held, kwargs))
    if op._schema.is_mutable:
        return tensors[0]
    return tree_map(lambda x: Away(x) if there and isinstance(x, torch.Tensor) else x, result)


def held(x):
    if isinstance(x, Away):
        return x.held
    return torch.device("cpu") if isinstance(x, torch.device) and x == AWAY else x


def move(module):
    """Its buffers to the other device."""
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = buffer.to(AWAY)
    return module

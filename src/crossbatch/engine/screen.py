r"""Which pairs may pass a bound, from cheap products of codes (:mod:`crossbatch.codes`).

With ``Codes`` the products are integers, and a pair may pass where c_a c ⟨q_a, q⟩ + error > bound.
With ``Rounded`` they are bfloat16. Rounding keeps the order, so a pair whose similarity exceeds t
has a product of at least t, rounded; and bfloat16 of one sign are in the order of their bits, so
products are compared as 16-bit integers, many at a time.
"""

import numpy as np
import torch
from torch import Tensor

from crossbatch._shapes import Bool
from crossbatch.codes import ROUNDING, Codes, Rounded, encode, integer_product, round_off
from crossbatch.engine.pairs import above
from crossbatch.engine.scratch import Scratch

_TINY = 1e-30  # above whatever matrix units flush to zero
_SIGN = 0x7FFF  # all bits but the sign


class Screen:
    """Anchors that references are held against, on a CPU.

    Args:
        x: Anchors, float32.
        bound: Pairs at or below it are of no interest: a number, or one for each anchor (B,).
        scratch: Room for products and for what is returned.
    """

    def __init__(self, x: Tensor, bound: Tensor | float, scratch: Scratch) -> None:
        self._x, self._bound, self._scratch = x, bound, scratch
        self._codes: Codes | None = None
        self._rounded: Rounded | None = None

    def mark(self, codes: Codes | Rounded, rows: int) -> Bool[Tensor, "T B"]:
        """Where a pair may pass; no other one does.

        Args:
            codes: Of T references.
            rows: References in a block of four bytes a product.
        """
        count = len(codes.values)
        passing = self._scratch.matrix((count, len(self._x)), self._x, torch.bool)
        if isinstance(codes, Rounded):
            self._mark_halves(codes, slices(count, 2 * rows), passing.numpy())
        else:
            self._mark_integers(codes, slices(count, rows), passing)
        return passing

    def _mark_integers(self, codes: Codes, parts: list[slice], passing: Tensor) -> None:
        if self._codes is None:
            self._codes = encode(self._x, shared_scale=True)
        a = self._codes
        scale = a.scale[0] * codes.scale
        error = _error(a, codes, ROUNDING)
        least = _least_product(self._bound, scale, error)
        for part in parts:
            product = self._block(part, torch.int32)
            integer_product(codes.values[part], a.values, out=product)
            if least is not None:
                np.greater(product.numpy(), least[part], out=passing[part].numpy())
                continue
            estimate = self._block(part, self._x.dtype)
            torch.mul(product, scale[part, None], out=estimate)
            above(estimate, self._bound - error[part].amax(), out=passing[part])

    def _mark_halves(self, codes: Rounded, parts: list[slice], passing: np.ndarray) -> None:
        if self._rounded is None:
            self._rounded = round_off(self._x)
        a = self._rounded
        least = self._least_bits(codes, parts)
        signed = bool((least <= 0).any())
        if signed:
            least = np.where(least == 0, -1, _in_order(least))  # 0 is −0, too
        for part, each in zip(parts, least, strict=True):
            product = self._block(part, torch.bfloat16)
            torch.mm(codes.values[part], a.values.T, out=product)
            bits = _bits(product)
            if signed:
                np.copyto(bits, _in_order(bits))
            np.greater_equal(bits, each if len(each) > 1 else each[0], out=passing[part])

    def _least_bits(self, codes: Rounded, parts: list[slice]) -> np.ndarray:
        """Of the products that may pass: for each block, for all anchors or for each."""
        assert self._rounded is not None
        rounding = ROUNDING + self._x.shape[1] * torch.finfo(torch.float32).eps
        error = _error(self._rounded, codes, rounding).add_(_TINY)
        most = np.maximum.reduceat(error.numpy(), [part.start for part in parts])
        bound = torch.as_tensor(self._bound, dtype=torch.float32).reshape(1, -1)
        return _bits((bound - torch.as_tensor(most)[:, None]).bfloat16())

    def _block(self, part: slice, dtype: torch.dtype) -> Tensor:
        return self._scratch.matrix((part.stop - part.start, len(self._x)), self._x, dtype)


def slices(count: int, rows: int) -> list[slice]:
    """So many rows in parts."""
    return [slice(a, min(a + rows, count)) for a in range(0, count, rows)]


def _error(a: Codes | Rounded, codes: Codes | Rounded, rounding: float) -> Tensor:
    """How far products of codes may lie below similarities, for each reference."""
    reach, residual = (a.norm + a.residual).amax(), a.residual.amax()
    return reach * codes.residual + (residual + rounding * reach) * codes.norm


def _least_product(bound: Tensor | float, scale: Tensor, error: Tensor) -> np.ndarray | None:
    """For one bound for all: above which integer product a pair with a reference may pass."""
    if isinstance(bound, Tensor):
        return None
    limit = 2.0**31 - 128  # what float32 and int32 both hold
    least = ((bound - error) / scale).floor_().clamp_(-limit, limit)
    return least.to(torch.int32).numpy()[:, None]


def _bits(x: Tensor) -> np.ndarray:
    """Of bfloat16, as integers; not copied."""
    return x.view(torch.int16).numpy()


def _in_order(bits: np.ndarray) -> np.ndarray:
    """Integers in the order of the numbers that have these bits."""
    return bits ^ ((bits >> 15) & _SIGN)

r"""Which pairs may pass a bound, from cheap products of codes (:mod:`crossbatch.codes`).

With ``Codes`` the products are integers, and a pair may pass where c_a c ⟨q_a, q⟩ + error > bound.
With ``Rounded`` they are bfloat16. Rounding keeps the order, so a pair whose similarity exceeds t
has a product of at least t, rounded; and bfloat16 of one sign are in the order of their bits, so
products are compared as 16-bit integers, many at a time. Where the system has a compiler and the
processor matrix units, C does all of it at once (:mod:`crossbatch._native`), with two digits of
eight bits for each number of an anchor.

The exact similarity of what may pass decides.
"""

import numpy as np
import torch
from torch import Tensor

from crossbatch import _native
from crossbatch._shapes import Bool
from crossbatch.codes import (
    ROUNDING,
    Codes,
    Rounded,
    encode,
    integer_product,
    round_off,
    similarities,
)
from crossbatch.engine.fused import Sums
from crossbatch.engine.pairs import Hidden, above, as_tensor, places_of
from crossbatch.engine.scratch import Scratch
from crossbatch.references import Tile

_TINY = 1e-30  # above whatever matrix units flush to zero
_UNIT = 2.0**-8  # u of bfloat16, at least
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
        self._packed: dict[bool, _native.Packed] = {}

    def above(self, tile: Tile, hidden: Hidden, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Anchors, places in the tile and similarities of the pairs above the bound.

        Args:
            tile: With codes.
            hidden: References that are left out.
            rows: References in a block of four bytes a product.
        """
        if self._whole(tile):
            found = _native.coded_above(*self._screened(tile), hidden.places())
            return found.anchor, found.row, found.sim
        references = tile.embeddings.detach()
        assert tile.codes is not None
        passing = self.mark(tile.codes, rows)
        hidden.fill(passing, 0.0, dim=0)
        column, anchor = np.divmod(places_of(passing).numpy(), len(self._x))
        if _native.at_hand(references, self._x):
            listed = as_tensor(column), as_tensor(anchor)
            found = _native.listed_above(listed, references, self._x, self._bound)
            return found.anchor, found.row, found.sim
        room = self._scratch.matrix((1, len(anchor)), self._x)[0]
        sim = similarities(references, self._x, (column, anchor), room=room)
        return self._passing(anchor, column, sim)

    def sums(self, tile: Tile, hidden: Hidden, share: float) -> Sums | None:
        """Of the pairs above the bound the sum of references and their number; or None.

        Args:
            tile: With codes.
            hidden: References that are left out.
            share: How many of the pairs are above the bound, about.
        """
        if not self._whole(tile):
            return None
        many = share > _many(*self._x.shape)
        take = _native.many_sum if many else _native.coded_sum
        gradient, count = take(*self._screened(tile, many=many), hidden.places())
        return Sums(torch.zeros_like(count), count, gradient, count)

    def _whole(self, tile: Tile) -> bool:
        """Whether C does all of it."""
        return isinstance(tile.codes, Codes) and by_matrix_units(tile.embeddings, self._x)

    def _screened(
        self, tile: Tile, *, many: bool = False
    ) -> tuple[_native.Packed, _native.Screened]:
        """Anchors and references as matrix units take them."""
        assert isinstance(tile.codes, Codes)
        if many not in self._packed:
            pack = _native.halves if many else _native.eight_bits
            self._packed[many] = pack(self._x, self._bound)
        anchors = self._packed[many]
        reach, slack = anchors.reach + anchors.residual, self._slack()
        slack = twice_rounded(anchors, slack) if many else anchors.residual + slack * reach
        return anchors, _native.Screened(tile.embeddings, *tile.codes, reach, slack)

    def _passing(
        self, anchor: np.ndarray, column: np.ndarray, sim: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Those above the bound, ascending by anchor."""
        bound = self._bound
        limit = bound.numpy()[anchor] if isinstance(bound, Tensor) else bound
        keep = np.flatnonzero(sim.numpy() > limit)
        few = anchor[keep]
        if len(self._x) <= 1 << 16:  # numpy sorts two bytes by their digits
            few = few.astype(np.uint16)
        keep = keep[np.argsort(few, kind="stable")]
        rows = as_tensor(keep)
        return as_tensor(anchor[keep]), as_tensor(column[keep]), sim.index_select(0, rows)

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
        error = _error(self._rounded, codes, self._slack()).add_(_TINY)
        most = np.maximum.reduceat(error.numpy(), [part.start for part in parts])
        bound = torch.as_tensor(self._bound, dtype=torch.float32).reshape(1, -1)
        return _bits((bound - torch.as_tensor(most)[:, None]).bfloat16())

    def _slack(self) -> float:
        """How far sums in float32 may lie apart, of ‖a‖ ‖r‖."""
        return ROUNDING + self._x.shape[1] * torch.finfo(torch.float32).eps

    def _block(self, part: slice, dtype: torch.dtype) -> Tensor:
        return self._scratch.matrix((part.stop - part.start, len(self._x)), self._x, dtype)


def _many(anchors: int, dim: int) -> float:
    """Share of pairs above which matrix units add all rows sooner than others add those that pass.

    Measured; reading and cutting up rows costs the same for few anchors as for many.
    """
    return max(0.03 + dim / 8000, dim / (50 * anchors))


def by_matrix_units(references: Tensor, x: Tensor) -> bool:
    """Whether C screens such references, once they have codes of eight bits."""
    return _native.at_hand(references, x) and _native.has_matrix_units(x.shape[1])


def twice_rounded(a: _native.Packed, rounding: float) -> float:
    """Of ‖r‖, by how much similarities exceed products of twice rounded numbers.

    r = h + m + e with ‖m‖ ≤ u ‖r‖ and ‖e‖ ≤ u² ‖r‖: the products h h, h m and m h leave
    ‖m_a‖ ‖m‖ + ‖e_a‖ ‖r‖ + ‖a‖ ‖e‖.
    """
    reach = a.reach + a.residual
    return 2 * _UNIT * a.residual + (_UNIT**2 + rounding) * reach


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

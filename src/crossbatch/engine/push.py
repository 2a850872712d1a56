r"""What plain references add to the gradient of the negatives, G⁻_i = Σ_j w⁻_ij r_j.

Two ways to take it: with weights that are known (:class:`Weighted`), or, where w⁻ = exp(E + F) and
F is not known before the sweep ends, as a running softmax (:class:`RunningSoftmax`):

    m' = max(m, max E),   Z' = e^{m − m'} Z + Σ e^{E − m'},   G' = e^{m − m'} G + Σ e^{E − m'} r,

and in the end log Σ e^E = m + log Z and G⁻ = e^{m + F} G. Both accept whole blocks and lists of
pairs; weighted rows are summed without gathering them.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbatch import _native
from crossbatch._shapes import Float, Int, Shaped
from crossbatch.engine.fused import Sums
from crossbatch.engine.pairs import Hidden
from crossbatch.weighting import PairWeighting
from crossbatch.weighting.statistics import MAX, Monoid, Stats

Bound = Tensor | float | None
"""Pairs at or below it have no weight: a number, one for each anchor (B,), or None."""
_LOG2E = math.log2(math.e)


@dataclass(frozen=True)
class Pairs:
    """n pairs: which anchor, which of the references, how similar.

    Ascending by anchor, but where :mod:`crossbatch._native` is at hand: it sums in any order.
    """

    anchor: Int[Tensor, " n"]
    column: Int[Tensor, " n"]
    sim: Float[Tensor, " n"]
    references: Float[Tensor, "T D"]

    def rows(self, keep: Int[Tensor, " k"]) -> "Pairs":
        """Some of them."""
        anchor, column = self.anchor.index_select(0, keep), self.column.index_select(0, keep)
        return Pairs(anchor, column, self.sim.index_select(0, keep), self.references)

    def at_anchors(self, stats: Stats) -> dict[str, Tensor]:
        """Statistics of each pair's anchor."""
        return {name: value.index_select(0, self.anchor) for name, value in stats.items()}

    def weighted_sum(self, weights: Float[Tensor, " n"], anchors: int) -> Float[Tensor, "B D"]:
        """Σ_j w_ij r_j."""
        table, column, weights = self.references, self.column, weights.contiguous()
        if _native.at_hand(table) and weights.dtype == table.dtype:
            return _native.sum_rows((column, self.anchor), weights, table, anchors)
        if table.dtype != weights.dtype:
            table = table.index_select(0, column).to(weights.dtype)
            column = torch.arange(len(column), device=column.device)
        starts = torch.searchsorted(self.anchor, torch.arange(anchors, device=self.anchor.device))
        return F.embedding_bag(
            column, table, starts, mode="sum", per_sample_weights=weights.contiguous()
        )


@dataclass(frozen=True)
class Block:
    """All anchors beside T references in a row.

    ``hidden`` are those that are mixed; nobody else reads ``sim`` where it is ``spare``.
    """

    sim: Float[Tensor, "B T"]
    hidden: Hidden
    references: Float[Tensor, "T D"]
    place: slice
    spare: bool = False

    def hide(self, values: Shaped[Tensor, "B T"], by: float) -> Shaped[Tensor, "B T"]:
        """Overwrite what belongs to mixed references."""
        return self.hidden.fill(values, by, dim=1)


@runtime_checkable
class Push(Protocol):
    """Takes in plain negatives."""

    def block(self, block: Block) -> None:
        """A whole block."""
        ...

    def pairs(self, pairs: Pairs) -> None:
        """The pairs above the bound; all others that stood beside them have no weight."""
        ...

    def sums(self, sums: Sums) -> None:
        """What a kernel made of a whole tile."""
        ...


def columns(stats: Stats) -> dict[str, Tensor]:
    """(B, …) as (B, 1, …), to stand beside blocks of similarities."""
    return {name: value[:, None] for name, value in stats.items()}


class Weighted:
    """Weights that are known."""

    def __init__(self, weighting: PairWeighting, stats: Stats, x: Tensor) -> None:
        self._weighting, self._stats, self._columns = weighting, stats, columns(stats)
        self._x = x
        self._step: Tensor | None = None  # where w⁻ is 1 above a bound and 0 below it: the bound
        bound = weighting.negative_bound(stats)
        if weighting.negative_line == (0.0, 0.0) and bound is not None:
            each = bound if isinstance(bound, Tensor) else x.new_full((1,), bound)
            self._step = each.to(x.dtype).reshape(-1, 1)
        self.gradient = torch.zeros_like(x)
        self.active = x.new_zeros(len(x))
        self.reference: Tensor | None = None  # where the gradient of the references goes, (M, D)
        self.reference_anchors = x

    def block(self, block: Block) -> None:
        """Weigh every pair."""
        if self._step is not None:
            into = block.sim if block.spare else torch.empty_like(block.sim)
            weights = torch.gt(block.sim, self._step, out=into)
        else:
            weights = self._weighting.negative(block.sim, self._columns)
            weights = weights if weights is not block.sim else weights.clone()
        weights = block.hide(weights, 0.0)
        self.gradient.addmm_(weights, block.references)
        self.active += _count(weights) if self._step is None else weights.sum(dim=1)
        if self.reference is not None:
            self.reference[block.place].addmm_(weights.T, self.reference_anchors)

    def sums(self, sums: Sums) -> None:
        """Take in a tile that a kernel went past: w⁻ is e^E itself."""
        self.gradient += sums.top.exp()[:, None] * sums.gradient
        self.active += sums.active

    def pairs(self, pairs: Pairs) -> None:
        """Weigh some pairs."""
        if self._step is not None:
            weights = active = torch.ones_like(pairs.sim)
        else:
            weights = self._weighting.negative(pairs.sim, pairs.at_anchors(self._stats))
            active = (weights != 0).to(weights.dtype)
        self.gradient += pairs.weighted_sum(weights, len(self._x))
        self.active.index_add_(0, pairs.anchor, active)


class RunningSoftmax:
    """Weights exp(E + F) with F to come; pairs at or below the bound have none."""

    def __init__(self, weighting: PairWeighting, early: Stats, x: Tensor, bound: Bound) -> None:
        self._weighting, self._stats, self._columns = weighting, early, columns(early)
        self._bound = bound[:, None] if isinstance(bound, Tensor) else bound
        self.active = x.new_zeros(len(x))
        self._top: Tensor = x.new_full((len(x),), -torch.inf)
        self._sum: Tensor = x.new_zeros(len(x))
        self._gradient: Tensor = torch.zeros_like(x)

    def block(self, block: Block) -> None:
        """Take in every pair."""
        exponent = _not_none(self._weighting.negative_exponent(block.sim, self._columns))
        exponent = block.hide(exponent, -torch.inf)
        if self._bound is None:
            self.active += self._shown(exponent, block)
        terms = _powers(exponent, self._rise(exponent.amax(dim=1))[:, None])
        if self._bound is not None:
            above = torch.gt(block.sim, self._bound, out=torch.empty_like(terms))
            terms.mul_(above)
            self.active += block.hide(above, 0.0).sum(dim=1)
        self._sum += terms.sum(dim=1)
        self._gradient.addmm_(terms, block.references)

    def pairs(self, pairs: Pairs) -> None:
        """Take in some pairs."""
        stats = pairs.at_anchors(self._stats)
        exponent = _not_none(self._weighting.negative_exponent(pairs.sim, stats))
        highest = torch.full_like(self._top, -torch.inf)
        top = self._rise(highest.scatter_reduce_(0, pairs.anchor, exponent, "amax"))
        self.active.index_add_(0, pairs.anchor, torch.ones_like(exponent))
        terms = _powers(exponent, top.index_select(0, pairs.anchor))
        self._sum.index_add_(0, pairs.anchor, terms)
        self._gradient += pairs.weighted_sum(terms, len(top))

    def sums(self, sums: Sums) -> None:
        """Take in a tile that a kernel went past."""
        shift = self._rise(sums.top)
        share = (sums.top - shift).exp_()
        self._sum += share * sums.total
        self._gradient += share[:, None] * sums.gradient
        self.active += sums.active

    def statistic(self, monoid: Monoid) -> Float[Tensor, " B"]:
        """What a fold of E over the pairs above the bound gives: log Σ e^E, or max E."""
        if monoid is MAX:
            return torch.where(self.active > 0, self._top, -torch.inf)
        return self._top + self._sum.log()

    def gradient(self, log_factor: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """G⁻, once F is known."""
        scale = torch.where(self._sum > 0, (self._top + log_factor).exp(), 0.0)
        return self._gradient * scale[:, None]

    def _shown(self, exponent: Tensor, block: Block) -> Tensor | int:
        """How many pairs of each anchor have a weight where there is no bound."""
        if self._weighting.negative_vanishes:
            return (exponent > -torch.inf).sum(dim=1)
        return exponent.shape[1] - block.hidden.count()

    def _rise(self, top: Tensor) -> Tensor:
        """Raise the running maximum; what to subtract from exponents (0 where all are −∞)."""
        top = torch.maximum(self._top, top)
        shift = torch.where(top.isfinite(), top, 0.0)
        shrink = (self._top - shift).exp_()
        self._sum *= shrink
        self._gradient *= shrink[:, None]
        self._top = top
        return shift


def _powers(exponent: Tensor, shift: Tensor) -> Tensor:
    """e^{E − shift}, in place, as a power of two: less than half the time of e."""
    return torch.add(-_LOG2E * shift, exponent, alpha=_LOG2E, out=exponent).exp2_()


def _count(block: Tensor) -> Float[Tensor, " B"]:
    return torch.ne(block, 0, out=torch.empty_like(block)).sum(dim=1)


def _not_none(exponent: Tensor | None) -> Tensor:
    assert exponent is not None
    return exponent

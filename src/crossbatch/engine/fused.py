r"""A Triton kernel past plain references: similarity, weight and product in one, for CUDA.

For weightings whose exponent is a line, E = u S + v, above a bound:

    e_ij = u ⟨a_i, r_j⟩ + v  where plain and ⟨a_i, r_j⟩ > bound_i, else −∞,
    m' = max(m, max_j e),
    Z ← e^{m − m'} Z + Σ_j e^{e − m'},    G ← e^{m − m'} G + Σ_j e^{e − m'} r_j.

u = v = 0 counts what is above the bound and sums its rows: the contrastive loss. References are
cut into as many shares as keep the device busy; shares merge as any statistic does. No block of
similarities leaves the chip. It is never needed for correctness: the dense path gives the same.
"""

import functools
import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossbatch._shapes import Bool, Float

_ANCHORS, _REFERENCES, _WIDEST = 16, 32, 1024
_PROGRAMS = 512  # that keep a large device busy


class Sums(NamedTuple):
    """m, Z, G and how many pairs were above the bound."""

    top: Float[Tensor, " B"]
    total: Float[Tensor, " B"]
    gradient: Float[Tensor, "B D"]
    active: Float[Tensor, " B"]


def fits(x: Float[Tensor, "B D"]) -> bool:
    """Whether the kernel takes these anchors here, on this device or in Triton's interpreter."""
    module = _triton()
    if module is None or x.dtype != torch.float32 or not 1 <= x.shape[1] <= _WIDEST:
        return False
    return x.is_cuda or bool(module.knobs.runtime.interpret)


def fused_sums(
    x: Float[Tensor, "B D"],
    references: Float[Tensor, "T D"],
    hidden: Bool[Tensor, " T"],
    *,
    line: tuple[float, float],
    bound: Float[Tensor, " B"] | None,
) -> Sums:
    """One way past a tile.

    Args:
        x: Anchors, float32.
        references: A tile, any floating dtype.
        hidden: Rows that are not plain.
        line: u and v of the exponent.
        bound: Pairs at or below it are left out; None keeps all.

    Cost: two products B × T × D; memory B × D for each of at most 512 shares.
    """
    module = _triton()
    rows, dim = x.shape
    groups = module.cdiv(rows, _ANCHORS)
    shares = max(1, min(_PROGRAMS // groups, module.cdiv(len(references), 4 * _REFERENCES)))
    chunk = module.cdiv(module.cdiv(len(references), shares), _REFERENCES) * _REFERENCES
    top, total, active = (x.new_empty(shares, rows) for _ in range(3))
    gradient = x.new_empty(shares, rows, dim)
    limit = x.new_full((rows,), -torch.inf) if bound is None else bound.contiguous()
    width = max(16, module.next_power_of_2(dim))
    kernel = _kernel()
    kernel[(groups, shares)](
        x.contiguous(), references.contiguous(), hidden, limit, top, total, gradient, active,
        rows, len(references), dim, chunk, *line,
        BOUNDED=bound is not None, BA=_ANCHORS, BT=_REFERENCES, BD=width,
    )  # fmt: skip
    highest = top.amax(dim=0)
    shrink = (top - torch.where(highest.isfinite(), highest, 0.0)).exp_()
    return Sums(
        highest,
        (shrink * total).sum(dim=0),
        (shrink[:, :, None] * gradient).sum(dim=0),
        active.sum(dim=0),
    )


@functools.cache
def _triton() -> Any:
    try:
        return importlib.import_module("triton")
    except ImportError:
        return None


@functools.cache
def _kernel() -> Any:
    return importlib.import_module("crossbatch.engine._fused_kernel").sums_kernel

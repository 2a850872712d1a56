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

_ANCHORS, _REFERENCES, _WARPS, _STAGES = 64, 64, 8, 2  # the fastest of those tried on an H200
_PRECISION = "tf32x3"  # three passes of tensor cores, as near as float32
_WIDEST = 128  # wider embeddings are faster in products of their own
_PROGRAMS = 264  # two for each multiprocessor of a large device


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
    return _runs(x.device, x.shape[1]) if x.is_cuda else bool(module.knobs.runtime.interpret)


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

    Cost: two products B × T × D; memory B × D for each of at most 264 shares.
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
        PRECISION=_PRECISION, num_warps=_WARPS, num_stages=_STAGES,
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
def _runs(device: torch.device, dim: int) -> bool:
    """Whether the kernel can be compiled for a device, and has room there: tried once."""
    x = torch.zeros(1, dim, device=device)
    hidden = torch.zeros(1, dtype=torch.bool, device=device)
    try:
        fused_sums(x, x, hidden, line=(0.0, 0.0), bound=None)
    except Exception:  # whatever Triton, its compiler or the driver lack
        return False
    return True


@functools.cache
def _triton() -> Any:
    try:
        return importlib.import_module("triton")
    except ImportError:
        return None


@functools.cache
def _kernel() -> Any:
    return importlib.import_module("crossbatch._fused_kernel").sums_kernel

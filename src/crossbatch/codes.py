r"""Codes of embeddings, with a bound of their error: to prove cheaply what cannot pass.

Eight bits:   r = c q + e,   q ∈ {−127, …, 127}^D,   c = max |r| / 127,   ρ = ‖e‖.

For an anchor a = c_a q_a + e_a, by Cauchy and Schwarz,

    ⟨a, r⟩ ≤ c_a c ⟨q_a, q⟩ + ‖c_a q_a‖ ρ + ‖e_a‖ ‖r‖.

Rounded:      r = h + e,   h in bfloat16 (eight bits of each number's own scale),   ρ = ‖e‖,

    ⟨a, r⟩ ≤ ⟨h_a, h⟩ + ‖h_a‖ ρ + ‖e_a‖ ‖r‖.

An integer product costs a quarter of a float32 product. So does one of bfloat16 where the
processor has matrix units, and its error is a fifth; in C (:mod:`crossbatch._native`) integers are
the faster ones there, too. Where the bound lies below a threshold,
no exact similarity needs to be taken; where it does not, the exact one decides. So what is
selected is exact, and only the work is not.
"""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from crossbatch import _native
from crossbatch._shapes import Float, Int8

ROUNDING = 1e-5
"""Of ‖a‖ ‖r‖, added to bounds: similarities in float32 differ by less between two ways."""

_ROWS = 1 << 14  # encoded at a time, to need little room
_GATHERED = 1 << 19  # numbers gathered at a time for exact similarities


class Codes(NamedTuple):
    """Embeddings as ``scale * values``, off by at most ``residual`` in norm."""

    values: Int8[Tensor, "T D"]
    scale: Float[Tensor, " T"]
    residual: Float[Tensor, " T"]
    norm: Float[Tensor, " T"]

    def rows(self, place: slice | Tensor) -> "Codes":
        """Some of them."""
        return Codes(*(part[place] for part in self))


def encode(
    embeddings: Float[Tensor, "T D"], *, shared_scale: bool = False, scale: float | None = None
) -> Codes:
    """Round embeddings to eight bits.

    Args:
        embeddings: Any rows, any floating dtype.
        shared_scale: Give all rows the scale of the largest one, as anchors have.
        scale: Give all rows this scale; numbers beyond 127 of it are cut to that.

    >>> codes = encode(torch.tensor([[0.6, -0.8]]))
    >>> codes.values
    tensor([[  95, -127]], dtype=torch.int8)
    """
    if len(embeddings) > _ROWS and not shared_scale:
        starts = range(0, len(embeddings), _ROWS)
        parts = [encode(embeddings[start : start + _ROWS], scale=scale) for start in starts]
        return Codes(*(torch.cat(part) for part in zip(*parts, strict=True)))
    x = embeddings.detach().float()
    top = x.abs().amax(dim=1) if x.shape[1] else x.new_zeros(len(x))
    if shared_scale and len(top):
        top = top.amax().expand(len(x))
    scales = (top / 127).clamp(min=torch.finfo(torch.float32).tiny)
    if scale is not None:
        scales = torch.full_like(scales, scale)
    rounded = torch.round(x / scales[:, None]).clamp_(-127, 127)
    residual = (x - rounded * scales[:, None]).square().sum(dim=1).sqrt()
    norm = x.square().sum(dim=1).sqrt()
    return Codes(rounded.to(torch.int8), scales, residual, norm)


class Rounded(NamedTuple):
    """Embeddings in bfloat16, off by ``residual`` in norm."""

    values: Float[Tensor, "T D"]
    residual: Float[Tensor, " T"]
    norm: Float[Tensor, " T"]

    def rows(self, place: slice | Tensor) -> "Rounded":
        """Some of them."""
        return Rounded(*(part[place] for part in self))


def round_off(embeddings: Float[Tensor, "T D"]) -> Rounded:
    """Round embeddings to bfloat16; what is bfloat16 already is not copied.

    >>> round_off(torch.tensor([[0.6, -0.8]])).values.tolist()
    [[0.6015625, -0.80078125]]
    """
    values = embeddings.detach().bfloat16()
    residual, norm = (embeddings.new_empty(len(values), dtype=torch.float32) for _ in "rn")
    for start in range(0, len(values), _ROWS):
        part = slice(start, start + _ROWS)
        x = embeddings[part].detach().float()
        norm[part] = x.square().sum(dim=1).sqrt()
        residual[part] = (x - values[part]).square_().sum(dim=1).sqrt()
    return Rounded(values, residual, norm)


@functools.cache
def rounds() -> bool:
    """Whether the processor has matrix units, and products of bfloat16 are the cheapest."""
    try:
        return bool(torch.cpu._is_amx_tile_supported())  # pyright: ignore
    except AttributeError:
        return False


def coded(embeddings: Float[Tensor, "T D"]) -> Codes | Rounded:
    """Codes of the kind that is the fastest here."""
    whole = embeddings.dtype == torch.float32 and _native.has_matrix_units(embeddings.shape[1])
    return round_off(embeddings) if rounds() and not whole else encode(embeddings)


def best_scale(embeddings: Float[Tensor, "T D"]) -> float:
    """The one scale for all rows that leaves the least, cut or rounded, of a few scales tried."""
    widest = float(embeddings.abs().amax()) / 127
    tried = [max(widest / 1.25**n, torch.finfo(torch.float32).tiny) for n in range(12)]
    return min(tried, key=lambda scale: _left(encode(embeddings, scale=scale)))


def _left(codes: Codes) -> float:
    return float(codes.residual.mean() + codes.residual.amax())


def integer_product(left: Int8[Tensor, "T D"], right: Int8[Tensor, "B D"], *, out: Tensor) -> None:
    """Write ⟨l_i, r_j⟩, in 32 bits. Torch copies ``right``: let it be the smaller."""
    if left.shape[1] == 1:  # where torch 2.13 mistakes the strides
        torch.mul(left.int(), right.int().T, out=out)
    else:
        torch._int_mm(left, right.T, out=out)  # pyright: ignore


@functools.cache
def multiplies() -> bool:
    """Whether this build of torch multiplies eight-bit integers, and right."""
    a, b = torch.tensor([[127, -3]]).to(torch.int8), torch.tensor([[127], [5]]).to(torch.int8)
    try:
        return int(torch._int_mm(a, b)) == 127 * 127 - 15  # pyright: ignore
    except (AttributeError, RuntimeError):
        return False


def similarities(
    rows: Float[Tensor, "T D"],
    others: Float[Tensor, "B D"],
    pairs: tuple[np.ndarray, np.ndarray],
    *,
    room: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """⟨r_i, o_j⟩ of a list of pairs, ascending by row: each row is read once.

    Args:
        rows: Of any floating dtype.
        others: The dtype of what is returned.
        pairs: Places in both, each of shape (n,), ascending by the first.
        room: Overwritten, on the CPU, of the dtype of ``others``; the result may be a view of it.
    """
    row, other = pairs
    if not (len(row) and rows.dtype == others.dtype and _samples()):
        return _gathered(rows, others, pairs)
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(rows)), out=starts[1:])
    pattern = torch.sparse_csr_tensor(  # pyright: ignore
        torch.as_tensor(starts),
        torch.as_tensor(other),
        room.zero_(),
        (len(rows), len(others)),
        check_invariants=False,
    )
    return _sampled(pattern, rows.detach(), others.T).values()


def _gathered(
    rows: Float[Tensor, "T D"],
    others: Float[Tensor, "B D"],
    pairs: tuple[np.ndarray, np.ndarray],
) -> Float[Tensor, " n"]:
    """The same, four times slower, on every machine and for every precision."""
    first, second = (torch.as_tensor(places) for places in pairs)
    sim = others.new_empty(len(first))
    step = max(_GATHERED // others.shape[1], 1)
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        some = rows.index_select(0, first[part]).to(others.dtype)
        torch.sum(some.mul_(others.index_select(0, second[part])), dim=1, out=sim[part])
    return sim


def _sampled(pattern: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The entries of a product that a sparse matrix has."""
    take = cast("Callable[..., Tensor]", torch.sparse.sampled_addmm)  # pyright: ignore
    return take(pattern, left, right, beta=0.0)


@functools.cache
def _samples() -> bool:
    """Whether this build of torch takes single entries of a product."""
    one = torch.ones(1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse tensors are young, said once
        try:
            pattern = one.to_sparse_csr()
            return float(_sampled(pattern, one, one).values()) == 1
        except RuntimeError:
            return False

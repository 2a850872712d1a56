r"""Eight-bit codes of embeddings, with a bound of their error: to prove cheaply what cannot pass.

    r = c q + e,   q ∈ {−127, …, 127}^D,   c = max |r| / 127,   ρ = ‖e‖.

For an anchor a = c_a q_a + e_a, by Cauchy and Schwarz,

    ⟨a, r⟩ ≤ c_a c ⟨q_a, q⟩ + ‖c_a q_a‖ ρ + ‖e_a‖ ‖r‖.

An integer product costs a quarter of a float32 product. Where its bound lies below a threshold, no
exact similarity needs to be taken; where it does not, the exact one decides. So what is selected
is exact, and only the work is not.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from crossbatch._shapes import Float, Int8

ROUNDING = 1e-5
"""Of ‖a‖ ‖r‖, added to bounds: similarities in float32 differ by less between two ways."""

_ROWS = 1 << 14  # encoded at a time, to need little room


class Codes(NamedTuple):
    """Embeddings as ``scale * values``, off by at most ``residual`` in norm."""

    values: Int8[Tensor, "T D"]
    scale: Float[Tensor, " T"]
    residual: Float[Tensor, " T"]
    norm: Float[Tensor, " T"]

    def rows(self, place: slice | Tensor) -> "Codes":
        """Some of them."""
        return Codes(*(part[place] for part in self))


def encode(embeddings: Float[Tensor, "T D"], *, shared_scale: bool = False) -> Codes:
    """Round embeddings to eight bits.

    Args:
        embeddings: Any rows, any floating dtype.
        shared_scale: Give all rows the scale of the largest one, as anchors have.

    >>> codes = encode(torch.tensor([[0.6, -0.8]]))
    >>> codes.values
    tensor([[  95, -127]], dtype=torch.int8)
    """
    if len(embeddings) > _ROWS and not shared_scale:
        starts = range(0, len(embeddings), _ROWS)
        parts = [encode(embeddings[start : start + _ROWS]) for start in starts]
        return Codes(*(torch.cat(part) for part in zip(*parts, strict=True)))
    x = embeddings.detach().float()
    top = x.abs().amax(dim=1) if x.shape[1] else x.new_zeros(len(x))
    if shared_scale and len(top):
        top = top.amax().expand(len(x))
    scale = (top / 127).clamp(min=torch.finfo(torch.float32).tiny)
    rounded = torch.round(x / scale[:, None]).clamp_(-127, 127)
    residual = (x - rounded * scale[:, None]).square().sum(dim=1).sqrt()
    norm = x.square().sum(dim=1).sqrt()
    return Codes(rounded.to(torch.int8), scale, residual, norm)

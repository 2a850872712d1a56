# pyright: basic
# ruff: noqa: ANN001, ANN202
"""The kernel of :mod:`crossbatch.engine.fused`, imported only where Triton is.

Letters: A anchors (B, D), R references (N, D), m running maximum, z running sum, g running sum of
rows. A program owns BA anchors and ``chunk`` references.
"""

import triton
import triton.language as tl


@triton.jit
def sums_kernel(
    A, R, HIDDEN, LIMIT, TOP, TOTAL, GRADIENT, ACTIVE,
    B, N, D, chunk, slope, offset,
    BOUNDED: tl.constexpr, BA: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """m, Z, G and counts of one share of the references."""
    share = tl.program_id(1)
    i = tl.program_id(0) * BA + tl.arange(0, BA)
    d = tl.arange(0, BD)
    here = (i < B)[:, None] & (d < D)[None, :]
    a = tl.load(A + i[:, None] * D + d[None, :], mask=here, other=0.0)
    limit = tl.load(LIMIT + i, mask=i < B, other=float("inf"))
    m = tl.full((BA,), float("-inf"), tl.float32)
    z = tl.zeros((BA,), tl.float32)
    count = tl.zeros((BA,), tl.float32)
    g = tl.zeros((BA, BD), tl.float32)
    for start in range(share * chunk, tl.minimum((share + 1) * chunk, N), BT):
        j = start + tl.arange(0, BT)
        inside = (j < N)[:, None] & (d < D)[None, :]
        place = j.to(tl.int64)[:, None] * D + d[None, :]
        r = tl.load(R + place, mask=inside, other=0.0).to(tl.float32)
        plain = tl.load(HIDDEN + j, mask=j < N, other=1) == 0
        s = tl.dot(a, tl.trans(r), input_precision=PRECISION)
        kept = plain[None, :] & (i < B)[:, None]
        if BOUNDED:
            kept = kept & (s > limit[:, None])
        e = tl.where(kept, s * slope + offset, float("-inf"))
        higher = tl.maximum(m, tl.max(e, axis=1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp(e - shift[:, None])
        shrink = tl.exp(m - shift)
        z = z * shrink + tl.sum(p, axis=1)
        g = g * shrink[:, None] + tl.dot(p, r, input_precision=PRECISION)
        count += tl.sum(tl.where(kept, 1.0, 0.0), axis=1)
        m = higher
    row = share * B + i
    tl.store(TOP + row, m, mask=i < B)
    tl.store(TOTAL + row, z, mask=i < B)
    tl.store(ACTIVE + row, count, mask=i < B)
    tl.store(GRADIENT + row.to(tl.int64)[:, None] * D + d[None, :], g, mask=here)

r"""Cross-batch normalisation: stored rows moved to where the network puts its batches now.

    r̂ = normalise( (r − μ_M) / σ_M · σ_t + μ_t )        feature by feature

μ_M, σ_M are mean and deviation of the rows of the memory, μ_t, σ_t those of the embeddings now:
of the batch (XBN), or a running estimate (adaptive XBN), a Kalman filter whose state is the true
moment x, which walks with variance q a step and is seen through a batch with variance r:

    p ← p + q,   k = p / (p + r),   x ← x + k (x_batch − x),   p ← (1 − k) p.

The batch is that of all ranks. Of a sharded memory sums are exchanged; its rows stay.

*Adaptive Cross Batch Normalization for Metric Learning* (Ajanthan, Ma, van den Hengel, Gould,
2023). A batch of 16 rows knows its moments badly: see the log of experiments before you use it.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbatch._check import check_embeddings
from crossbatch._shapes import Float
from crossbatch.collective import Ranks
from crossbatch.errors import CrossbatchError, expected
from crossbatch.references import References, Sharded, Tile

_ROWS = 8192
_SMALL = 1e-6  # a feature that does not vary in the memory is moved, not scaled up without end


class Moments(NamedTuple):
    """Mean and deviation of each feature, shape (D,) each."""

    mean: Float[Tensor, " D"]
    deviation: Float[Tensor, " D"]


class NormalisedRows:
    """References with their moments replaced; the rows stay where they are.

    Args:
        references: The stored rows.
        old: The moments that they have.
        new: Those that they shall have before they are scaled to unit norm.
    """

    def __init__(self, references: References, old: Moments, new: Moments) -> None:
        self._references = references
        deviation = old.deviation.clamp(min=_SMALL).to(new.deviation)
        self._scale = new.deviation / deviation
        self._shift = new.mean - old.mean.to(deviation) * self._scale

    def __len__(self) -> int:
        return len(self._references)

    def tiles(self, rows: int) -> Iterator[Tile]:
        """Yield every row once, in tiles of at most ``rows`` rows."""
        for tile in self._references.tiles(rows):
            tile = tile.to(self._scale.device)
            moved = tile.embeddings.to(self._scale.dtype) * self._scale + self._shift
            yield Tile(F.normalize(moved, dim=1), tile.labels, tile.ids)


class NormalisedShard(NormalisedRows):
    """The same of references of which every rank holds a part. All ranks make it together.

    Args:
        references: Sharded ones.
        old: The moments of all their rows.
        new: Those that they shall have.
    """

    def __init__(self, references: References, old: Moments, new: Moments) -> None:
        assert isinstance(references, Sharded)
        super().__init__(references, old, new)
        self.ranks: Ranks = references.ranks
        self.part: References = NormalisedRows(references.part, old, new)


class CrossBatchNormalisation(nn.Module):
    """Matches the moments of a memory to those of the batch.

    Args:
        dim: D ≥ 1.
        noise: q / r of the running estimate, above 0; the smaller, the longer it remembers. None
            takes the moments of the batch alone. The running estimate is in buffers.

    Raises:
        CrossbatchError: ``dim`` is below 1, or ``noise`` is not above zero.

    >>> import torch
    >>> import torch.nn.functional as F
    >>> import crossbatch as xb
    >>> z = F.normalize(torch.randn(8, 4), dim=1)
    >>> memory = xb.CrossBatchMemory(capacity=100, dim=4)
    >>> memory.enqueue(z, torch.arange(8), torch.arange(8))
    >>> match = xb.CrossBatchNormalisation(dim=4)
    >>> torch.allclose(next(match(memory, z).tiles(8)).embeddings, z, atol=1e-5)
    True
    """

    cites: ClassVar[tuple[str, ...]] = ("ajanthan2023xbn",)

    mean: Tensor
    variance: Tensor
    uncertainty: Tensor

    def __init__(self, dim: int, *, noise: float | None = None) -> None:
        super().__init__()
        if dim < 1 or (noise is not None and not noise > 0):
            raise CrossbatchError(
                expected(
                    "CrossBatchNormalisation with dim ≥ 1 and a noise above 0 or None",
                    f"dim={dim}, noise={noise}",
                    "0.01 remembers some ten batches; None takes each batch as it is.",
                )
            )
        self.noise = noise
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("uncertainty", torch.full((), torch.inf))

    @torch.no_grad()
    def forward(self, memory: References, embeddings: Float[Tensor, "B D"]) -> NormalisedRows:
        """The memory's rows with the moments of now. Where there are ranks, all call it together.

        Args:
            memory: Stored rows; they are not changed.
            embeddings: The batch, shape (B, D); of all ranks together B ≥ 2.

        Raises:
            CrossbatchError: Fewer than two rows, wrong shapes, non-finite embeddings.

        Cost: one read of the memory for its moments, and one affine map of every tile.
        """
        dim = len(self.mean)
        check_embeddings(embeddings, where="CrossBatchNormalisation", dim=dim)
        now = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
        now = Ranks.here().gather(now)[0][0]
        if len(now) < 2:
            raise CrossbatchError(
                expected(
                    "two embeddings or more in CrossBatchNormalisation",
                    len(now),
                    "One row has no deviation; skip batches of one.",
                )
            )
        mean, variance = now.mean(dim=0), now.var(dim=0, correction=0)
        if self.noise is not None:
            mean, variance = self._seen(mean, variance)
        moments = Moments(mean.to(now), variance.sqrt().to(now))
        kind = NormalisedShard if isinstance(memory, Sharded) else NormalisedRows
        return kind(memory, moments_of(memory, mean), moments)

    def _seen(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        assert self.noise is not None
        before = self.uncertainty + self.noise
        gain = torch.where(before.isinf(), 1.0, before / (before + 1))
        self.mean.lerp_(mean.to(self.mean), gain)
        self.variance.lerp_(variance.to(self.variance), gain)
        self.uncertainty.copy_(torch.where(before.isinf(), 1.0, (1 - gain) * before))
        return self.mean, self.variance

    def extra_repr(self) -> str:
        """Prints as code."""
        return f"dim={len(self.mean)}, noise={self.noise}"


def moments_of(references: References, like: Float[Tensor, " D"]) -> Moments:
    """Mean and deviation of all rows, as wide as ``like``; summed in float64 tile by tile."""
    sharded = isinstance(references, Sharded)
    part = references.part if sharded else references
    total = square = torch.zeros_like(like, dtype=torch.float64)
    precision = torch.float32
    for tile in part.tiles(_ROWS):
        rows = tile.embeddings
        precision = torch.promote_types(rows.dtype, torch.float32)
        total = total.to(rows.device) + rows.sum(dim=0, dtype=torch.float64)
        square = square.to(rows.device) + rows.double().square().sum(dim=0)
    if sharded:
        references.ranks.add(total, square)
    mean = total / len(references)
    deviation = (square / len(references) - mean.square()).clamp(min=0).sqrt()
    return Moments(mean.to(precision), deviation.to(precision))

r"""FastAP: average precision of each anchor's ranking, through a histogram of distances.

    AP_i ≈ (1/|P_i|) Σ_k h⁺_k H⁺_k / H_k,    L_i = 1 − AP_i,    H = cumulative sums of h = h⁺ + h⁻,

with soft bins over D² ∈ [0, 4]: a pair at t = D² (K − 1)/4 adds 1 − |t − k| to the bins k beside
it. For a pair between bins b and b + 1, since t falls by (K − 1)/2 for one unit of similarity,

    w⁻ = −(K−1)/2 (∂L/∂h⁻_{b+1} − ∂L/∂h⁻_b),    w⁺ = (K−1)/2 (∂L/∂h⁺_{b+1} − ∂L/∂h⁺_b).

So w is a staircase in similarity that depends on how the others are ranked: a loss over ranks that
scalar statistics cannot hold, and a vector of K numbers can.
*Deep Metric Learning to Rank* (Cakir, He, Xia, Kulis, Sclaroff, CVPR 2019).

Requires: positives and negatives for an anchor. Cost: two sweeps, the first with K operations a
pair.

Relations: Smooth-AP takes ranks pair against pair (:func:`crossbatch.smooth_ap`), on the batch.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch.errors import CrossbatchError, expected
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import Statistic, Stats, histogram


@dataclass(frozen=True)
class FastAP(PairWeighting):
    """One minus the average precision over soft bins.

    Args:
        bins: K ≥ 2.

    Raises:
        CrossbatchError: ``bins`` is below 2.

    >>> FastAP()
    FastAP(bins=11)
    """

    bins: int = 11

    cites: ClassVar[tuple[str, ...]] = ("cakir2019fastap",)
    needs_both: ClassVar[bool] = True
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise CrossbatchError(expected("`bins` of FastAP ≥ 2", self.bins, "Take 11."))

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        bins = histogram(self.bins)
        return (
            (
                Statistic("positive_bins", "positive", bins, self._place),
                Statistic("negative_bins", "negative", bins, self._place),
            ),
        )

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        slope, _ = self._slopes(stats)
        return self._at(slope, sim)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        _, slope = self._slopes(stats)
        return -self._at(slope, sim)

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        h, both = stats["positive_bins"], stats["positive_bins"] + stats["negative_bins"]
        precision = h.cumsum(-1) / both.cumsum(-1).clamp(min=1e-12)
        value = 1 - (h * precision).sum(-1) / stats["positives"].clamp(min=1)
        return value, torch.zeros_like(value)

    def _place(self, sim: Tensor, stats: Stats) -> Tensor:
        """The t of a similarity: its place among the bins."""
        del stats
        return ((2 - 2 * sim).clamp(0, 4)) * ((self.bins - 1) / 4)

    def _slopes(self, stats: Stats) -> tuple[Tensor, Tensor]:
        """∂L/∂h⁺ and ∂L/∂h⁻ between neighbouring bins, times (K − 1)/2."""
        h = stats["positive_bins"]
        up = h.cumsum(-1)
        total = (h + stats["negative_bins"]).cumsum(-1).clamp(min=1e-12)
        count = stats["positives"].clamp(min=1)[..., None]
        # L = 1 − Σ_k h_k U_k / T_k / count; a bin adds to U and T of all later ones
        by_total = _tail(h * up / total.square())
        positive = -(up / total + _tail(h / total) - by_total) / count
        negative = by_total / count
        step = (self.bins - 1) / 2
        return _rounded(positive.diff(dim=-1) * step), _rounded(negative.diff(dim=-1) * step)

    def _at(self, slope: Tensor, sim: Tensor) -> Tensor:
        """The slope of the bins that a similarity lies between."""
        place = self._place(sim, {}).floor_().long().clamp_(max=self.bins - 2)
        shape = (*place.shape, self.bins - 1)
        return slope.expand(shape).gather(-1, place[..., None]).squeeze(-1)


def _tail(x: Tensor) -> Tensor:
    """Sums from each place to the end."""
    return x.flip(-1).cumsum(-1).flip(-1)


def _rounded(slope: Tensor) -> Tensor:
    """Zero where only rounding is left: a perfect ranking has no weights."""
    return slope.masked_fill(slope.abs() < 64 * torch.finfo(slope.dtype).eps, 0.0)

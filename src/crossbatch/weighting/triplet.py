r"""Triplet loss on each anchor's hardest pair of either side.

    L_i = max(0, max_{N_i} S − min_{P_i} S + m),
    w⁺ = 1[S = min_{P_i} S],  w⁻ = 1[S = max_{N_i} S],  both 0 where the hinge is at rest.

*In Defense of the Triplet Loss for Person Re-Identification* (Hermans, Beyer, Leibe, 2017),
"batch hard", in similarities. Ties share the weight of one pair.

Requires: positives and negatives for an anchor. Cost: one sweep; references that set a record for
some anchor are put by, and looked at again.

Relations: the limit of :class:`MultiSimilarity` for large α and β, with a hinge.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_between
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import MAX, MIN, SUM, Statistic, Stats, Term, similarity


@dataclass(frozen=True)
class HardestTriplet(PairWeighting):
    """The hardest positive against the hardest negative, above a margin.

    Args:
        margin: m, in [0, 2].

    Raises:
        CrossbatchError: ``margin`` is out of its range.

    >>> HardestTriplet()
    HardestTriplet(margin=0.1)
    """

    margin: float = 0.1

    cites: ClassVar[tuple[str, ...]] = ("hermans2017defense",)
    needs_both: ClassVar[bool] = True
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_between(self.margin, 0.0, 2.0, name="margin", where="HardestTriplet")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        pulled = (Statistic("hardest_positive", "positive", MIN, similarity),)
        pushed = (Statistic("hardest_negative", "negative", MAX, similarity),)
        ties = (
            Statistic("tied_positives", "positive", SUM, _at("hardest_positive")),
            Statistic("tied_negatives", "negative", SUM, _at("hardest_negative")),
        )
        return (pulled, pushed, ties)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        at = (sim == stats["hardest_positive"]) & self._violated(stats)
        return at / stats["tied_positives"].clamp(min=1)

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        at = (sim == stats["hardest_negative"]) & self._violated(stats)
        return at / stats["tied_negatives"].clamp(min=1)

    def rising_bound(self, stats: Stats) -> Tensor:  # noqa: D102
        hardest = stats["hardest_negative"]
        below = torch.nextafter(hardest, torch.full_like(hardest, -torch.inf))
        return torch.maximum(below, stats["hardest_positive"] - self.margin)

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        violated = self._violated(stats)
        zero = torch.zeros_like(stats["hardest_positive"])
        return (
            torch.where(violated, -stats["hardest_positive"], zero),
            torch.where(violated, stats["hardest_negative"] + self.margin, zero),
        )

    def _violated(self, stats: Stats) -> Tensor:
        return stats["hardest_negative"] - stats["hardest_positive"] + self.margin > 0


def _at(extreme: str) -> Term:
    """One where the similarity is the extreme itself: a fold over it counts ties."""
    return lambda sim, stats: (sim == stats[extreme]).to(sim.dtype)

r"""Multi-similarity loss, with its mining of pairs.

    L_i = (1/α) log(1 + Σ_{j ∈ P_i'} e^{−α(S_ij − λ)})
        + (1/β) log(1 + Σ_{j ∈ N_i'} e^{β(S_ij − λ)}),

    w⁺_ij = e^{−α(S_ij − λ)} / (1 + Σ_{k ∈ P_i'} e^{−α(S_ik − λ)}),
    w⁻_ij = e^{β(S_ij − λ)} / (1 + Σ_{k ∈ N_i'} e^{β(S_ik − λ)}).

Mining keeps the pairs that are hard beside the other side's hardest pair:

    P_i' = {j ∈ P_i : S_ij < max_{N_i} S + ε},    N_i' = {j ∈ N_i : S_ij > min_{P_i} S − ε}.

*Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning* (Wang, Han, Huang,
Dong, Scott, CVPR 2019), equations 10 to 13.

Requires: positives and negatives for an anchor; one that lacks either is left out, as in the
paper. Cost: one sweep. The hardest positive is known before it, from the few positives, and
negatives that it rules out are left out.

Relations: α, β → ∞ keeps the hardest pair of each side, as :class:`HardestTriplet` does; each
side is a binomial deviance whose pairs share one logarithm, so that they compete.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch._check import check_above, check_between
from crossbatch.weighting.base import PairWeighting, Stage
from crossbatch.weighting.statistics import LOG_SUM_EXP, MAX, MIN, Statistic, Stats, similarity


@dataclass(frozen=True)
class MultiSimilarity(PairWeighting):
    """Pairs of a side share one softmax beside a threshold; mining keeps the hard ones.

    Args:
        alpha: α > 0, the sharpness on positives.
        beta: β > 0, the sharpness on negatives.
        base: λ, the similarity around which both sides are centred, in [-1, 1].
        epsilon: ε ≥ 0 of the mining, or None to keep every pair.

    Raises:
        CrossbatchError: A value is out of its range.

    >>> MultiSimilarity(alpha=2.0)
    MultiSimilarity(alpha=2.0, beta=40.0, base=0.5, epsilon=0.1)
    """

    alpha: float = 2.0
    beta: float = 40.0
    base: float = 0.5
    epsilon: float | None = 0.1

    cites: ClassVar[tuple[str, ...]] = ("wang2019multisimilarity",)
    needs_both: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_between(self.base, -1.0, 1.0, name="base", where="MultiSimilarity")
        check_above(self.alpha, 0.0, name="alpha", where="MultiSimilarity")
        check_above(self.beta, 0.0, name="beta", where="MultiSimilarity")
        if self.epsilon is not None:
            check_between(self.epsilon, 0.0, 2.0, name="epsilon", where="MultiSimilarity")

    @property
    def stages(self) -> tuple[Stage, ...]:  # noqa: D102
        lse = LOG_SUM_EXP
        log_positive = Statistic("log_positive", "positive", lse, self._positive_exponent)
        log_negative = Statistic("log_negative", "negative", lse, self.negative_term, True)
        if self.epsilon is None:
            return ((log_negative, log_positive),)
        hardest = Statistic("hardest_positive", "positive", MIN, similarity)
        highest = Statistic("highest_exponent", "negative", MAX, self.negative_term, True)
        return ((hardest,), (highest, log_negative), (log_positive,))

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        log_sum = torch.logaddexp(stats["log_positive"], torch.zeros_like(stats["log_positive"]))
        return torch.exp(self._positive_exponent(sim, stats) - log_sum)

    def negative_bound(self, stats: Stats) -> Tensor | None:  # noqa: D102
        return None if self.epsilon is None else stats["hardest_positive"] - self.epsilon

    def negative_exponent(self, sim: Tensor, stats: Stats) -> Tensor:
        """β(S − λ)."""
        del stats
        return (sim - self.base).mul_(self.beta)

    @property
    def negative_line(self) -> tuple[float, float]:  # noqa: D102
        return (self.beta, -self.beta * self.base)

    def negative_log_factor(self, stats: Stats) -> Tensor:  # noqa: D102
        return -torch.logaddexp(stats["log_negative"], torch.zeros_like(stats["log_negative"]))

    def value(self, stats: Stats) -> tuple[Tensor, Tensor]:  # noqa: D102
        log_positive, log_negative = stats["log_positive"], stats["log_negative"]
        zero = torch.zeros_like(log_positive)
        return (
            torch.logaddexp(log_positive, zero) / self.alpha,
            torch.logaddexp(log_negative, zero) / self.beta,
        )

    def _positive_exponent(self, sim: Tensor, stats: Stats) -> Tensor:
        """−α(S − λ) on P', −∞ elsewhere: P' is empty where no negative is mined."""
        exponent = (sim - self.base).mul_(-self.alpha)
        if self.epsilon is None:
            return exponent
        hardest_negative = stats["highest_exponent"] / self.beta + self.base
        return exponent.masked_fill_(sim >= hardest_negative + self.epsilon, -torch.inf)

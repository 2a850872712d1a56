r"""A pair loss is a positive and a negative weight function of similarity.

For an anchor a_i with similarities S_ij = ⟨a_i, r_j⟩ to references r_j, every pair loss
L = Σ_i L_i has the gradient

    ∂L/∂a_i = Σ_{j ∈ N_i} w⁻_ij r_j − Σ_{j ∈ P_i} w⁺_ij r_j,
    w⁻_ij = ∂L_i/∂S_ij on negatives,    w⁺_ij = −∂L_i/∂S_ij on positives,

where the weights depend on S_ij and on a few statistics of the anchor's other pairs. So a loss
*is* its two weight functions and the ordered stages of statistics that they read. The weights are
the definition; the value is a report: a weighting that is assigned directly has none, and a
detached factor makes a weight that is not the derivative of the value.

Weights are signed. SupCon pushes easy positives away, so nothing here clamps them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossbatch.errors import CrossbatchError, expected
from crossbatch.weighting.curves import Curve
from crossbatch.weighting.statistics import Statistic, Stats

Stage = tuple[Statistic, ...]


class PairWeighting(ABC):
    """The two weight functions of a pair loss. Finals are frozen dataclasses: values, not modules.

    The statistics that ``positive``, ``negative`` and ``value`` receive broadcast with the
    similarities. Beside those of the weighting's own stages, all find

    - ``positives``, ``negatives``: how many pairs the anchor has,

    and ``value`` the sums that the engine takes while it goes along:

    - ``active_positives``, ``active_negatives``: how many of them have a weight other than zero,
    - ``pull`` = Σ w⁺ S and ``push`` = Σ w⁻ S.
    """

    cites: ClassVar[tuple[str, ...]] = ()
    """Keys of the papers that :func:`crossbatch.cite` prints."""

    needs_both: ClassVar[bool] = False
    """Whether an anchor that lacks positives or negatives is left out altogether."""

    negative_vanishes: ClassVar[bool] = False
    """Whether E of :meth:`negative_exponent` may be −∞, also where there is no bound."""

    coupled: ClassVar[bool] = False
    """Whether both sides are one loss of the anchor, to be reduced by one number: the reduction
    ``mean_over_active_pairs`` is then the mean over anchors that have any active pair."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Statistics in the order in which they must be known.

        The numbers of pairs, ``positives`` and ``negatives``, are known before the first.
        """
        return ()

    @property
    def report(self) -> Stage:
        """Statistics that only :meth:`value` reads; they are folded along with the gradient."""
        return ()

    @abstractmethod
    def positive(self, sim: Tensor, stats: Stats) -> Tensor:
        """w⁺, elementwise. The descent step pulls anchor and reference together where w⁺ > 0."""

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:
        """w⁻, elementwise. The descent step pushes anchor and reference apart where w⁻ > 0.

        Finals define this or :meth:`negative_exponent`.
        """
        return (self.negative_term(sim, stats) + self.negative_log_factor(stats)).exp_()

    def negative_bound(self, stats: Stats) -> Tensor | float | None:
        """A similarity at or below which w⁻ is exactly zero, or None if there is no such bound.

        It may read the statistics of stages before the first that has negatives. With it the
        engine leaves out pairs, and with codes of the references even their similarities.
        """
        del stats
        return None

    def rising_bound(self, stats: Stats) -> Tensor | None:
        """A bound as :meth:`negative_bound` that reads the first stage with negatives, unfinished.

        For statistics folded over some of the references only it lies at or below its final
        value, as a running maximum does. So what fails it once needs not be looked at again.
        """
        del stats
        return None

    def negative_exponent(self, sim: Tensor, stats: Stats) -> Tensor | None:
        """E of w⁻ = exp(E(S) + F), elementwise, where w⁻ has this form; else None.

        E reads what :meth:`negative_bound` may read, and grows with S where there is a bound,
        which it need not regard itself. F, the :meth:`negative_log_factor`, is one number for each
        anchor and reads everything. Then one sweep takes statistics and gradient together, as a
        running softmax does.
        """
        del sim, stats
        return None

    def negative_term(self, sim: Tensor, stats: Stats) -> Tensor:
        """E above the bound, −∞ at or below it: the term of a log-sum that comes with the softmax.

        A stage that folds this term, by ``LOG_SUM_EXP`` or by ``MAX``, costs nothing of its own.
        """
        exponent = self.negative_exponent(sim, stats)
        if exponent is None:
            raise NotImplementedError(f"{type(self).__name__} has no negative weight function")
        bound = self.negative_bound(stats)
        return exponent if bound is None else exponent.masked_fill(sim <= bound, -torch.inf)

    @property
    def negative_line(self) -> tuple[float, float] | None:
        """(u, v) where E = u S + v above the bound, which a GPU's kernel can take; else None.

        For a weighting without E: where w⁻ itself is e^{u S + v} above the bound.
        """
        return None

    def negative_log_factor(self, stats: Stats) -> Tensor:
        """F of :meth:`negative_exponent`."""
        raise NotImplementedError

    def value(self, stats: Stats) -> tuple[Tensor, Tensor] | None:
        """What each anchor's positives and its negatives add to the loss, two tensors (B,).

        None (the default) reports Σ w⁻ S − Σ w⁺ S, the value of directly assigned weights.
        """
        del stats
        return None

    def at(self, step: int) -> "PairWeighting":
        """The weighting of a training step: itself, unless it is scheduled."""
        del step
        return self

    def weights(self, sim: Tensor, stats: Stats) -> tuple[Tensor, Tensor]:
        """Both weight functions at once, to look at them.

        >>> import torch
        >>> import crossbatch as xb
        >>> xb.Contrastive(margin=0.5).weights(torch.tensor([0.2, 0.7]), {})
        (tensor([1., 1.]), tensor([0., 1.]))
        """
        return self.positive(sim, stats), self.negative(sim, stats)


Weight = Callable[[Tensor], Tensor]
"""A weight as a plain function of similarity."""


@dataclass(frozen=True)
class Assigned(PairWeighting):
    """Weights assigned directly; see :func:`from_functions`."""

    positive_weight: Weight
    negative_weight: Weight

    cites: ClassVar[tuple[str, ...]] = ("zhang2021rethinking",)

    def positive(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return _elementwise(self.positive_weight, sim, "positive")

    def negative(self, sim: Tensor, stats: Stats) -> Tensor:  # noqa: D102
        del stats
        return _elementwise(self.negative_weight, sim, "negative")

    def negative_bound(self, stats: Stats) -> float | None:  # noqa: D102
        del stats
        weight = self.negative_weight
        return weight.least() if isinstance(weight, Curve) else None


def from_functions(positive: Weight, negative: Weight) -> PairWeighting:
    """Lift two plain functions of similarity into a weighting.

    This is the direct weight assignment of *Rethinking Deep Contrastive Learning with Embedding
    Memory* (Zhang et al., 2021): the loss is Σ sg(w⁻(S)) S − Σ sg(w⁺(S)) S, with sg the stop of
    the gradient, so any curve can be tried without finding a loss whose derivative it is.

    Args:
        positive: w⁺, elementwise: receives similarities of any shape, returns the same shape.
        negative: w⁻, likewise.

    >>> import torch
    >>> mine = from_functions(lambda s: (1 - s).clamp(min=0), lambda s: (s > 0.5).float())
    >>> mine.weights(torch.tensor([0.25, 0.75]), {})
    (tensor([0.7500, 0.2500]), tensor([0., 1.]))
    """
    return Assigned(positive, negative)


def _elementwise(weight: Weight, sim: Tensor, side: str) -> Tensor:
    result = weight(sim)
    if not isinstance(result, torch.Tensor) or result.shape != sim.shape:  # pyright: ignore[reportUnnecessaryIsInstance]
        got = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CrossbatchError(
            expected(
                f"a tensor of shape {tuple(sim.shape)} from the {side} weight function",
                got,
                "Compute the weight of each similarity by itself, without a reduction.",
            )
        )
    return result.to(sim.dtype)

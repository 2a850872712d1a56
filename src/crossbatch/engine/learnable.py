r"""A margin loss whose boundary is learned.

    ∂L/∂β = s⁻ · #{active negatives} − s⁺ · #{active positives},

with the scales s of the reduction: the counts that the engine takes anyway.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbatch._shapes import Float, Int
from crossbatch.engine.pair_loss import Reduction, pair_loss
from crossbatch.references import References
from crossbatch.weighting import Margin


class LearnableMargin(nn.Module):
    """:class:`crossbatch.Margin` with β as a parameter.

    Args:
        alpha: α, half the width of the gap.
        beta: β at the beginning; kept in [0, 2].
        reduction: As of :func:`crossbatch.pair_loss`.

    Raises:
        CrossbatchError: A value is out of its range.
    """

    cites: ClassVar[tuple[str, ...]] = ("wu2017sampling",)

    def __init__(
        self, alpha: float = 0.2, beta: float = 1.2, *, reduction: Reduction = "sum_per_anchor"
    ) -> None:
        super().__init__()
        Margin(alpha, beta)
        self.alpha = alpha
        self.reduction: Reduction = reduction
        self.beta = nn.Parameter(torch.tensor(beta))

    @property
    def weighting(self) -> Margin:
        """The weighting at the present β."""
        return Margin(self.alpha, min(max(float(self.beta.detach()), 0.0), 2.0))

    def forward(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        *,
        ids: Int[Tensor, " B"] | None = None,
        references: References | None = None,
    ) -> Float[Tensor, ""]:
        """The scalar loss; its gradient reaches β, too."""
        result = pair_loss(
            embeddings,
            labels,
            weighting=self.weighting,
            references=references,
            ids=ids,
            reduction=self.reduction,
        )
        pulled, pushed = result.active_positives.sum(), result.active_negatives.sum()
        slope = pushed * result.scales[1] - pulled * result.scales[0]
        return result.value + slope * (self.beta - self.beta.detach())

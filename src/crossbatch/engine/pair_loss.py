r"""The pair loss: sums of the sweep, reduced, with the analytic weights as the gradient.

    L = s⁺ Σ_i L⁺_i + s⁻ Σ_i L⁻_i,     ∂L/∂a_i = s⁻ G⁻_i − s⁺ G⁺_i.

Three reductions are named:

- ``sum_per_anchor``: s⁺ = s⁻ = 1/B. The paper's. The scale grows with the number of references.
- ``mean_over_active_pairs``: s⁺ = 1/N⁺, s⁻ = 1/N⁻, the numbers of pairs with a weight other than
  zero in all rows. The scale does not grow with the memory. The counts are taken as constants.
  Where the sides are one loss (``weighting.coupled``), both are 1/(number of active anchors).
- ``mean_over_anchors``: s⁺ and s⁻ are 1/(number of anchors that have positives, negatives); where
  the sides are one loss, 1/(number of anchors that have both).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from crossbatch._check import check_embeddings, check_integers
from crossbatch._recorded import Room
from crossbatch._shapes import Bool, Float, Int
from crossbatch.engine import graphs
from crossbatch.engine.pairs import Anchors
from crossbatch.engine.plain import Path
from crossbatch.engine.sweep import Folded, sweep
from crossbatch.errors import CrossbatchError, expected, nearest
from crossbatch.references import Batch, References
from crossbatch.weighting import PairWeighting
from crossbatch.weighting.statistics import Stats

_NUMBERS = ("positives", "negatives", "active_positives", "active_negatives")
Reduction = Literal["sum_per_anchor", "mean_over_active_pairs", "mean_over_anchors"]


@dataclass(frozen=True)
class PairLossResult:
    """The loss of a batch beside its references, and where it comes from.

    Attributes:
        value: Scalar; ``value.backward()`` gives the gradient of the weights.
        active_anchors: Anchors with at least one pair whose weight is not zero, shape (B,).
        positives: Positives of each anchor, shape (B,).
        negatives: Negatives of each anchor, shape (B,).
        active_positives: Those whose weight is not zero, shape (B,).
        active_negatives: Those whose weight is not zero, shape (B,).
        scales: s⁺ and s⁻ of the reduction, two scalars.
        gradient: ∂ value / ∂ embeddings, shape (B, D), known already. Of a batch beside itself it
            is that through both sides of each pair.
        statistics: Every statistic of the weighting by name, shape (B,) each, (B, K) if a vector.
    """

    value: Float[Tensor, ""]
    active_anchors: Bool[Tensor, " B"]
    positives: Int[Tensor, " B"]
    negatives: Int[Tensor, " B"]
    active_positives: Int[Tensor, " B"]
    active_negatives: Int[Tensor, " B"]
    scales: tuple[Float[Tensor, ""], Float[Tensor, ""]]
    gradient: Float[Tensor, "B D"]
    statistics: dict[str, Tensor]


@dataclass(frozen=True)
class Tiling:
    """How to sweep. The engine chooses; tests force.

    Args:
        rows: References in a block of similarities, or None for as many as fit half of a
            second-level cache.
        path: ``dense``, ``sparse`` or ``screened``, or None to choose tile by tile. Where there is
            no bound every path is dense; where there are no codes screened is sparse.
    """

    rows: int | None = None
    path: Path | None = None


def pair_loss(
    embeddings: Float[Tensor, "B D"],
    labels: Int[Tensor, " B"],
    *,
    weighting: PairWeighting,
    references: References | None = None,
    ids: Int[Tensor, " B"] | None = None,
    reduction: Reduction = "sum_per_anchor",
    tiling: Tiling = Tiling(),
) -> PairLossResult:
    """The loss of every anchor in a batch beside all its positives and negatives.

    Computes in float32 at least, whatever the embeddings are (float64 stays), also under
    autocast. Similarities are dot products: give rows of unit norm.

    Beside a :class:`crossbatch.ShardedMemory` all ranks call this together, each with its own
    anchors (at least one), and each gets the loss of its anchors beside all rows of all ranks.

    Args:
        embeddings: Anchors, shape (B, D).
        labels: Shape (B,), integers; any value is an ordinary label.
        weighting: The two weight functions, such as ``Contrastive(0.5)``.
        references: What to compare with: a memory, or any :class:`References`. None compares the
            batch with itself, and then the gradient flows through both sides of each pair.
        ids: Shape (B,), which image each row is. A pair with equal ids is no pair. Needed beside
            references; within a batch None means that all rows are different images.
        reduction: ``sum_per_anchor`` (paper), ``mean_over_active_pairs`` or
            ``mean_over_anchors``.
        tiling: Forces tile and path; for tests.

    Returns:
        The value, which can be differentiated once, and per-anchor counts and statistics.

    Raises:
        CrossbatchError: Wrong shapes or dtypes, non-finite embeddings, no anchors, no references,
            or ids missing beside references.

    Cost: one product of B × M × D per stage of the weighting plus one to two for the gradient;
    memory beyond the inputs a few B × D and one block of 512 kB (CPU) or 64 MB (GPU). On a GPU the
    fourth loss that is alike, beside a memory or of a batch beside itself, is played from a CUDA
    graph, which keeps its room as long as the memory lives, or until eight other shapes of batch
    have come (:mod:`crossbatch.engine.graphs`). Over W ranks
    that share M rows the anchors are W times as many and the references of each M / W: as much
    work, and beside it the exchange of W B (D + 2) numbers of anchors, W B k of statistics and
    2 W B D of gradients.
    """
    if ids is None and references is None:
        ids = torch.arange(len(embeddings), device=embeddings.device)
    ids = _checked(embeddings, labels, ids, reduction)
    own = references is None
    if references is None:
        references = Batch(embeddings, labels, ids)
    if not isinstance(references, References):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CrossbatchError(
            expected(
                "`references` with a length and tiles in pair_loss",
                type(references).__name__,
                "Pass a memory, a Batch, or what Proxies return when they are called: proxies().",
            )
        )
    if not len(embeddings) or not len(references):
        raise CrossbatchError(
            expected(
                "at least one anchor and one reference in pair_loss",
                f"{len(embeddings)} anchors and {len(references)} references",
                "Enqueue the batch into the memory before its loss, and skip empty batches.",
            )
        )
    source = references.embeddings if isinstance(references, Batch) and not own else None
    compute = partial(
        _compute,
        weighting=weighting,
        reduction=reduction,
        tiling=tiling,
        through=own or (source is not None and source.requires_grad),
        own=own,
    )
    return graphs.take(
        Anchors.of(embeddings, labels, ids),
        None if own else references,
        compute,
        weighting=weighting,
        alike=(reduction, tiling, compute.keywords["through"]),
        tell=partial(_told, embeddings=embeddings, source=source),
    )


@torch.no_grad()
def _compute(
    anchors: Anchors,
    references: References,
    room: Room | None,
    *,
    weighting: PairWeighting,
    reduction: Reduction,
    tiling: Tiling,
    through: bool,
    own: bool,
) -> dict[str, Tensor]:
    """Everything that is told of a loss.

    ``through`` takes the gradient of references, too; of one's ``own`` it is part of the anchors'.
    """
    with torch.autocast(anchors.embeddings.device.type, enabled=False):
        folded = sweep(
            anchors,
            references,
            weighting,
            rows=tiling.rows,
            path=tiling.path,
            reference_gradient=through,
            room=room,
        )
        pull, push = _scales(folded.stats, weighting, reduction)
        value, gradient, reference = _reduce(folded, weighting, (pull, push))
    if own and reference is not None:
        gradient, reference = gradient + reference, None
    found = {"value": value, "gradient": gradient, "pull scale": pull, "push scale": push}
    if reference is not None:
        found["reference gradient"] = reference
    numbers = torch.stack([folded.stats.pop(name) for name in _NUMBERS]).long()
    found |= {"numbers": numbers, "active": numbers[2:].any(dim=0)}
    return {"mixed": torch.as_tensor(folded.mixed), **found} | {
        f"statistic {name}": value for name, value in folded.stats.items()
    }


def _told(found: dict[str, Tensor], embeddings: Tensor, source: Tensor | None) -> PairLossResult:
    """What users see of a loss."""
    gradient, reference = found["gradient"], found.get("reference gradient")
    attach = cast("Callable[..., Tensor]", _Attach.apply)  # pyright: ignore[reportUnknownMemberType]
    return PairLossResult(
        value=attach(embeddings, source, found["value"], gradient, reference),
        active_anchors=found["active"],
        scales=(found["pull scale"], found["push scale"]),
        gradient=gradient,
        statistics={
            name.removeprefix("statistic "): value
            for name, value in found.items()
            if name.startswith("statistic ")
        },
        **dict(zip(_NUMBERS, found["numbers"], strict=True)),
    )


def _checked(
    embeddings: Tensor, labels: Tensor, ids: Tensor | None, reduction: Reduction
) -> Tensor:
    """The ids, once everything is what it must be."""
    check_embeddings(embeddings, where="pair_loss")
    check_integers(labels, name="labels", rows=len(embeddings), where="pair_loss")
    if ids is None:
        raise CrossbatchError(
            expected(
                "`ids` beside `references` in pair_loss",
                None,
                "Pass the number of each image in the data set, so that no image is a positive "
                "of its own older copy in the memory.",
            )
        )
    check_integers(ids, name="ids", rows=len(embeddings), where="pair_loss")
    if reduction not in get_args(Reduction):
        hint = nearest(str(reduction), get_args(Reduction))
        raise CrossbatchError(expected("a reduction known to pair_loss", repr(reduction), hint))
    return ids


def _reduce(
    folded: Folded, weighting: PairWeighting, scales: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Value, gradient of the anchors, and gradient of the references where it was taken."""
    positive, negative = _value(weighting, folded)
    pull, push = scales
    total = positive.sum() * pull + negative.sum() * push
    gradient = push * folded.push_gradient - pull * folded.pull_gradient
    if folded.reference_pull is None or folded.reference_push is None:
        return total, gradient, None
    return total, gradient, push * folded.reference_push - pull * folded.reference_pull


def _scales(stats: Stats, weighting: PairWeighting, reduction: Reduction) -> tuple[Tensor, Tensor]:
    """s⁺ and s⁻."""
    one = stats["positives"].new_ones(())
    if reduction == "sum_per_anchor":
        return one / len(stats["positives"]), one / len(stats["positives"])
    if reduction == "mean_over_anchors":
        pulled, pushed = stats["positives"] > 0, stats["negatives"] > 0
        if weighting.coupled:
            pulled = pushed = pulled & pushed
    elif weighting.coupled:
        pulled = pushed = (stats["active_positives"] + stats["active_negatives"]) > 0
    else:
        pulled, pushed = stats["active_positives"], stats["active_negatives"]
    return one / pulled.sum().clamp(min=1), one / pushed.sum().clamp(min=1)


def _value(weighting: PairWeighting, folded: Folded) -> tuple[Tensor, Tensor]:
    """Per-anchor values of both sides; zero for an anchor that lacks a side that it needs."""
    stats = folded.stats
    value = weighting.value(stats)
    if value is None:
        return -stats["pull"], stats["push"]
    if not weighting.needs_both:
        return value
    valid = (stats["positives"] > 0) & (stats["negatives"] > 0)
    return torch.where(valid, value[0], 0.0), torch.where(valid, value[1], 0.0)


class _Attach(torch.autograd.Function):
    """A value whose gradient is already known."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        references: Tensor | None,
        value: Tensor,
        gradient: Tensor,
        reference_gradient: Tensor | None,
    ) -> Tensor:
        del references
        ctx.save_for_backward(gradient, reference_gradient)
        ctx.dtype = embeddings.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise CrossbatchError(
                expected(
                    "one differentiation of a pair loss",
                    "create_graph=True",
                    "The weights are the gradient and have no derivative; leave create_graph out.",
                )
            )
        gradient, reference_gradient = ctx.saved_tensors
        to_anchors = (outer[0] * gradient).to(ctx.dtype)
        if reference_gradient is None:
            return to_anchors, None, None, None, None
        return to_anchors, (outer[0] * reference_gradient).to(ctx.dtype), None, None, None


class PairLoss(nn.Module):
    """:func:`pair_loss` as a module: the drop-in for a training loop.

    Args:
        weighting: The two weight functions, such as ``Contrastive(0.5)``.
        reduction: ``sum_per_anchor`` (paper), ``mean_over_active_pairs`` or
            ``mean_over_anchors``.

    >>> import torch
    >>> import torch.nn.functional as F
    >>> import crossbatch as xb
    >>> loss_fn = xb.PairLoss(xb.Contrastive(margin=0.5))
    >>> z = F.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.9, 0.4]]), dim=-1)
    >>> loss_fn(z, torch.tensor([0, 0, 1]))
    tensor(1.3924)
    """

    def __init__(
        self, weighting: PairWeighting, *, reduction: Reduction = "sum_per_anchor"
    ) -> None:
        super().__init__()
        self.weighting = weighting
        self.reduction: Reduction = reduction

    @property
    def cites(self) -> tuple[str, ...]:
        """Those of its weighting; see :func:`crossbatch.cite`."""
        return self.weighting.cites

    def forward(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        *,
        ids: Int[Tensor, " B"] | None = None,
        references: References | None = None,
    ) -> Float[Tensor, ""]:
        """The scalar loss; see :func:`pair_loss` for the arguments."""
        return pair_loss(
            embeddings,
            labels,
            weighting=self.weighting,
            references=references,
            ids=ids,
            reduction=self.reduction,
        ).value

    def extra_repr(self) -> str:
        """Prints as code."""
        return f"{self.weighting!r}, reduction={self.reduction!r}"

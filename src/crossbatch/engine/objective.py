r"""What is minimised when a memory stands beside the batch.

batch_and_memory:  L(batch, batch) + w · L(batch, memory)      (the authors' released code)
memory_alone:      w · L(batch, memory)                        (the paper's algorithm box)

The sums of L(batch, memory) grow with the memory. Instead of a fixed w one can hold the memory's
gradient in proportion to the batch's, whatever the size of the memory,

    w = ρ · ‖∂L(batch, batch)/∂z‖ / ‖∂L(batch, memory)/∂z‖,

both known before anything is differentiated; w is taken as a constant. Norms are over the anchors
of all ranks, so that w is the same on each.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crossbatch._shapes import Float, Int
from crossbatch.collective import Ranks
from crossbatch.engine.pair_loss import PairLossResult, Reduction, pair_loss
from crossbatch.errors import CrossbatchError, expected
from crossbatch.references import References
from crossbatch.weighting import PairWeighting

Objective = Literal["batch_and_memory", "memory_alone"]


@dataclass(frozen=True)
class Proportion:
    """w that keeps the memory's gradient at ρ times the batch's; ranks take the loss together.

    Args:
        of_batch: ρ > 0.
        otherwise: w where the gradient of the batch or of the memory is zero.

    Raises:
        CrossbatchError: ρ is not above zero.
    """

    of_batch: float
    otherwise: float = 1.0

    def __post_init__(self) -> None:
        if not self.of_batch > 0:
            raise CrossbatchError(
                expected("Proportion(of_batch > 0)", self.of_batch, "Choose one such as 0.3.")
            )


@dataclass(frozen=True)
class ObjectiveResult:
    """The value to differentiate and the two losses that it is made of; absent ones are None.

    Attributes:
        value: Scalar.
        batch: L(batch, batch).
        memory: L(batch, memory), without its weight.
        weight: w, a scalar; a number that was given stays on the CPU.
    """

    value: Float[Tensor, ""]
    batch: PairLossResult | None
    memory: PairLossResult | None
    weight: Float[Tensor, ""] | None


def memory_objective(
    embeddings: Float[Tensor, "B D"],
    labels: Int[Tensor, " B"],
    ids: Int[Tensor, " B"],
    *,
    weighting: PairWeighting,
    memory: References | None,
    objective: Objective = "batch_and_memory",
    memory_weight: float | Proportion = 1.0,
    reduction: Reduction = "sum_per_anchor",
) -> ObjectiveResult:
    """The loss of a batch, of a batch beside the memory, or their sum.

    Args:
        embeddings: Anchors of unit norm, shape (B, D).
        labels: Shape (B,), integers.
        ids: Shape (B,), which image each row is.
        weighting: The two weight functions.
        memory: The references, or None while the memory has not started: then the batch alone.
        objective: ``batch_and_memory`` or ``memory_alone``.
        memory_weight: w, or the proportion that sets it.
        reduction: Of both losses; see :func:`crossbatch.engine.pair_loss`.

    Raises:
        CrossbatchError: As :func:`crossbatch.engine.pair_loss`; or a proportion beside
            ``memory_alone``.
    """
    if isinstance(memory_weight, Proportion) and objective == "memory_alone":
        raise CrossbatchError(
            expected(
                "a Proportion beside the objective batch_and_memory",
                objective,
                "Without the batch's loss there is nothing to be in proportion to: give a number.",
            )
        )
    batch = None
    if memory is None or objective == "batch_and_memory":
        batch = pair_loss(embeddings, labels, weighting=weighting, ids=ids, reduction=reduction)
    if memory is None:
        return combined(batch, None)
    beside = pair_loss(
        embeddings, labels, weighting=weighting, references=memory, ids=ids, reduction=reduction
    )
    return combined(batch, beside, memory_weight=memory_weight)


def combined(
    batch: PairLossResult | None,
    memory: PairLossResult | None,
    *,
    memory_weight: float | Proportion = 1.0,
) -> ObjectiveResult:
    """The objective of losses that are taken already; at least one of them.

    Args:
        batch: L(batch, batch), or None for the memory's loss alone.
        memory: L(batch, memory), or None while the memory has not started.
        memory_weight: w, or the proportion that sets it.
    """
    if memory is None:
        assert batch is not None
        return ObjectiveResult(batch.value, batch, None, None)
    weight = _weight(memory_weight, batch, memory)
    value = memory.value if memory_weight == 1 else weight * memory.value
    return ObjectiveResult(value if batch is None else batch.value + value, batch, memory, weight)


def _weight(
    given: float | Proportion, batch: PairLossResult | None, memory: PairLossResult
) -> Tensor:
    if not isinstance(given, Proportion):
        return torch.tensor(given, dtype=memory.gradient.dtype)
    assert batch is not None
    gradients = torch.stack([batch.gradient, memory.gradient])
    squares = gradients.square().sum(dim=(1, 2))
    Ranks.here().add(squares)
    of_batch, of_memory = squares.sqrt()
    both = (of_batch > 0) & (of_memory > 0)
    return torch.where(both, given.of_batch * of_batch / of_memory, given.otherwise)

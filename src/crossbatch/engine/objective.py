r"""What is minimised when a memory stands beside the batch.

batch_and_memory:  L(batch, batch) + w · L(batch, memory)      (the authors' released code)
memory_alone:      w · L(batch, memory)                        (the paper's algorithm box)
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from crossbatch._shapes import Float, Int
from crossbatch.engine.pair_loss import PairLossResult, Reduction, pair_loss
from crossbatch.references import References
from crossbatch.weighting import PairWeighting

Objective = Literal["batch_and_memory", "memory_alone"]


@dataclass(frozen=True)
class ObjectiveResult:
    """The value to differentiate and the two losses that it is made of; absent ones are None."""

    value: Float[Tensor, ""]
    batch: PairLossResult | None
    memory: PairLossResult | None


def memory_objective(
    embeddings: Float[Tensor, "B D"],
    labels: Int[Tensor, " B"],
    ids: Int[Tensor, " B"],
    *,
    weighting: PairWeighting,
    memory: References | None,
    objective: Objective = "batch_and_memory",
    memory_weight: float = 1.0,
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
        memory_weight: w.
        reduction: Of both losses; see :func:`crossbatch.engine.pair_loss`.
    """
    batch = None
    if memory is None or objective == "batch_and_memory":
        batch = pair_loss(embeddings, labels, weighting=weighting, ids=ids, reduction=reduction)
    if memory is None:
        assert batch is not None
        return ObjectiveResult(batch.value, batch, None)
    beside = pair_loss(
        embeddings, labels, weighting=weighting, references=memory, ids=ids, reduction=reduction
    )
    value = memory_weight * beside.value
    return ObjectiveResult(value if batch is None else batch.value + value, batch, beside)

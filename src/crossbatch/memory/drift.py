r"""Drift: how far embeddings have moved since they were stored.

When image j comes round again, its stored row and its fresh embedding tell, without a forward pass
of their own,

    d²_j(Δ) = ‖z_j(t) − z_j(t − Δ)‖²,    Δ the age of the row in batches,

between 0 (the row says what the network says now) and 4. As |⟨a, z⟩ − ⟨a, z'⟩| ≤ ‖z − z'‖ for
a unit vector a, d bounds how wrong a similarity with the row can be; two unrelated unit vectors
have d² = 2 on average. Dropout and augmentation move embeddings, too, and are part of d².

*Cross-Batch Memory for Embedding Learning* (Wang, Zhang, Huang, Scott, CVPR 2020), section 3.2,
measures it on a fixed set of images for Δ = 10, 100, 1,000.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from crossbatch._shapes import Float, Int

SLOW, FAST = 0.5, 1.4
"""Mean squared drift: every memory gained below the first; above the second many hurt, not all."""


class Drift(NamedTuple):
    """What the images of a batch that are in the memory tell.

    Attributes:
        ages: Δ of each, in batches, shape (n,).
        squared: d² of each, shape (n,).
    """

    ages: Int[Tensor, " n"]
    squared: Float[Tensor, " n"]


def advise(squared: Sequence[float], ages: Sequence[float], *, tamed: bool = False) -> str | None:
    """One sentence on what was measured, and what to do about it.

    Args:
        squared: Mean squared drift of some steps, such as those of the end of a run.
        ages: Mean ages of the same steps.
        tamed: The memory holds slow keys, and its gradient is held in proportion, already.

    Returns:
        The sentence, or None where nothing was measured.

    >>> advise([0.05, 0.07], [900.0, 1100.0])
    'Stored rows are near: after 1,000 batches they have moved by d² = 0.06.'
    """
    if not squared:
        return None
    drift, age = sum(squared) / len(squared), sum(ages) / len(ages)
    found = f"after {age:,.0f} batches they have moved by d² = {drift:.2f}"
    if drift < SLOW:
        return f"Stored rows are near: {found}."
    if drift < FAST:
        return (
            f"Stored rows lag behind: {found}. Most memories of momentum keys gained there, not "
            "all: compare with a run without a memory; a lower learning rate makes rows fresher."
        )
    keep = "" if tamed else "momentum keys of 0.99 and a proportion of 1 keep it from harm, "
    return (
        f"Stored rows say little of the present: {found}, and unrelated rows are at 2. Compare "
        f"with a run without a memory; {keep}a lower learning rate makes rows fresher."
    )

"""How good a ranking was, where it is known which labels are right."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from crossbatch.curriculum.points import Floats
from crossbatch.errors import CrossbatchError, expected


@dataclass(frozen=True, eq=False)
class Purity:
    """Subsets against the truth.

    Attributes:
        sizes: Images of each subset, shape (S,).
        precision: Share of right labels in each subset, shape (S,); NaN where it is empty.
        recall: Share of all right labels that are in this subset, shape (S,).
        overall: Share of right labels in all.
        auc: Chance that an image with a right label ranks above one with a wrong label, in
            [0, 1]; a tie counts half. NaN where all are right, or all wrong.
    """

    sizes: Floats
    precision: Floats
    recall: Floats
    overall: float
    auc: float

    def __str__(self) -> str:
        parts = " / ".join(f"{100 * p:.1f}" for p in self.precision)
        return f"{parts} % right of {100 * self.overall:.1f} % overall, AUC {self.auc:.3f}"


def judge(subset: ArrayLike, right: ArrayLike, *, score: ArrayLike | None = None) -> Purity:
    """Precision and recall of "right label" per subset, and the area under the curve.

    Args:
        subset: Shape (N,), 0 for the cleanest.
        right: Shape (N,), whether each label is the true one.
        score: Shape (N,), higher is cleaner: what the area is of. None takes the subsets.

    Raises:
        CrossbatchError: The lengths differ, or there are no rows.
    """
    subset, right = np.asarray(subset), np.asarray(right, bool)
    score = -subset if score is None else np.asarray(score)
    if not len(subset) or not subset.shape == right.shape == score.shape:
        got = f"shapes {subset.shape}, {right.shape} and {score.shape}"
        remedy = "Give one entry per image."
        raise CrossbatchError(expected("a subset, a truth and a score per image", got, remedy))
    sizes = np.bincount(subset).astype(np.float64)
    hits = np.bincount(subset, weights=right, minlength=len(sizes))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = hits / sizes, hits / right.sum()
    return Purity(sizes, precision, recall, float(right.mean()), area(score, right))


def area(score: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores higher; a tie counts half.

    Args:
        score: Shape (N,).
        positive: Shape (N,), booleans. NaN is returned if they are all the same.
    """
    positive = np.asarray(positive, bool)
    _, place, count = np.unique(np.asarray(score), return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place.reshape(-1)]
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return float("nan")
    return float((rank[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))

"""One engine for every pair loss: a sweep over tiles, once per stage and once for the gradient."""

from crossbatch.engine.objective import Objective, ObjectiveResult, memory_objective
from crossbatch.engine.pair_loss import PairLoss, PairLossResult, Reduction, Tiling, pair_loss

__all__ = [
    "Objective",
    "ObjectiveResult",
    "PairLoss",
    "PairLossResult",
    "Reduction",
    "Tiling",
    "memory_objective",
    "pair_loss",
]

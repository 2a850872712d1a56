"""One engine for every pair loss: a sweep over tiles, once per stage and once for the gradient."""

from crossbatch.engine.chunks import chunked_backward
from crossbatch.engine.dense import (
    all_triplets,
    recall_at_k,
    semi_hard_triplets,
    smooth_ap,
    soft_triple,
)
from crossbatch.engine.learnable import LearnableMargin
from crossbatch.engine.objective import (
    Objective,
    ObjectiveResult,
    Proportion,
    combined,
    memory_objective,
)
from crossbatch.engine.pair_loss import PairLoss, PairLossResult, Reduction, Tiling, pair_loss
from crossbatch.engine.proxies import Proxies, proxy_anchor

__all__ = [
    "LearnableMargin",
    "Objective",
    "ObjectiveResult",
    "PairLoss",
    "PairLossResult",
    "Proportion",
    "Proxies",
    "Reduction",
    "Tiling",
    "all_triplets",
    "chunked_backward",
    "combined",
    "memory_objective",
    "pair_loss",
    "proxy_anchor",
    "recall_at_k",
    "semi_hard_triplets",
    "smooth_ap",
    "soft_triple",
]

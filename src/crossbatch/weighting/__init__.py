"""Pair weightings: one paper per file, each a positive and a negative weight function."""

from crossbatch.weighting.base import PairWeighting, Stage, from_functions
from crossbatch.weighting.contrastive import Contrastive
from crossbatch.weighting.multi_similarity import MultiSimilarity
from crossbatch.weighting.statistics import (
    LOG_SUM_EXP,
    MAX,
    MIN,
    SUM,
    Monoid,
    Statistic,
    Stats,
)
from crossbatch.weighting.triplet import HardestTriplet

__all__ = [
    "LOG_SUM_EXP",
    "MAX",
    "MIN",
    "SUM",
    "Contrastive",
    "HardestTriplet",
    "Monoid",
    "MultiSimilarity",
    "PairWeighting",
    "Stage",
    "Statistic",
    "Stats",
    "from_functions",
]

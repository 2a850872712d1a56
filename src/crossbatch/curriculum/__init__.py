"""The curriculum: which images of a noisy collection to believe, and in which order."""

from crossbatch.curriculum.plan import Plan, Stage
from crossbatch.curriculum.ranker import DensityRanker

__all__ = ["DensityRanker", "Plan", "Stage"]

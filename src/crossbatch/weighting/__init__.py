"""Pair weightings: every loss is its two weight functions, one paper per file."""

from crossbatch.weighting.base import Assigned, PairWeighting, Stage, from_functions
from crossbatch.weighting.binomial_deviance import BinomialDeviance
from crossbatch.weighting.circle import Circle
from crossbatch.weighting.combinators import (
    Balanced,
    Clipped,
    Mixed,
    Scheduled,
    Sides,
    Thresholded,
    TopK,
)
from crossbatch.weighting.contrastive import Contrastive
from crossbatch.weighting.curves import (
    Constant,
    Curve,
    Exponential,
    Polynomial,
    Ramp,
    Sigmoid,
    Step,
)
from crossbatch.weighting.decoupled import DecoupledContrastive
from crossbatch.weighting.fastap import FastAP
from crossbatch.weighting.lifted import LiftedStructure
from crossbatch.weighting.margin import Margin
from crossbatch.weighting.multi_similarity import MultiSimilarity
from crossbatch.weighting.nca import NCA
from crossbatch.weighting.npairs import NPairs
from crossbatch.weighting.ntxent import NTXent
from crossbatch.weighting.proxy_anchor import ProxyAnchor
from crossbatch.weighting.ranked_list import RankedList
from crossbatch.weighting.released_triplet import ReleasedTriplet
from crossbatch.weighting.softmax_margin import ArcFace, CosFace
from crossbatch.weighting.statistics import (
    LOG_SUM_EXP,
    MAX,
    MIN,
    SUM,
    Monoid,
    Statistic,
    Stats,
    histogram,
    top,
)
from crossbatch.weighting.supcon import SupCon
from crossbatch.weighting.triplet import HardestTriplet
from crossbatch.weighting.tuplet_margin import TupletMargin

__all__ = [
    "LOG_SUM_EXP",
    "MAX",
    "MIN",
    "NCA",
    "SUM",
    "ArcFace",
    "Assigned",
    "Balanced",
    "BinomialDeviance",
    "Circle",
    "Clipped",
    "Constant",
    "Contrastive",
    "CosFace",
    "Curve",
    "DecoupledContrastive",
    "Exponential",
    "FastAP",
    "HardestTriplet",
    "LiftedStructure",
    "Margin",
    "Mixed",
    "Monoid",
    "MultiSimilarity",
    "NPairs",
    "NTXent",
    "PairWeighting",
    "Polynomial",
    "ProxyAnchor",
    "Ramp",
    "RankedList",
    "ReleasedTriplet",
    "Scheduled",
    "Sides",
    "Sigmoid",
    "Stage",
    "Statistic",
    "Stats",
    "Step",
    "SupCon",
    "Thresholded",
    "TopK",
    "TupletMargin",
    "from_functions",
    "histogram",
    "top",
]

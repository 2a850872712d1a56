"""crossbatch: image-retrieval embeddings trained with a memory of past batches.

The names below are loaded on first use, so that ``import crossbatch`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "ArcFace": "crossbatch.weighting",
    "Balanced": "crossbatch.weighting",
    "BinomialDeviance": "crossbatch.weighting",
    "Circle": "crossbatch.weighting",
    "Clipped": "crossbatch.weighting",
    "Constant": "crossbatch.weighting",
    "CosFace": "crossbatch.weighting",
    "DecoupledContrastive": "crossbatch.weighting",
    "Exponential": "crossbatch.weighting",
    "FastAP": "crossbatch.weighting",
    "LiftedStructure": "crossbatch.weighting",
    "Margin": "crossbatch.weighting",
    "Mixed": "crossbatch.weighting",
    "NCA": "crossbatch.weighting",
    "NPairs": "crossbatch.weighting",
    "NTXent": "crossbatch.weighting",
    "Polynomial": "crossbatch.weighting",
    "Ramp": "crossbatch.weighting",
    "RankedList": "crossbatch.weighting",
    "ReleasedTriplet": "crossbatch.weighting",
    "Scheduled": "crossbatch.weighting",
    "Sides": "crossbatch.weighting",
    "Sigmoid": "crossbatch.weighting",
    "Step": "crossbatch.weighting",
    "SupCon": "crossbatch.weighting",
    "Thresholded": "crossbatch.weighting",
    "TopK": "crossbatch.weighting",
    "TupletMargin": "crossbatch.weighting",
    "Batch": "crossbatch.references",
    "Contrastive": "crossbatch.weighting",
    "CrossBatchMemory": "crossbatch.memory",
    "CrossbatchError": "crossbatch.errors",
    "HardestTriplet": "crossbatch.weighting",
    "MultiSimilarity": "crossbatch.weighting",
    "PairLoss": "crossbatch.engine",
    "PairWeighting": "crossbatch.weighting",
    "References": "crossbatch.references",
    "Tile": "crossbatch.references",
    "cite": "crossbatch.citation",
    "from_functions": "crossbatch.weighting",
    "memory_objective": "crossbatch.engine",
    "pair_loss": "crossbatch.engine",
}

if TYPE_CHECKING:
    from crossbatch import compat as compat
    from crossbatch.citation import cite
    from crossbatch.engine import PairLoss, memory_objective, pair_loss
    from crossbatch.errors import CrossbatchError
    from crossbatch.memory import CrossBatchMemory
    from crossbatch.references import Batch, References, Tile
    from crossbatch.weighting import (
        NCA,
        ArcFace,
        Balanced,
        BinomialDeviance,
        Circle,
        Clipped,
        Constant,
        Contrastive,
        CosFace,
        DecoupledContrastive,
        Exponential,
        FastAP,
        HardestTriplet,
        LiftedStructure,
        Margin,
        Mixed,
        MultiSimilarity,
        NPairs,
        NTXent,
        PairWeighting,
        Polynomial,
        Ramp,
        RankedList,
        ReleasedTriplet,
        Scheduled,
        Sides,
        Sigmoid,
        Step,
        SupCon,
        Thresholded,
        TopK,
        TupletMargin,
        from_functions,
    )

__all__ = [
    "NCA",
    "ArcFace",
    "Balanced",
    "Batch",
    "BinomialDeviance",
    "Circle",
    "Clipped",
    "Constant",
    "Contrastive",
    "CosFace",
    "CrossBatchMemory",
    "CrossbatchError",
    "DecoupledContrastive",
    "Exponential",
    "FastAP",
    "HardestTriplet",
    "LiftedStructure",
    "Margin",
    "Mixed",
    "MultiSimilarity",
    "NPairs",
    "NTXent",
    "PairLoss",
    "PairWeighting",
    "Polynomial",
    "Ramp",
    "RankedList",
    "References",
    "ReleasedTriplet",
    "Scheduled",
    "Sides",
    "Sigmoid",
    "Step",
    "SupCon",
    "Thresholded",
    "Tile",
    "TopK",
    "TupletMargin",
    "__version__",
    "cite",
    "from_functions",
    "memory_objective",
    "pair_loss",
]


def __getattr__(name: str) -> Any:
    if name == "compat":
        return importlib.import_module("crossbatch.compat")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'crossbatch' has no attribute {name!r}")

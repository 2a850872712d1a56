"""crossbatch: image-retrieval embeddings trained with a memory of past batches.

The names below are loaded on first use, so that ``import crossbatch`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
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
    "from_functions": "crossbatch.weighting",
    "memory_objective": "crossbatch.engine",
    "pair_loss": "crossbatch.engine",
}

if TYPE_CHECKING:
    from crossbatch.engine import PairLoss, memory_objective, pair_loss
    from crossbatch.errors import CrossbatchError
    from crossbatch.memory import CrossBatchMemory
    from crossbatch.references import Batch, References, Tile
    from crossbatch.weighting import (
        Contrastive,
        HardestTriplet,
        MultiSimilarity,
        PairWeighting,
        from_functions,
    )

__all__ = [
    "Batch",
    "Contrastive",
    "CrossBatchMemory",
    "CrossbatchError",
    "HardestTriplet",
    "MultiSimilarity",
    "PairLoss",
    "PairWeighting",
    "References",
    "Tile",
    "__version__",
    "from_functions",
    "memory_objective",
    "pair_loss",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'crossbatch' has no attribute {name!r}")

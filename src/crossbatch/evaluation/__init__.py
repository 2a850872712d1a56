"""Evaluation: how well an embedding retrieves, and how sure that is.

The names below are loaded on first use: evaluating arrays needs torch and numpy alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ClassificationResult": "crossbatch.evaluation.classification",
    "Comparison": "crossbatch.evaluation.significance",
    "Evaluation": "crossbatch.evaluation.files",
    "Expansion": "crossbatch.evaluation.rerank",
    "Gallery": "crossbatch.evaluation.protocol",
    "KReciprocal": "crossbatch.evaluation.rerank",
    "Interval": "crossbatch.evaluation.significance",
    "PerClass": "crossbatch.evaluation.averages",
    "RetrievalResult": "crossbatch.evaluation.protocol",
    "Trials": "crossbatch.evaluation.averages",
    "Search": "crossbatch.evaluation.protocol",
    "classify": "crossbatch.evaluation.classification",
    "corrected": "crossbatch.evaluation.significance",
    "describe": "crossbatch.evaluation.files",
    "embed_manifest": "crossbatch.evaluation.embed",
    "evaluate": "crossbatch.evaluation.protocol",
    "evaluate_manifest": "crossbatch.evaluation.roles",
    "evaluate_trials": "crossbatch.evaluation.roles",
    "interval": "crossbatch.evaluation.significance",
    "read_classification": "crossbatch.evaluation.classification",
    "write_classification": "crossbatch.evaluation.classification",
    "per_class": "crossbatch.evaluation.averages",
    "paired_difference": "crossbatch.evaluation.significance",
    "read_evaluation": "crossbatch.evaluation.files",
    "write_evaluation": "crossbatch.evaluation.files",
}

if TYPE_CHECKING:
    from crossbatch.evaluation.averages import PerClass, Trials, per_class
    from crossbatch.evaluation.classification import (
        ClassificationResult,
        classify,
        read_classification,
        write_classification,
    )
    from crossbatch.evaluation.embed import embed_manifest
    from crossbatch.evaluation.files import (
        Evaluation,
        describe,
        read_evaluation,
        write_evaluation,
    )
    from crossbatch.evaluation.protocol import Gallery, RetrievalResult, Search, evaluate
    from crossbatch.evaluation.rerank import Expansion, KReciprocal
    from crossbatch.evaluation.roles import evaluate_manifest, evaluate_trials
    from crossbatch.evaluation.significance import (
        Comparison,
        Interval,
        corrected,
        interval,
        paired_difference,
    )

__all__ = [
    "ClassificationResult",
    "Comparison",
    "Evaluation",
    "Expansion",
    "Gallery",
    "Interval",
    "KReciprocal",
    "PerClass",
    "RetrievalResult",
    "Search",
    "Trials",
    "classify",
    "corrected",
    "describe",
    "embed_manifest",
    "evaluate",
    "evaluate_manifest",
    "evaluate_trials",
    "interval",
    "paired_difference",
    "per_class",
    "read_classification",
    "read_evaluation",
    "write_classification",
    "write_evaluation",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'crossbatch.evaluation' has no attribute {name!r}")

"""The curriculum: which images of a noisy collection to believe, and in which order.

The names below are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "DensityRanker": "ranker",
    "Noise": "noise",
    "Plan": "plan",
    "Stage": "plan",
    "Purity": "purity",
    "Ranking": "ranking",
    "Suspect": "ranking",
    "Trust": "contrast",
    "class_contrast": "contrast",
    "area": "purity",
    "judge": "purity",
    "asymmetric": "noise",
    "confident_learning": "baselines",
    "neighbour_agreement": "baselines",
    "open_set": "noise",
    "small_cluster": "noise",
    "small_loss": "baselines",
    "symmetric": "noise",
    "trust": "contrast",
    "write_suspects": "ranking",
}

if TYPE_CHECKING:
    from crossbatch.curriculum.baselines import (
        confident_learning,
        neighbour_agreement,
        small_loss,
    )
    from crossbatch.curriculum.contrast import Trust, class_contrast, trust
    from crossbatch.curriculum.noise import (
        Noise,
        asymmetric,
        open_set,
        small_cluster,
        symmetric,
    )
    from crossbatch.curriculum.plan import Plan, Stage
    from crossbatch.curriculum.purity import Purity, area, judge
    from crossbatch.curriculum.ranker import DensityRanker
    from crossbatch.curriculum.ranking import Ranking, Suspect, write_suspects

__all__ = [
    "DensityRanker",
    "Noise",
    "Plan",
    "Purity",
    "Ranking",
    "Stage",
    "Suspect",
    "Trust",
    "area",
    "asymmetric",
    "class_contrast",
    "confident_learning",
    "judge",
    "neighbour_agreement",
    "open_set",
    "small_cluster",
    "small_loss",
    "symmetric",
    "trust",
    "write_suspects",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'crossbatch.curriculum' has no attribute {name!r}")
    return getattr(importlib.import_module(f"crossbatch.curriculum.{_PUBLIC[name]}"), name)

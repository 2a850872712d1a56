"""Encoders: a trunk from timm, a pooling, a head; from images to points on the unit sphere.

The names below are loaded on first use: an `EncoderConfig` needs neither torch nor timm.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Classifier": "crossbatch.models.classifier",
    "Encoder": "crossbatch.models.encoder",
    "EncoderConfig": "crossbatch.models.config",
    "GeM": "crossbatch.models.pooling",
    "Head": "crossbatch.models.head",
    "ModelCard": "crossbatch.models.card",
    "Standardise": "crossbatch.models.head",
}

if TYPE_CHECKING:
    from crossbatch.models.card import ModelCard
    from crossbatch.models.classifier import Classifier
    from crossbatch.models.config import EncoderConfig
    from crossbatch.models.encoder import Encoder
    from crossbatch.models.head import Head, Standardise
    from crossbatch.models.pooling import GeM

__all__ = ["Classifier", "Encoder", "EncoderConfig", "GeM", "Head", "ModelCard", "Standardise"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'crossbatch.models' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)

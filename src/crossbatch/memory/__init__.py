"""Memories of past embeddings: references that a training fills as it goes along."""

from crossbatch.memory.drift import Drift, advise
from crossbatch.memory.momentum import MomentumKeys
from crossbatch.memory.normalised import CrossBatchNormalisation
from crossbatch.memory.per_image import PerImageMemory
from crossbatch.memory.prism import Believed, Prism
from crossbatch.memory.ring import CrossBatchMemory
from crossbatch.memory.sharded import ShardedMemory
from crossbatch.memory.young import AgeLimit, younger

__all__ = [
    "AgeLimit",
    "Believed",
    "CrossBatchMemory",
    "CrossBatchNormalisation",
    "Drift",
    "MomentumKeys",
    "PerImageMemory",
    "Prism",
    "ShardedMemory",
    "advise",
    "younger",
]

"""Memories of past embeddings: references that keep themselves up to date."""

from crossbatch.memory.ring import CrossBatchMemory

__all__ = ["CrossBatchMemory"]

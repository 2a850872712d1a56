"""Features extracted once, kept in a memory-mapped table, and read again."""

from crossbatch.features.extract import extract
from crossbatch.features.files import read_features
from crossbatch.features.table import FeatureTable

__all__ = ["FeatureTable", "extract", "read_features"]

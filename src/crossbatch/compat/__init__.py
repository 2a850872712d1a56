"""Doors for those who come from another library."""

from crossbatch.compat import pml

__all__ = ["pml"]

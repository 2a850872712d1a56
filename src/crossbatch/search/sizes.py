"""Numbers that the parts of an index share."""

BLOCK = 512
"""Rows of a manifest that are committed together."""

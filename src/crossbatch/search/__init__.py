"""Search: a folder of pictures as a gallery that is asked by picture.

The names below are loaded on first use; LanceDB is when an index is opened.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Changes": "crossbatch.search._intake",
    "Duplicates": "crossbatch.search.hits",
    "GalleryIndex": "crossbatch.search.index",
    "Hit": "crossbatch.search.hits",
    "Item": "crossbatch.search.hits",
    "Refinement": "crossbatch.search.refine",
    "condition": "crossbatch.search.filters",
    "thumbnail": "crossbatch.search.page",
    "together": "crossbatch.search.nearest",
    "write_page": "crossbatch.search.page",
}

if TYPE_CHECKING:
    from crossbatch.search._intake import Changes
    from crossbatch.search.filters import condition
    from crossbatch.search.hits import Duplicates, Hit, Item
    from crossbatch.search.index import GalleryIndex
    from crossbatch.search.nearest import together
    from crossbatch.search.page import thumbnail, write_page
    from crossbatch.search.refine import Refinement

__all__ = [
    "Changes",
    "Duplicates",
    "GalleryIndex",
    "Hit",
    "Item",
    "Refinement",
    "condition",
    "thumbnail",
    "together",
    "write_page",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'crossbatch.search' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)

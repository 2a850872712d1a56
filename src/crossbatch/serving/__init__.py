"""Serving: an index as a page and an API.

The names below are loaded on first use; Starlette and uvicorn are when a server starts.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Address": "crossbatch.serving.server",
    "Limits": "crossbatch.serving.limits",
    "application": "crossbatch.serving.api",
    "choose_token": "crossbatch.serving.server",
    "description": "crossbatch.serving.openapi",
    "serve": "crossbatch.serving.server",
}

if TYPE_CHECKING:
    from crossbatch.serving.api import application
    from crossbatch.serving.limits import Limits
    from crossbatch.serving.openapi import description
    from crossbatch.serving.server import Address, choose_token, serve

__all__ = ["Address", "Limits", "application", "choose_token", "description", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'crossbatch.serving' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)

"""The page: one file, whose style and script the browser knows by their hash."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import NamedTuple


class Page(NamedTuple):
    """The text of the page, and the policy under which it may run: nothing but itself."""

    text: str
    policy: str


@cache
def page() -> Page:
    """Read the page once."""
    text = resources.files("crossbatch.serving").joinpath("page.html").read_text("utf-8")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(text, 'script')}",
            f"style-src {_hash(text, 'style')}",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return Page(text, policy)


def _hash(text: str, tag: str) -> str:
    (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = hashlib.sha256(inside.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

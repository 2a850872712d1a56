"""The index that is served, which others may change, replace or delete meanwhile.

An open `GalleryIndex` shows one version. The shelf looks at the disk at most once in an interval,
opens what it finds, and puts it in the place of the old one; whoever is at work with the old one
goes on with it. Errors of the index name its folder; what they become here does not.
"""

import hashlib
import math
import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import numpy as np

from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.models import Encoder
from crossbatch.search import GalleryIndex, Hit, Item, Refinement
from crossbatch.serving.refusals import Refusal

HEADER = "index.json"
INTERVAL = 1.0  # seconds
EXAMPLES = 24
_PATHS = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][\w.\-]+){2,}[/\\]?")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Opened:
    """An index as it was found, and what tells it from the next.

    Attributes:
        index: At one version.
        encoder: Of it.
        version: Another whenever anything of it is another.
        items: How many there are.
        examples: Ids of some items, unlike each other, to begin with.
    """

    index: GalleryIndex
    encoder: Encoder
    version: str
    items: int
    examples: list[int]


class Shelf:
    """Holds the index of a folder at its last version.

    Args:
        path: Of the index.
        interval: Seconds between looks at the disk.

    Raises:
        FormatError: There is no index, or it cannot be read.
    """

    def __init__(self, path: Path, *, interval: float = INTERVAL) -> None:
        self.path = path
        self.interval = interval
        self._lock = threading.Lock()
        self._looked = -math.inf
        self._now: Opened | None = None
        self._now = self._look()

    def use(self, work: Callable[[Opened], _T]) -> _T:
        """Do something with the index; once more with a new one where the old one is gone.

        Raises:
            Refusal: There is no whole index at its place.
        """
        with _unavailable():
            opened = self._current()
            try:
                return work(opened)
            except FormatError:
                self._looked = -math.inf
                return work(self._current())

    def _current(self) -> Opened:
        with self._lock:
            if self._now is None or time.monotonic() - self._looked >= self.interval:
                try:
                    self._now = self._look()
                except Exception:
                    self._now = None
                    raise
            return self._now

    def _look(self) -> Opened:
        version = _version(self.path)
        self._looked = time.monotonic()
        if self._now is not None and self._now.version == version:
            return self._now
        index = GalleryIndex.open(self.path)
        known = self._now is not None and self._now.index.model == index.model
        encoder = self._now.encoder if self._now is not None and known else index.encoder
        return Opened(index, encoder.eval(), version, len(index), _examples(index))


def search(
    opened: Opened,
    query: np.ndarray,
    *,
    model: str,
    k: int,
    where: str | None,
    refine: Refinement | None = None,
) -> list[Hit]:
    """The nearest items of one query, (D,).

    Raises:
        Refusal: The condition is none.
        FormatError: The index is gone, or of another model meanwhile.
    """
    try:
        return opened.index.search(query, model=model, k=k, where=where, refine=refine)[0]
    except FormatError:
        raise
    except CrossbatchError as error:
        raise Refusal("bad_filter", without_paths(str(error), where or "")) from error


def item(opened: Opened, number: int) -> Item:
    """An item.

    Raises:
        Refusal: There is none.
        FormatError: The index is gone.
    """
    with _missing("no_such_item", f"The index has no item of id {number}."):
        return opened.index.items([number])[0]


def embedding(opened: Opened, number: int) -> np.ndarray:
    """The vector of an item, (D,).

    Raises:
        Refusal: There is none.
        FormatError: The index is gone.
    """
    with _missing("no_such_item", f"The index has no item of id {number}."):
        return opened.index.embedding(number)


def image(opened: Opened, number: int) -> bytes:
    """The image of an item, still encoded.

    Raises:
        Refusal: There is no such item, or its file is gone.
        FormatError: The index is gone.
    """
    item(opened, number)
    with _missing("image_gone", f"The image of item {number} is gone from its place."):
        return opened.index.image(number)


def plain(item: Item) -> dict[str, Any]:
    """An item as JSON has it. Its path is relative, or the name alone."""
    return {
        "id": item.id,
        "label": item.label,
        "path": relative(item.path),
        "metadata": {name: _word(value) for name, value in item.metadata.items()},
    }


def relative(path: str | None) -> str:
    """A path below its root; of any other the name alone.

    >>> relative("cats/1.jpg"), relative("/home/me/1.jpg"), relative("../1.jpg")
    ('cats/1.jpg', '1.jpg', '1.jpg')
    """
    posix, windows = PurePosixPath(path or ""), PureWindowsPath(path or "")
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        return windows.name
    return path or ""


def without_paths(message: str, said: str) -> str:
    """A message without paths that the client did not name itself.

    >>> without_paths("No column x at /srv/web/a.rs:1. Valid are: label.", "x = 1")
    'No column x at …:1. Valid are: label.'
    """
    return _PATHS.sub(lambda found: found[0] if found[0] in said else "…", message)


def _word(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _version(path: Path) -> str:
    """Of what stands there: every change of an index is a new header, renamed into place."""
    try:
        about = f"{path.stat().st_ino}".encode() + (path / HEADER).read_bytes()
    except OSError:
        return ""  # opening it will say why
    return hashlib.sha256(about).hexdigest()[:16]


def _examples(index: GalleryIndex) -> list[int]:
    """Nearest items of a few random directions: unlike each other, and the same every time."""
    if not len(index):
        return []
    directions = np.random.default_rng(0).standard_normal((EXAMPLES, index.dim))
    found = index.search(directions.astype(np.float32), model=index.model, k=1)
    return list(dict.fromkeys(hits[0].item.id for hits in found if hits))


@contextmanager
def _missing(code: str, message: str) -> Generator[None]:
    try:
        yield
    except FormatError:
        raise
    except CrossbatchError as error:
        raise Refusal(code, message) from error


@contextmanager
def _unavailable() -> Generator[None]:
    try:
        yield
    except (FormatError, OSError) as error:
        message = "The index is gone, damaged, or just being replaced. Try again in a moment."
        raise Refusal("index_unavailable", message) from error

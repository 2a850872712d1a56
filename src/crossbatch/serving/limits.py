"""What one request, and all of them together, may take."""

import math
from dataclasses import dataclass, fields

from crossbatch.errors import CrossbatchError, expected


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a server; beyond each of them a request is refused by name.

    Attributes:
        upload_bytes: Of one request's body.
        held_bytes: Of all bodies that are held at one time; beyond it 503.
        pixels: Of one picture, as its header says, before it is decoded.
        pictures: Of one query.
        k: Items that a search may ask for.
        requests: At work at one time; beyond it 503.
        seconds: From a request's head to its answer.
        cache_bytes: Of small pictures that are kept.

    Raises:
        CrossbatchError: One of them is not positive.
    """

    upload_bytes: int = 20 * 2**20
    held_bytes: int = 256 * 2**20
    pixels: int = 50_000_000
    pictures: int = 8
    k: int = 100
    requests: int = 64
    seconds: float = 20.0
    cache_bytes: int = 32 * 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                wanted = f"a positive limit `{field.name}`"
                raise CrossbatchError(expected(wanted, value, "Raise it."))

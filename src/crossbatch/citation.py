"""BibTeX of the papers that a part of crossbatch comes from.

A part names its papers in ``cites``, a tuple of keys of ``citations.bib``. In that file an entry
begins with ``@kind{key,`` and ends with a line that holds the closing brace alone.
"""

import re
from functools import cache
from importlib import resources

from crossbatch.errors import CrossbatchError, expected, nearest

PAPERS = ("wang2020xbm", "zhang2021rethinking", "guo2018curriculumnet")
"""Those that crossbatch as a whole is built on."""

_ENTRY = re.compile(r"^@\w+\{([^,\s]+),\n.*?^\}$", re.MULTILINE | re.DOTALL)


def cite(*parts: object) -> str:
    """The BibTeX entries of some parts, each paper once, in the order of the parts.

    Args:
        parts: Weightings (instances or classes), pair losses, memories: whatever has ``cites``.
            Without any, the papers that crossbatch as a whole is built on.

    Returns:
        BibTeX, empty if the parts name no paper.

    Raises:
        CrossbatchError: A part does not say what it cites, or cites a paper that is not known.

    >>> import crossbatch as xb
    >>> print(cite(xb.HardestTriplet()))
    @misc{hermans2017defense,
      title     = {In Defense of the Triplet Loss for Person Re-Identification},
      ...
    }
    """
    keys = PAPERS if not parts else [key for part in parts for key in _cites(part)]
    return "\n\n".join(_entry(key) for key in dict.fromkeys(keys))


@cache
def entries() -> dict[str, str]:
    """Every known paper: its key and its BibTeX."""
    text = resources.files("crossbatch").joinpath("citations.bib").read_text(encoding="utf-8")
    return {match[1]: match[0] for match in _ENTRY.finditer(text)}


def _cites(part: object) -> tuple[str, ...]:
    cites = getattr(part, "cites", None)
    if not isinstance(cites, tuple):
        raise CrossbatchError(
            expected(
                "something with `cites` in cite",
                repr(part),
                "Give a weighting, a PairLoss or a memory; cite() gives the papers of crossbatch.",
            )
        )
    return cites  # pyright: ignore[reportUnknownVariableType]


def _entry(key: str) -> str:
    if key not in entries():
        hint = nearest(key, entries())
        raise CrossbatchError(expected("a key of citations.bib in `cites`", repr(key), hint))
    return entries()[key]

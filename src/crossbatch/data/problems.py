"""What can be wrong with a row, by name: nothing is left out of a manifest without a word."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from crossbatch._files import write_beside
from crossbatch.data.manifest import Manifest


class Kind(StrEnum):
    """The kinds of problems. Those that exclude stand first, mere notes after them."""

    MISSING = "missing file"
    UNREADABLE = "unreadable image"
    NOT_AN_IMAGE = "not an image file"
    NO_CLASS = "image outside a class folder"
    BAD_NAME = "file name that is not UTF-8"
    BAD_LINE = "malformed line"
    NO_ROLE = "neither query nor gallery"
    EMPTY_LABEL = "empty label"
    UNKNOWN_LABEL = "unknown label"
    LISTED_TWICE = "image listed twice"
    OUTSIDE = "link out of the root"
    EMPTY_CLASS = "empty class folder"
    ONE_IMAGE = "class with one image"
    NO_MATCH = "query without a match"
    ONE_CLASS = "one class only"

    @property
    def excludes(self) -> bool:
        """Whether the row was left out of the manifest; otherwise it is a note."""
        return self not in _NOTES


_NOTES = (
    *(Kind.LISTED_TWICE, Kind.OUTSIDE, Kind.EMPTY_CLASS),
    *(Kind.ONE_IMAGE, Kind.NO_MATCH, Kind.ONE_CLASS),
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: Its kind.
        path: The image, folder, line or class that it is about.
        reason: What was found there.
    """

    kind: Kind
    path: str
    reason: str


class Imported(NamedTuple):
    """What an importer found: the rows, and what could not become a row."""

    manifest: Manifest
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Validation:
    """The rows that can be used, and everything that was found on the way.

    Attributes:
        manifest: The rows that remain. There may be none.
        problems: Every excluded row with its reason, and the notes.
    """

    manifest: Manifest
    problems: tuple[Problem, ...]

    @property
    def excluded(self) -> tuple[Problem, ...]:
        """The problems that cost a row."""
        return tuple(problem for problem in self.problems if problem.kind.excludes)

    @property
    def counts(self) -> dict[Kind, int]:
        """How many problems there are of each kind that occurs, in the order of `Kind`."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in Kind if found[kind]}

    def write_problems(self, path: Path) -> None:
        """Write the problems as CSV: kind, whether the row is left out, path, reason."""
        write_problems(path, self.problems)


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write problems as CSV: kind, whether the row is left out, path, reason."""
    write_beside(path, lambda part: _write(part, problems))


def _write(path: Path, problems: Sequence[Problem]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        rows = csv.writer(file)
        rows.writerow(["kind", "excluded", "path", "reason"])
        rows.writerows([p.kind, str(p.kind.excludes).lower(), p.path, p.reason] for p in problems)

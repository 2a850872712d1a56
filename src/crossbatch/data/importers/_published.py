"""What the owners of a data set say of it, against what lies on the disk.

Errors: files that are listed but missing; an image that is listed for two purposes, such as query
and gallery; in a data set for retrieval, a class in training and test. Only noted: counts that
differ from the published ones, as in a partial copy; an image listed twice alike, which is kept
once; links out of the root.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossbatch.data._presence import look
from crossbatch.data.manifest import Manifest
from crossbatch.data.problems import Imported, Kind, Problem
from crossbatch.errors import CrossbatchError, FormatError, expected

_FIRST = 5  # that a message names


class Count(NamedTuple):
    """How much a part of a data set holds; None where its owners do not say."""

    images: int | None
    classes: int | None


@dataclass(frozen=True)
class DataSet:
    """A data set and its protocol.

    Attributes:
        name: As its owners call it.
        published: Per part (a split, "query" or "gallery") the published count, or several where
            paper and release differ.
        disjoint: Whether training and test must have no class in common.
        notes: What else the manifest shall remember.
    """

    name: str
    published: Mapping[str, Count | tuple[Count, ...]]
    disjoint: bool = False
    notes: dict[str, Any] = field(default_factory=dict)


def finish(table: pa.Table, root: Path, dataset: DataSet) -> Imported:
    """Check the rows of a data set and make the manifest.

    Args:
        table: At least `path`, `label` and `split`, in the order of the lists.
        root: Where the paths start.
        dataset: What is published.

    Raises:
        CrossbatchError: Files are missing, an image has two purposes, or classes leak.

    Cost: as `look`, and a hash table of the paths.
    """
    table, problems = _once(table)
    if dataset.disjoint:
        _check_leaks(table)
    presence = look(root, table["path"])
    _check_missing(table["path"], root, presence.missing)
    problems += [Problem(Kind.OUTSIDE, folder, reason) for folder, reason in presence.links]
    notes = {"data set": dataset.name, **dataset.notes, "differs": _differences(table, dataset)}
    return Imported(Manifest(table, root.absolute(), notes), tuple(problems))


def _once(table: pa.Table) -> tuple[pa.Table, list[Problem]]:
    """Every image once; rows that say the same of it are one."""
    codes = table["path"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    if len(first) == len(codes):
        return table, []
    twice = np.isin(codes, codes[first[counts > 1]])
    said: dict[str, dict[str, str | None]] = {}
    problems: list[Problem] = []
    for row in table.filter(pa.array(twice)).to_pylist():
        before = said.setdefault(row["path"], row)
        if before is not row:
            _check_purpose(before, row)
            problems.append(Problem(Kind.LISTED_TWICE, row["path"], "kept once"))
    return table.take(pa.array(np.sort(first))), problems


def _check_purpose(before: Mapping[str, str | None], row: Mapping[str, str | None]) -> None:
    for name in ("split", "role", "label", *row):
        if row.get(name) != before.get(name):
            raise FormatError(
                expected(
                    f"the image {row['path']} to be listed for one purpose",
                    f"{name} {before[name]} and {row[name]}",
                    "Correct the lists, or get them anew from their owners.",
                )
            )


def _check_leaks(table: pa.Table) -> None:
    train, test = (
        set(_part(table, split)["label"].unique().to_pylist()) for split in ("train", "test")
    )
    if both := sorted(train & test):
        raise FormatError(
            expected(
                "no class in training and test, or retrieval is measured on what was trained",
                f"{len(both)} in both: {', '.join(both[:_FIRST])}",
                "Correct the lists, or get them anew from their owners.",
            )
        )


def _check_missing(paths: pa.ChunkedArray, root: Path, missing: np.ndarray) -> None:
    if missing.any():
        gone = paths.take(pa.array(np.flatnonzero(missing)[:_FIRST])).to_pylist()
        raise CrossbatchError(
            expected(
                f"the {len(paths):,} listed images below {root}",
                f"{missing.sum():,} missing, first {', '.join(gone)}",
                "Unpack the images there, or take the lines out of the lists.",
            )
        )


def _differences(table: pa.Table, dataset: DataSet) -> list[str]:
    found: list[str] = []
    for name, known in dataset.published.items():
        known = (known,) if isinstance(known, Count) else known
        part = _part(table, name)
        count = Count(len(part), len(part["label"].unique()))
        if not any(_same(count, published) for published in known):
            says = " or ".join(_words(published) for published in known)
            found.append(f"{name}: {_words(count)} here, {says} published")
    return found


def _part(table: pa.Table, name: str) -> pa.Table:
    column = "role" if name in ("query", "gallery") else "split"
    return table.filter(pc.field(column) == name)


def _same(count: Count, published: Count) -> bool:
    return all(p in (None, c) for c, p in zip(count, published, strict=True))


def _words(count: Count) -> str:
    images = [] if count.images is None else [f"{count.images:,} images"]
    classes = [] if count.classes is None else [f"{count.classes:,} classes"]
    return " of ".join(images + classes)

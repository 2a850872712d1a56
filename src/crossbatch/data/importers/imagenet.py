"""ImageNet (ILSVRC 2012): ``train/SYNSET/IMAGE`` and ``val/SYNSET/IMAGE``.

*ImageNet Large Scale Visual Recognition Challenge* (Russakovsky et al., IJCV 2015). A synset is a
WordNet id, n and eight digits, and the label. The archive of validation images has no folders;
sort it first, as its development kit or any of the common scripts does.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from crossbatch.data.importers._lists import as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.importers.folder import SUFFIXES
from crossbatch.data.problems import Imported, Kind, Problem
from crossbatch.errors import CrossbatchError, FormatError, expected

IMAGENET = DataSet(
    "ImageNet (ILSVRC 2012)",
    {"train": Count(1_281_167, 1000), "validation": Count(50_000, 1000)},
)
_SYNSET = re.compile(r"n\d{8}")


def from_imagenet(root: Path) -> Imported:
    """List ImageNet; no image is opened.

    Args:
        root: The folder with ``train`` and ``val``, or with ``ILSVRC/Data/CLS-LOC`` or
            ``Data/CLS-LOC`` that holds them.

    Raises:
        CrossbatchError: There is no ``train`` or ``val``, or images are not sorted into synsets.
    """
    base = locate(root, "train", inside=["ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"])
    problems: list[Problem] = []
    parts = {"train": "train", "validation": "val"}
    rows = (row for split, name in parts.items() for row in _rows(base, name, split, problems))
    imported = finish(as_table(("path", "label", "split"), rows), base, IMAGENET)
    return imported._replace(problems=(*problems, *imported.problems))


def _rows(
    base: Path, name: str, split: str, problems: list[Problem]
) -> Iterator[tuple[str, str, str]]:
    for synset in _names(base / name):
        if not _SYNSET.fullmatch(synset):
            raise FormatError(
                expected(
                    f"a folder per synset, such as n01440764, in {base / name}",
                    synset,
                    "Sort the images into folders by synset, or use `crossbatch manifest folder`.",
                )
            )
        images = 0
        for file in _names(base / name / synset):
            path = f"{name}/{synset}/{file}"
            if not _is_text(file):
                text = os.fsencode(path).decode("utf-8", "backslashreplace")
                problems.append(Problem(Kind.BAD_NAME, text, "rename the file"))
            elif f".{file.rpartition('.')[2].lower()}" in SUFFIXES:
                images += 1
                yield path, synset, split
            else:
                problems.append(Problem(Kind.NOT_AN_IMAGE, path, "no suffix of an image"))
        if not images:
            problems.append(Problem(Kind.EMPTY_CLASS, f"{name}/{synset}", "no image in it"))


def _names(folder: Path) -> list[str]:
    """What a folder holds, in order, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        remedy = "Give the folder with train and val, a folder per synset in each."
        raise CrossbatchError(expected(f"the folder {folder}", error, remedy)) from error


def _is_text(name: str) -> bool:
    """Whether it is UTF-8 on the disk."""
    return os.fsencode(name) == name.encode("utf-8", "replace")

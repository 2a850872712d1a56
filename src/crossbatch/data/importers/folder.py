"""A folder of images: ``root/CLASS/image``, or ``root/SPLIT/CLASS/image``.

The second is meant where every folder in the root is named train, val (valid, validation) or test
and holds folders. Folders inside a class folder belong to that class. Hidden files and folders
are passed over, as are files beside the class folders that are no images; any other file without
an image's suffix, and any image outside a class folder, is listed as a problem. Rows come in the
order of their paths.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from crossbatch.data.manifest import Manifest
from crossbatch.data.problems import Imported, Kind, Problem
from crossbatch.errors import CrossbatchError, expected

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    )
)
SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def from_folder(root: Path) -> Imported:
    """List the images of a folder; none is opened.

    Args:
        root: The folder. A class that appears in several splits is one class.

    Returns:
        A manifest with paths relative to ``root``, which may have no rows, and what could not
        become a row.

    Raises:
        CrossbatchError: There is no such folder, or it holds both splits and classes.
    """
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing"
        remedy = "Give the folder that holds one folder per class."
        raise CrossbatchError(expected(f"a folder at {root}", got, remedy))
    rows: list[tuple[str, str, str]] = []
    problems: list[Problem] = []
    parts = _parts(root)
    for outside in sorted({root, *(part for _, part in parts)}):
        problems += [_homeless(file, root) for file in _files(outside) if _is_image(file)]
    for split, part in parts:
        for folder in _folders(part):
            found, wrong = _class(folder, root)
            rows += [(path, folder.name, split) for path in found]
            problems += wrong
    rows.sort()
    names = ("path", "label", "split")
    table = pa.table(
        {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)}
    )
    return Imported(Manifest(table, root.absolute()), tuple(problems))


def from_pictures(root: Path) -> Imported:
    """List the images of any folder, in class folders or not; none is opened.

    Args:
        root: The folder. An image's label is the first folder on its way, empty where it lies in
            the root itself.

    Returns:
        A manifest with paths relative to ``root``, which may have no rows, and the files whose
        names cannot be kept. Files without an image's suffix are passed over.

    Raises:
        CrossbatchError: There is no such folder.
    """
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing"
        remedy = "Give a folder of images, or a manifest."
        raise CrossbatchError(expected(f"a folder at {root}", got, remedy))
    paths = sorted(file.relative_to(root).as_posix() for file in _walk(root) if _is_image(file))
    good = [path for path in paths if _text(path) == path]
    wrong = [Problem(Kind.BAD_NAME, _text(p), "rename it") for p in paths if _text(p) != p]
    labels = [path.partition("/")[0] if "/" in path else "" for path in good]
    table = pa.table({"path": pa.array(good, pa.string()), "label": pa.array(labels, pa.string())})
    return Imported(Manifest(table, root.absolute()), tuple(wrong))


def from_source(path: Path) -> Imported:
    """The images of a folder (:func:`from_pictures`) or of a manifest, whichever stands there.

    Raises:
        CrossbatchError: There is neither, or it lists no image.
    """
    if not path.is_dir():
        return Imported(Manifest.read(path), ())
    found = from_pictures(path)
    if not len(found.manifest):
        remedy = f"Files count that end in {', '.join(sorted(SUFFIXES))}."
        raise CrossbatchError(expected(f"at least one image in {path}", "none", remedy))
    return found


def _parts(root: Path) -> list[tuple[str, Path]]:
    """The folders that hold class folders, each with its split."""
    tops = _folders(root)
    splits = [top for top in tops if top.name.lower() in SPLIT_NAMES]
    if not any(_folders(top) for top in splits):
        return [("train", root)]
    if others := [top.name for top in tops if top not in splits]:
        raise CrossbatchError(
            expected(
                f"every folder in {root} to be a split (train, val, test), or every one a class",
                f"{splits[0].name} beside {others[0]}",
                "Move or rename one of them, or list the images in a CSV.",
            )
        )
    return [(SPLIT_NAMES[top.name.lower()], top) for top in splits]


def _class(folder: Path, root: Path) -> tuple[list[str], list[Problem]]:
    """The paths of the images of a class, and what else its folder holds."""
    paths: list[str] = []
    problems: list[Problem] = []
    for file in _walk(folder):
        path = file.relative_to(root).as_posix()
        if not _is_image(file):
            reason = f"suffix {file.suffix or '(none)'}"
            problems.append(Problem(Kind.NOT_AN_IMAGE, _text(path), reason))
        elif _text(path) != path:
            problems.append(Problem(Kind.BAD_NAME, _text(path), "rename the file or its folder"))
        else:
            paths.append(path)
    if not paths:
        path = _text(folder.relative_to(root).as_posix())
        problems.append(Problem(Kind.EMPTY_CLASS, path, "no image in it"))
    return paths, problems


def _walk(folder: Path) -> Iterator[Path]:
    """The visible files below a folder; links are followed, but never in a circle."""
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(here, name) for name in sorted(files) if not name.startswith("."))
        empty = (Path(here, name) for name in folders if not any(Path(here, name).iterdir()))
        yield from (place for place in empty if _is_image(place))  # validation will name it


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _homeless(file: Path, root: Path) -> Problem:
    path = _text(file.relative_to(root).as_posix())
    return Problem(Kind.NO_CLASS, path, "move it into the folder of its class")


def _text(path: str) -> str:
    """A path that can be printed, whatever bytes it is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

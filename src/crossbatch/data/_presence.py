"""Which files are there: every folder is listed once, instead of asking for every file.

Rows are sorted by folder, a folder at a time is held; 2.5 million files in 20,000 folders take
seconds. A link counts as the file that it leads to.
"""

import os
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from crossbatch.errors import CrossbatchError, expected

_PIECE = 2**16  # paths that are Python texts at a time


class Presence(NamedTuple):
    """What stands on the disk.

    Attributes:
        missing: Shape (N,), whether there is no file at the path.
        links: Per folder, in words, the listed files behind links that lead out of the root.
    """

    missing: np.ndarray
    links: list[tuple[str, str]]


def look(root: Path, paths: pa.ChunkedArray) -> Presence:
    """Look for files.

    Args:
        root: Where relative paths start.
        paths: N texts, none of them missing, with "/" between their parts.

    Raises:
        CrossbatchError: A folder cannot be listed.

    Cost: a listing per folder, O(N log N) to sort, 12 N bytes, and where the paths are in several
    chunks a copy of them.
    """
    folders: dict[str, int] = {}
    codes = array("i")
    for start in range(0, len(paths), _PIECE):
        for path in paths.slice(start, _PIECE).to_pylist():
            codes.append(folders.setdefault(path.rpartition("/")[0], len(folders)))
    which = np.frombuffer(codes, np.int32) if len(codes) else np.zeros(0, np.int32)
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which, minlength=len(folders)))
    missing = np.zeros(len(paths), bool)
    links: list[tuple[str, str]] = []
    home = os.path.realpath(root)
    flat, start = _one_chunk(paths), 0
    for folder, end in zip(folders, ends.tolist(), strict=True):
        rows = order[start:end]
        names = [path.rpartition("/")[2] for path in _take(flat, rows)]
        files, linked = _list(root / folder)
        missing[rows] = [name not in files for name in names]
        links += _outside(root / folder, folder, home, linked & set(names))
        start = end
    return Presence(missing, links)


def _one_chunk(paths: pa.ChunkedArray) -> pa.Array:
    if paths.num_chunks == 1:
        return paths.chunk(0)
    return paths.cast(pa.large_string()).combine_chunks()  # together they may pass 2 GiB


def _take(paths: pa.Array, rows: np.ndarray) -> list[str]:
    """The paths at ascending rows; those of a folder mostly stand together."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return paths.slice(int(rows[0]), len(rows)).to_pylist()
    return paths.take(pa.array(rows)).to_pylist()


def _list(folder: Path) -> tuple[set[str], set[str]]:
    """The names of the files in a folder, and of those among them that are links."""
    files: set[str] = set()
    links: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_file(entry):
                    files.add(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return files, links
    except OSError as error:
        remedy = "Allow it to be read."
        raise CrossbatchError(expected(f"to list the folder {folder}", error, remedy)) from error
    return files, links


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _outside(folder: Path, name: str, home: str, links: set[str]) -> list[tuple[str, str]]:
    if Path(name).is_absolute():  # said openly
        return []
    real = os.path.realpath(folder)
    if not _within(real, home):
        return [(name or ".", f"the folder is a link, or lies behind one, to {real}")]
    targets = {link: os.path.realpath(folder / link) for link in sorted(links)}
    out = {link: target for link, target in targets.items() if not _within(target, home)}
    if not out:
        return []
    link, target = next(iter(out.items()))
    return [(name or ".", f"listed links out of the root: {len(out)}, first {link} to {target}")]


def _within(path: str, home: str) -> bool:
    return path == home or path.startswith(home.rstrip(os.sep) + os.sep)

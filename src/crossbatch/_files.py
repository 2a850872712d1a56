"""Files are written beside their place and renamed into it: whole, or not at all."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from crossbatch.errors import CrossbatchError


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that its place holds the old one or the whole new one, whatever happens.

    Args:
        path: Where the file shall be. Missing parent folders are made.
        write: Writes the file to the path that it is given, which ends as ``path`` does.

    Raises:
        CrossbatchError: The file could not be written (no space, no permission). What stood at
            ``path`` before still stands there.
    """
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        sync(part)
        part.replace(path)
        sync(path.parent)
    except OSError as error:
        raise _failure(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def replace_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Write a folder whole, then put it in the place of the one that stood there.

    Between the two renames a crash leaves ``path`` missing and both folders beside it, the old
    one as ``.NAME.old``; the next call begins by putting that one back.

    Args:
        path: Where the folder shall be. Missing parent folders are made.
        write: Fills the empty folder that it is given.

    Raises:
        CrossbatchError: The folder could not be written. What stood at ``path`` still stands.
    """
    part, old = _part(path), path.with_name(f".{path.name}.old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(path)
        shutil.rmtree(old, ignore_errors=True)  # left over when the path stands already
        part.mkdir()
        write(part)
        for file in part.rglob("*"):
            sync(file)
        if path.exists():
            path.rename(old)
        part.rename(path)
        sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        recover_folder(path)
        raise _failure(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Undo a replacement of ``path`` that a crash cut between its two renames."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.rename(path)


def _part(path: Path) -> Path:
    return path.with_name(f".{uuid.uuid4().hex[:8]}.part.{path.name}")


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failure(path: Path, error: OSError) -> CrossbatchError:
    return CrossbatchError(
        f"Could not write {path}: {error.strerror or error}. "
        "Nothing was changed there. Make room or choose another place, then run this again."
    )

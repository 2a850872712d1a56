"""One writer at a time: an advisory lock that the system takes back when its process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossbatch.errors import CrossbatchError, expected


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the lock of an index, in a file beside it.

    Raises:
        CrossbatchError: Another process, or another object in this one, holds it; or the file
            cannot be made.
    """
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        remedy = "Choose another place."
        raise CrossbatchError(expected(f"to write beside {folder}", error, remedy)) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            other = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            wanted, got = f"to be the only writer of {folder}", f"another one, process {other}"
            remedy = "Wait until it has finished; searching goes on meanwhile."
            raise CrossbatchError(expected(wanted, got, remedy)) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)

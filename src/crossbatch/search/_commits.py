"""Which version of the table counts: the one that `index.json` names.

LanceDB commits by renaming a manifest into place. But its local writer does not sync what it
wrote, and on a full disk it can take a file for whole that was cut off, and commit it. So a commit
counts only after each new file was found whole and was synced; then `index.json` names its
version, which is the one that readers open. What came after is dropped by removing its manifests:
that needs no room, and happens when a commit fails, and when the next writer begins.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossbatch._files import sync
from crossbatch.errors import CrossbatchError
from crossbatch.search._table import TABLE

_ENDS = {".lance": b"LANC", ".manifest": b"LANC", ".idx": b"LANC", ".arrow": b"ARROW1"}
_PARTS = ("data", "_versions", "_deletions", "_indices")
_LAST = 2**64 - 1  # manifests are named by the distance from it


def versions(folder: Path) -> dict[int, Path]:
    """The manifests of an index's table, by version."""
    found = (folder / f"{TABLE}.lance" / "_versions").glob("*.manifest")
    named = ((int(path.stem), path) for path in found if path.stem.isdigit())
    return {(_LAST - n if n > _LAST // 2 else n): path for n, path in named}


def roll_back(folder: Path, version: int) -> None:
    """Forget all versions after one. Only who holds the lock of the index may do so."""
    later = [path for n, path in versions(folder).items() if n > version]
    for path in later:
        path.unlink(missing_ok=True)
    if later:
        (folder / f"{TABLE}.lance" / "_versions" / "latest_version_hint.json").unlink(
            missing_ok=True
        )


@contextmanager
def whole(folder: Path) -> Iterator[None]:
    """Check and sync all files that the block adds to the table; remove them if it fails.

    Raises:
        CrossbatchError: One of them is cut off.
    """
    before = _files(folder)
    try:
        yield
        new = _files(folder) - before
        for name in sorted(new):
            _check(Path(name), folder)
        for parent in {Path(name).parent for name in new}:
            sync(parent)
    except BaseException:
        with contextlib.suppress(OSError):  # on a full disk they would stand in the way
            for name in _files(folder) - before:
                Path(name).unlink(missing_ok=True)
        raise


def _check(path: Path, folder: Path) -> None:
    with path.open("rb") as file:
        end = _ENDS.get(path.suffix, b"")
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(max(0, size - len(end)))
        if file.read() != end:
            raise CrossbatchError(
                f"Could not write {folder}: a file was cut off after {size:,} bytes. What was "
                "committed before stands. Make room or choose another place, then run this again."
            )
        os.fsync(file.fileno())


def _files(folder: Path) -> set[str]:
    table, found = folder / f"{TABLE}.lance", set[str]()
    for part in _PARTS:
        for here, _, names in os.walk(table / part):
            found.update(os.path.join(here, name) for name in names)  # noqa: PTH118
    return found

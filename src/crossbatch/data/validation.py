"""Which rows of a manifest can be used, and what is wrong with the others.

Left out: images that are missing or cannot be decoded to their end, empty labels, and labels that
are not among the known ones, where these are given. Only noted: an image listed twice; a training
class with one image, which serves as a negative alone; a query whose class has no other image in
the gallery of its split, which evaluation will skip; one class only, with which nothing can be
trained.
"""

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from crossbatch.data._decode import decode as decode_image
from crossbatch.data._presence import look
from crossbatch.data.manifest import Manifest
from crossbatch.data.problems import Kind, Problem, Validation

_ENOUGH = 64  # decoding small reads a JPEG to its end all the same
_BLOCK = 1024  # rows in flight


def validate(
    manifest: Manifest,
    *,
    decode: bool = True,
    known: Collection[str] | None = None,
    found: Sequence[Problem] = (),
    watch: Callable[[Iterable[Problem | None]], Iterable[Problem | None]] = iter,
) -> Validation:
    """Look at every row; each one left out is listed with its reason.

    Images are decoded in as many threads as there are processors.

    Args:
        manifest: What to look at.
        decode: Whether to decode every image; otherwise only the presence of files is checked.
        known: The labels that may occur; None for any.
        found: Problems from an importer, listed first.
        watch: Wraps the stream of results, one per row, to show progress.

    Returns:
        The rows that can be used, and all problems.
    """

    def examine(row: int) -> Problem | None:
        return _label(manifest, row, known) or _image(manifest, row)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # broken EXIF and the like do no harm
        looks = _in_threads(examine, len(manifest)) if decode else _listed(manifest, known)
        faults = list(watch(looks))
    kept = manifest.select(np.array([fault is None for fault in faults], dtype=bool))
    excluded = [fault for fault in faults if fault is not None]
    return Validation(kept, (*found, *excluded, *_notes(kept)))


def _in_threads(examine: Callable[[int], Problem | None], rows: int) -> Iterator[Problem | None]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, rows, _BLOCK):
            yield from pool.map(examine, range(start, min(start + _BLOCK, rows)))


def _listed(manifest: Manifest, known: Collection[str] | None) -> Iterator[Problem | None]:
    """Labels, and whether the files are there."""
    table = manifest.table
    files = np.ones(len(manifest), bool)
    if "image" in table.column_names:
        files = table["image"].flatten()[0].is_null().to_numpy()
    absent = np.zeros(len(manifest), bool)
    absent[files] = look(manifest.root, table["path"].filter(pa.array(files))).missing
    for row, gone in enumerate(absent.tolist()):
        yield _label(manifest, row, known) or (_gone(manifest, row) if gone else None)


def _label(manifest: Manifest, row: int, known: Collection[str] | None) -> Problem | None:
    label = manifest.labels[row]
    if not label.strip():
        return Problem(Kind.EMPTY_LABEL, manifest.name(row), f"id {manifest.ids[row]}")
    if known is not None and label not in known:
        return Problem(Kind.UNKNOWN_LABEL, manifest.name(row), label)
    return None


def _gone(manifest: Manifest, row: int) -> Problem:
    return Problem(Kind.MISSING, manifest.name(row), f"no file at {manifest.path(row)}")


def _image(manifest: Manifest, row: int) -> Problem | None:
    path = manifest.path(row)
    if path is not None and not path.is_file():
        return _gone(manifest, row)
    try:
        decode_image(path or manifest.image_bytes(row), shortest=_ENOUGH)
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into
        reason = str(error) or type(error).__name__
        return Problem(Kind.UNREADABLE, manifest.name(row), reason.splitlines()[0])
    return None


def _notes(manifest: Manifest) -> Iterator[Problem]:
    for name, count in Counter(manifest.column("path")).items():
        if name is not None and count > 1:
            yield Problem(Kind.LISTED_TWICE, name, f"{count} times")
    training = manifest.split("train")
    sizes = Counter(training.labels)
    for label in training.classes:
        if sizes[label] == 1:
            yield Problem(Kind.ONE_IMAGE, label, "serves as a negative only")
    for row in _unmatched(manifest):
        reason = f"no other image of {manifest.labels[row]} in the gallery"
        yield Problem(Kind.NO_MATCH, manifest.name(row), reason)
    if len(sizes) == 1:
        yield Problem(Kind.ONE_CLASS, training.classes[0], "training needs two classes or more")


def _unmatched(manifest: Manifest) -> list[int]:
    """Queries outside training without another image of their class in their split's gallery."""
    splits, roles = manifest.column("split"), manifest.column("role")
    gallery: dict[tuple[str, str], int] = defaultdict(int)
    for split, label, role in zip(splits, manifest.labels, roles, strict=True):
        gallery[split, label] += role in ("gallery", None)
    return [
        row
        for row, (split, role) in enumerate(zip(splits, roles, strict=True))
        if split != "train"
        and role in ("query", None)
        and gallery[split, manifest.labels[row]] <= (role is None)
    ]

"""Which rows of a manifest can be used, and what is wrong with the others.

Left out: images that are missing or cannot be decoded to their end, empty labels, and labels that
are not among the known ones, where these are given. Only noted: an image listed twice; a training
class with one image, which serves as a negative alone; a query whose class has no other image in
the gallery of its split, which evaluation will skip; one class only, with which nothing can be
trained.
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from crossbatch.data._decode import decode as decode_image
from crossbatch.data._presence import look
from crossbatch.data._schema import SPLITS
from crossbatch.data.manifest import Manifest
from crossbatch.data.problems import Kind, Problem, Validation

_ENOUGH = 64  # decoding small reads a JPEG to its end all the same
_BLOCK = 1024  # rows in flight
_PIECE = 2**16  # paths that are Python texts at a time


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

    Raises:
        CrossbatchError: A folder cannot be listed.
    """
    missing, links = _presence(manifest)

    def examine(row: int) -> Problem | None:
        wrong = _label(manifest, row, known) or (_gone(manifest, row) if missing[row] else None)
        return wrong or (_image(manifest, row) if decode else None)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # broken EXIF and the like do no harm
        rows = len(manifest)
        looks = _in_threads(examine, rows) if decode else map(examine, range(rows))
        sound, excluded = np.ones(len(manifest), bool), list[Problem]()
        for row, fault in enumerate(watch(looks)):
            if fault is not None:
                sound[row] = False
                excluded.append(fault)
    kept = manifest.select(sound) if excluded else manifest
    outside = [link for link in links if link not in found]
    return Validation(kept, (*found, *excluded, *outside, *_notes(kept)))


def _in_threads(examine: Callable[[int], Problem | None], rows: int) -> Iterator[Problem | None]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, rows, _BLOCK):
            yield from pool.map(examine, range(start, min(start + _BLOCK, rows)))


def _presence(manifest: Manifest) -> tuple[np.ndarray, list[Problem]]:
    """Which rows have neither bytes nor a file, and the links that lead out of the root."""
    table = manifest.table
    files = np.ones(len(manifest), bool)
    if "image" in table.column_names:
        files = table["image"].flatten()[0].is_null().to_numpy()
    paths = table["path"] if files.all() else table["path"].filter(pa.array(files))
    found = look(manifest.root, paths)
    missing = np.zeros(len(manifest), bool)
    missing[files] = found.missing
    return missing, [Problem(Kind.OUTSIDE, folder, reason) for folder, reason in found.links]


def _label(manifest: Manifest, row: int, known: Collection[str] | None) -> Problem | None:
    label = manifest.labels[row]
    if not label.strip():
        return Problem(Kind.EMPTY_LABEL, manifest.name(row), f"id {manifest.ids[row]}")
    if known is not None and label not in known:
        return Problem(Kind.UNKNOWN_LABEL, manifest.name(row), label)
    return None


def _gone(manifest: Manifest, row: int) -> Problem:
    path = manifest.path(row)
    if path is not None and path.is_dir():
        return Problem(Kind.MISSING, manifest.name(row), "a folder stands in its place")
    return Problem(Kind.MISSING, manifest.name(row), f"no file at {manifest.path(row)}")


def _image(manifest: Manifest, row: int) -> Problem | None:
    try:
        decode_image(manifest.path(row) or manifest.image_bytes(row), shortest=_ENOUGH)
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into
        reason = str(error) or type(error).__name__
        return Problem(Kind.UNREADABLE, manifest.name(row), reason.splitlines()[0])
    return None


def _notes(manifest: Manifest) -> Iterator[Problem]:
    for name, count in _twice(manifest.table["path"]).items():
        yield Problem(Kind.LISTED_TWICE, name, f"{count} times")
    training = manifest.codes[manifest.column("split") == "train"]
    sizes = np.bincount(training, minlength=len(manifest.classes))
    for code in np.flatnonzero(sizes == 1).tolist():
        yield Problem(Kind.ONE_IMAGE, manifest.classes[code], "serves as a negative only")
    for row in _unmatched(manifest).tolist():
        reason = f"no other image of {manifest.labels[row]} in the gallery"
        yield Problem(Kind.NO_MATCH, manifest.name(row), reason)
    trained = np.flatnonzero(sizes)
    if len(trained) == 1:
        name = manifest.classes[int(trained[0])]
        yield Problem(Kind.ONE_CLASS, name, "training needs two classes or more")


def _twice(paths: pa.ChunkedArray) -> dict[str, int]:
    """The paths that stand in several rows, and in how many; found by their hashes, 16 N bytes."""
    named = paths.drop_null()
    hashes = np.empty(len(named), np.int64)
    for start in range(0, len(named), _PIECE):
        piece = named.slice(start, _PIECE).to_pylist()
        hashes[start : start + len(piece)] = [hash(path) for path in piece]
    ordered = np.sort(hashes)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return {}
    found = Counter(named.filter(pa.array(np.isin(hashes, again))).to_pylist())
    return {name: count for name, count in found.items() if count > 1}


def _unmatched(manifest: Manifest) -> np.ndarray:
    """Rows of queries outside training without another image of their class in their gallery."""
    splits, roles = manifest.column("split"), manifest.column("role")
    leave_one_out = manifest.table["role"].is_null().to_numpy()
    place = manifest.codes * len(SPLITS)
    for number, name in enumerate(SPLITS):
        place[splits == name] += number
    gallery = np.bincount(place[(roles == "gallery") | leave_one_out], minlength=1)
    gallery = np.pad(gallery, (0, len(SPLITS) * len(manifest.classes)))
    asks = (splits != "train") & ((roles == "query") | leave_one_out)
    return np.flatnonzero(asks & (gallery[place] <= leave_one_out))

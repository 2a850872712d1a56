"""Decoded images in one file: what a training reads again and again need not be decoded again.

A folder holds `pixels.bin`, the images one after another, (height, width, 3) uint8, upright RGB,
the shorter side S pixels or as many as the image has; `index.npy`, a row per row of the manifest:
where its pixels begin, height, width, and a stamp of the file that they come from; `meta.json`,
the format's version and S. The pixels are memory-mapped: only those that are looked at are read.

A stamp is a file's size and time of change (ns), or of embedded bytes their number and CRC-32.
Opening compares all of them, so a pack of images that have changed since is refused.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from crossbatch._files import recover_folder, replace_folder
from crossbatch.data._decode import decode
from crossbatch.data.manifest import Manifest
from crossbatch.errors import CrossbatchError, FormatError, expected

FORMAT = 1
PIXELS, INDEX, META = "pixels.bin", "index.npy", "meta.json"
_ROW = np.dtype(
    [("id", "<i8"), ("start", "<u8"), ("height", "<u4"), ("width", "<u4"), ("stamp", "<i8", 2)]
)
_BLOCK = 256  # images in flight
_NAMED = 5


@dataclass(frozen=True, eq=False)
class PackedImages:
    """The decoded images of a manifest, row by row.

    Attributes:
        data: All bytes, memory-mapped, read-only.
        index: Per row of the manifest: id, start, height, width, stamp.
        shortest: S, the shorter side in pixels, of every image that had as many.
    """

    data: np.ndarray
    index: np.ndarray
    shortest: int

    @classmethod
    def open(cls, folder: Path | str, manifest: Manifest) -> Self:
        """Open the pack of a manifest, if it holds its images as they are now.

        Raises:
            FormatError: There is no whole pack in the folder, it is of another format version or
                manifest, or images have changed since.

        Cost: one question to the disk per file, or a pass over the embedded bytes.
        """
        folder = Path(folder)
        recover_folder(folder)
        remedy = "Make it again with `crossbatch pack`."
        wanted = f"a pack of decoded images in {folder}"
        try:
            meta = json.loads((folder / META).read_text("utf-8"))
            if meta["format"] != FORMAT:
                raise FormatError(expected(f"{wanted}, format {FORMAT}", meta["format"], remedy))
            index = np.load(folder / INDEX)
            data = np.memmap(folder / PIXELS, np.uint8, "r")
            shortest = int(meta["shortest"])
        except FormatError:
            raise
        except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
            raise FormatError(expected(wanted, repr(error), remedy)) from error
        if index.dtype != _ROW or not len(index) or _end(index[-1]) != len(data):
            got = f"{len(data):,} bytes that are not those of its index"
            raise FormatError(expected(wanted, got, remedy))
        if not np.array_equal(index["id"], manifest.ids):
            got = f"{len(index):,} images with other ids than the manifest's {len(manifest):,}"
            raise FormatError(expected(wanted, got, remedy))
        stale = np.flatnonzero((index["stamp"] != _stamps(manifest)).any(1))
        if len(stale):
            named = ", ".join(manifest.name(int(row)) for row in stale[:_NAMED])
            got = f"{len(stale):,} that have changed since or are gone: {named}"
            raise FormatError(expected(f"the images of {folder} as they were", got, remedy))
        return cls(data, index, shortest)

    def __len__(self) -> int:
        return len(self.index)

    def pixels(self, row: int) -> np.ndarray:
        """The image of a row, ``(height, width, 3)`` uint8, read-only, not yet in memory."""
        entry = self.index[row]
        shape = (int(entry["height"]), int(entry["width"]), 3)
        return self.data[int(entry["start"]) : _end(entry)].reshape(shape)


def pack(
    manifest: Manifest,
    folder: Path | str,
    *,
    shortest: int,
    watch: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]] = iter,
) -> PackedImages:
    """Decode all images of a manifest into a folder, whole or not at all.

    Args:
        manifest: N images.
        folder: Where the pack shall be; one that stands there is replaced.
        shortest: S ≥ 1. Images are resized (bicubic) to this shorter side, never enlarged.
        watch: Wraps the stream of images, to show progress.

    Raises:
        CrossbatchError: An image cannot be read, or the folder cannot be written. What stood
            there still stands.

    Cost: every image is decoded once; about 4 S² bytes each for photos of 4:3.
    """
    if shortest < 1:
        raise CrossbatchError(expected("`shortest` of at least 1 pixel", shortest, "Use 256."))
    folder = Path(folder)
    replace_folder(folder, lambda part: _write(part, manifest, shortest, watch))
    return PackedImages.open(folder, manifest)


def _write(
    part: Path,
    manifest: Manifest,
    shortest: int,
    watch: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]],
) -> None:
    index = np.zeros(len(manifest), _ROW)
    index["id"], index["stamp"] = manifest.ids, _stamps(manifest)  # before: a change is noticed
    start = 0
    with (part / PIXELS).open("wb") as file:
        for row, pixels in enumerate(watch(_decoded(manifest, shortest))):
            index["start"][row] = start
            index["height"][row], index["width"][row] = pixels.shape[:2]
            file.write(pixels.data)
            start += pixels.size
    np.save(part / INDEX, index)
    meta = {"format": FORMAT, "shortest": shortest}
    (part / META).write_text(json.dumps(meta) + "\n", encoding="utf-8")


def _decoded(manifest: Manifest, shortest: int) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(manifest), _BLOCK):
            rows = range(start, min(start + _BLOCK, len(manifest)))
            yield from pool.map(partial(_image, manifest, shortest=shortest), rows)


def _image(manifest: Manifest, row: int, *, shortest: int) -> np.ndarray:
    try:
        picture = decode(manifest.path(row) or manifest.image_bytes(row), shortest=shortest)
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into
        wanted = f"a readable image in row {row} (id {manifest.ids[row]}) of the manifest"
        got = f"{manifest.name(row)}: {error or type(error).__name__}"
        remedy = "Mend the file, or make the manifest again."
        raise CrossbatchError(expected(wanted, got, remedy)) from error
    ratio = shortest / min(picture.size)
    if ratio < 1:
        width, height = (max(shortest, round(side * ratio)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _stamps(manifest: Manifest) -> np.ndarray:
    """Per row two numbers that change with its image, ``(N, 2)`` int64; -1 where there is none."""
    stamps = np.full((len(manifest), 2), -1, np.int64)
    for row in range(len(manifest)):
        path = manifest.path(row)
        if path is None:
            content = manifest.image_bytes(row)
            stamps[row] = len(content), zlib.crc32(content)
            continue
        try:
            found = path.stat()
        except OSError:
            continue
        stamps[row] = found.st_size, found.st_mtime_ns
    return stamps


def _end(entry: Any) -> int:
    return int(entry["start"]) + 3 * int(entry["height"]) * int(entry["width"])

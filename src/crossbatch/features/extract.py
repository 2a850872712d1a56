"""Extraction: each image's features once, streamed to a table in bounded memory.

At no time is more than one batch held. The table is written beside its place and takes it when it
is whole; an interruption, a full disk or a bad image leaves what stood there before.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossbatch._files import replace_folder
from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.features.table import FEATURES, FORMAT, IDS, META, FeatureTable

_NAMED = 5  # ids named in a message

Encode = Callable[[Tensor], Tensor]
"""Images ``(B, 3, H, W)`` to features ``(B, F)``."""
Batches = Iterable[tuple[np.ndarray | Tensor, Tensor]]
"""Pairs of ids ``(B,)`` and images ``(B, 3, H, W)``."""


def extract(
    encode: Encode,
    batches: Batches,
    folder: Path | str,
    *,
    rows: int,
    width: int,
    digest: str,
    notes: Mapping[str, str | int | float] | None = None,
) -> FeatureTable:
    """The table of features in a folder; it is made if none of this digest stands there.

    Args:
        encode: Makes features of a batch of images, wherever it likes; called without gradients.
        batches: Ids and images. Not touched when the table stands already.
        folder: Where the table lies. A table of another digest there is replaced.
        rows: N, the images that ``batches`` gives.
        width: F, the features that ``encode`` gives.
        digest: Of all that the features depend on: images, transform, trunk, weights.
        notes: Kept with the table.

    Returns:
        The table, memory-mapped.

    Raises:
        CrossbatchError: Features are not finite (the message names the images' ids), or of
            another number or width than announced; ids are given twice; the folder could not be
            written. What stood there still stands.
    """
    folder = Path(folder)
    if rows < 1:
        raise CrossbatchError(expected("at least one image", rows, "Check the manifest."))
    try:
        return FeatureTable.open(folder, digest=digest)
    except FormatError:
        pass
    meta = {"format": FORMAT, "digest": digest, "notes": dict(notes or {})}
    blocks = _blocks(encode, batches)
    replace_folder(folder, lambda part: _write(part, blocks, (rows, width), meta))
    return FeatureTable.open(folder, digest=digest)


def _blocks(encode: Encode, batches: Batches) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    for ids, images in batches:
        with torch.inference_mode():
            features = encode(images).float().cpu().numpy()
        yield np.asarray(ids), features


def _write(
    part: Path,
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int],
    meta: dict[str, Any],
) -> None:
    rows, width = shape
    kept = np.empty(rows, np.int64)
    done = 0
    # Plain writing, not a memory map: on a full disk a write fails, a map kills the process.
    with (part / FEATURES).open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for ids, features in blocks:
            _check(ids, features, width, rows - done)
            kept[done : done + len(ids)] = ids
            file.write(np.ascontiguousarray(features, "<f4").data)
            done += len(ids)
    if done < rows:
        raise CrossbatchError(expected(f"{rows} images", done, "Count the images again."))
    distinct, counts = np.unique(kept, return_counts=True)
    if len(distinct) < rows:
        got = f"some twice: {distinct[counts > 1][:_NAMED].tolist()}"
        raise CrossbatchError(expected("each id once", got, "Go through the images once."))
    np.save(part / IDS, kept)
    (part / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _check(ids: np.ndarray, features: np.ndarray, width: int, left: int) -> None:
    if features.shape != (len(ids), width):
        wanted = f"features of shape ({len(ids)}, {width}) for {len(ids)} images"
        remedy = "Give `extract` the width that `encode` returns."
        raise CrossbatchError(expected(wanted, features.shape, remedy))
    if len(ids) > left:
        wanted = f"{left} more images at most"
        raise CrossbatchError(expected(wanted, len(ids), "Count the images again."))
    bad = ids[~np.isfinite(features).all(axis=1)]
    if len(bad):
        raise CrossbatchError(
            expected(
                "finite features",
                f"NaN or infinity for {len(bad)} images of a batch, ids {bad[:_NAMED].tolist()}",
                "Look at these images, or extract in float32.",
            )
        )

"""Embeddings as a file: Parquet with a row per image, or a NumPy matrix beside its list."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossbatch._files import write_beside
from crossbatch.data import Kind, Manifest, Problem
from crossbatch.errors import CrossbatchError, expected
from crossbatch.models import Encoder
from crossbatch.models.encoding import Embedded, Picture, embed_pictures

FORMAT = 1
SUFFIXES = (".parquet", ".npy")

Watch = Callable[[Iterable[Embedded]], Iterable[Embedded]]
"""Passes batches on and may show how far they are."""


def pictures(manifest: Manifest) -> Iterable[Picture]:
    """Each row's file or bytes, read only when they are taken."""
    for row in range(len(manifest)):
        yield manifest.path(row) or manifest.image_bytes(row)


def write_embeddings(
    encoder: Encoder,
    manifest: Manifest,
    out: Path,
    *,
    batch_size: int = 32,
    workers: int = 2,
    watch: Watch = iter,
) -> list[Problem]:
    """Embed the images of a manifest into a file; those that cannot be read are left out.

    Args:
        encoder: Used where it is.
        manifest: N images.
        out: ``.parquet``: the manifest's columns but its images, and ``embedding``, lists of D
            float32 of unit norm; the encoder's digest in the metadata. ``.npy``: a float32 matrix
            of a row per readable image, and beside it ``NAME.parquet`` with the other columns.
        batch_size: Images at a time.
        workers: Threads that decode.
        watch: Wrapped around the batches.

    Returns:
        The images that were left out.

    Raises:
        CrossbatchError: Another suffix, no image could be read, or a file cannot be written.

    Cost: N · D · 4 bytes.
    """
    if out.suffix not in SUFFIXES:
        remedy = "Name the file so; the suffix chooses the format."
        raise CrossbatchError(expected(f"`out` ending in {' or '.join(SUFFIXES)}", out, remedy))
    places: list[int] = []
    blocks: list[np.ndarray] = []
    problems: list[Problem] = []
    given = embed_pictures(encoder, pictures(manifest), batch_size=batch_size, workers=workers)
    for batch in watch(given):
        places += batch.places
        blocks.append(batch.embeddings.numpy())
        for place, reason in batch.faults:
            problems.append(Problem(Kind.UNREADABLE, manifest.name(place), reason))
    if not places:
        first = f"none of {len(manifest)}, the first {problems[0].path}: {problems[0].reason}"
        remedy = "Check where the manifest's paths start."
        raise CrossbatchError(expected("at least one image that can be read", first, remedy))
    _write(out, manifest.select(np.array(places)), np.concatenate(blocks), encoder.digest())
    return problems


def _write(out: Path, manifest: Manifest, embeddings: np.ndarray, digest: str) -> None:
    kept = [name for name in manifest.table.column_names if name != "image"]
    about = {"format": FORMAT, "model": digest}
    table = manifest.table.select(kept).replace_schema_metadata(
        {b"crossbatch_embeddings": json.dumps(about).encode()}
    )
    if out.suffix == ".npy":
        write_beside(out.with_suffix(".parquet"), lambda part: pq.write_table(table, part))
        write_beside(out, lambda part: np.save(part, embeddings))
        return
    lists = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    whole = table.append_column("embedding", lists)
    write_beside(out, lambda part: pq.write_table(whole, part, compression="zstd"))

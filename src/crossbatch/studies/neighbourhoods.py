"""Embeddings as a map to walk on: each image with what is known of it, and its nearest neighbours.

The file is Parquet, for any tool. Its last column is in the words of Apple's Embedding Atlas
(Ren, Hohman, Lin and Moritz, arXiv 2505.06386): neighbours by their row and distance 1 − s.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossbatch._files import write_beside
from crossbatch.curriculum import DensityRanker
from crossbatch.data import Manifest, Problem
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation.table import Watch, write_embeddings
from crossbatch.models import Encoder
from crossbatch.search.nearest import nearest

VECTOR, ROWS = "embedding", "atlas_neighbors"
_BLOCK = 1024  # queries at a time


def write_neighbourhoods(
    encoder: Encoder,
    manifest: Manifest,
    out: Path,
    *,
    neighbours: int = 10,
    batch_size: int = 32,
    workers: int = 2,
    watch: Watch = iter,
) -> list[Problem]:
    """Write the embeddings of N images and the k nearest of each, exactly.

    Args:
        encoder: Used where it is.
        manifest: The images. All columns but images themselves are written. Where it has neither
            ``density`` nor ``subset``, both are those of these embeddings within the label
            (:class:`crossbatch.curriculum.DensityRanker`, its defaults).
        out: Ends in ``.parquet``. Further columns are ``embedding``, lists of D float32 of unit
            norm; ``neighbour_ids``, lists of ids, the most similar first, never the image's own;
            ``neighbour_similarities``, their cosines; and ``atlas_neighbors``.
        neighbours: k, at least 1; fewer where there are fewer images.
        batch_size: Images at a time.
        workers: Threads that decode.
        watch: Wrapped around the batches.

    Returns:
        The images that were left out because they cannot be read.

    Raises:
        CrossbatchError: Another suffix, a number below 1, no image can be read, or the file
            cannot be written.

    Cost: N² D multiplications, N (D + 4 k) · 4 bytes.
    """
    if out.suffix != ".parquet":
        remedy = "Name the file so."
        raise CrossbatchError(expected("`out` ending in .parquet", out, remedy))
    if neighbours < 1:
        raise CrossbatchError(expected("`neighbours` ≥ 1", neighbours, "Raise it."))
    problems: list[Problem] = []

    def write(part: Path) -> None:
        problems.extend(
            write_embeddings(
                encoder, manifest, part, batch_size=batch_size, workers=workers, watch=watch
            )
        )
        table = pq.read_table(part)
        table = _with_neighbours(_with_density(table), neighbours)
        pq.write_table(table, part, compression="zstd")

    write_beside(out, write)
    return problems


def _vectors(table: pa.Table) -> np.ndarray:
    flat = table[VECTOR].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), -1)


def _with_density(table: pa.Table) -> pa.Table:
    if {"density", "subset"} & set(table.column_names):
        return table  # as another ranking has it
    labels = table["label"].fill_null("").to_numpy()
    ranker = DensityRanker().fit(_vectors(table), labels)
    for name, values in (("density", ranker.density_), ("subset", ranker.subset_)):
        place = table.column_names.index(VECTOR)
        table = table.add_column(place, name, pa.array(values))
    return table


def _with_neighbours(table: pa.Table, k: int) -> pa.Table:
    many, vectors = len(table), _vectors(table)
    k = min(k, many - 1)
    rows = np.empty((many, k), np.int64)
    similarities = np.empty((many, k), np.float32)
    for start in range(0, many, _BLOCK):
        own = np.arange(start, min(start + _BLOCK, many))
        found = nearest(vectors, vectors[own], k + 1)
        kept = found.rows != own[:, None]
        kept[kept.all(axis=1), -1] = False  # its copies stand before it
        rows[own] = found.rows[kept].reshape(len(own), k)
        similarities[own] = found.similarities[kept].reshape(len(own), k)
    ids = table["id"].to_numpy()[rows]
    atlas = pa.StructArray.from_arrays(
        [_lists(rows), _lists(1 - similarities)], names=["ids", "distances"]
    )
    table = table.append_column("neighbour_ids", _lists(ids))
    table = table.append_column("neighbour_similarities", _lists(similarities))
    return table.append_column(ROWS, atlas)


def _lists(array: np.ndarray) -> pa.ListArray:
    offsets = np.arange(0, array.size + 1, max(1, array.shape[1]), dtype=np.int32)
    if not array.shape[1]:
        offsets = np.zeros(len(array) + 1, np.int32)
    return pa.ListArray.from_arrays(offsets, array.ravel())

"""An approximate index: an inverted file, and how much of the truth it finds.

k-means parts the sphere into about √N cells (IVF). A search looks into the few cells whose centres
are nearest, and compares exactly there. Recall is measured, not promised: items serve as queries,
their exact neighbours are known, and cells are added until enough of them are found.

*Video Google* (Sivic and Zisserman, ICCV 2003) for the inverted file; Jégou, Douze and Schmid,
TPAMI 2011, for its use in nearest-neighbour search.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np

from crossbatch.search._header import Ann
from crossbatch.search.nearest import nearest

K = 10
TARGET = 0.96  # of recall@10 among items: what is asked later shall have 0.95
QUERIES = 300


def build(table: Any, rows: int) -> None:
    """Build the inverted file over a table of so many rows, as one commit.

    Cost: k-means over 256 rows a cell.
    """
    from lancedb.index import IvfFlat

    config = IvfFlat(distance_type="dot", num_partitions=cells(rows), max_iterations=20)
    table.create_index("vector", config=config, wait_timeout=timedelta(hours=24))


def cells(rows: int) -> int:
    """How many cells so many rows are parted into."""
    return max(1, round(2 * rows**0.5))


def measure(table: Any, ids: np.ndarray, vectors: np.ndarray) -> Ann:
    """Choose how many cells to look into, and say what that finds and saves.

    Args:
        table: With the inverted file.
        ids: (N,) of the items, ascending.
        vectors: (N, D), theirs.

    Cost: one exact search of 300 queries, and some approximate ones of each.
    """
    started = time.perf_counter()
    partitions = cells(len(ids))
    rows = np.random.default_rng(0).permutation(len(ids))[:QUERIES]
    truth = [
        [row for row in found.tolist() if row != own][:K]
        for found, own in zip(nearest(vectors, vectors[rows], K + 1).rows, rows, strict=True)
    ]
    probes, recall = 4, 0.0
    while True:
        probes = min(probes, partitions)
        hits = total = 0
        for row, wanted in zip(rows, truth, strict=True):
            found = set(search(table, vectors[row], K + 1, probes=probes)["id"].to_pylist())
            hits += len(found & set(ids[wanted].tolist()))
            total += len(wanted)
        recall = hits / total if total else 1.0
        if recall >= TARGET or probes == partitions:
            break
        probes = round(probes * 1.5)
    some = vectors[rows[:20]]
    speedup = _median(lambda q: nearest(vectors, q[None], K), some) / _median(
        lambda q: search(table, q, K, probes=probes), some
    )
    seconds = time.perf_counter() - started
    return Ann(len(ids), partitions, probes, recall, len(rows), speedup, seconds)


def search(table: Any, query: np.ndarray, k: int, *, probes: int, where: str | None = None) -> Any:
    """The nearest items that the inverted file leads to: a table of `id` and `_distance`."""
    found = table.search(query, vector_column_name="vector").distance_type("dot").nprobes(probes)
    if where is not None:
        found = found.where(where, prefilter=True)
    return found.select(["id", "_distance"]).with_row_id(True).limit(k).to_arrow()


def _median(search: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    taken: list[float] = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))

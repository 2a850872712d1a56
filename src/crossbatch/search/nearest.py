"""The nearest rows of a gallery, exactly: one product, block by block.

With unit vectors the similarity of a query q to row j is s_j = ⟨q, v_j⟩. A block of rows fits the
second-level cache beside its similarities for several queries; for one query the product is bound
by the memory's bandwidth, and what comes after it must be cheap: most rows are passed over by a
bound on the k-th largest similarity. Equal similarities stand in the order of the rows.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from crossbatch.errors import CrossbatchError, expected

Array = np.ndarray[Any, Any]
ENTRIES = 2**20  # similarities in a block
GROUP = 64  # similarities whose maximum is taken together
PAIRS = 2_000_000  # held by `near_pairs` at most


class Nearest(NamedTuple):
    """What was found for Q queries.

    Attributes:
        rows: (Q, k) places in the gallery, the most similar first.
        similarities: (Q, k) cosines, float32, falling.
    """

    rows: Array
    similarities: Array


class Pair(NamedTuple):
    """Two rows of a gallery, the first before the second, and their cosine."""

    first: int
    second: int
    similarity: float


def nearest(vectors: Array, queries: Array, k: int, *, among: Array | None = None) -> Nearest:
    """The k most similar rows of each query.

    Args:
        vectors: (N, D) float32, unit rows.
        queries: (Q, D) float32, unit rows.
        k: At most this many; fewer where the gallery has fewer.
        among: Places to choose from, ascending; all by default.

    Cost: Q · N · D multiplications, one pass over the vectors for every 2²⁰ / N queries, memory
    for 2²⁰ similarities or those of one query.
    """
    if among is not None:
        vectors = vectors[among]
    k = min(k, len(vectors))
    step = max(1, ENTRIES // max(1, len(vectors)))
    blocks = [_best(vectors, queries[i : i + step], k) for i in range(0, len(queries), step)]
    rows = np.concatenate([block.rows for block in blocks])
    similarities = np.concatenate([block.similarities for block in blocks])
    return Nearest(rows if among is None else among[rows], similarities)


def _best(vectors: Array, queries: Array, k: int) -> Nearest:
    # One query: a matrix by a vector is quicker than by a matrix of one column.
    similar = (vectors @ queries[0])[None] if len(queries) == 1 else queries @ vectors.T
    rows = np.empty((len(similar), k), np.int64)
    for i, row in enumerate(similar):
        rows[i] = _largest(row, k)
    return Nearest(rows, np.take_along_axis(similar, rows, axis=1))


def _largest(row: Array, k: int) -> Array:
    """Where the k largest numbers stand, falling; equal ones in their order.

    The k-th largest of the maxima of some groups is a lower bound of the k-th largest number: no
    fewer than k reach it, and few more do. One pass finds it, ten times faster than a partition.
    """
    whole = len(row) // GROUP
    places = np.arange(len(row))
    if 0 < k <= whole:
        maxima = row[: whole * GROUP].reshape(whole, GROUP).max(axis=1)
        places = np.flatnonzero(row >= np.partition(maxima, whole - k)[whole - k])
    return places[np.argsort(-row[places], kind="stable")[:k]]


def near_pairs(vectors: Array, threshold: float) -> list[Pair]:
    """All pairs of rows at least so similar, the most similar first.

    Args:
        vectors: (N, D) float32, unit rows.
        threshold: A cosine.

    Raises:
        CrossbatchError: There are more than two million of them.

    Cost: N² D / 2 multiplications, memory for 2²⁰ similarities.
    """
    pairs: list[Pair] = []
    for first, second, similarity in _tiles(vectors, threshold):
        pairs += map(Pair._make, zip(first, second, similarity, strict=True))
        if len(pairs) > PAIRS:
            wanted = f"at most {PAIRS:,} pairs as similar as {threshold:g}"
            raise CrossbatchError(expected(wanted, "more", "Raise the threshold."))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def _tiles(vectors: Array, threshold: float) -> Iterator[tuple[list[int], list[int], list[float]]]:
    side = int(ENTRIES**0.5)
    for top in range(0, len(vectors), side):
        for left in range(top, len(vectors), side):
            similar = vectors[top : top + side] @ vectors[left : left + side].T
            if top == left:
                similar = np.triu(similar, 1) - 2 * np.tri(*similar.shape, dtype=np.float32)
            rows, columns = np.nonzero(similar >= threshold)
            kept = similar[rows, columns]
            yield (rows + top).tolist(), (columns + left).tolist(), kept.tolist()


def groups(pairs: list[Pair]) -> list[list[int]]:
    """Rows that pairs connect, each group ascending, groups in the order of their best pair."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = row = parent[parent[row]]
        return row

    for pair in pairs:
        parent[root(pair.second)] = root(pair.first)
    found: dict[int, list[int]] = {}
    for row in dict.fromkeys(row for pair in pairs for row in pair[:2]):
        found.setdefault(root(row), []).append(row)
    return [sorted(rows) for rows in found.values()]


def together(embeddings: Array) -> Array:
    """Several pictures of one thing as one query: the mean of their unit vectors, of unit norm.

    Args:
        embeddings: (Q, D).

    Returns:
        (1, D).

    Raises:
        CrossbatchError: They cancel each other out.
    """
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    mean = unit.mean(axis=0, keepdims=True)
    length = float(np.linalg.norm(mean))
    if not length > 1e-6:
        remedy = "Search with one picture at a time."
        wanted = "pictures whose embeddings have a mean direction"
        raise CrossbatchError(expected(wanted, f"a mean of length {length:.1g}", remedy))
    return (mean / length).astype(np.float32)

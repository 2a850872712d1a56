"""Evaluate an embedding: who searches where, what is left out, and the scores per query.

Two protocols. *Leave-one-out*: every image searches among all others. *Query-gallery*: the
queries search in a gallery of their own. Similarity is the cosine; rows are normalised here.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossbatch import metrics
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation.inputs import (
    Array,
    Labels,
    Rows,
    as_tiles,
    check_counts,
    read_rows,
)
from crossbatch.evaluation.retrieval import Ranked, sweep

LEAVE_ONE_OUT = "leave-one-out"
QUERY_GALLERY = "query-gallery"


class Gallery(NamedTuple):
    """Where queries search, when it is not among themselves.

    Attributes:
        embeddings: Shape (G, D), floating.
        labels: Length G, of the same kind as the labels of the queries.
        ids: Length G, unique integers; by default 0 … G−1. Give ids on both sides to leave the
            image itself out where a query is in the gallery too.
    """

    embeddings: Tensor | Array
    labels: Labels
    ids: Array | Tensor | None = None


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """Scores of an embedding, in all and query by query.

    Attributes:
        metrics: ``R@K`` for each K, ``R-precision``, ``MAP@R``, ``mAP``: means over queries.
        per_query: The same names; each an array of shape (Q,), in query order. Under ``mAP``
            stands the average precision of the query.
        query_ids: Shape (Q,), the queries that have a score.
        labels: Shape (Q,), their labels.
        neighbours: Shape (Q, k), the ids of the nearest gallery images; -1 where there are fewer.
        similarities: Shape (Q, k), the cosine to each; -inf where there is none.
        matches: Shape (Q, k), whether it has the label of the query.
        skipped: The ids of the queries without a relevant gallery image. No score exists for
            them, and they are in none of the means.
        gallery: How many images were searched.
        protocol: ``leave-one-out`` or ``query-gallery``.
    """

    metrics: dict[str, float]
    per_query: dict[str, Array]
    query_ids: Array
    labels: Array
    neighbours: Array
    similarities: Array
    matches: Array
    skipped: Array
    gallery: int
    protocol: str


def evaluate(
    embeddings: Tensor | Array,
    labels: Labels,
    *,
    ids: Array | Tensor | None = None,
    gallery: Gallery | None = None,
    ks: Sequence[int] = (1, 10, 100, 1000),
    neighbours: int = 0,
) -> RetrievalResult:
    """Score an embedding by what its images find.

    Exact, on the device of the embeddings, in float32 whatever their dtype is, in memory
    O((Q + G) · D). Irrelevant images that are as similar as a relevant one rank before it, see
    :mod:`crossbatch.evaluation.retrieval`. The metrics are those of :mod:`crossbatch.metrics`.

    Args:
        embeddings: Shape (Q, D), floating, of any length but zero: cosine similarity is used.
        labels: Length Q, integers or strings.
        ids: Length Q, unique integers that say which image a row is; by default 0 … Q−1.
        gallery: Where to search. By default among the queries, each without itself.
        ks: The cutoffs of R@K.
        neighbours: How many of the nearest gallery images to report for each query.

    Raises:
        CrossbatchError: Wrong shapes or dtypes, non-finite or zero rows, repeated ids, fewer than
            two classes in the gallery, or no query with a relevant gallery image.

    >>> found = evaluate(np.array([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]]), [5, 5, 7, 5],
    ...                  ks=(1, 2), neighbours=1)
    >>> found.skipped.tolist()                               # the only 7 has nothing to find
    [2]
    >>> {name: round(value, 3) for name, value in found.metrics.items()}
    {'R@1': 0.667, 'R@2': 1.0, 'R-precision': 0.5, 'MAP@R': 0.417, 'mAP': 0.75}
    >>> found.neighbours.tolist()
    [[1], [0], [2]]
    """
    check_counts(ks, neighbours)
    asked = read_rows(embeddings, labels, ids, where="the queries")
    found = asked if gallery is None else read_rows(*gallery, where="the gallery")
    queries, searched = as_tiles(asked, found)
    scores = _Scores(asked, found, ks, neighbours)
    with _float32():
        for part in sweep(queries, searched, neighbours=neighbours):
            scores.add(part)
    return scores.result(LEAVE_ONE_OUT if gallery is None else QUERY_GALLERY)


class _Scores:
    """Per-query scores that fill up as a sweep goes on."""

    def __init__(self, queries: Rows, gallery: Rows, ks: Sequence[int], neighbours: int) -> None:
        self.queries, self.gallery, self.ks = queries, gallery, ks
        self.found = gallery.numbers()
        rows, k = len(queries.labels), min(neighbours, len(gallery.labels))
        names = [*(f"R@{k}" for k in ks), "R-precision", "MAP@R", "mAP"]
        self.per_query: dict[str, Array] = {name: np.full(rows, np.nan) for name in names}
        self.neighbours = np.full((rows, k), -1, np.int64)
        self.similarities = np.full((rows, k), -np.inf, np.float32)
        self.matches = np.zeros((rows, k), bool)

    def add(self, part: Ranked) -> None:
        rows = part.rows.cpu().numpy()
        scores = [metrics.recall_at_k(part.ranks, k) for k in self.ks]
        scores.append(metrics.r_precision(part.ranks))
        scores.append(metrics.map_at_r(part.ranks))
        scores.append(metrics.average_precision(part.ranks))
        for values, score in zip(self.per_query.values(), scores, strict=True):
            values[rows] = score.cpu().numpy()
        places = part.neighbours.cpu().numpy()
        self.neighbours[rows] = np.where(places < 0, -1, self.found[places])
        self.similarities[rows] = part.similarities.cpu().numpy()
        same = self.gallery.labels[places] == self.queries.labels[rows, None]
        self.matches[rows] = same & (places >= 0)

    def result(self, protocol: str) -> RetrievalResult:
        kept = ~np.isnan(self.per_query["mAP"])
        if not kept.any():
            raise CrossbatchError(
                expected(
                    "queries with a relevant gallery image",
                    f"{len(kept)} queries, and for none of them another image of its label",
                    "Check that queries and gallery are labelled with the same names.",
                )
            )
        per_query = {name: values[kept] for name, values in self.per_query.items()}
        return RetrievalResult(
            metrics={name: float(values.mean()) for name, values in per_query.items()},
            per_query=per_query,
            query_ids=self.queries.numbers()[kept],
            labels=self.queries.labels[kept],
            neighbours=self.neighbours[kept],
            similarities=self.similarities[kept],
            matches=self.matches[kept],
            skipped=self.queries.numbers()[~kept],
            gallery=len(self.found),
            protocol=protocol,
        )


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Products in full float32, whatever the surrounding code has switched on."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        devices = {"cpu", "cuda"} if torch.cuda.is_available() else {"cpu"}
        with contextlib.ExitStack() as stack:
            for device in devices:
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        torch.set_float32_matmul_precision(precision)

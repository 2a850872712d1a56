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
import torch.nn.functional as F
from torch import Tensor

from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation._labelled import Extra, positions
from crossbatch.evaluation.inputs import (
    Array,
    Cameras,
    Labels,
    Rows,
    as_tiles,
    camera_codes,
    read_rows,
)
from crossbatch.evaluation.measures import DEFAULT, Measure, measures
from crossbatch.evaluation.rerank import Expansion, KReciprocal, augment, expand, k_reciprocal
from crossbatch.evaluation.retrieval import Ranked, sweep
from crossbatch.references import Tile

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


@dataclass(frozen=True, eq=False, kw_only=True)
class Search:
    """How queries search. By default by cosine similarity among all images but themselves.

    Attributes:
        cameras: Of the queries, length Q, integers or strings, None where it is not known. What
            has the label *and* the camera of the query is ignored, as Market-1501 and VeRi-776
            do: it is neither right nor wrong, and stands in no ranking. A sequence, or whatever
            else makes an image too easy to find, may take the place of the camera.
        gallery_cameras: Of the gallery, length G, where there is one.
        augment: Move every gallery image towards its nearest first.
        expand: Then move every query towards what it finds.
        rerank: Then rank by mutual neighbours; ``similarities`` of the result are s*.
    """

    cameras: Cameras | None = None
    gallery_cameras: Cameras | None = None
    augment: Expansion | None = None
    expand: Expansion | None = None
    rerank: KReciprocal | None = None

    def names(self) -> tuple[str, ...]:
        """What differs from the plain search, for reports."""
        told = {
            "images of the query's class and camera ignored": self.cameras is not None,
            f"database augmentation ({self.augment})": self.augment,
            f"query expansion ({self.expand})": self.expand,
            f"k-reciprocal re-ranking ({self.rerank})": self.rerank,
        }
        return tuple(name for name, used in told.items() if used)


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """Scores of an embedding, in all and query by query.

    Attributes:
        metrics: Means over queries, by the names of :mod:`crossbatch.evaluation.measures`.
        per_query: The same names; each an array of shape (Q,), in query order. Under ``mAP``
            stands the average precision of the query, under ``MRR`` its reciprocal rank.
        query_ids: Shape (Q,), the queries that have a score.
        labels: Shape (Q,), their labels.
        neighbours: Shape (Q, k), the ids of the nearest gallery images; -1 where there are fewer.
        similarities: Shape (Q, k), the cosine to each; -inf where there is none.
        matches: Shape (Q, k), whether it has the label of the query.
        skipped: The ids of the queries without a relevant gallery image. No score exists for
            them, and they are in none of the means.
        gallery: How many images were searched.
        protocol: ``leave-one-out`` or ``query-gallery``.
        search: What differs from a plain search, such as re-ranking.
        idle: Metrics whose cutoff is no smaller than the gallery: 1 by definition.
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
    search: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()


def evaluate(
    embeddings: Tensor | Array,
    labels: Labels,
    *,
    ids: Array | Tensor | None = None,
    gallery: Gallery | None = None,
    ks: Sequence[int] = (1, 10, 100, 1000),
    metrics: Sequence[str] = DEFAULT,
    neighbours: int = 0,
    search: Search | None = None,
) -> RetrievalResult:
    """Score an embedding by what its images find.

    Exact, on the device of the embeddings, in float32 whatever their dtype is, in memory
    O((Q + G) · D). Irrelevant images that are as similar as a relevant one rank before it, see
    :mod:`crossbatch.evaluation.retrieval`. The metrics are those of :mod:`crossbatch.metrics`;
    time falls with the depth of what is asked: R@K and MRR alone are fastest, then R-precision
    and MAP@R, then mAP and nDCG.

    Args:
        embeddings: Shape (Q, D), floating, of any length but zero: cosine similarity is used.
        labels: Length Q, integers or strings.
        ids: Length Q, unique integers that say which image a row is; by default 0 … Q−1.
        gallery: Where to search. By default among the queries, each without itself.
        ks: The cutoffs of R@K. One that reaches the whole gallery gives 1, and is named in
            :attr:`RetrievalResult.idle`.
        metrics: Further ones by name, see :mod:`crossbatch.evaluation.measures`; may be none.
        neighbours: How many of the nearest gallery images to report for each query.
        search: Cameras, and whatever else is not plain.

    Raises:
        CrossbatchError: Wrong shapes or dtypes, non-finite or zero rows, repeated ids, fewer than
            two classes in the gallery, an unknown metric, or no query with a relevant gallery
            image.

    >>> found = evaluate(np.array([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]]), [5, 5, 7, 5],
    ...                  ks=(1, 2), neighbours=1)
    >>> found.skipped.tolist()                               # the only 7 has nothing to find
    [2]
    >>> {name: round(value, 3) for name, value in found.metrics.items()}
    {'R@1': 0.667, 'R@2': 1.0, 'R-precision': 0.5, 'MAP@R': 0.417, 'mAP': 0.75}
    >>> found.neighbours.tolist()
    [[1], [0], [2]]
    """
    wanted, search = measures(ks, metrics), search or Search()
    if neighbours < 0:
        raise CrossbatchError(expected("`neighbours` ≥ 0", f"neighbours={neighbours}", "0: none."))
    asked = read_rows(embeddings, labels, ids, where="the queries")
    found = asked if gallery is None else read_rows(*gallery, where="the gallery")
    queries, searched = as_tiles(asked, found)
    cameras = camera_codes(search.cameras, search.gallery_cameras, (queries, searched))
    scores = _Scores(asked, found, wanted, neighbours)
    depth = max(measure.depth for measure in wanted)
    with _float32():
        queries, searched, extra = _prepared(queries, searched, search)
        for part in sweep(
            queries, searched, neighbours=neighbours, depth=depth, cameras=cameras, extra=extra
        ):
            scores.add(part)
    return scores.result(LEAVE_ONE_OUT if gallery is None else QUERY_GALLERY, search)


def _prepared(queries: Tile, gallery: Tile, search: Search) -> tuple[Tile, Tile, Extra | None]:
    """Both sides as the options of a search want them, and what re-ranking adds.

    Only ids say what is left out here, as a search has no labels.
    """
    if not (search.augment or search.expand or search.rerank):
        return queries, gallery, None
    asked, held = (F.normalize(tile.embeddings.float(), dim=1) for tile in (queries, gallery))
    itself = torch.equal(queries.ids, gallery.ids)
    own = positions(queries.ids, gallery.ids)
    if search.augment:
        held = augment(held, search.augment)
        asked = held if itself else torch.where((own >= 0)[:, None], held[own], asked)
    if search.expand:
        asked = expand(asked, held, search.expand, own=own)
    extra = None
    if search.rerank:
        if asked.device.type != "cpu":
            remedy = "Call `.cpu()` on both sides."
            wanted = "embeddings on the CPU for k-reciprocal re-ranking"
            raise CrossbatchError(expected(wanted, asked.device, remedy))
        found = k_reciprocal(asked, held, search.rerank, own=own)
        share = 1 - search.rerank.weight
        extra = Extra(
            search.rerank.weight,
            torch.from_numpy(found.start),
            torch.from_numpy(found.columns),
            share * torch.from_numpy(found.values),
        )
    return queries._replace(embeddings=asked), gallery._replace(embeddings=held), extra


class _Scores:
    """Per-query scores that fill up as a sweep goes on."""

    def __init__(
        self, queries: Rows, gallery: Rows, wanted: list[Measure], neighbours: int
    ) -> None:
        self.queries, self.gallery, self.wanted = queries, gallery, wanted
        self.found = gallery.numbers()
        rows, k = len(queries.labels), min(neighbours, len(gallery.labels))
        self.per_query = {measure.name: np.full(rows, np.nan) for measure in wanted}
        self.neighbours = np.full((rows, k), -1, np.int64)
        self.similarities = np.full((rows, k), -np.inf, np.float32)
        self.matches = np.zeros((rows, k), bool)

    def add(self, part: Ranked) -> None:
        rows = part.rows.cpu().numpy()
        for measure in self.wanted:
            self.per_query[measure.name][rows] = measure.score(part.ranks).cpu().numpy()
        places = part.neighbours.cpu().numpy()
        self.neighbours[rows] = np.where(places < 0, -1, self.found[places])
        self.similarities[rows] = part.similarities.cpu().numpy()
        same = self.gallery.labels[places] == self.queries.labels[rows, None]
        self.matches[rows] = same & (places >= 0)

    def result(self, protocol: str, search: Search) -> RetrievalResult:
        kept = ~np.isnan(next(iter(self.per_query.values())))
        others = len(self.found) - (protocol == LEAVE_ONE_OUT)
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
            search=search.names(),
            idle=tuple(m.name for m in self.wanted if m.cutoff and m.cutoff >= others),
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

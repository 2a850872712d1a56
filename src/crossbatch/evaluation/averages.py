r"""Three averages of per-query scores: over queries, over classes, over trials.

micro = 1/Q · Σ_q score(q)            what papers report, large classes weigh more
macro = 1/C · Σ_c mean_{q ∈ c} score  every class with a query weighs the same
trials = 1/T · Σ_t micro_t            over T random galleries, each with its own queries
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crossbatch.evaluation.protocol import RetrievalResult

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class PerClass:
    """Scores class by class.

    Attributes:
        labels: Shape (C,), sorted, the classes that have a query with a score.
        queries: Shape (C,), how many.
        scores: For each metric the mean over the queries of a class, shape (C,).
    """

    labels: Array
    queries: Array
    scores: dict[str, Array]

    def macro(self) -> dict[str, float]:
        """The mean over classes."""
        return {name: float(values.mean()) for name, values in self.scores.items()}


def per_class(labels: Array, per_query: Mapping[str, Array]) -> PerClass:
    """Average per-query scores within each class.

    Args:
        labels: Shape (Q,), of the queries.
        per_query: Arrays of shape (Q,), such as those of a :class:`RetrievalResult`.

    >>> found = per_class(np.array(["a", "b", "a"]), {"R@1": np.array([1.0, 0.0, 0.0])})
    >>> found.scores["R@1"].tolist(), found.macro()
    ([0.5, 0.0], {'R@1': 0.25})
    """
    names, codes = np.unique(labels, return_inverse=True)
    queries = np.bincount(codes.reshape(-1), minlength=len(names))
    scores = {
        name: np.bincount(codes.reshape(-1), values, len(names)) / queries
        for name, values in per_query.items()
    }
    return PerClass(names, queries, scores)


@dataclass(frozen=True, eq=False)
class Trials:
    """One embedding, measured with several random galleries.

    Attributes:
        names: Of the trials, such as the columns of the manifest with their roles.
        seeds: They were drawn with, where they are known.
        results: One of each trial.
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    results: tuple[RetrievalResult, ...]

    def metrics(self) -> dict[str, float]:
        """The mean over trials."""
        return {name: float(values.mean()) for name, values in self._table().items()}

    def deviations(self) -> dict[str, float]:
        """The standard deviation over trials, with T − 1; 0 of one trial."""
        many = len(self.results) > 1
        return {
            name: float(values.std(ddof=1)) if many else 0.0
            for name, values in self._table().items()
        }

    def pooled(self) -> RetrievalResult:
        """One result: ``metrics`` as above, and each image's mean over the trials it asked in.

        The mean of these per-query means is close to, and not the same as, the mean over trials:
        an image that was drawn for the gallery asks less often. Neighbours are those of the first
        trial that an image asked in. Skipped is what asked and never had anything to find.
        """
        ids = np.concatenate([result.query_ids for result in self.results])
        found, first, place = np.unique(ids, return_index=True, return_inverse=True)
        times = np.bincount(place.reshape(-1))

        def stacked(name: str) -> Array:
            return np.concatenate([getattr(result, name) for result in self.results])[first]

        per_query = {
            name: np.bincount(
                place.reshape(-1), np.concatenate([r.per_query[name] for r in self.results])
            )
            / times
            for name in self.results[0].per_query
        }
        skipped = np.unique(np.concatenate([result.skipped for result in self.results]))
        return replace(
            self.results[0],
            metrics=self.metrics(),
            per_query=per_query,
            query_ids=found,
            labels=stacked("labels"),
            neighbours=stacked("neighbours"),
            similarities=stacked("similarities"),
            matches=stacked("matches"),
            skipped=np.setdiff1d(skipped, found),
            search=(*self.results[0].search, f"mean over {len(self.results)} trials"),
        )

    def _table(self) -> dict[str, Array]:
        return {
            name: np.array([result.metrics[name] for result in self.results])
            for name in self.results[0].metrics
        }

"""The numbers of a report: each group's scores, and how it stands against the first group.

A group of several seeds is scored by its mean, with the deviation between seeds beside it. Its
interval over queries, and the paired comparison, use each query's score averaged over the seeds,
so that they speak of queries, and the deviation speaks of seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation import Comparison, interval, paired_difference
from crossbatch.report.runs import Group, Run

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Score:
    """One metric of a group: its mean, the interval over queries, the deviation over seeds."""

    mean: float
    low: float
    high: float
    deviation: float | None
    seeds: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Standing:
    """A group with its scores; ``against`` the first group, metric by metric, unless it is it."""

    group: Group
    scores: dict[str, Score]
    against: dict[str, Comparison]


def standings(groups: Sequence[Group]) -> list[Standing]:
    """Score every group and compare it with the first, on the same queries.

    Raises:
        CrossbatchError: The runs were not evaluated on the same queries, or on fewer than two.
    """
    check_comparable([run for group in groups for run in group.runs])
    baseline = groups[0]
    found: list[Standing] = []
    for group in groups:
        scores = {metric: _score(group, metric) for metric in common_metrics(groups)}
        against = {
            metric: paired_difference(per_query(baseline, metric), per_query(group, metric))
            for metric in scores
            if group is not baseline
        }
        found.append(Standing(group, scores, against))
    return found


def common_metrics(groups: Sequence[Group]) -> list[str]:
    """The metrics that every run has, in the order of the first."""
    runs = [run for group in groups for run in group.runs]
    everywhere = set.intersection(*(set(run.evaluation.result.metrics) for run in runs))
    return [name for name in runs[0].evaluation.result.metrics if name in everywhere]


def per_query(group: Group, metric: str) -> Array:
    """Each query's score, averaged over the seeds of a group."""
    scores = [run.evaluation.result.per_query[metric] for run in group.runs]
    return np.mean(scores, axis=0)


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise unless all runs were evaluated in the same way on the same queries."""
    first = runs[0].evaluation
    for run in runs[1:]:
        other = run.evaluation
        same = (
            first.result.protocol == other.result.protocol
            and first.split == other.split
            and first.manifest_digest == other.manifest_digest
            and np.array_equal(first.result.query_ids, other.result.query_ids)
        )
        if not same:
            raise CrossbatchError(
                expected(
                    f"runs evaluated on the same queries as {runs[0].name} "
                    f"({first.result.protocol}, split {first.split} of {first.manifest})",
                    f"{run.name}: {other.result.protocol}, split {other.split} of "
                    f"{other.manifest}, or of other content",
                    "Run `crossbatch evaluate RUN --manifest FILE --split SPLIT` for each.",
                )
            )


def _score(group: Group, metric: str) -> Score:
    seeds = tuple(run.evaluation.result.metrics[metric] for run in group.runs)
    found = interval(per_query(group, metric))
    deviation = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
    return Score(float(np.mean(seeds)), found.low, found.high, deviation, seeds)

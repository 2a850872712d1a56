"""Runs of one setting with several seeds are a group: ``NAME-seed0``, ``NAME-seed1``, ..."""

import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation import Comparison, Evaluation, paired_difference, read_evaluation
from crossbatch.training import RunFolder

METRICS = ("R@1", "R@10", "R-precision", "MAP@R", "mAP")


@dataclass(frozen=True)
class Group:
    """A setting: its runs, and what each scored on the same queries."""

    name: str
    runs: list[RunFolder]
    evaluations: list[Evaluation]

    def summary(self, metric: str) -> str:
        """Mean ± deviation over seeds, or the value with its interval over queries, in percent."""
        values = [100 * e.result.metrics[metric] for e in self.evaluations]
        if len(values) > 1:
            return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
        low, high = self.evaluations[0].intervals[metric]
        return f"{values[0]:.2f} ({100 * low:.2f} to {100 * high:.2f})"

    def scores(self, metric: str) -> np.ndarray:
        """Per-query scores, averaged over the seeds."""
        return np.mean([e.result.per_query[metric] for e in self.evaluations], axis=0)

    def against(self, baseline: "Group", metric: str) -> Comparison:
        """The paired difference to a baseline over the same queries."""
        return paired_difference(baseline.scores(metric), self.scores(metric))


def group_runs(folders: list[Path]) -> list[Group]:
    """Open runs, group them by name, and see that all were scored on the same queries.

    Raises:
        CrossbatchError: A folder is no run or was not evaluated, or the queries differ.
    """
    if not folders:
        raise CrossbatchError(expected("at least one run folder", "none", "Name some."))
    groups: dict[str, Group] = {}
    for folder in folders:
        run = RunFolder.open(folder)
        if run.read_config().task != "retrieval":
            remedy = "`crossbatch evaluate RUN RUN2 ...` compares classifiers."
            raise CrossbatchError(expected("runs of retrieval", f"classes in {folder}", remedy))
        evaluation = read_evaluation(folder)
        name = re.sub(r"-seed\d+$", "", folder.resolve().name)
        group = groups.setdefault(name, Group(name, [], []))
        group.runs.append(run)
        group.evaluations.append(evaluation)
    first = next(iter(groups.values())).evaluations[0]
    for group in groups.values():
        for run, evaluation in zip(group.runs, group.evaluations, strict=True):
            if not np.array_equal(evaluation.result.query_ids, first.result.query_ids):
                raise CrossbatchError(
                    expected(
                        "runs evaluated on the same queries",
                        f"others in {run.path}",
                        "Evaluate all of them on one manifest and split.",
                    )
                )
    return list(groups.values())

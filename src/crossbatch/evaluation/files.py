"""An evaluation as files: ``evaluation/`` of a run folder.

``metrics.json`` has means, intervals and how they came about, ``per_class.csv`` the means of each
class, ``per_query.parquet`` the scores of each query, so that two runs can be compared, and their
queries looked at, without embedding anything again.
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossbatch._files import recover_folder, replace_folder
from crossbatch.errors import FormatError, expected
from crossbatch.evaluation.averages import PerClass, Trials, per_class
from crossbatch.evaluation.inputs import Array
from crossbatch.evaluation.protocol import RetrievalResult
from crossbatch.evaluation.significance import interval

FORMAT = 1
FOLDER, METRICS, PER_QUERY = "evaluation", "metrics.json", "per_query.parquet"
PER_CLASS = "per_class.csv"
_COLUMNS = ("id", "label", "neighbours", "similarities", "matches")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a run folder keeps of its evaluation.

    Attributes:
        result: As :func:`crossbatch.evaluation.evaluate` gave it, labels as text.
        split: Of the manifest.
        manifest: Where the manifest lay.
        manifest_digest: Of its content then.
        intervals: For each metric the 95 % bootstrap interval over queries.
        macro: For each metric the mean over classes.
        trials: Of each trial its name, seed and metrics; none where there was one gallery.
    """

    result: RetrievalResult
    split: str
    manifest: str
    manifest_digest: str
    intervals: dict[str, tuple[float, float]]
    macro: dict[str, float] = field(default_factory=dict)
    trials: tuple[dict[str, Any], ...] = ()

    def per_class(self) -> PerClass:
        """Scores class by class."""
        return per_class(self.result.labels, self.result.per_query)


def describe(
    result: RetrievalResult | Trials, *, split: str, manifest: str, manifest_digest: str
) -> Evaluation:
    """A result with its intervals and where its images came from. One query has no interval.

    Of trials the intervals are those of the images' means over the trials they asked in.
    """
    trials: tuple[dict[str, Any], ...] = ()
    if isinstance(result, Trials):
        seeds = result.seeds or (None,) * len(result.names)
        rows = zip(result.names, seeds, result.results, strict=False)
        trials = tuple({"trial": n, "seed": s, "metrics": r.metrics} for n, s, r in rows)
        result = result.pooled()
    intervals: dict[str, tuple[float, float]] = {}
    for name, scores in result.per_query.items():
        mean = result.metrics[name]
        intervals[name] = (mean, mean)
        if len(scores) > 1:
            found = interval(scores)
            intervals[name] = (found.low, found.high)
    macro = per_class(result.labels, result.per_query).macro()
    return Evaluation(result, split, manifest, manifest_digest, intervals, macro, trials)


def write_evaluation(run: Path, evaluation: Evaluation) -> None:
    """Write the files into a run folder, over those of an earlier evaluation: all or none.

    Raises:
        CrossbatchError: They could not be written; the earlier ones still stand.
    """

    def write(folder: Path) -> None:
        text = json.dumps(_summary(evaluation), indent=2) + "\n"
        (folder / METRICS).write_text(text, encoding="utf-8")
        with (folder / PER_CLASS).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(_classes(evaluation.per_class()))
        pq.write_table(_table(evaluation.result), folder / PER_QUERY, compression="zstd")

    replace_folder(run / FOLDER, write)


def read_evaluation(run: Path) -> Evaluation:
    """Read what :func:`write_evaluation` wrote.

    Raises:
        FormatError: A file is missing, damaged or of another format version.
    """
    folder = run / FOLDER
    recover_folder(folder)
    remedy = f"Run `crossbatch evaluate {run}`."
    try:
        about = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        version = about.get("format")
        if version != FORMAT:
            wanted = f"evaluation format {FORMAT} in {folder / METRICS}"
            raise FormatError(expected(wanted, version, remedy))
        table = pq.read_table(folder / PER_QUERY)
        return Evaluation(
            result=_result(about, table),
            split=about["split"],
            manifest=about["manifest"],
            manifest_digest=about["manifest_digest"],
            intervals={name: (low, high) for name, (low, high) in about["intervals"].items()},
            macro=about.get("macro", {}),
            trials=tuple(about.get("trials", [])),
        )
    except FormatError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        wanted = f"an evaluation in {folder}"
        raise FormatError(expected(wanted, f"{error!r}", remedy)) from error


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    result = evaluation.result
    return {
        "format": FORMAT,
        "protocol": result.protocol,
        "split": evaluation.split,
        "queries": len(result.query_ids),
        "gallery": result.gallery,
        "skipped": {"count": len(result.skipped), "ids": result.skipped.tolist()},
        "metrics": result.metrics,
        "intervals": evaluation.intervals,
        "macro": evaluation.macro,
        "search": list(result.search),
        "idle": list(result.idle),
        "trials": list(evaluation.trials),
        "manifest": evaluation.manifest,
        "manifest_digest": evaluation.manifest_digest,
    }


def _classes(found: PerClass) -> list[list[Any]]:
    rows = zip(found.labels, found.queries, *found.scores.values(), strict=True)
    return [["label", "queries", *found.scores], *([*row] for row in rows)]


def _table(result: RetrievalResult) -> pa.Table:
    columns: dict[str, Any] = {
        "id": result.query_ids,
        "label": [str(label) for label in result.labels],
        **result.per_query,
        "neighbours": _lists(result.neighbours),
        "similarities": _lists(result.similarities),
        "matches": _lists(result.matches),
    }
    return pa.table(columns)


def _lists(rows: Array) -> pa.ListArray:
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1)))


def _result(about: dict[str, Any], table: pa.Table) -> RetrievalResult:
    rows = len(table)

    def matrix(name: str) -> Array:
        flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(rows, -1 if len(flat) else 0)

    scores = {name: table[name].to_numpy() for name in table.column_names if name not in _COLUMNS}
    if set(scores) != set(about["metrics"]) or rows != about["queries"]:
        raise ValueError(f"{METRICS} and {PER_QUERY} do not belong together")
    return RetrievalResult(
        metrics=about["metrics"],
        per_query=scores,
        query_ids=table["id"].to_numpy(),
        labels=np.array(table["label"].to_pylist(), dtype=np.str_),
        neighbours=matrix("neighbours"),
        similarities=matrix("similarities"),
        matches=matrix("matches"),
        skipped=np.array(about["skipped"]["ids"], dtype=np.int64),
        gallery=about["gallery"],
        protocol=about["protocol"],
        search=tuple(about.get("search", [])),
        idle=tuple(about.get("idle", [])),
    )

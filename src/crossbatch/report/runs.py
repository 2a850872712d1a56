"""What a report reads of run folders, and which of them are seeds of the same thing."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.evaluation import Evaluation, read_evaluation
from crossbatch.training import RunFolder
from crossbatch.training.config import to_mapping

_SEED = re.compile(r"^(?P<name>.+?)[-_.]?seed[-_]?(?P<seed>\d+)$")


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder, read.

    Attributes:
        name: Of the folder.
        config: Dotted names to plain values.
        environment: As `environment.json` has it.
        created: When the training began, ISO 8601.
        log: One mapping per logged step.
        validation: One mapping per validation.
        evaluation: Scores of every query.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    created: str
    log: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    evaluation: Evaluation


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in their seed: ``NAME-seed0``, ``NAME-seed1`` … or a single run."""

    name: str
    runs: list[Run]


def read_run(path: Path) -> Run:
    """Read all that a report needs of a run folder.

    Raises:
        FormatError: A file is missing, damaged or of another format version.
    """
    folder = RunFolder.open(path)
    remedy = "Give the folder that `crossbatch train --out` made, whole."
    try:
        environment = json.loads((path / "environment.json").read_text(encoding="utf-8"))
        about = folder.about()
        created = str(about["created"])
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(expected(f"a whole run folder at {path}", repr(error), remedy)) from error
    if not (path / "log.jsonl").exists():
        wanted = f"the training log {path / 'log.jsonl'}"
        raise FormatError(expected(wanted, "no such file", remedy))
    return Run(
        name=path.resolve().name,
        config=dict(_flat(to_mapping(folder.read_config()))),
        environment=environment,
        created=created,
        log=list(folder.rows("log.jsonl")),
        validation=list(folder.rows("validation.jsonl")),
        evaluation=read_evaluation(path),
    )


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Seeds of the same name together, groups in the order of their first run.

    Raises:
        CrossbatchError: There are no runs, or two have the same name.
    """
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not runs or twice:
        got = f"twice {', '.join(twice)}" if twice else "none"
        remedy = "Name each run folder once; rename folders that are called the same."
        raise CrossbatchError(expected("one or more runs of different names", got, remedy))
    groups: dict[str, list[Run]] = {}
    for run in runs:
        match = _SEED.match(run.name)
        groups.setdefault(match["name"] if match else run.name, []).append(run)
    return [Group(name, members) for name, members in groups.items()]


def _flat(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return rows

"""The run folder: everything that a training is and has come to, in files that are always whole.

======================== =====================================================================
``run.json``             format version, manifest and its digest, when it was made
``config.yaml``          the :class:`TrainConfig`
``environment.json``     versions, device, threads
``log.jsonl``            one line per logged step
``validation.jsonl``     one line per validation
``stages.jsonl``         one line per stage of a plan, after its first step
``stages/``              the subsets of each stage that ranked the images anew
``drift.jsonl``          drift of a fixed set of images, where one is asked for
``checkpoint.pt``        the last full state: weights, optimizer, memory, sampler, generators
``encoder/``             the best encoder so far
``tensorboard/``         the log again, for TensorBoard
======================== =====================================================================
"""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from crossbatch._files import recover_folder, write_beside
from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.memory import advise
from crossbatch.training.config import TrainConfig, read_config, write_config

FORMAT = 2
_LOGS = ("log.jsonl", "validation.jsonl", "drift.jsonl", "stages.jsonl")


@dataclass(frozen=True)
class RunFolder:
    """A folder in the layout of this module."""

    path: Path

    @staticmethod
    def create(path: Path, config: TrainConfig, *, digest: str) -> "RunFolder":
        """Begin a run in a new or empty folder.

        Raises:
            CrossbatchError: The folder holds something.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise CrossbatchError(
                expected(
                    f"a new or empty folder at {path}",
                    "one that holds files",
                    f"Continue that run with `crossbatch train --resume {path}`, or choose "
                    "another place.",
                )
            )
        run = RunFolder(path)
        about = {
            "format": FORMAT,
            "crossbatch": version("crossbatch"),
            "manifest": str(Path(config.manifest).resolve()),
            "manifest_digest": digest,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _write_json(path / "environment.json", environment())
        write_config(config, run.config)
        _write_json(path / "run.json", about)  # last: a folder with it has the rest
        return run

    @staticmethod
    def open(path: Path) -> "RunFolder":
        """Open a run that was begun.

        Raises:
            FormatError: No run stands there, or one of another format version.
        """
        remedy = "Give the folder that `crossbatch train --out` made."
        try:
            about = json.loads((path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FormatError(expected(f"a run folder at {path}", error, remedy)) from error
        version = about.get("format") if isinstance(about, dict) else None
        if version != FORMAT:
            remedy = "Use the crossbatch that made the run, or train again."
            raise FormatError(
                expected(f"run format {FORMAT} in {path / 'run.json'}", version, remedy)
            )
        recover_folder(path / "encoder")
        return RunFolder(path)

    @property
    def config(self) -> Path:
        """Of the YAML config."""
        return self.path / "config.yaml"

    @property
    def encoder(self) -> Path:
        """Of the best encoder."""
        return self.path / "encoder"

    @property
    def checkpoint(self) -> Path:
        """Of the last full state."""
        return self.path / "checkpoint.pt"

    def about(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        return json.loads((self.path / "run.json").read_text(encoding="utf-8"))

    def read_config(self) -> TrainConfig:
        """What the run was begun with."""
        return read_config(self.config)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; a crash leaves the old one or the new one."""
        for name in _LOGS:
            if (self.path / name).exists():
                with (self.path / name).open("rb") as file:
                    os.fsync(file.fileno())
        write_beside(self.checkpoint, lambda part: _save({"format": FORMAT, **state}, part))

    def load(self) -> dict[str, Any] | None:
        """The last full state, or None if training was stopped before the first.

        Raises:
            FormatError: The checkpoint is damaged or of another format version.
        """
        if not self.checkpoint.exists():
            return None
        remedy = "Train again; a checkpoint is always written whole, so this file was altered."
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:
            message = expected(f"a checkpoint at {self.checkpoint}", error, remedy)
            raise FormatError(message) from error
        if state.get("format") != FORMAT:
            found = state.get("format")
            raise FormatError(expected(f"checkpoint format {FORMAT}", found, remedy))
        return state

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add a line to a log."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a log; one that a crash cut is left out."""
        if not (self.path / name).exists():
            return
        for line in (self.path / name).read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return

    def write_subsets(self, stage: int, ids: np.ndarray, subsets: np.ndarray) -> None:
        """Keep how a stage, counted from 1, ranked the images: ``stages/STAGE.parquet``."""
        table = pa.table({"id": ids, "subset": subsets})
        path = self.path / "stages" / f"{stage}.parquet"
        write_beside(path, lambda part: pq.write_table(table, part, compression="zstd"))

    def advice(self) -> str | None:
        """One sentence on the memory's drift over the last quarter of the log, if it has any."""
        rows = [row for row in self.rows("log.jsonl") if row.get("drift") is not None]
        last = rows[len(rows) * 3 // 4 :]
        memory = read_config(self.config).memory
        held = memory.proportion if memory.objective == "batch_and_memory" else 0.0
        return advise(
            [row["drift"] for row in last],
            [row["drift_age"] for row in last],
            tamed=memory.momentum >= 0.99 and 0 < held <= 1,
        )

    def rewind(self, step: int) -> None:
        """Forget what the logs say of steps after ``step``: they will be taken again."""
        for name in _LOGS:
            if not (self.path / name).exists():
                continue
            kept = [json.dumps(row) + "\n" for row in self.rows(name) if row["step"] <= step]
            write_beside(self.path / name, lambda p, k=kept: p.write_text("".join(k)))


def environment() -> dict[str, Any]:
    """What the run runs on."""
    cuda = torch.cuda.is_available()
    return {
        "crossbatch": version("crossbatch"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if cuda else platform.machine() + " CPU",
        "threads": torch.get_num_threads(),
    }


def _save(state: dict[str, Any], path: Path) -> None:
    """Save tensors; torch hides what a file said when it could not be written."""
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            raise (
                error.__context__ if isinstance(error.__context__, OSError) else error
            ) from None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2) + "\n"
    write_beside(path, lambda part: part.write_text(text, encoding="utf-8"))

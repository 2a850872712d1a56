"""The loop around the steps: it logs, validates and saves, in plain sight."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError, expected
from crossbatch.training.config import TrainConfig
from crossbatch.training.cost import Account, predict
from crossbatch.training.course import Ranker
from crossbatch.training.probe import EVERY, Probe
from crossbatch.training.progress import Log, progress
from crossbatch.training.run import RunFolder
from crossbatch.training.steps import StepReport, steps
from crossbatch.training.trainee import Trainee


def train(
    config: TrainConfig, out: Path, *, quiet: bool = False, ranker: Ranker | None = None
) -> RunFolder:
    """Train from the beginning into a new folder.

    Args:
        config: The run.
        out: The run folder, new or empty.
        quiet: Show no progress bar.
        ranker: Ranks the training images again where a stage of the plan asks for it.

    Raises:
        CrossbatchError: Bad data or settings, a folder in use, no space. What was saved stays.
    """
    manifest = Manifest.read(config.manifest)
    trainee = Trainee(config, manifest, ranker=ranker)
    run = RunFolder(out)
    if trainee.accelerator.is_main_process:
        run = RunFolder.create(out, config, digest=manifest.digest())
    return _run(trainee, run, _probe(trainee), quiet=quiet)


def resume(path: Path, *, quiet: bool = False, ranker: Ranker | None = None) -> RunFolder:
    """Continue a run from its last checkpoint as if it had never stopped (bit for bit on a CPU).

    Args:
        path: The run folder.
        quiet: Show no progress bar.
        ranker: As :func:`train` was given.

    Raises:
        CrossbatchError: No run stands there, or its manifest is not what it was.
    """
    run = RunFolder.open(path)
    config = run.read_config()
    manifest = Manifest.read(config.manifest)
    if manifest.digest() != run.about()["manifest_digest"]:
        raise CrossbatchError(
            expected(
                f"the manifest that {path} was begun with",
                f"{config.manifest} with other content",
                "Restore that manifest, or begin a new run.",
            )
        )
    trainee = Trainee(config, manifest, ranker=ranker)
    probe = _probe(trainee)
    state = run.load()
    if state is not None:
        trainee.load_state_dict(state)
        if probe is not None:
            probe.load_state_dict(state["probe"])
    if trainee.accelerator.is_main_process:
        run.rewind(trainee.step)
    return _run(trainee, run, probe, quiet=quiet)


def _run(trainee: Trainee, run: RunFolder, probe: Probe | None, *, quiet: bool) -> RunFolder:
    config, main = trainee.config, trainee.accelerator.is_main_process
    images = trainee.task.batch * trainee.accelerator.num_processes
    stage = trainee.stage
    quiet = quiet or not main
    with _log(run, trainee, main=main) as log, progress(config, quiet=quiet) as (show, say):
        account = None if quiet or trainee.step == config.iterations else _account(trainee, say)
        since, at = time.perf_counter(), trainee.step
        for report in steps(trainee):
            stage = _tell_stage(trainee, run, stage, say)
            if account is not None and (line := account.add(report)) is not None:
                say(line)
            last = report.step == config.iterations
            if report.step % config.log_every == 0 or last:
                now = time.perf_counter()
                speed = images * (report.step - at) / (now - since)
                since, at = now, report.step
                log(report, speed)
                show(report, speed)
            if report.step % config.validation.every == 0 or last:
                _validate(trainee, run)
            if probe is not None and report.step % EVERY == 0:
                run.append("drift.jsonl", {"step": report.step, **probe.take(trainee)})
            if report.step % config.save_every == 0 or last:
                state = trainee.state_dict()  # by every rank: a sharded memory is gathered
                if main:
                    run.save({**state, "probe": None if probe is None else probe.state_dict()})
        if account is not None and trainee.memory is not None:
            say(account.measured(trainee.memory))
    if main and trainee.best is None:
        trainee.save(run.encoder)
    return run


def _probe(trainee: Trainee) -> Probe | None:
    """On the main rank alone: it is no collective."""
    images = trainee.config.probe if trainee.accelerator.is_main_process else 0
    return Probe(trainee, images) if images else None


def _account(trainee: Trainee, say: Callable[[str], None]) -> Account | None:
    """Say what the memory will cost."""
    prediction = predict(trainee)
    if prediction is None:
        return None
    say(str(prediction))
    return Account(prediction)


def _validate(trainee: Trainee, run: RunFolder) -> None:
    """Measure what is held out; keep the encoder if it is the best so far."""
    held_out = trainee.validation
    if not len(held_out.rows) or not trainee.accelerator.is_main_process:
        return
    metrics = trainee.task.measure(trainee.embed(held_out.rows), held_out)
    score = metrics[trainee.task.score]
    best = trainee.best is None or score > trainee.best[1]
    if best:
        trainee.best = (trainee.step, score)
        trainee.save(run.encoder)
    run.append("validation.jsonl", {"step": trainee.step, **metrics, "best": best})


def _tell_stage(
    trainee: Trainee, run: RunFolder, told: int | None, say: Callable[[str], None]
) -> int | None:
    """Log a stage after its first step, with the subsets where they were ranked anew."""
    course = trainee.course
    if course is None or trainee.stage == told:
        return told
    row = {"step": trainee.step, **course.describe()}
    if trainee.accelerator.is_main_process:
        run.append("stages.jsonl", row)
        if course.now.rerank:
            run.write_subsets(row["stage"], trainee.training.ids.numpy(), course.subsets)
        images, batch = (", ".join(f"{n:,}" for n in row[name]) for name in ("images", "batch"))
        say(
            f"Stage {row['stage']} of {len(course.lengths)}: {row['iterations']:,} iterations; "
            f"images {images}; of each in a batch {batch}."
        )
    return trainee.stage


@contextlib.contextmanager
def _log(run: RunFolder, trainee: Trainee, *, main: bool) -> Iterator[Log]:
    if not main:
        yield lambda report, speed: None
        return
    with SummaryWriter(str(run.path / "tensorboard"), purge_step=trainee.step) as board:

        def log(report: StepReport, speed: float) -> None:
            row = {**report._asdict(), "images_per_second": speed}
            run.append("log.jsonl", row)
            for name, value in row.items():
                if value is not None and name != "step":
                    board.add_scalar(name, value, report.step)

        yield log

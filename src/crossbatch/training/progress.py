"""The progress bar: loss, active negatives of batch and memory, images per second."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crossbatch.training.config import TrainConfig
from crossbatch.training.steps import StepReport

Log = Callable[[StepReport, float], None]
"""Takes a step's report and the images per second since the last one."""


@contextlib.contextmanager
def progress(config: TrainConfig, *, quiet: bool) -> Iterator[Log]:
    """Show a bar on standard error while the context lasts."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("training", total=config.iterations, numbers="")

        def show(report: StepReport, speed: float) -> None:
            bar.update(task, completed=report.step, numbers=describe(report, speed))

        yield show


def describe(report: StepReport, speed: float) -> str:
    """One line: ``loss 3.1  negatives 12 + 4,031 in memory  980 img/s``."""
    memory = f" + {report.active_negatives_memory:,} in memory" if report.memory_size else ""
    drift = "" if report.drift is None else f"  drift {report.drift:.2f}"
    return (
        f"loss {report.loss:.3g}  negatives {report.active_negatives_batch:,}{memory}"
        f"{drift}  {speed:,.0f} img/s"
    )

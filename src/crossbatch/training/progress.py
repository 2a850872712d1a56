"""What is seen of a training: a progress bar, and lines that stay above it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from crossbatch.training.config import TrainConfig
from crossbatch.training.steps import StepReport

Log = Callable[[StepReport, float], None]
"""Takes a step's report and the images per second since the last one."""


class Progress(NamedTuple):
    """Two ways to tell: ``show`` moves the bar, ``say`` leaves a line."""

    show: Log
    say: Callable[[str], None]


@contextlib.contextmanager
def progress(config: TrainConfig, *, quiet: bool) -> Iterator[Progress]:
    """Show a bar on standard error while the context lasts, or nothing at all."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Bar(*columns, console=Console(stderr=True, quiet=quiet), disable=quiet) as bar:
        task = bar.add_task("training", total=config.iterations, numbers="")

        def show(report: StepReport, speed: float) -> None:
            bar.update(task, completed=report.step, numbers=describe(report, speed))

        def say(line: str) -> None:
            bar.console.print(line, soft_wrap=True, markup=False, highlight=False)

        yield Progress(show, say)


def describe(report: StepReport, speed: float) -> str:
    """One line: ``loss 3.1  negatives 12 + 4,031 in memory  980 img/s``."""
    memory = f" + {report.active_negatives_memory:,} in memory" if report.memory_size else ""
    drift = "" if report.drift is None else f"  drift {report.drift:.2f}"
    if report.loss_batch is None and report.loss_memory is None:
        return f"loss {report.loss:.3g}  {speed:,.0f} img/s"
    return (
        f"loss {report.loss:.3g}  negatives {report.active_negatives_batch:,}{memory}"
        f"{drift}  {speed:,.0f} img/s"
    )

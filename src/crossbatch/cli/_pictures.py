"""What commands that embed pictures share: the encoder they are told of, and what they skipped."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from crossbatch._check import check_device
from crossbatch.data import Problem
from crossbatch.data.problems import write_problems
from crossbatch.errors import FormatError, expected
from crossbatch.models import Encoder
from crossbatch.models.encoding import Embedded

_SHOWN = 5  # problems


def load_encoder(run: Path, device: str) -> Encoder:
    """The encoder of a run folder, or of a folder that holds one; nothing is fetched."""
    if not run.exists():
        remedy = "Give the folder that `crossbatch train --out` made, or a saved encoder."
        raise FormatError(expected(f"a run folder at {run}", "nothing", remedy))
    return Encoder.from_pretrained(run.absolute()).to(check_device(device))


def bar(rows: int, batch_size: int) -> Callable[[Iterable[Embedded]], Iterable[Embedded]]:
    """A progress bar around batches, on standard error, where that is a terminal."""
    console = Console(stderr=True)
    total = -(-rows // max(1, batch_size))

    def watch(batches: Iterable[Embedded]) -> Iterable[Embedded]:
        return track(
            batches, "Embedding", total, console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip

    return watch


def show_skipped(console: Console, problems: list[Problem], listed: Path) -> None:
    """Count and name the images that were left out, and list them all in a file."""
    if not problems:
        with contextlib.suppress(OSError):
            listed.unlink()
        return
    for problem in problems[:_SHOWN]:
        text = f"{problem.kind}: {problem.path}: {problem.reason}"
        console.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)
    write_problems(listed, problems)
    many = "image" if len(problems) == 1 else "images"
    console.print(f"{len(problems):,} {many} left out, listed in {escape(str(listed))}.")

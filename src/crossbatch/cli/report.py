"""``crossbatch report``: one page for a run, or for runs beside each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from crossbatch.report import write_report


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page; the first run is the baseline."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    """Evaluated run folders; NAME-seed0, NAME-seed1 ... are seeds of one setting."""
    out: Path = Path("report.html")
    """The page."""


def main(argv: list[str]) -> int:
    """Write the page and say where it stands."""
    options = tyro.cli(Report, prog="crossbatch report", args=argv)
    write_report(options.runs, options.out)
    Console().print(f"The report stands in [bold]{options.out}[/bold].")
    return 0

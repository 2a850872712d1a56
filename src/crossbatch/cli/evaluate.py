"""``crossbatch evaluate RUN``: embed a split with a run's encoder and measure what it finds."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor

from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation import (
    Evaluation,
    describe,
    embed_manifest,
    evaluate_manifest,
    write_evaluation,
)
from crossbatch.training import RunFolder, load_split


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure retrieval on images that the run has not seen."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run folder that `crossbatch train` made; `evaluation/` in it is written."""
    manifest: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The manifest [default: the one that the run was trained with]."""
    split: str = "test"
    """Of the manifest: train, validation or test."""
    device: str = "cpu"
    """Where to compute, such as cuda."""
    batch_size: int = 128
    """Images at a time."""
    workers: int = 2
    """Processes that decode images."""
    neighbours: int = 5
    """How many of the nearest to keep of each query, for the report."""


def main(argv: list[str]) -> int:
    """Run ``crossbatch evaluate`` and return the exit status."""
    options = tyro.cli(Options, prog="crossbatch evaluate", args=argv)
    if options.batch_size < 1 or options.workers < 0:
        got = f"{options.batch_size} and {options.workers}"
        wanted = "`--batch-size` ≥ 1 and `--workers` ≥ 0"
        raise CrossbatchError(expected(wanted, got, "Choose whole numbers."))
    console = Console(highlight=False)
    evaluation = run_evaluation(options, console)
    write_evaluation(options.run, evaluation)
    show(console, options.run, evaluation)
    return 0


def run_evaluation(options: Options, console: Console) -> Evaluation:
    """Embed the split and score it."""
    split = load_split(RunFolder.open(options.run), options.split, manifest=options.manifest)

    def watch(batches: Iterable[Tensor]) -> Iterable[Tensor]:
        return track(
            batches,
            description="Embedding",
            total=-(-len(split.images) // options.batch_size),
            console=Console(stderr=True),
            transient=True,
        )

    embeddings = embed_manifest(
        split.encoder,
        split.images,
        device=options.device,
        batch_size=options.batch_size,
        workers=options.workers,
        features=split.features,
        watch=watch,
    )
    with console.status("Searching"):
        result = evaluate_manifest(embeddings, split.images, neighbours=options.neighbours)
    return describe(
        result,
        split=options.split,
        manifest=str(split.path.resolve()),
        manifest_digest=split.manifest.digest(),
    )


def show(console: Console, run: Path, evaluation: Evaluation) -> None:
    """Print what was found."""
    result = evaluation.result
    table = Table("metric", "", "95 % interval", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in result.metrics.items():
        low, high = evaluation.intervals[name]
        table.add_row(name, f"[bold]{100 * value:.2f}[/]", f"{100 * low:.2f} – {100 * high:.2f}")
    many = len(result.query_ids)
    console.print(
        f"{result.protocol}, split {evaluation.split}: {many:,} queries of "
        f"{len(set(result.labels)):,} classes, {result.gallery:,} images searched"
    )
    console.print(table)
    if len(result.skipped):
        named = ", ".join(map(str, result.skipped[:5]))
        more = ", …" if len(result.skipped) > 5 else ""
        console.print(
            f"[yellow]{len(result.skipped):,} queries have nothing to find and are in no mean: "
            f"ids {named}{more}[/]"
        )
    console.print(f"Wrote {escape(str(run / 'evaluation'))}.")

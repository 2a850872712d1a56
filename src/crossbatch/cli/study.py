"""``crossbatch study weights [RUN]``: the curves of pair weightings, and where their mass lies."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from crossbatch.errors import CrossbatchError, expected, nearest
from crossbatch.studies import (
    Sample,
    WeightCurves,
    default_weightings,
    sample_run,
    synthetic_samples,
    weight_curves,
    write_picture,
    write_table,
)
from crossbatch.training import parse_weighting
from crossbatch.weighting import PairWeighting

STUDIES = {"weights": "what weightings make of easy and hard pairs"}
USAGE = "usage: crossbatch study weights [RUN] ...; crossbatch study weights --help tells more."


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Draw the weights of positive and negative pairs over similarity, and tabulate them."""

    run: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="RUN")]] = None
    """A run folder, whose embeddings give the similarities [default: synthetic ones]."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder for weights.svg, weights.png and weights.feather."""
    weightings: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WEIGHTING ...")] = ()
    """As code: contrastive 'MultiSimilarity(alpha=2.0)' [default: every one there is]."""
    split: str = "train"
    """Of the run's manifest: train, validation or test."""
    batches: int = 8
    """Batches to look at, drawn as the run draws them."""
    memory: int = 20_000
    """Rows of the memory beside each batch, at most."""
    device: str = "cpu"
    """Where to embed, such as cuda."""


def main(argv: list[str]) -> int:
    """Run ``crossbatch study`` and return the exit status."""
    console = Console(highlight=False)
    if not argv or argv[0] in ("-h", "--help"):
        console.print(escape(USAGE), soft_wrap=True)
        return 0 if argv else 2
    if argv[0] not in STUDIES:
        raise CrossbatchError(expected("a study", repr(argv[0]), nearest(argv[0], STUDIES)))
    options = tyro.cli(Weights, prog="crossbatch study weights", args=argv[1:])
    weightings = [parse_weighting(text) for text in options.weightings] or default_weightings()
    samples = _samples(options, console)

    def watch(
        items: Iterable[tuple[str, PairWeighting]],
    ) -> Iterable[tuple[str, PairWeighting]]:
        total, progress = len(weightings), Console(stderr=True)
        return track(items, "Weighting", total=total, console=progress, transient=True)

    curves = weight_curves(weightings, samples, watch=watch)
    write_table(curves, options.out / "weights.feather")
    for kind in ("svg", "png"):
        write_picture(curves, options.out / f"weights.{kind}")
    show(console, curves, samples)
    console.print(
        f"Wrote weights.svg, weights.png and weights.feather in {escape(str(options.out))}."
    )
    return 0


def _samples(options: Weights, console: Console) -> list[Sample]:
    if options.run is None:
        return synthetic_samples(batches=options.batches, memory=options.memory)
    with console.status("Embedding"):
        return sample_run(
            options.run,
            split=options.split,
            batches=options.batches,
            memory=options.memory,
            device=options.device,
        )


def show(console: Console, curves: list[WeightCurves], samples: list[Sample]) -> None:
    """Print where the mass of the negatives lies."""
    anchors = sum(len(sample.labels) for sample in samples)
    references = len(samples[0].reference_labels)
    console.print(
        f"{anchors:,} anchors in {len(samples)} batches, each beside {references:,} rows"
    )
    table = Table(
        "weighting", "active", "hardest 1 %", "memory", title="Negatives", title_justify="left",
        box=None, pad_edge=False,
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for one in curves:
        side = one.negative
        shares = (side.active_share, side.hardest, side.memory_share)
        table.add_row(escape(one.name), *(_percent(share) for share in shares))
    console.print(table)
    console.print(
        "[dim]active: pairs whose weight is not zero; hardest 1 %, memory: shares of Σ|w⁻| on the "
        "most similar pairs and on older rows[/]"
    )


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.3g} %"

"""``crossbatch evaluate RUN``: embed a split with a run's encoder and measure what it finds.

Of runs with ``--task classification`` it measures how many images get their class, of each run and
of all of them together.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor

from crossbatch.cli._classify import show_classes
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation import (
    Evaluation,
    Expansion,
    KReciprocal,
    RetrievalResult,
    Search,
    Trials,
    describe,
    embed_manifest,
    evaluate_manifest,
    evaluate_trials,
    write_evaluation,
)
from crossbatch.evaluation.embed import Watch
from crossbatch.evaluation.measures import measures
from crossbatch.training import RunFolder, Split, load_split
from crossbatch.training.predict import Prediction, predict

METRICS = ("R@1", "R@10", "R@100", "R@1000", "R-precision", "MAP@R", "mAP")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure retrieval on images that the run has not seen."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run folder that `crossbatch train` made; `evaluation/` in it is written."""
    more: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]] = ()
    """Further runs; of classifiers the mean of their probabilities is measured, too."""
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
    metrics: tuple[str, ...] = METRICS
    """By name: R@K, MRR, R-precision, MAP@R, mAP, nDCG, nDCG@K, CMC@K, K a number."""
    protocol: Literal["roles", "leave-one-out", "query-gallery"] = "roles"
    """Who searches where: as the column `role` says and, where it says nothing, every image among
    the others; every image among the others; queries in the gallery."""
    trials: bool = False
    """Measure with each random gallery of the manifest, trial_0, trial_1 ..., and average."""
    exclude_camera: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Ignore images with the label of the query and its value in this column, such as camera."""
    augment: int = 0
    """Move every gallery image towards so many of its nearest first."""
    expand: int = 0
    """Then move every query towards so many that it finds."""
    alpha: float = 3.0
    """Weight of a neighbour in both: its similarity to this power; 0 is the plain average."""
    rerank: Annotated[tuple[int, int, float] | None, tyro.conf.arg(metavar="K1 K2 LAMBDA")] = None
    """Then rank by k-reciprocal neighbours; the paper's values are 20 6 0.3."""
    per_class: int = 0
    """Show so many of the classes that score worst by the first metric."""


def main(argv: list[str]) -> int:
    """Run ``crossbatch evaluate`` and return the exit status."""
    options = tyro.cli(Options, prog="crossbatch evaluate", args=argv)
    if options.batch_size < 1 or options.workers < 0:
        got = f"{options.batch_size} and {options.workers}"
        wanted = "`--batch-size` ≥ 1 and `--workers` ≥ 0"
        raise CrossbatchError(expected(wanted, got, "Choose whole numbers."))
    counts = {"--augment": options.augment, "--expand": options.expand}
    for name, count in {**counts, "--per-class": options.per_class}.items():
        if count < 0:
            raise CrossbatchError(expected(f"`{name}` ≥ 0", count, "0 leaves it out."))
    if options.trials and options.protocol != "roles":
        remedy = "Leave one of them out."
        got = f"--trials with --protocol {options.protocol}"
        raise CrossbatchError(expected("trials, which say who searches where", got, remedy))
    measures((), options.metrics)
    _search(options)
    console = Console(highlight=False)
    runs = [RunFolder.open(path) for path in (options.run, *options.more)]
    tasks = {run.read_config().task for run in runs}
    if len(tasks) > 1:
        raise CrossbatchError(expected("runs of one task", "two", "Evaluate them apart."))
    if tasks == {"classification"}:
        watch = _watch("Classifying")
        predictions = [_predict(options, run, watch) for run in runs]
        show_classes(console, [run.path for run in runs], predictions, options.split)
        return 0
    for run in runs:
        evaluation = run_evaluation(replace(options, run=run.path), console)
        write_evaluation(run.path, evaluation)
        show(console, run.path, evaluation)
        if options.per_class:
            _show_classes(console, evaluation, options.per_class)
    return 0


def _predict(options: Options, run: RunFolder, watch: Watch) -> Prediction:
    return predict(
        run,
        options.split,
        manifest=options.manifest,
        device=options.device,
        batch_size=options.batch_size,
        workers=options.workers,
        watch=watch,
    )


def _watch(description: str, batches: int | None = None) -> Watch:
    def watch(parts: Iterable[Tensor]) -> Iterable[Tensor]:
        return track(
            parts,
            description=description,
            total=batches,
            console=Console(stderr=True),
            transient=True,
        )

    return watch


def run_evaluation(options: Options, console: Console) -> Evaluation:
    """Embed the split and score it."""
    split = load_split(RunFolder.open(options.run), options.split, manifest=options.manifest)

    embeddings = embed_manifest(
        split.encoder,
        split.images,
        device=options.device,
        batch_size=options.batch_size,
        workers=options.workers,
        features=split.features,
        watch=_watch("Embedding", -(-len(split.images) // options.batch_size)),
    )
    with console.status("Searching"):
        result = _score(embeddings, split, options)
    return describe(
        result,
        split=options.split,
        manifest=str(split.path.resolve()),
        manifest_digest=split.manifest.digest(),
    )


def _score(embeddings: Tensor, split: Split, options: Options) -> RetrievalResult | Trials:
    if options.trials:
        return evaluate_trials(
            embeddings,
            split.images,
            ks=(),
            metrics=options.metrics,
            neighbours=options.neighbours,
            exclude=options.exclude_camera,
            search=_search(options),
        )
    return evaluate_manifest(
        embeddings,
        split.images,
        ks=(),
        metrics=options.metrics,
        neighbours=options.neighbours,
        protocol=options.protocol,
        exclude=options.exclude_camera,
        search=_search(options),
    )


def _search(options: Options) -> Search:
    return Search(
        augment=Expansion(options.augment, options.alpha) if options.augment else None,
        expand=Expansion(options.expand, options.alpha) if options.expand else None,
        rerank=KReciprocal(*options.rerank) if options.rerank else None,
    )


def show(console: Console, run: Path, evaluation: Evaluation) -> None:
    """Print what was found."""
    result = evaluation.result
    table = Table("metric", "", "95 % interval", "over classes", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in result.metrics.items():
        low, high = evaluation.intervals[name]
        between = f"{100 * low:.2f} – {100 * high:.2f}"
        macro = f"{100 * evaluation.macro[name]:.2f}"
        table.add_row(name, f"[bold]{100 * value:.2f}[/]", between, macro)
    many = len(result.query_ids)
    console.print(
        f"{result.protocol}, split {evaluation.split}: {many:,} queries of "
        f"{len(set(result.labels)):,} classes, {result.gallery:,} images searched"
    )
    for name in result.search:
        console.print(f"With {name}", highlight=False)
    console.print(table)
    for trial in evaluation.trials:
        first, value = next(iter(trial["metrics"].items()))
        console.print(f"{trial['trial']}, seed {trial['seed']}: {first} {100 * value:.2f}")
    if result.idle:
        console.print(
            f"[yellow]{', '.join(result.idle)} reach the whole gallery: 1 by definition[/]"
        )
    if len(result.skipped):
        named = ", ".join(map(str, result.skipped[:5]))
        more = ", …" if len(result.skipped) > 5 else ""
        console.print(
            f"[yellow]{len(result.skipped):,} queries have nothing to find and are in no mean: "
            f"ids {named}{more}[/]"
        )
    console.print(f"Wrote {escape(str(run / 'evaluation'))}.", soft_wrap=True)


def _show_classes(console: Console, evaluation: Evaluation, count: int) -> None:
    found = evaluation.per_class()
    first = next(iter(found.scores))
    table = Table("class", "queries", first, box=None, pad_edge=False)
    for row in found.scores[first].argsort(kind="stable")[:count]:
        score = f"{100 * found.scores[first][row]:.2f}"
        table.add_row(escape(str(found.labels[row])), str(found.queries[row]), score)
    console.print(table)

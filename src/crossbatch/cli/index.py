"""``crossbatch index RUN MANIFEST|FOLDER --out NAME``, ``index add``, ``index delete``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from crossbatch._check import check_device
from crossbatch.cli._pictures import load_encoder, show_skipped
from crossbatch.data import Problem
from crossbatch.data.importers import from_source
from crossbatch.errors import CrossbatchError, expected
from crossbatch.search import Changes, GalleryIndex
from crossbatch.search.index import ANN_FROM
from crossbatch.search.sizes import BLOCK


@dataclass(frozen=True, kw_only=True)
class _Options:
    ann_from: int = ANN_FROM
    """Items from which on an approximate index is built, and its recall measured."""
    device: str = "cpu"
    """Where to compute, such as cuda."""
    batch_size: int = 64
    """Images at a time."""
    workers: int = 2
    """Threads that read and decode images."""


@dataclass(frozen=True, kw_only=True)
class Build(_Options):
    """Make an index, or bring one up to date: what is new is embedded, what is gone is deleted.

    `crossbatch index add INDEX MANIFEST|FOLDER` takes in more without deleting anything;
    `crossbatch index delete INDEX` deletes items.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """A run folder, or a saved encoder."""
    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MANIFEST|FOLDER")]]
    """The images."""
    out: Annotated[Path, tyro.conf.arg(metavar="INDEX")]
    """The folder of the index."""


@dataclass(frozen=True, kw_only=True)
class Add(_Options):
    """Take more images into an index."""

    index: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="INDEX")]]
    """The folder of the index."""
    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MANIFEST|FOLDER")]]
    """The images."""


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Delete items of an index; their images stay."""

    index: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="INDEX")]]
    """The folder of the index."""
    where: Annotated[str | None, tyro.conf.arg(metavar="CONDITION")] = None
    """Those that meet it, such as "label = 'shoe'"."""
    id: Annotated[tuple[int, ...], tyro.conf.arg(metavar="ID")] = ()
    """Those with these numbers."""


def main(argv: list[str]) -> int:
    """Change an index and say how."""
    console = Console(highlight=False)
    match argv[:1]:
        case ["add"]:
            add = tyro.cli(Add, prog="crossbatch index add", args=argv[1:])
            _take_in(GalleryIndex.open(add.index), add.source, add, console, prune=False)
        case ["delete"]:
            _delete(tyro.cli(Delete, prog="crossbatch index delete", args=argv[1:]), console)
        case _:
            build = tyro.cli(Build, prog="crossbatch index", args=argv)
            encoder = load_encoder(build.run, "cpu")
            if (build.out / "index.json").exists():
                index = GalleryIndex.open(build.out)
                index.check_model(encoder.digest())
            else:
                from_source(build.source)  # before anything is made
                index = GalleryIndex.create(build.out, encoder)
            _take_in(index, build.source, build, console, prune=True)
    return 0


def _take_in(
    index: GalleryIndex, source: Path, options: _Options, console: Console, *, prune: bool
) -> None:
    manifest, problems = from_source(source)
    index.encoder.to(check_device(options.device))
    before = index.ann
    bar = Console(stderr=True)
    done = index.add(
        manifest,
        origin=source,
        prune=prune,
        ann_from=options.ann_from,
        batch_size=options.batch_size,
        workers=options.workers,
        watch=lambda blocks: track(
            blocks, "Indexing", -(-len(manifest) // BLOCK), console=bar, transient=True,
            disable=not bar.is_terminal,
        ),
    )  # fmt: skip
    listed = index.path.with_name(f"{index.path.name}.problems.csv")
    show_skipped(console, [*problems, *done.problems], listed)
    _show(console, index, done, [*problems, *done.problems])
    if index.ann is not None and index.ann != before:
        ann = index.ann
        console.print(
            f"Approximate index over {ann.rows:,} items: recall@10 {100 * ann.recall:.1f} % of "
            f"{ann.queries} items asked, {ann.speedup:.0f} times as fast as exact, looking into "
            f"{ann.probes:,} of {ann.partitions:,} cells.",
            soft_wrap=True,
        )


def _show(console: Console, index: GalleryIndex, done: Changes, left_out: list[Problem]) -> None:
    counts = {
        "added": done.added,
        "changed": done.changed,
        "relabelled": done.relabelled,
        "deleted": done.deleted,
        "as they were": done.kept,
        "left out": sum(problem.kind.excludes for problem in left_out),
    }
    text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    name = escape(str(index.path.name))
    console.print(f"{name}: {len(index):,} items ({text or 'nothing to do'}).", soft_wrap=True)


def _delete(options: Delete, console: Console) -> None:
    if (options.where is None) == (not options.id):
        remedy = "Say which items to delete, in one way."
        got = "neither" if options.where is None else "both"
        raise CrossbatchError(expected("`--where` or `--id`", got, remedy))
    index = GalleryIndex.open(options.index)
    many = index.delete(options.id if options.where is None else options.where)
    console.print(f"{escape(index.path.name)}: {many:,} deleted, {len(index):,} left.")

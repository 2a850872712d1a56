"""``crossbatch explore RUN``: embeddings and their neighbours as a file, and a map of them."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from crossbatch.cli._pictures import bar, load_encoder, show_skipped
from crossbatch.data import Manifest
from crossbatch.data.importers import from_source
from crossbatch.errors import CrossbatchError, expected
from crossbatch.studies.neighbourhoods import ROWS, VECTOR, write_neighbourhoods
from crossbatch.training import RunFolder

ATLAS = "embedding-atlas"


@dataclass(frozen=True, kw_only=True)
class Explore:
    """Write a run's embeddings with their nearest neighbours, and open them as a map.

    The map is Apple's embedding-atlas, if it is installed: pip install 'crossbatch[explore]'.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run folder that `crossbatch train` made."""
    manifest: Annotated[Path | None, tyro.conf.arg(metavar="MANIFEST|FOLDER")] = None
    """The images [default: those that the run was trained with]."""
    split: str | None = None
    """Only that one: train, validation or test [default: all]."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A .parquet file [default: explore.parquet in the run folder]."""
    neighbours: int = 10
    """Of each image."""
    no_open: bool = False
    """Only write the file."""
    device: str = "cpu"
    """Where to compute, such as cuda."""
    batch_size: int = 64
    """Images at a time."""
    workers: int = 2
    """Threads that decode images."""


def main(argv: list[str]) -> int:
    """Write the file and open it."""
    options = tyro.cli(tyro.conf.FlagCreatePairsOff[Explore], prog="crossbatch explore", args=argv)
    run = RunFolder.open(options.run)
    manifest, problems = from_source(options.manifest or Path(run.about()["manifest"]))
    if options.split is not None:
        manifest = _of_split(manifest, options.split)
    out = options.out or options.run / "explore.parquet"
    skipped = write_neighbourhoods(
        load_encoder(options.run, options.device),
        manifest,
        out,
        neighbours=options.neighbours,
        batch_size=options.batch_size,
        workers=options.workers,
        watch=bar(len(manifest), options.batch_size),
    )
    console = Console(highlight=False)
    show_skipped(console, [*problems, *skipped], out.with_suffix(".problems.csv"))
    text = f"Wrote {len(manifest) - len(skipped):,} embeddings to {escape(str(out))}."
    console.print(text, soft_wrap=True)
    if not options.no_open:
        _open(out, console)
    return 0


def _of_split(manifest: Manifest, split: str) -> Manifest:
    images = manifest.split(split)
    if not len(images):
        known = ", ".join(sorted(set(manifest.column("split")))) or "none"
        remedy = "Choose one of them, or leave `--split` out."
        raise CrossbatchError(expected(f"images of the split {split!r}", known, remedy))
    return images


def _open(out: Path, console: Console) -> None:
    command = shutil.which(ATLAS)
    if command is None:
        remedy = "To see them as a map: pip install 'crossbatch[explore]', then run this again."
        console.print(escape(remedy), soft_wrap=True)
        return
    try:
        done = subprocess.run(
            [command, str(out), "--vector", VECTOR, "--neighbors", ROWS], check=False
        )
    except KeyboardInterrupt:
        return
    except OSError as error:
        raise CrossbatchError(_failed(out, error.strerror)) from error
    if done.returncode:
        raise CrossbatchError(_failed(out, f"its exit status {done.returncode}"))


def _failed(out: Path, got: object) -> str:
    remedy = f"The file stands; `--no-open` only writes it. Try `{ATLAS} --help`."
    return expected(f"{ATLAS} to open {out}", got, remedy)

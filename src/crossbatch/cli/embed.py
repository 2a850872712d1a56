"""``crossbatch embed RUN MANIFEST|FOLDER``: the embeddings of images, as a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from crossbatch.cli._pictures import bar, load_encoder, show_skipped
from crossbatch.data.importers import from_source
from crossbatch.evaluation.table import write_embeddings


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write the embeddings of a folder's or a manifest's images."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """A run folder, or a saved encoder."""
    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MANIFEST|FOLDER")]]
    """The images."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """x.parquet: a row per image; x.npy: the matrix alone, what its rows are in x.parquet."""
    device: str = "cpu"
    """Where to compute, such as cuda."""
    batch_size: int = 64
    """Images at a time."""
    workers: int = 2
    """Threads that decode images."""


def main(argv: list[str]) -> int:
    """Write the file and say what is in it."""
    options = tyro.cli(Embed, prog="crossbatch embed", args=argv)
    manifest, problems = from_source(options.source)
    encoder = load_encoder(options.run, options.device)
    skipped = write_embeddings(
        encoder,
        manifest,
        options.out,
        batch_size=options.batch_size,
        workers=options.workers,
        watch=bar(len(manifest), options.batch_size),
    )
    console = Console(highlight=False)
    show_skipped(console, [*problems, *skipped], options.out.with_suffix(".problems.csv"))
    console.print(
        f"Wrote {len(manifest) - len(skipped):,} embeddings of {encoder.config.dim} numbers to "
        f"{escape(str(options.out))}.",
        soft_wrap=True,
    )
    return 0

"""``crossbatch pack MANIFEST``: decode all images once, into a file that trainings map."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from crossbatch.data import Manifest
from crossbatch.data.pack import pack


@dataclass(frozen=True, kw_only=True)
class Options:
    """Decode and resize all images once; `crossbatch train --cache` reads them from there."""

    manifest: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MANIFEST")]]
    """The Parquet manifest."""
    shortest: int = 256
    """The shorter side that images are resized to; crops never have more pixels than that."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to write the pack [default: MANIFEST with the suffix .pack]."""


def main(argv: Sequence[str]) -> int:
    """Run ``crossbatch pack`` and return the exit status.

    Raises:
        CrossbatchError: The manifest or an image cannot be read, or the pack not be written.
    """
    options = tyro.cli(Options, prog="crossbatch pack", args=argv)
    manifest = Manifest.read(options.manifest)
    out = options.out or options.manifest.with_suffix(".pack")
    console = Console(highlight=False)
    watch = functools.partial(
        track,
        description="Decoding",
        total=len(manifest),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    packed = pack(manifest, out, shortest=options.shortest, watch=watch)
    console.print(f"Wrote {len(packed):,} images, {len(packed.data) / 1e6:,.0f} MB: ", end="")
    console.print(f"{escape(str(out))}.", soft_wrap=True)
    return 0

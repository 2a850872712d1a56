"""``crossbatch serve INDEX``: a page and an API that find similar pictures."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from crossbatch.serving import Address, Limits, choose_token, serve

TOKEN = "CROSSBATCH_TOKEN"


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve an index: a page to search by picture, and the same for programs.

    Only this machine is answered, unless `--host` says otherwise; then a token is asked for.
    """

    index: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="INDEX")]]
    """The folder that `crossbatch index` made."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 is every one of this machine."""
    port: int = 8000
    """The port to listen at; 0 is any that is free."""
    token: Annotated[str | None, tyro.conf.arg(metavar="TOKEN")] = None
    """What clients must send; better in the environment, as CROSSBATCH_TOKEN, where other users do
    not see it [default: made and printed where `--host` is not this machine]."""
    megabytes: float = Limits.upload_bytes / 2**20
    """Of one upload at most."""
    megapixels: float = Limits.pixels / 1e6
    """Of one uploaded picture at most."""
    seconds: float = Limits.seconds
    """That one request may take."""
    requests: int = Limits.requests
    """At work at one time; more are asked to come again."""
    most: int = Limits.k
    """Items that one search may ask for."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """That compute embeddings [default: as torch chooses]."""


def main(argv: list[str]) -> int:
    """Serve until interrupted."""
    options = tyro.cli(Serve, prog="crossbatch serve", args=argv)
    address = Address(options.host, options.port)
    given = options.token or os.environ.get(TOKEN) or None
    token = choose_token(address, given)
    limits = Limits(
        upload_bytes=int(options.megabytes * 2**20),
        held_bytes=max(Limits.held_bytes, int(options.megabytes * 2**20)),
        pixels=int(options.megapixels * 1e6),
        seconds=options.seconds,
        requests=options.requests,
        k=options.most,
    )
    if options.threads is not None:
        import torch

        torch.set_num_threads(max(1, options.threads))
    console = Console(highlight=False)

    def ready(page: str) -> None:
        console.print(f"{escape(options.index.name)}: {page} (Ctrl-C stops it)", soft_wrap=True)
        if token is not None and given is None:
            console.print(f"Token: {escape(token)}", soft_wrap=True)

    with contextlib.suppress(KeyboardInterrupt):  # which a shell's background jobs do not get
        serve(options.index, address, limits=limits, token=token, ready=ready)
    console.print("Stopped.")
    return 0

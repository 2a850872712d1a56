"""``crossbatch duplicates INDEX``: near-identical pictures, in groups."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from crossbatch.search import GalleryIndex
from crossbatch.search.hits import embedded


@dataclass(frozen=True, kw_only=True)
class Find:
    """List pictures of an index that are nearly the same, in groups that such pairs connect."""

    index: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="INDEX")]]
    """The folder that `crossbatch index` made."""
    threshold: float = 0.95
    """The least cosine of a pair."""
    where: Annotated[str | None, tyro.conf.arg(metavar="CONDITION")] = None
    """Only among items that meet it, such as "label = 'shoe'"."""
    limit: int = 20
    """How many groups to print; 0 prints all. JSON has all."""
    json: bool = False
    """Print JSON."""


def main(argv: list[str]) -> int:
    """Print the groups, the most similar first."""
    options = tyro.cli(tyro.conf.FlagCreatePairsOff[Find], prog="crossbatch duplicates", args=argv)
    index = GalleryIndex.open(options.index)
    found = index.duplicates(options.threshold, where=options.where)
    if options.json:
        rows = [
            {
                "least": round(group.least, 6),
                "greatest": round(group.greatest, 6),
                "items": [{"id": i.id, "label": i.label, "path": i.path} for i in group.items],
            }
            for group in found
        ]
        print(json.dumps(rows, indent=2))
        return 0
    console = Console(highlight=False)
    shown = found if options.limit == 0 else found[: options.limit]
    for least, greatest, items in ((g.least, g.greatest, g.items) for g in shown):
        span = f"{greatest:.3f}" if least == greatest else f"{greatest:.3f} to {least:.3f}"
        console.print(f"[bold]{span}[/]")
        for item in items:
            words = (str(item.id), item.label, "" if embedded(item) else item.path)
            text = "  ".join(word for word in words if word)
            console.print(f"  {escape(text)}", soft_wrap=True)
    pictures = sum(len(group.items) for group in found)
    more = f", {len(shown):,} of them printed" if len(shown) < len(found) else ""
    console.print(
        f"{len(found):,} groups with {pictures:,} of {len(index):,} pictures{more}.",
        soft_wrap=True,
    )
    return 0

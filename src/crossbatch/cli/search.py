"""``crossbatch search INDEX IMAGE ...``: the most similar pictures of an index."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crossbatch.cli._pictures import load_encoder
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation.rerank import Expansion, KReciprocal
from crossbatch.search import GalleryIndex, Hit, Item, Refinement, together, write_page
from crossbatch.search.hits import embedded

_WIDE = 100_000  # columns of what is no terminal


@dataclass(frozen=True, kw_only=True)
class Search:
    """Find the pictures of an index that are most similar to some images."""

    index: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="INDEX")]]
    """The folder that `crossbatch index` made."""
    images: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE")]]
    """Image files, a query each."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """How many to find."""
    where: Annotated[str | None, tyro.conf.arg(metavar="CONDITION")] = None
    """Only among items that meet it, such as "label = 'shoe' AND id < 100"."""
    together: bool = False
    """The images show one thing and are one query."""
    exact: bool = False
    """Do not use the approximate index of a large gallery."""
    expand: int = 0
    """Move the query towards so many of its nearest, and ask again; 0 does not."""
    alpha: float = 3.0
    """Power of the similarity that weighs them; 0 is their plain average."""
    rerank: Annotated[tuple[int, int, float] | None, tyro.conf.arg(metavar="K1 K2 LAMBDA")] = None
    """Order the nearest anew by neighbours that are mutual, such as 20 6 0.3."""
    pool: int = 200
    """How many of the nearest are ordered anew."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Embed with this run's encoder, which must be that of the index [default: the index's]."""
    json: bool = False
    """Print JSON."""
    gallery: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write a page with the pictures, such as out.html."""


def main(argv: list[str]) -> int:
    """Search and show what was found."""
    options = tyro.cli(tyro.conf.FlagCreatePairsOff[Search], prog="crossbatch search", args=argv)
    index = GalleryIndex.open(options.index)
    if not options.images:
        remedy = "Name a file: crossbatch search INDEX IMAGE ..."
        raise CrossbatchError(expected("an image to search by", "none", remedy))
    encoder = index.encoder if options.run is None else load_encoder(options.run, "cpu")
    model = index.model if options.run is None else encoder.digest()
    index.check_model(model)
    embeddings = np.asarray(encoder.encode(list(options.images)))
    if options.together:
        embeddings = together(embeddings)
    exact = True if options.exact else None
    refine = _refinement(options)
    found = index.search(
        embeddings, model=model, k=options.k, where=options.where, exact=exact, refine=refine
    )
    queries = [options.images] if options.together else [(image,) for image in options.images]
    if options.json:
        print(json.dumps([_plain(*pair) for pair in zip(queries, found, strict=True)], indent=2))
    else:
        for query, hits in zip(queries, found, strict=True):
            _show(query, hits)
        if refine is not None:
            Console(highlight=False).print(f"Refined: {refine}.")
    if options.gallery is not None:
        page = options.gallery
        write_page(page, index, found, queries=queries, where=options.where, refine=refine)
        Console(stderr=True).print(f"Wrote {escape(str(options.gallery))}.", soft_wrap=True)
    return 0


def _refinement(options: Search) -> Refinement | None:
    if not options.expand and options.rerank is None:
        return None
    expand = Expansion(options.expand, options.alpha) if options.expand else None
    rerank = None if options.rerank is None else KReciprocal(*options.rerank)
    return Refinement(expand, rerank, options.pool)


def _plain(query: Sequence[Path], hits: Sequence[Hit]) -> dict[str, Any]:
    shown = [
        {
            "similarity": round(hit.similarity, 6),
            "id": hit.item.id,
            "label": hit.item.label,
            "path": hit.item.path,
            "metadata": {key: _word(value) for key, value in hit.item.metadata.items()},
        }
        for hit in hits
    ]
    return {"query": [str(path) for path in query], "hits": shown}


def _word(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _said(item: Item) -> dict[str, str]:
    """What there is to say of an item, by column."""
    path = "" if embedded(item) else item.path
    known = {"label": item.label, "path": path, **item.metadata}
    return {name: str(value) for name, value in known.items() if value not in (None, "")}


def _show(query: Sequence[Path], hits: Sequence[Hit]) -> None:
    said = [_said(hit.item) for hit in hits]
    further = list(dict.fromkeys(name for one in said for name in one))
    table = Table("", "similarity", "id", *further, box=None, pad_edge=False)
    for place, (hit, one) in enumerate(zip(hits, said, strict=True), start=1):
        words = (one.get(name, "") for name in further)
        table.add_row(str(place), f"{hit.similarity:.3f}", str(hit.item.id), *map(escape, words))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE  # what reads it wants all of every word
    asked = escape(", ".join(map(str, query)))
    console.print(asked if hits else f"{asked}: nothing meets the condition.", soft_wrap=True)
    if hits:
        console.print(table)

"""A page for every weighting that crossbatch.weighting exports, made when the site is built.

A page holds the docstring of the weighting's module (its mathematics), its curves in synthetic
similarities, its reference and its BibTeX. ``methods/index.md`` shows all curves side by side.
"""

import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import crossbatch as xb
from crossbatch import cite
from crossbatch.citation import entries
from crossbatch.studies import (
    WeightCurves,
    default_weightings,
    inline,
    synthetic_samples,
    weight_curves,
)
from crossbatch.training import known_weightings
from crossbatch.weighting import PairWeighting

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

EXAMPLES = (
    xb.from_functions(xb.Ramp(-0.5, falling=True), xb.Ramp(0.3)),
    xb.Balanced(xb.SupCon()),
    xb.Clipped(xb.BinomialDeviance(), 0.0, 10.0),
    xb.Mixed(xb.Contrastive(), xb.MultiSimilarity(), 0.5),
    xb.Scheduled(xb.Contrastive(), xb.MultiSimilarity(), begin=0, end=1000),
    xb.Sides(xb.Contrastive(), xb.MultiSimilarity()),
    xb.Thresholded(xb.SupCon(), 0.3),
    xb.TopK(xb.Contrastive(-1.0), 10),
)
"""Of the weightings that are made of parts, one each."""
SECTION = "Weightings"  # of the navigation in mkdocs.yml, which the pages are added to


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Put the pages into the navigation."""
    for section in config.nav or []:
        if SECTION in section:
            section[SECTION] += [{name: f"methods/{_file(name)}"} for name in known_weightings()]
    return config


def on_files(files: "Files", *, config: "MkDocsConfig") -> "Files":
    """Make the pages."""
    from mkdocs.structure.files import File

    for name, kind in known_weightings().items():
        files.append(File.generated(config, f"methods/{_file(name)}", content=_page(name, kind)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **rest: Any) -> str:
    """Fill the overview."""
    del rest
    if page.file.src_uri != "methods/index.md":
        return markdown
    picture = inline(list(_curves().values()), columns=2, name="all")
    return markdown.replace("<!-- table -->", _table()).replace(
        "<!-- curves -->", f"<div>\n{picture}\n</div>"
    )


def _page(name: str, kind: type[PairWeighting]) -> str:
    parts = [f"# {name}", _prose(sys.modules[kind.__module__].__doc__ or "")]
    if name in _curves():
        picture = inline([_curves()[name]], name=_file(name).removesuffix(".md"))
        how = "In synthetic similarities; [how to read the picture](index.md#how-to-read-a-panel)."
        parts += ["## Weights", f"<div>\n{picture}\n</div>", how]
    options = "    options:\n      heading_level: 3"
    parts += ["## Reference", f"::: {kind.__module__}.{kind.__qualname__}\n{options}"]
    if kind.cites:
        parts += ["## Cite", f"```bibtex\n{cite(kind)}\n```"]
    return "\n\n".join(parts) + "\n"


def _prose(docstring: str) -> str:
    """A docstring as Markdown: roles become links, the words before a colon bold."""

    def link(match: re.Match[str]) -> str:
        name = match[1].rsplit(".", 1)[-1]
        return f"[`{name}`]({_file(name)})" if name in known_weightings() else f"`{name}`"

    text = re.sub(r":\w+:`~?([^`]+)`", link, docstring.strip()).replace("``", "`")
    return re.sub(r"\b(Requires|Cost|Relations):", r"**\1:**", text)


def _file(name: str) -> str:
    """MultiSimilarity: multi_similarity.md."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() + ".md"


@cache
def _curves() -> dict[str, WeightCurves]:
    shown = [*default_weightings(), *EXAMPLES]
    named = {type(weighting).__name__: weighting for weighting in shown}
    drawn = weight_curves(list(named.values()), synthetic_samples(batches=2))
    return dict(zip(named, drawn, strict=True))


def _table() -> str:
    lines = ["| weighting | papers | active | hardest\u00a01\u00a0% |", "|---|---|---:|---:|"]
    for name, kind in known_weightings().items():
        papers = "<br>".join(_paper(entries()[key]) for key in kind.cites)
        shares = ["", ""]
        if name in _curves():
            side = _curves()[name].negative
            shares = [f"{100 * share:.3g} %" for share in (side.active_share, side.hardest)]
        lines.append(f"| [{name}]({_file(name)}) | {papers} | {' | '.join(shares)} |")
    return "\n".join(lines)


def _paper(entry: str) -> str:
    def field(name: str) -> str:
        found = re.search(rf"^\s*{name}\s*= \{{(.*)\}},$", entry, re.MULTILINE)
        return re.sub(r"[{}]", "", found[1]) if found else ""

    return f"{field('title')}, {field('year')}"

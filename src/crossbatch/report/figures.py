"""Curves of runs as SVG text, to stand within a page in light and in dark."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from crossbatch.report.groups import Group

COLOURS = ("#8a8f98", "#0a7d62", "#b4541a", "#4a5fc1", "#a03a78", "#6d7a1f", "#3a87a8")


def curve(groups: Sequence[Group], log: str, keys: Sequence[str], *, logarithmic: bool) -> str:
    """One line per run: the first key whole, further ones dashed, dotted. Empty without a value.

    Where a plan's stages begin, after the first, there is a thin upright line.

    Args:
        groups: Runs of a group share a colour.
        log: The log's file name.
        keys: Its columns.
        logarithmic: Of the vertical axis; zero is drawn as one half.
    """
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        axes = figure.subplots()
        drawn = 0
        for place, group in enumerate(groups):
            begins = sorted({r["step"] for run in group.runs for r in run.rows("stages.jsonl")})
            for step in begins[1:]:
                colour = COLOURS[place % len(COLOURS)]
                axes.axvline(step, color=colour, lw=0.6, alpha=0.6, gid=f"stage-{place}-{step}")
            for run in group.runs:
                for style, key in zip(("-", "--", ":"), keys, strict=False):
                    rows = [r for r in run.rows(log) if r.get(key) is not None]
                    values = [max(r[key], 0.5) if logarithmic else r[key] for r in rows]
                    if not any(r[key] for r in rows):
                        continue
                    colour = COLOURS[place % len(COLOURS)]
                    axes.plot([r["step"] for r in rows], values, style, color=colour, lw=1.1)
                    drawn += 1
        axes.set_yscale("log" if logarithmic else "linear")
        axes.set_xlabel("iteration")
        axes.spines[["top", "right"]].set_visible(False)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    return text if drawn else ""

"""Figures as inline SVG that follows the page: its fonts, its colours, its light or dark.

Matplotlib draws with placeholder colours; they are replaced by the CSS variables of the page, and
text stays text. Nothing in the result refers to anything outside the page.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossbatch.report.runs import Group, Run
from crossbatch.report.standing import Standing

Array = np.ndarray[Any, Any]
COLOURS = 8
POINTS = 160  # of a curve; longer logs are averaged down to these
_INK, _RULE = "#0a0b0c", "#0a0b0d"
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": _RULE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": _INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "text.color": _INK,
    "xtick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.color": _RULE,
    "ytick.labelcolor": _INK,
    "ytick.left": False,
}


@dataclass(frozen=True)
class Drawing:
    """An SVG with a title and one sentence on what it shows."""

    title: str
    caption: str
    svg: str


def curves(groups: Sequence[Group]) -> list[Drawing]:
    """What happened while training: loss, active negatives, validation, throughput."""
    several = any(len(group.runs) > 1 for group in groups)
    band = " Lines are means over seeds, bands their range." if several else ""
    memory = any(row.get("loss_memory") is not None for g in groups for r in g.runs for row in r.log)
    dashed = " Solid: within the batch. Dashed: against the memory." if memory else ""
    drawings = [
        Drawing("Loss", f"The training loss.{dashed}{band}", _loss(groups)),
        Drawing(
            "Active negatives",
            "Negative pairs per step that still push, on a logarithmic scale; "
            f"what they teach is what training learns from.{dashed}{band}",
            _negatives(groups),
        ),
    ]
    if any(run.validation for group in groups for run in group.runs):
        drawings.append(
            Drawing(
                "Validation R@1",
                "Share of held-out training classes' images whose nearest neighbour is right, in "
                f"percent; the best checkpoint by MAP@R is the one that was evaluated.{band}",
                _validation(groups),
            )
        )
    drawings.append(
        Drawing("Throughput", f"Training images per second.{band}", _throughput(groups))
    )
    return drawings


def recall(found: Sequence[Standing]) -> Drawing | None:
    """R@K against K, if there are at least three cutoffs."""
    ks = sorted(int(name[2:]) for name in found[0].scores if name.startswith("R@"))
    if len(ks) < 3:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("K, nearest images looked at")
        for i, standing in enumerate(found):
            scores = [standing.scores[f"R@{k}"] for k in ks]
            axes.plot(ks, [100 * s.mean for s in scores], color=_series(i), marker="o", ms=3.5)
            low, high = ([100 * getattr(s, end) for s in scores] for end in ("low", "high"))
            axes.fill_between(ks, low, high, color=_series(i), alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(ks, [f"{k:,}" for k in ks])
        axes.minorticks_off()
        return Drawing(
            "Recall",
            "Share of queries, in percent, with at least one right image among the K nearest; "
            "bands are 95 % intervals over queries.",
            _svg(figure, "recall"),
        )


def differences(found: Sequence[Standing], metrics: Sequence[str]) -> Drawing:
    """The difference of every group to the first, with its interval."""
    others = [(i, standing) for i, standing in enumerate(found) if standing.against]
    rows = [metric for metric in reversed(metrics)]
    with mpl.rc_context(_STYLE | {"axes.grid.axis": "x", "ytick.left": False}):
        figure, axes = _axes("points of difference", height=0.7 + 0.5 * len(rows))
        for place, (i, standing) in enumerate(others):
            shift = 0.16 * ((len(others) - 1) / 2 - place)
            for y, metric in enumerate(rows):
                c = standing.against[metric]
                ends = [100 * c.low, 100 * c.high]
                axes.plot(ends, [y + shift] * 2, color=_series(i), linewidth=2.4)
                axes.plot(100 * c.difference, y + shift, "o", color=_series(i), ms=5.5)
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        return Drawing(
            "Difference",
            f"How many points each run is above {found[0].group.name} (right of the line) or "
            "below, with the 95 % interval of a paired bootstrap over queries.",
            _svg(figure, "differences"),
        )


def _loss(groups: Sequence[Group]) -> str:
    def draw(axes: Axes) -> None:
        _lines(axes, groups, "log", "loss_batch", "-")
        _lines(axes, groups, "log", "loss_memory", "--")

    return _draw(draw, "loss")


def _negatives(groups: Sequence[Group]) -> str:
    def draw(axes: Axes) -> None:
        _lines(axes, groups, "log", "active_negatives_batch", "-", positive=True)
        _lines(axes, groups, "log", "active_negatives_memory", "--", positive=True)
        if any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
            axes.set_yscale("log")

    return _draw(draw, "negatives")


def _validation(groups: Sequence[Group]) -> str:
    return _draw(
        lambda axes: _lines(axes, groups, "validation", "R@1", "-", scale=100), "validation"
    )


def _throughput(groups: Sequence[Group]) -> str:
    def draw(axes: Axes) -> None:
        _lines(axes, groups, "log", "images_per_second", "-")
        axes.set_ylim(bottom=0)

    return _draw(draw, "throughput")


def _lines(
    axes: Axes,
    groups: Sequence[Group],
    source: str,
    key: str,
    style: str,
    *,
    positive: bool = False,
    scale: float = 1,
) -> None:
    """A line per group, the mean of its seeds, with their range around it."""
    for i, group in enumerate(groups):
        series = [found for run in group.runs if len((found := _series_of(run, source, key))[0])]
        if not series:
            continue
        steps = max((steps for steps, _ in series), key=len)
        values = scale * np.array([np.interp(steps, *one, right=math.nan) for one in series])
        if positive:
            values = np.where(values > 0, values, math.nan)
        known = np.isfinite(values).any(axis=0)
        if not known.any():
            continue
        steps, values = steps[known], values[:, known]
        steps, values = _fewer(steps, values)
        axes.plot(steps, np.nanmean(values, axis=0), style, color=_series(i))
        if len(series) > 1:
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axes.fill_between(steps, low, high, color=_series(i), alpha=0.15, linewidth=0)


def _series_of(run: Run, source: str, key: str) -> tuple[Array, Array]:
    rows = run.log if source == "log" else run.validation
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, np.where(np.isfinite(values), values, math.nan)


def _fewer(steps: Array, values: Array) -> tuple[Array, Array]:
    """At most ``POINTS`` points, each the mean of its neighbourhood."""
    width = -(-len(steps) // POINTS)
    if width == 1:
        return steps, values
    starts = np.arange(0, len(steps), width)
    sizes = np.diff(np.append(starts, len(steps)))
    return (
        np.add.reduceat(steps, starts) / sizes,
        np.add.reduceat(values, starts, axis=1) / sizes,
    )


def _draw(draw: Callable[[Axes], None], name: str) -> str:
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("step")
        draw(axes)
        return _svg(figure, name)


def _axes(label: str, height: float = 2.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(label)
    axes.margins(x=0.02)
    axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,g}"))
    return figure, axes


def _series(i: int) -> str:
    return f"#0a0c{i % COLOURS:02x}"


def _svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element with the page's variables for colours and fonts."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+)px[^;\"]*", r"font-size: \1px", text)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(_INK, "var(--ink-soft)").replace(_RULE, "var(--rule)")
    text = re.sub(r"#0a0c0([0-7])", r"var(--series-\1)", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", text, count=1)
    return text.replace("<svg", '<svg role="img"', 1)

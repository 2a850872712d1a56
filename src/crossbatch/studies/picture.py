"""Weight curves as a picture: one panel per weighting, its curves above where its mass lies.

Each curve is drawn to a scale of its own, told in the panel, for weights of different losses have
no common unit. Blue with whole lines is w⁺, orange with dashed lines w⁻.
"""

import html
import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from crossbatch._files import write_beside
from crossbatch.errors import CrossbatchError, expected
from crossbatch.studies.curves import SIDES, Curve, WeightCurves
from crossbatch.weighting.statistics import Side

COLOURS: dict[Side, str] = {"positive": "#2a7fc0", "negative": "#d9641a"}
PALE: dict[Side, str] = {"positive": "#a9cdea", "negative": "#f3bd96"}
SIGNS: dict[Side, str] = {"positive": "w⁺", "negative": "w⁻"}
_STYLES: dict[Side, str] = {"positive": "-", "negative": "--"}
_PANEL, _ALONE = (3.3, 2.75), (5.6, 3.4)  # inches
_TOP = 1.3  # of a panel; bands are cut a little below, where the scales are told
_HILLS = 0.55  # of the height, for the numbers of pairs
_ROOT = (
    'fill="currentColor" stroke-linejoin="round" stroke-linecap="butt" '
    'style="width: 100%; height: auto"'
)
_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "crossbatch",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


def draw(curves: Sequence[WeightCurves], *, columns: int = 3) -> Figure:
    """Draw the panels.

    Args:
        curves: One or more weightings, seen in the same samples.
        columns: Panels side by side.

    Raises:
        CrossbatchError: Nothing to draw.
    """
    if not curves or columns < 1:
        remedy = "Give what weight_curves returned."
        got = f"{len(curves)}, columns={columns}"
        raise CrossbatchError(expected("curves to draw, and columns for them", got, remedy))
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    width, height = _ALONE if columns == 1 else _PANEL
    legend = 1.1 if columns < 3 else 0.4
    with mpl.rc_context(_RC):
        size = (width * columns + 0.3, height * rows + legend + 0.2)
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # pyright: ignore
        heights = [height] * rows
        top = rows > 1  # a key that stands first is read first; under one row it is at hand
        heights.insert(0 if top else rows, legend)
        grid = figure.add_gridspec(rows + 1, columns, height_ratios=heights)
        limits = _limits(curves[0])
        for place, one in enumerate(curves):
            row, column = divmod(place, columns)
            cell = grid[row + top, column].subgridspec(2, 1, height_ratios=[3, 1], hspace=0.0)
            upper = figure.add_subplot(cell[0])
            lower = figure.add_subplot(cell[1], sharex=upper)
            first, last = column == 0, place + columns >= len(curves)
            _panel(upper, one, limits, labelled=first)
            _masses(lower, one, labelled=first)
            lower.set_xlabel("similarity" if last else "")
        _legend(figure.add_subplot(grid[0 if top else rows, :]), narrow=columns < 3)
    return figure


def write_picture(curves: Sequence[WeightCurves], path: Path, *, columns: int = 3) -> None:
    """Draw the panels into a file, whole or not at all; its ending says what kind.

    Raises:
        CrossbatchError: The ending is not .svg, .png or .pdf, or the file cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("svg", "png", "pdf"):
        remedy = "Name the picture for example weights.svg."
        raise CrossbatchError(expected("a picture that ends in .svg, .png or .pdf", path, remedy))
    figure = draw(curves, columns=columns)
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context(_RC):
        write_beside(
            path,
            lambda part: figure.savefig(part, dpi=200, metadata=metadata.get(kind, {})),
        )


def inline(curves: Sequence[WeightCurves], *, columns: int = 3, name: str) -> str:
    """The panels as an SVG element for a page, in the page's colour of text.

    Args:
        curves: As for :func:`draw`.
        columns: Panels side by side.
        name: Unlike that of any other picture on the page; begins the ids within the element.
    """
    figure = draw(curves, columns=columns)
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    file = io.StringIO()
    with mpl.rc_context(_RC):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    numbers: dict[str, int] = {}  # matplotlib's ids differ from call to call

    def own(match: re.Match[str]) -> str:
        return f"{match[1]}{name}-{numbers.setdefault(match[2], len(numbers))}"

    text = re.sub(r'(\bid="|url\(#|href="#)([^")]+)', own, text)
    text = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text)
    about = html.escape("Weight curves of " + ", ".join(one.name for one in curves))
    head = f'<svg role="img" aria-label="{about}" {_ROOT}'
    return re.sub(r"\n\s*\n", "\n", head + text.removeprefix("<svg"))


def _limits(one: WeightCurves) -> tuple[float, float]:
    """Where pairs are, rounded outwards to tenths."""
    seen = _edges(one.similarity).repeat(2)[1:-1].reshape(-1, 2)[_counts(one) > 0]
    if not len(seen):
        return -1.0, 1.0
    return float(np.floor(10 * seen.min() + 0.01) / 10), float(
        np.ceil(10 * seen.max() - 0.01) / 10
    )


def _counts(one: WeightCurves) -> np.ndarray:
    return one.positive.pairs + one.negative.pairs


def _panel(axes: Axes, one: WeightCurves, limits: tuple[float, float], *, labelled: bool) -> None:
    lowest = 0.0
    shown = (one.similarity >= limits[0]) & (one.similarity <= limits[1])
    corners = ((0.01, "left"), (0.99, "right"))
    for side, (corner, align) in zip(SIDES, corners, strict=True):
        curve: Curve = getattr(one, side)
        largest = _largest(curve, shown)
        scale = largest or 1.0
        _side(axes, one.similarity, curve, side, scale)
        lowest = min(lowest, float((curve.median[shown] / scale).min(initial=0)))
        signed = f"|{SIGNS[side]}|" if curve.median[shown].min(initial=0) < 0 else SIGNS[side]
        told = f"max {signed} = {_number(largest)}"
        options: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "fontsize": 7.5}
        axes.text(corner, 0.985, told, color=COLOURS[side], ha=align, **options)
    axes.axhline(0, color="black", lw=0.5, zorder=2)
    axes.set_xlim(*limits)
    axes.set_xticks([x for x in (-1, -0.5, 0, 0.5, 1) if limits[0] <= x <= limits[1]])
    axes.set_ylim(min(1.1 * max(lowest, -1.0), -0.02), _TOP)
    axes.set_yticks([-1, 0, 1] if lowest < -0.5 else [0, 1])
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_ylabel("weight / its maximum" if labelled else "")
    title, _, arguments = one.name.partition("(")
    about = textwrap.wrap(arguments.removesuffix(")"), 52)[:2]
    size = 10 * min(1.0, 27 / max(len(title), 1))
    axes.set_title(title, loc="left", fontsize=size, fontweight="bold", pad=4 + 10 * len(about))
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    note = axes.annotate("\n".join(about), (0, 1), (0, 4), fontsize=7.5, **place)
    note.set_in_layout(False)


def _side(axes: Axes, x: np.ndarray, curve: Curve, side: Side, scale: float) -> None:
    """The curve with its band, over a histogram of the pairs."""
    hill = curve.pairs / max(curve.pairs.max(), 1) * _HILLS
    colour = COLOURS[side]
    edges, seen = _edges(x), np.flatnonzero(hill)
    if len(seen):
        part = slice(seen[0], seen[-1] + 1)
        face = to_rgba(colour, 0.10)
        axes.stairs(
            hill[part], edges[seen[0] : seen[-1] + 2], fill=True, fc=face, ec=PALE[side], lw=0.8
        )
    low, high = curve.low / scale, np.minimum(curve.high / scale, _TOP - 0.15)
    axes.fill_between(x, low, high, color=colour, alpha=0.28, lw=0, zorder=2)
    axes.plot(x, curve.median / scale, _STYLES[side], color=colour, lw=1.7, zorder=3)


def _largest(curve: Curve, seen: np.ndarray) -> float:
    """The largest |median| where it is shown, or else of the band, or else 0."""
    for arrays in ((curve.median,), (curve.low, curve.high)):
        largest = max(float(np.abs(a[seen]).max(initial=0)) for a in arrays)
        if largest > 0:
            return largest
    return 0.0


def _masses(axes: Axes, one: WeightCurves, *, labelled: bool) -> None:
    """Upwards the mass of the negatives, downwards that of the positives, each of area one."""
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        curve: Curve = getattr(one, side)
        largest = float((curve.mass_batch + curve.mass_memory).max()) or 1.0
        memory, batch = sign * curve.mass_memory / largest, sign * curve.mass_batch / largest
        seen = np.flatnonzero(memory + batch)
        if not len(seen):
            continue
        part = slice(seen[0], seen[-1] + 1)
        edges = _edges(one.similarity)[seen[0] : seen[-1] + 2]
        axes.stairs(memory[part], edges, fill=True, color=COLOURS[side], lw=0)
        upper = (memory + batch)[part]
        axes.stairs(upper, edges, baseline=memory[part], fill=True, color=PALE[side], lw=0)
    axes.axhline(0, color="black", lw=0.5)
    axes.set_ylim(-1.1, 1.1)
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel("Σ|w|" if labelled else "")


def _edges(middles: np.ndarray) -> np.ndarray:
    half = (middles[1] - middles[0]) / 2
    return np.append(middles - half, middles[-1] + half)


def _number(value: float) -> str:
    if value == 0 or 0.01 <= value < 1000:
        return f"{value:.2g}" if value < 100 else f"{value:.0f}"
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.0e}").replace("e+", "e")


def _legend(axes: Axes, *, narrow: bool) -> None:
    axes.set_axis_off()
    entries: dict[Side, list[tuple[Any, str]]] = {}
    for side in SIDES:
        sign, colour = SIGNS[side], COLOURS[side]
        hill = Patch(facecolor=to_rgba(colour, 0.10), edgecolor=PALE[side], lw=0.8)
        entries[side] = [
            (Line2D([], [], color=colour, ls=_STYLES[side], lw=1.7), f"{sign}, median anchor"),
            (Patch(color=colour, alpha=0.28, lw=0), f"{sign}, 80 % of anchors"),
            (hill, f"{side} pairs"),
            (Patch(color=colour, lw=0), f"Σ|{sign}| from the memory"),
            (Patch(color=PALE[side], lw=0), f"Σ|{sign}| from the batch"),
        ]
    both = list(zip(entries["positive"], entries["negative"], strict=True))
    ordered = (
        [pair[i] for i in (0, 1) for pair in both] if narrow else [e for p in both for e in p]
    )
    handles, labels = zip(*ordered, strict=True)
    columns = 2 if narrow else 5
    axes.legend(handles, labels, loc="center", ncols=columns, frameon=False, fontsize=7.5)

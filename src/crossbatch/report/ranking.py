"""The page of a ranking: every class with its ρ–δ plot, its cleanest and its noisiest pictures.

One self-contained file. A class stands in a ``<template>`` until it is opened, so that a browser
lays out the list alone, however many classes there are.
"""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossbatch._files import write_beside
from crossbatch.curriculum import Ranking
from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError

_PICTURES = 8  # at each end of a class
_FEW = 4  # where there are many classes
_MANY = 300
_THUMBNAIL = 76  # pixels
_POINTS = 400  # of a class in its plot
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 340, 210, 34, 24  # of the plot


def write_ranking(ranking: Ranking, manifest: Manifest, out: Path) -> None:
    """Write the page.

    Args:
        ranking: Of the manifest's images, in its order.
        manifest: Where the pictures come from; one that cannot be read is left blank.
        out: The page.

    Raises:
        CrossbatchError: The page could not be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crossbatch.report"), autoescape=True, trim_blocks=True
    )
    ranker, copies = ranking.ranker, ranking.copies()
    sizes = np.bincount(ranker.subset_, minlength=ranker.n_subsets)
    text = environment.get_template("ranking.html").render(
        classes=[_class(ranking, manifest, c, copies) for c in range(len(ranker.classes_))],
        names=_names(ranker.n_subsets),
        images=len(ranker.subset_),
        shares=[float(size) / len(ranker.subset_) for size in sizes],
        settings=repr(ranker),
        contrast=ranker.contrast,
        trust=ranking.trust,
        known=not np.isnan(ranking.trust.value),
    )
    write_beside(out, lambda part: part.write_text(text, encoding="utf-8"))


def _names(subsets: int) -> list[str]:
    if subsets == 3:
        return ["clean", "noisy", "highly noisy"]
    return [f"subset {s}" for s in range(subsets)]


def _class(
    ranking: Ranking, manifest: Manifest, c: int, copies: NDArray[np.bool_]
) -> dict[str, Any]:
    ranker = ranking.ranker
    rows = ranking.classes.rows[c]
    ordered = rows[np.argsort(ranker.rank_[rows])]
    ordered = ordered[~copies[ordered]]  # the first of each stands for all
    many = len(ranker.classes_) > _MANY
    count = min(_FEW if many else _PICTURES, -(-len(ordered) // 2))
    sizes = np.bincount(ranker.subset_[rows], minlength=ranker.n_subsets)
    return {
        "name": str(ranker.classes_[c]),
        "size": len(rows),
        "copies": len(rows) - len(ordered),
        "shares": [float(size) / len(rows) for size in sizes],
        "doubted": float((ranking.contrast[rows] < 0.5).mean()),
        "plot": _plot(ranker.density_[rows], ranker.delta_[rows], ranker.subset_[rows]),
        "cleanest": [_picture(ranking, manifest, int(row)) for row in ordered[:count]],
        "noisiest": [
            _picture(ranking, manifest, int(row)) for row in ordered[::-1][:count] if count
        ][: len(ordered) - count],
    }


def _picture(ranking: Ranking, manifest: Manifest, row: int) -> dict[str, Any]:
    names = ranking.ranker.classes_
    rival = int(ranking.rival[row])
    torn = rival >= 0 and ranking.contrast[row] < 0.5
    place = f"place {int(ranking.ranker.rank_[row]) + 1}, {manifest.name(row)}"
    return {
        "src": _thumbnail(manifest, row),
        "rival": str(names[rival]) if torn else "",
        "title": place + (f", `{names[rival]}` is denser here" if torn else ""),
        "subset": int(ranking.ranker.subset_[row]),
    }


def _thumbnail(manifest: Manifest, row: int) -> str:
    """A data URI; empty where the picture cannot be read."""
    try:
        with Image.open(io.BytesIO(manifest.image_bytes(row))) as picture:
            picture.draft("RGB", (2 * _THUMBNAIL, 2 * _THUMBNAIL))
            small = picture.convert("RGB")
    except (CrossbatchError, OSError, ValueError):
        return ""
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=60)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _plot(
    density: NDArray[np.float64], delta: NDArray[np.float64], subset: NDArray[np.int64]
) -> dict[str, Any]:
    """Where each drawn point stands: a path of dots per subset, the centre apart, the axes' ends.

    Of a large class the points with the largest δ are drawn, and an even choice of the others.
    """
    centre = int(np.lexsort((-delta, -density))[0])
    order = np.argsort(-delta, kind="stable")
    head, rest = order[: _POINTS // 4], order[_POINTS // 4 :]
    step = max(1, -(-len(rest) // (_POINTS - _POINTS // 4)))
    drawn = np.concatenate([head, rest[::step]])
    low, high = float(density.min()), float(density.max())
    top = float(delta.max())
    x = _LEFT + (density - low) / (high - low or 1) * (_WIDTH - _LEFT - 10)
    y = _HEIGHT - _BOTTOM - delta / (top or 1) * (_HEIGHT - _BOTTOM - 10)
    paths = [
        "".join(f"M{x[i]:.0f} {y[i]:.0f}h0" for i in drawn if subset[i] == s and i != centre)
        for s in range(int(subset.max()) + 1)
    ]
    return {
        "paths": paths,
        "centre": (round(float(x[centre])), round(float(y[centre]))),
        "ends": (f"{low:.4g}", f"{high:.4g}", f"{top:.3g}"),
        "drawn": len(drawn),
    }

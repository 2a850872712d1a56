"""The page itself: what is on it, and in which order.

Nothing on it is fetched: figures are SVG within the text, pictures are data URIs.
"""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from PIL import Image

from crossbatch._files import write_beside
from crossbatch.data import Manifest
from crossbatch.evaluation import Evaluation, corrected
from crossbatch.report.figures import COLOURS, curve
from crossbatch.report.groups import METRICS, Group, group_runs

_QUERIES = 8  # in each part of the gallery
_THUMBNAIL = 72  # pixels


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Write one self-contained HTML page about some runs; the first is the baseline.

    Runs named ``NAME-seed0``, ``NAME-seed1`` ... are seeds of one setting: the table shows their
    mean and deviation, and comparisons average each query's scores over them.

    Args:
        folders: Evaluated run folders.
        out: The page.

    Raises:
        CrossbatchError: A folder is no run or was not evaluated, the queries differ, or the page
            could not be written.
    """
    groups = group_runs(list(folders))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crossbatch.report"), autoescape=True, trim_blocks=True
    )
    text = environment.get_template("page.html").render(
        groups=_rows(groups),
        metrics=METRICS,
        comparisons=_comparisons(groups),
        figures=_figures(groups),
        stages=_stages(groups),
        gallery=_gallery(groups),
        about=_about(groups[0].evaluations[0]),
        configs=_configs(groups),
        environment=json.loads((groups[0].runs[0].path / "environment.json").read_text()),
    )
    write_beside(out, lambda part: part.write_text(text, encoding="utf-8"))


def _about(evaluation: Evaluation) -> dict[str, Any]:
    result = evaluation.result
    return {
        "queries": len(result.query_ids),
        "gallery": result.gallery,
        "skipped": len(result.skipped),
        "protocol": result.protocol,
        "split": evaluation.split,
    }


def _rows(groups: list[Group]) -> list[dict[str, Any]]:
    return [
        {
            "name": group.name,
            "seeds": len(group.runs),
            "colour": COLOURS[place % len(COLOURS)],
            "cells": [group.summary(metric) for metric in METRICS],
            "advice": group.runs[0].advice(),
        }
        for place, group in enumerate(groups)
    ]


def _comparisons(groups: list[Group]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    together = corrected(
        {
            f"{place} {metric}": group.against(groups[0], metric)
            for place, group in enumerate(groups[1:])
            for metric in ("R@1", "MAP@R")
        }
    )
    for place, group in enumerate(groups[1:]):
        for metric in ("R@1", "MAP@R"):
            c = together[f"{place} {metric}"]
            text = f"{100 * c.difference:+.2f} ({100 * c.low:+.2f} to {100 * c.high:+.2f})"
            rows.append({"name": group.name, "metric": metric, "text": text, "c": c})
    return rows


def _figures(groups: list[Group]) -> list[dict[str, str]]:
    wanted = (
        ("Loss", "log.jsonl", ("loss_batch", "loss_memory"), False,
         "Batch (whole line) and memory (dashed). Sums over pairs: the memory's is larger because "
         "it has more pairs."),
        ("Active negatives", "log.jsonl", ("active_negatives_batch", "active_negatives_memory"),
         True, "Pairs that push: few are left in a batch (whole line), the memory (dashed) keeps "
         "finding more."),
        ("Drift of stored rows", "log.jsonl", ("drift",), False,
         "Mean squared distance of an image's fresh embedding from its stored row; 0: as good as "
         "fresh, 2: unrelated."),
        ("Drift of a fixed set", "drift.jsonl", ("drift_10", "drift_100", "drift_1000"), False,
         "Mean squared distance of images from where they were 10 (whole line), 100 (dashed) and "
         "1,000 (dotted) iterations before, without augmentation."),
        ("Validation R@1", "validation.jsonl", ("R@1",), False,
         "On training classes held out to pick the checkpoint."),
        ("Time of the memory", "log.jsonl", ("memory_share",), False,
         "Share of a step's time that goes to momentum keys and to the loss beside the memory."),
        ("Images per second", "log.jsonl", ("images_per_second",), False,
         "Of training, logging and validation included."),
    )  # fmt: skip
    drawn = [
        {"title": title, "svg": curve(groups, log, keys, logarithmic=scale), "text": text}
        for title, log, keys, scale, text in wanted
    ]
    return [figure for figure in drawn if figure["svg"]]


def _stages(groups: list[Group]) -> list[dict[str, Any]]:
    """The stages of each group's first run, where it has a plan."""
    rows: list[dict[str, Any]] = []
    for group in groups:
        for row in group.runs[0].rows("stages.jsonl"):
            told = {key: ", ".join(f"{n:,}" for n in row[key]) for key in ("images", "batch")}
            subsets = ", ".join(map(str, row["subsets"])) or "all"
            weights = ", ".join(f"{w:g}" for w in row["weights"]) or "1"
            if row["reranked"]:
                subsets += ", ranked anew"
            rows.append(row | told | {"name": group.name, "subsets": subsets, "weights": weights})
    return rows


def _configs(groups: list[Group]) -> list[dict[str, str]]:
    """The first config whole; of the others what differs from it."""
    first = groups[0].runs[0].config.read_text(encoding="utf-8")
    shown = [{"name": groups[0].name, "text": first}]
    base = _flat(yaml.safe_load(first))
    for group in groups[1:]:
        other = _flat(yaml.safe_load(group.runs[0].config.read_text(encoding="utf-8")))
        lines = [f"{k}: {base.get(k)} → {v}" for k, v in other.items() if base.get(k) != v]
        shown.append({"name": f"{group.name}, what differs", "text": "\n".join(lines) or "—"})
    return shown


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        flat |= {f"{prefix}{key}": value} if inner is None else inner
    return flat


def _gallery(groups: list[Group]) -> list[dict[str, Any]]:
    """Queries that the last group wins, that it loses, and some at random."""
    first, last = groups[0].evaluations[0], groups[-1].evaluations[0]
    manifest = Manifest.read(last.manifest)
    rows = {int(i): row for row, i in enumerate(manifest.ids)}
    draw = np.random.default_rng(0)
    gain = last.result.per_query["R@1"] - first.result.per_query["R@1"]
    parts = [("Drawn at random", np.ones(len(gain), bool))]
    if len(groups) > 1:
        parts.insert(0, (f"Found by {groups[-1].name}, not by {groups[0].name}", gain > 0))
        parts.insert(1, (f"Found by {groups[0].name}, not by {groups[-1].name}", gain < 0))
    shown: list[dict[str, Any]] = []
    for title, mask in parts:
        places = np.flatnonzero(mask)
        chosen = draw.permutation(places)[:_QUERIES]
        both = [first, last] if len(groups) > 1 else [last]
        names = [groups[0].name, groups[-1].name] if len(groups) > 1 else [""]
        shown.append(
            {
                "title": title,
                "count": len(places),
                "queries": [_query(manifest, rows, both, names, int(i)) for i in chosen],
            }
        )
    return shown


def _query(
    manifest: Manifest, rows: dict[int, int], both: list[Evaluation], names: list[str], place: int
) -> dict[str, Any]:
    row = rows[int(both[0].result.query_ids[place])]
    label = manifest.labels[row]
    answers = []
    for evaluation, name in zip(both, names, strict=True):
        found = [rows[int(i)] for i in evaluation.result.neighbours[place][:5] if i >= 0]
        hits = [_thumbnail(manifest, r) | {"right": manifest.labels[r] == label} for r in found]
        answers.append({"name": name, "hits": hits})
    return _thumbnail(manifest, row) | {"answers": answers}


def _thumbnail(manifest: Manifest, row: int) -> dict[str, Any]:
    with Image.open(io.BytesIO(manifest.image_bytes(row))) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=75)
    uri = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return {"src": uri, "label": str(manifest.labels[row])}

r"""Classification: top-k, per class and macro, over views of an image and several runs.

With outputs z of shape (N, C) and p = softmax z, an image of class y has the rank

    ρ = 1 + |{c ≠ y : p_c ≥ p_y}|,        top-k = 1[ρ ≤ k],

so *ties count against the image*, as in retrieval. Views of one image (ten crops: the corners and
the centre, and their mirror images; *ImageNet Classification with Deep Convolutional Neural
Networks*, Krizhevsky, Sutskever, Hinton, NIPS 2012) and runs of an ensemble are averaged as
probabilities,

    p̄ = 1/(M V) Σ_m Σ_v softmax z_mv.

Macro is the mean over classes that have an image. Top-1 and top-5 on the validation sets of
WebVision and ImageNet are what *CurriculumNet* reports (Guo et al., ECCV 2018), there as errors.
Everything is done some rows at a time; an array may be mapped from a file.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from crossbatch._files import recover_folder, replace_folder
from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.evaluation.averages import PerClass, per_class
from crossbatch.evaluation.significance import interval

Array = np.ndarray[Any, Any]
Outputs = Array | Tensor
Kind = Literal["logits", "probabilities"]
FORMAT = 1
FOLDER = "classification"
_ENTRIES = 2**22


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """Scores of a classifier, in all and image by image.

    Attributes:
        metrics: ``top-K`` for each K and ``macro top-K``.
        per_image: ``top-K`` of each image, shape (N,), in {0, 1}.
        ids: Shape (N,).
        labels: Shape (N,), the right class of each image, as a column of the outputs.
        predictions: Shape (N,), the most probable class, the first of equals.
        confidences: Shape (N,), its probability.
        classes: C, columns of the outputs.
        combined: What was averaged, such as ``3 runs, 10 views``.
        idle: Metrics whose K is no smaller than C: 1 by definition.
    """

    metrics: dict[str, float]
    per_image: dict[str, Array]
    ids: Array
    labels: Array
    predictions: Array
    confidences: Array
    classes: int
    combined: str
    idle: tuple[str, ...] = ()

    def per_class(self) -> PerClass:
        """Scores class by class, of the classes that have an image."""
        return per_class(self.labels, self.per_image)


def classify(
    outputs: Outputs | Sequence[Outputs],
    labels: Sequence[int] | Array | Tensor,
    *,
    kind: Kind = "logits",
    ks: Sequence[int] = (1, 5),
    ids: Array | Sequence[int] | None = None,
) -> ClassificationResult:
    """Score outputs of a classifier, or of several.

    Args:
        outputs: Shape (N, C), or (N, V, C) with V views of each image; a list of them is an
            ensemble, each run with views of its own number.
        labels: Length N, the right column of each image.
        kind: ``logits`` go through a softmax first; ``probabilities`` are in [0, 1] and sum to 1.
        ks: The cutoffs.
        ids: Length N; by default 0 … N−1.

    Returns:
        Exact counts. Cost: N · V · C per run; memory some MB beside the arrays.

    Raises:
        CrossbatchError: Wrong shapes, a label that is no column, NaN (rows are named), no
            probabilities, or cutoffs below 1 or twice.

    >>> found = classify(np.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), [0, 1], ks=(1, 2))
    >>> found.metrics
    {'top-1': 0.5, 'top-2': 1.0, 'macro top-1': 0.5, 'macro top-2': 1.0}
    """
    several = not isinstance(outputs, np.ndarray | Tensor)
    runs = [_run(part) for part in (outputs if several else [outputs])]
    right, classes = _checked(runs, labels, kind, ks)
    rows = len(right)
    rank = np.empty(rows, np.int64)
    predictions = np.empty(rows, np.int64)
    confidences = np.empty(rows)
    size = max(1, _ENTRIES // (classes * max(run.shape[1] for run in runs)))
    for start in range(0, rows, size):
        part = slice(start, min(start + size, rows))
        mean = np.mean([_probabilities(run, part, kind) for run in runs], axis=0)
        own = np.take_along_axis(mean, right[part, None], axis=1)
        rank[part] = (mean >= own).sum(axis=1)
        predictions[part] = mean.argmax(axis=1)
        confidences[part] = mean.max(axis=1)
    per_image = {f"top-{k}": (rank <= k).astype(np.float64) for k in ks}
    macro = per_class(right, per_image).macro()
    views = sorted({run.shape[1] for run in runs})
    told = f"{len(runs)} run{'s' * (len(runs) > 1)}, {' and '.join(map(str, views))} view"
    return ClassificationResult(
        metrics={name: float(values.mean()) for name, values in per_image.items()}
        | {f"macro {name}": value for name, value in macro.items()},
        per_image=per_image,
        ids=np.arange(rows) if ids is None else np.asarray(ids),
        labels=right,
        predictions=predictions,
        confidences=confidences,
        classes=classes,
        combined=told + "s" * (views != [1]),
        idle=tuple(f"top-{k}" for k in ks if k >= classes),
    )


def write_classification(
    run: Path,
    result: ClassificationResult,
    *,
    names: Sequence[str] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write ``classification/`` of a run folder, over an earlier one: all of it or nothing.

    ``metrics.json`` with 95 % bootstrap intervals over images, ``per_class.csv``, and
    ``per_image.parquet`` with id, label, prediction, confidence and the scores.

    Args:
        run: The folder.
        result: What :func:`classify` gave.
        names: Of the C classes, for ``per_class.csv``; None writes their numbers.
        notes: Kept in ``metrics.json``, such as the split.

    Raises:
        CrossbatchError: It could not be written; the earlier one still stands.
    """
    intervals: dict[str, tuple[float, float]] = {}
    for name, scores in result.per_image.items():
        found = interval(scores) if len(scores) > 1 else None
        mean = result.metrics[name]
        intervals[name] = (found.low, found.high) if found else (mean, mean)
    summary = {
        "format": FORMAT,
        **(notes or {}),
        "images": len(result.labels),
        "classes": result.classes,
        "combined": result.combined,
        "idle": list(result.idle),
        "metrics": result.metrics,
        "intervals": intervals,
    }
    columns = {
        "id": result.ids,
        "label": result.labels,
        "prediction": result.predictions,
        "confidence": result.confidences,
        **result.per_image,
    }
    classes = result.per_class()
    labels = classes.labels if names is None else [names[c] for c in classes.labels]
    lines = zip(labels, classes.queries, *classes.scores.values(), strict=True)

    def write(folder: Path) -> None:
        text = json.dumps(summary, indent=2) + "\n"
        (folder / "metrics.json").write_text(text, encoding="utf-8")
        pq.write_table(pa.table(columns), folder / "per_image.parquet", compression="zstd")
        with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["label", "images", *classes.scores], *lines])

    replace_folder(run / FOLDER, write)


def read_classification(run: Path) -> ClassificationResult:
    """Read what :func:`write_classification` wrote.

    Raises:
        FormatError: A file is missing, damaged or of another format version.
    """
    folder = run / FOLDER
    recover_folder(folder)
    try:
        about = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}")
        table = pq.read_table(folder / "per_image.parquet")
        if len(table) != about["images"]:
            raise ValueError("files that do not belong together")
        fixed = ("id", "label", "prediction", "confidence")
        ids, labels, predictions, confidences = (table[name].to_numpy() for name in fixed)
        names = [name for name in table.column_names if name not in fixed]
        return ClassificationResult(
            metrics=about["metrics"],
            per_image={name: table[name].to_numpy() for name in names},
            ids=ids,
            labels=labels,
            predictions=predictions,
            confidences=confidences,
            classes=about["classes"],
            combined=about["combined"],
            idle=tuple(about["idle"]),
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        wanted = f"a classification of format {FORMAT} in {folder}"
        remedy = "Write it again with write_classification."
        raise FormatError(expected(wanted, f"{error!r}", remedy)) from error


def _run(outputs: Outputs) -> Array:
    """Outputs of one run as (N, V, C), not copied."""
    array = outputs.detach().cpu() if isinstance(outputs, Tensor) else outputs
    if isinstance(array, Tensor):
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    array = np.asanyarray(array)
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind != "f":
        wanted = "floating outputs of shape (N, C) or (N, views, C), none of them 0"
        got = f"{array.dtype} of shape {np.shape(outputs)}"
        raise CrossbatchError(expected(wanted, got, "Give one row of C numbers for each view."))
    return array


def _checked(
    runs: list[Array], labels: Sequence[int] | Array | Tensor, kind: str, ks: Sequence[int]
) -> tuple[Array, int]:
    if not runs or kind not in ("logits", "probabilities"):
        got = f"{len(runs)} runs of {kind!r}"
        wanted = "outputs of at least one run, as `logits` or `probabilities`"
        raise CrossbatchError(expected(wanted, got, "Name what the outputs are."))
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        remedy = "The usual cutoffs are (1, 5)."
        raise CrossbatchError(expected("different `ks`, each at least 1", tuple(ks), remedy))
    shapes = sorted({(run.shape[0], run.shape[2]) for run in runs})
    if len(shapes) > 1:
        remedy = "Evaluate all on the same images and classes."
        raise CrossbatchError(expected("runs of one shape (N, C)", shapes, remedy))
    rows, classes = shapes[0]
    right = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    inside = right.dtype.kind in "iu" and ((right >= 0) & (right < classes)).all()
    if right.shape != (rows,) or not inside:
        got = f"{right.dtype} of shape {right.shape}"
        got += f", from {right.min()} to {right.max()}" if right.dtype.kind in "iu" else ""
        wanted = f"{rows} integer labels in [0, {classes})"
        raise CrossbatchError(expected(wanted, got, "A label is a column of the outputs."))
    return right.astype(np.int64), classes


def _probabilities(run: Array, part: slice, kind: str) -> Array:
    """The mean over views, shape (rows, C), float64."""
    values = np.asarray(run[part], np.float64)
    if np.isnan(values).any() or (values == np.inf).any():
        rows = np.flatnonzero(~(values < np.inf).all(axis=(1, 2))) + part.start
        got = f"NaN or infinity in {len(rows)} of rows {part.start} to {part.stop - 1}"
        got += f", the first: {rows[:5].tolist()}"
        remedy = "Look at these images and at the loss of the run's log."
        raise CrossbatchError(expected("finite outputs", got, remedy))
    if kind == "logits":
        values = np.exp(values - values.max(axis=2, keepdims=True))
        values /= values.sum(axis=2, keepdims=True)
    elif values.min() < 0 or np.abs(values.sum(axis=2) - 1).max() > 1e-2:
        got = f"from {values.min():.3g}, sums up to {values.sum(axis=2).max():.3g}"
        remedy = "Say kind='logits' if no softmax was taken."
        raise CrossbatchError(expected("probabilities that sum to 1", got, remedy))
    return values.mean(axis=1)

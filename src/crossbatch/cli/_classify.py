"""The part of ``crossbatch evaluate`` that is about classes: runs, and all of them together."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from crossbatch.evaluation import classify, write_classification
from crossbatch.evaluation.classification import FOLDER, ClassificationResult
from crossbatch.training.predict import Prediction, check_alike

_WORST = 5  # classes that are named


def show_classes(
    console: Console, runs: Sequence[Path], predictions: Sequence[Prediction], split: str
) -> None:
    """Print and keep the scores of each run, and print those of their mean probabilities."""
    check_alike(predictions)
    first = predictions[0]
    alone = [_score([prediction]) for prediction in predictions]
    for run, result in zip(runs, alone, strict=True):
        write_classification(run, result, names=first.classes, notes={"split": split})
    found = list(zip(map(str, runs), alone, strict=True))
    if len(runs) > 1:
        found.append((f"ensemble of {len(runs)}", _score(predictions)))
    table = Table("run", *found[0][1].metrics, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, result in found:
        table.add_row(name, *(f"{100 * score:.2f}" for score in result.metrics.values()))
    per_class = found[-1][1].per_class()
    scores = per_class.scores["top-1"]
    low = np.argsort(scores, kind="stable")[:_WORST]
    told = ", ".join(f"{first.classes[per_class.labels[c]]} {100 * scores[c]:.0f}" for c in low)
    classes = len(first.classes)
    console.print(f"Split {split}: {len(first.codes):,} images of {classes:,} classes, in percent")
    console.print(table)
    console.print(f"Lowest top-1 of a class: {told}", markup=False)
    console.print(f"Wrote {FOLDER}/ in each run.", markup=False)


def _score(predictions: Sequence[Prediction]) -> ClassificationResult:
    first = predictions[0]
    probabilities = [prediction.probabilities for prediction in predictions]
    return classify(probabilities, first.codes, kind="probabilities", ids=first.images.ids)

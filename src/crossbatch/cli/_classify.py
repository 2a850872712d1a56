"""The part of ``crossbatch evaluate`` that is about classes: runs, and all of them together."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from crossbatch._files import replace_folder
from crossbatch.training.predict import Prediction, ensemble
from crossbatch.training.tasks.classification import TOP, top_k

FOLDER = "classification"


def show_classes(
    console: Console, runs: Sequence[Path], predictions: Sequence[Prediction], split: str
) -> None:
    """Print and keep the scores of each run, and print those of their mean probabilities."""
    table = Table("run", *(f"top-{k}" for k in TOP), *(f"macro top-{k}" for k in TOP), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    found = list(zip(map(str, runs), predictions, strict=True))
    if len(runs) > 1:
        found.append((f"ensemble of {len(runs)}", ensemble(predictions)))
    worst: list[dict[str, object]] = []
    for (name, prediction), run in zip(found, [*runs, None], strict=False):
        scores, classes = _scores(prediction)
        table.add_row(name, *(f"{100 * score:.2f}" for score in scores.values()))
        worst = sorted(classes, key=lambda row: float(str(row["top-1"])))[:5]
        if run is not None:
            _write(run / FOLDER, {"split": split, **scores}, classes)
    images, classes = len(predictions[0].codes), len(predictions[0].classes)
    console.print(f"Split {split}: {images:,} images of {classes:,} classes, in percent")
    console.print(table)
    told = ", ".join(f"{row['class']} {100 * float(str(row['top-1'])):.0f}" for row in worst)
    console.print(f"Lowest top-1 of a class: {told}", markup=False)
    console.print(f"Wrote {FOLDER}/ in each run.", markup=False)


def _scores(prediction: Prediction) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Over images, over classes, and of each class that has an image."""
    right = {f"top-{k}": top_k(prediction.probabilities, prediction.codes, k) for k in TOP}
    classes: list[dict[str, object]] = []
    for code, name in enumerate(prediction.classes):
        mine = prediction.codes == code
        if mine.any():
            scores = {key: values[mine].mean().item() for key, values in right.items()}
            classes.append({"class": name, "images": int(mine.sum()), **scores})
    means = {key: values.mean().item() for key, values in right.items()}
    for key in right:
        means[f"macro {key}"] = sum(float(str(c[key])) for c in classes) / len(classes)
    return means, classes


def _write(folder: Path, scores: dict[str, object], classes: list[dict[str, object]]) -> None:
    def write(part: Path) -> None:
        (part / "metrics.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        with (part / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, list(classes[0]))
            rows.writeheader()
            rows.writerows(classes)

    replace_folder(folder, write)

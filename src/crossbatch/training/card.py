"""The card of a trained model, from the files of its run."""

import json
from pathlib import Path
from typing import Any

import yaml

from crossbatch.citation import cite
from crossbatch.data import Manifest
from crossbatch.errors import FormatError
from crossbatch.evaluation import read_evaluation
from crossbatch.memory import CrossBatchMemory, MomentumKeys, PerImageMemory
from crossbatch.models.card import ModelCard
from crossbatch.training.config import TrainConfig
from crossbatch.training.run import RunFolder

_LISTED = 20  # licences named


def model_card(
    run: RunFolder | Path, *, name: str | None = None, licence: str | None = None
) -> ModelCard:
    """What a run's files say of its encoder.

    Args:
        run: The run. Metrics are those of its last evaluation, if it had any; data and licences
            those of its manifest, if that still stands.
        name: Of the model [default: the run folder's name].
        licence: Of the weights.

    Raises:
        FormatError: There is no such run.
    """
    run = run if isinstance(run, RunFolder) else RunFolder.open(run)
    config = run.read_config()
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    settings["manifest"] = Path(config.manifest).name
    settings["encoder"]["weights"] = Path(config.encoder.weights).name
    return ModelCard(
        name or run.path.resolve().name,
        licence=licence,
        data=_data(run.about()),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        citation=_citation(config),
        **_measured(run.path),
    )


def _measured(run: Path) -> dict[str, Any]:
    try:
        found = read_evaluation(run)
    except FormatError:
        return {}
    result = found.result
    metrics = {key: (value, *found.intervals[key]) for key, value in result.metrics.items()}
    classes = len(set(result.labels))
    measured = (
        f"{Path(found.manifest).name}, split {found.split}, {result.protocol}: "
        f"{len(result.query_ids):,} queries of {classes:,} classes, "
        f"{result.gallery:,} images searched"
    )
    return {"metrics": metrics, "measured": measured}


def _data(about: dict[str, Any]) -> list[str]:
    path = Path(about["manifest"])
    lines = [f"Manifest {path.name}, digest {about['manifest_digest'][:16]}"]
    try:
        manifest = Manifest.read(path)
    except FormatError:
        return lines
    training = manifest.split("train")
    lines.append(f"{len(training):,} images of {len(training.classes):,} classes in split train")
    licences = sorted(set(_licences(manifest.notes)))
    lines += [f"Licence of a part: {text}" for text in licences[:_LISTED]]
    return lines


def _licences(notes: Any, where: str = "") -> list[str]:
    """Whatever the notes of a manifest call a licence, and of what."""
    if isinstance(notes, list):
        return [text for part in notes for text in _licences(part, where)]
    if not isinstance(notes, dict):
        return []
    where = str(notes.get("title") or notes.get("name") or where)
    found: list[str] = []
    for key, value in notes.items():
        if key.lower() in ("license", "licence"):
            parts = value if isinstance(value, dict) else {"title": value}
            words = [str(parts[k]) for k in ("title", "url") if parts.get(k)]
            found.append(": ".join(x for x in (where, ", ".join(words) or json.dumps(value)) if x))
        else:
            found += _licences(value, where)
    return found


def _citation(config: TrainConfig) -> str:
    parts: list[Any] = [config.weighting]
    if config.memory.capacity:
        ring = config.memory.kind != "per_image"
        parts.append(CrossBatchMemory if ring else PerImageMemory)
        if config.memory.momentum:
            parts.append(MomentumKeys)
    return cite(*parts)

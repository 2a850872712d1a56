"""Rows set aside: whole classes for retrieval, images of every class for classification."""

import hashlib

import numpy as np

from crossbatch.data.manifest import Manifest
from crossbatch.errors import CrossbatchError, expected


def hold_out(manifest: Manifest, *, split: str, fraction: float, seed: int) -> Manifest:
    """Move a random part of the training classes, with all their images, to another split.

    Moved rows lose their role, so that each is query and gallery at once (leave one out). At
    least one class moves and at least one stays. The choice depends on the names of the training
    classes and the seed alone.

    Args:
        manifest: Where from; rows of other splits stay as they are.
        split: Where to: "validation" or "test". It must be empty so far.
        fraction: How many of the training classes move, in (0, 1).
        seed: Of the choice, ≥ 0.

    Raises:
        CrossbatchError: The split holds rows, there are fewer than two training classes, or the
            fraction is out of range.
    """
    _check(manifest, split=split, fraction=fraction)
    training = manifest.column("split") == "train"
    classes = manifest.select(training).classes
    count = min(max(round(fraction * len(classes)), 1), len(classes) - 1)
    chosen = np.random.default_rng(seed).permutation(len(classes))[:count]
    place = {label: code for code, label in enumerate(manifest.classes)}
    moved = training & np.isin(manifest.codes, [place[classes[i]] for i in chosen])
    splits, roles = manifest.column("split"), manifest.column("role")
    splits[moved], roles[moved] = split, None
    return manifest.with_column("split", splits).with_column("role", roles)


def hold_out_images(manifest: Manifest, *, split: str, fraction: float, seed: int) -> Manifest:
    """Move a random part of the images of every training class to another split.

    Of a class with n images round(fraction · n) move, but at least one stays; of all classes
    together at least one image moves, where a class has two. Moved rows lose their role. The
    choice within a class depends on its name, its number of images and the seed alone.

    Args:
        manifest: Where from; rows of other splits stay as they are.
        split: Where to: "validation" or "test". It must be empty so far.
        fraction: How many of the images of a class move, in (0, 1).
        seed: Of the choice, ≥ 0.

    Raises:
        CrossbatchError: The split holds rows, there are fewer than two training classes, or the
            fraction is out of range.
    """
    _check(manifest, split=split, fraction=fraction)
    training = np.flatnonzero(manifest.column("split") == "train")
    labels = manifest.labels[training]
    moved: list[int] = []
    largest = max(sorted(set(labels)), key=lambda name: (labels == name).sum())
    for name in sorted(set(labels)):
        rows = training[labels == name]
        count = min(round(fraction * len(rows)), len(rows) - 1)
        if name == largest and len(rows) > 1:
            count = max(count, 1)
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])
        moved += np.random.default_rng([seed, key]).permutation(rows)[:count].tolist()
    splits, roles = manifest.column("split"), manifest.column("role")
    splits[moved], roles[moved] = split, None
    return manifest.with_column("split", splits).with_column("role", roles)


def _check(manifest: Manifest, *, split: str, fraction: float) -> None:
    if not 0 < fraction < 1:
        remedy = "Choose, say, 0.5."
        raise CrossbatchError(expected("a fraction of classes in (0, 1)", fraction, remedy))
    if len(manifest.split(split)):
        raise CrossbatchError(
            expected(
                f"a manifest without a {split} split",
                f"{len(manifest.split(split))} rows in it",
                f"Leave the fraction out to keep the {split} split that is there.",
            )
        )
    if (count := len(manifest.split("train").classes)) < 2:
        remedy = "Add classes: one must stay and one must go."
        raise CrossbatchError(expected("at least two training classes", count, remedy))

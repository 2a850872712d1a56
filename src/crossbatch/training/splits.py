"""A finished run and the images of a split: what evaluation and studies embed."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError, expected
from crossbatch.features import FeatureTable
from crossbatch.models import Encoder
from crossbatch.training.material import feature_table
from crossbatch.training.run import RunFolder


class Split(NamedTuple):
    """Images and the encoder that shall embed them.

    Attributes:
        encoder: The best of the run.
        images: The rows of the manifest in the split.
        features: Of the trunk, where the run trained a head on features of this manifest.
        manifest: The whole of it, all splits.
        path: Of the manifest.
    """

    encoder: Encoder
    images: Manifest
    features: FeatureTable | None
    manifest: Manifest
    path: Path


def load_split(run: RunFolder, split: str, *, manifest: Path | None = None) -> Split:
    """Load a run's best encoder and the images of a split.

    Args:
        run: The run.
        split: train, validation or test.
        manifest: Where the images are listed; None takes the manifest of the run.

    Raises:
        CrossbatchError: The split is empty or unknown, or the encoder or manifest is not there.
    """
    trained_on = Path(run.about()["manifest"])
    path = manifest or trained_on
    whole = Manifest.read(path)
    images = whole.split(split)
    if not len(images):
        had = ", ".join(sorted(set(whole.column("split"))))
        remedy = f"The manifest has: {had}. Name one with --split, or make the manifest again."
        raise CrossbatchError(expected(f"images in split `{split}` of {path}", 0, remedy))
    encoder = Encoder.load(run.encoder)
    config, features = run.read_config(), None
    if config.mode == "head" and path.resolve() == trained_on.resolve():
        features = feature_table(encoder, whole, replace(config, manifest=str(path)))
    return Split(encoder, images, features, whole, path)

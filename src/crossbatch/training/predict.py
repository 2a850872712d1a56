"""What a classifier says of the images of a split."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation.embed import Watch, embed_manifest
from crossbatch.models import Classifier
from crossbatch.training.run import RunFolder
from crossbatch.training.splits import load_split
from crossbatch.training.tasks.classification import codes_of


class Prediction(NamedTuple):
    """Of one run.

    Attributes:
        probabilities: Shape (N, C), rows sum to 1.
        codes: Shape (N,), the right class of each image, in [0, C).
        images: The N images.
        classes: C names.
    """

    probabilities: Tensor
    codes: Tensor
    images: Manifest
    classes: list[str]


def predict(
    run: RunFolder,
    split: str,
    *,
    manifest: Path | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 128,
    workers: int = 0,
    watch: Watch = iter,
) -> Prediction:
    """The best classifier of a run on a split.

    Args:
        run: Trained with ``task`` classification.
        split: train, validation or test.
        manifest: Where the images are listed; None takes the manifest of the run.
        device: Where to compute.
        batch_size: Images at a time.
        workers: Processes that decode images.
        watch: Wrapped around the batches, such as a progress bar.

    Raises:
        CrossbatchError: The run is no classifier, the split is empty, or it has other classes.
    """
    found = load_split(run, split, manifest=manifest)
    model = Classifier.load(run.encoder)
    codes = codes_of(found.images.labels, model.classes)
    if (codes < 0).any():
        strange = found.images.labels[codes < 0]
        raise CrossbatchError(
            expected(
                f"images of the {len(model.classes)} classes that {run.path} was trained on",
                f"{len(strange)} of others, such as {strange[0]!r}, in split `{split}`",
                "Hold images out, not classes: crossbatch manifest --hold-out images.",
            )
        )
    logits = embed_manifest(
        model,
        found.images,
        device=device,
        batch_size=batch_size,
        workers=workers,
        features=found.features,
        watch=watch,
    )
    probabilities = torch.softmax(logits, dim=1)
    return Prediction(probabilities, torch.from_numpy(codes), found.images, model.classes)


def check_alike(predictions: Sequence[Prediction]) -> None:
    """Whether they can be compared and averaged.

    Raises:
        CrossbatchError: The runs were trained on other classes, or saw other images.
    """
    first = predictions[0]
    for other in predictions[1:]:
        same = np.array_equal(first.images.ids, other.images.ids)
        if other.classes != first.classes or not same:
            got = "other classes" if same else "other images"
            remedy = "Name runs of one manifest, and evaluate them on one split."
            raise CrossbatchError(expected("runs of the same classes and images", got, remedy))

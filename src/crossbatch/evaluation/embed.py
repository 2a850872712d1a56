"""From a manifest to a matrix of embeddings: how a trained encoder sees images."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from crossbatch._check import check_device
from crossbatch._shapes import Float
from crossbatch.data import ImageDataset, Manifest
from crossbatch.errors import CrossbatchError, expected
from crossbatch.features import FeatureTable
from crossbatch.models import Classifier, Encoder
from crossbatch.models.encoding import plain_transform

Watch = Callable[[Iterable[Tensor]], Iterable[Tensor]]
"""Passes batches on and may show how far they are."""


@torch.inference_mode()
def embed_manifest(
    encoder: Encoder | Classifier,
    manifest: Manifest,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 128,
    workers: int = 0,
    features: FeatureTable | None = None,
    watch: Watch = iter,
) -> Float[Tensor, "N D"]:
    """Embed every image of a manifest, in its order.

    Args:
        encoder: Or a classifier, for logits. Used in evaluation mode, on ``device``; its mode is
            put back afterwards.
        manifest: N images.
        device: Where to compute.
        batch_size: Images, or rows of features, at a time.
        workers: Processes that decode images; 0 decodes in this one.
        features: Features of the encoder's trunk for at least these images, instead of images:
            only the head is computed then.
        watch: Wrapped around the batches, such as a progress bar.

    Returns:
        Unit-norm embeddings, or logits, on the CPU, float32.

    Raises:
        CrossbatchError: An image cannot be read, the table lacks an image, the device is not
            there, or an embedding is not finite (the message names ids).
    """
    place = check_device(device)
    if features is None:
        images = ImageDataset(manifest, plain_transform(encoder))
        batches: Iterable[Tensor] = DataLoader(
            images, batch_size=batch_size, num_workers=workers, collate_fn=images.collate
        )
        network: Callable[[Tensor], Tensor] = encoder
    else:
        batches = _rows(features, manifest, batch_size)
        network = encoder.embed_features
    training = encoder.training
    encoder.to(place).eval()
    try:
        parts = [network(batch.to(place)).float().cpu() for batch in watch(batches)]
    finally:
        encoder.train(training)
    embeddings = torch.cat(parts) if parts else torch.zeros(0, encoder.config.dim)
    _check_finite(embeddings, manifest)
    return embeddings


def _rows(table: FeatureTable, manifest: Manifest, size: int) -> Iterator[Tensor]:
    places = table.rows(manifest.ids)
    for start in range(0, len(places), size):
        yield torch.from_numpy(np.asarray(table.array[places[start : start + size]]))


def _check_finite(embeddings: Tensor, manifest: Manifest) -> None:
    bad = manifest.ids[~torch.isfinite(embeddings).all(dim=1).numpy()]
    if len(bad):
        raise CrossbatchError(
            expected(
                "finite embeddings",
                f"NaN or infinity for {len(bad)} images, ids {bad[:5].tolist()}",
                "Look at these images and at the loss of the run's log.",
            )
        )

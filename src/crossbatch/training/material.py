"""What a step is fed with: images through a transform, or rows of a cached feature table.

Both ways give the same three things, inputs, class codes and ids, for the rows that the sampler
names, and both embed any rows for validation. What comes next depends on the sampler's place
alone, so a resumed run is fed as an uninterrupted one.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from crossbatch.data import ImageDataset, Manifest, PackedImages, Sampler, item_keys
from crossbatch.data.transforms import train_transform
from crossbatch.errors import CrossbatchError, expected
from crossbatch.features import FeatureTable, extract
from crossbatch.models import Encoder
from crossbatch.models.encoding import plain_transform
from crossbatch.training.config import TrainConfig

EMBED_ROWS = 64  # inputs at a time outside of training; more thrash the allocator of a CPU


class Material(Protocol):
    """Inputs for training and for validation."""

    network: nn.Module
    """Maps inputs to embeddings of unit norm, or to logits; what the optimizer trains."""

    def batches(self, sampler: Sampler, step: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Endless batches from the sampler's place on: inputs, and the sampler's rows."""
        ...

    def inputs(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Inputs of rows of the manifest, not augmented, at most ``EMBED_ROWS`` at a time."""
        ...


class HeadOnly(nn.Module):
    """Features to embeddings: what is trained while the trunk is frozen."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) to (B, D), unit norm."""
        return F.normalize(self.head(features), dim=1)


class CachedFeatures:
    """Rows of a feature table feed the head."""

    def __init__(
        self,
        encoder: Encoder,
        table: FeatureTable,
        manifest: Manifest,
        training: np.ndarray,
        network: nn.Module,
    ) -> None:
        self.network = network
        self._array, self._training = table.array, training
        self._rows = table.rows(manifest.ids)
        if encoder.config.standardise:
            encoder.head.fit(self._features(training))

    def batches(self, sampler: Sampler, step: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Endless batches of features."""
        del step
        for rows in sampler:
            yield self._features(self._training[rows]), rows

    def inputs(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Features of the given rows."""
        for start in range(0, len(rows), EMBED_ROWS):
            yield self._features(rows[start : start + EMBED_ROWS])

    def _features(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self._array[self._rows[rows]])


class Images:
    """Augmented images feed the whole encoder."""

    def __init__(
        self,
        encoder: Encoder,
        manifest: Manifest,
        training: np.ndarray,
        config: TrainConfig,
        network: nn.Module,
    ) -> None:
        self.network = network
        size, mean, std = encoder.config.image_size, encoder.mean, encoder.std
        self._training = training
        packed, plain = _packed(manifest, config), plain_transform(encoder)
        if packed is not None and packed.shortest < plain.side:
            wanted = f"a cache of images with a shorter side of {plain.side} pixels at least"
            remedy = f"Make it again: `crossbatch pack --shortest {plain.side}`."
            raise CrossbatchError(expected(wanted, packed.shortest, remedy))
        operations = config.classification.rand_augment
        varied = train_transform(size, mean, std, rand_augment=operations)
        self._train = ImageDataset(manifest, varied, packed=packed)
        self._plain = ImageDataset(manifest, plain, packed=packed)
        self._seed, self._workers = config.seed, config.workers

    def batches(self, sampler: Sampler, step: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Endless batches of images; each is seeded by the step, whoever decodes it."""
        rows: list[np.ndarray] = []  # of batches that the loader has asked for already

        def keys() -> Iterator[list[tuple[int, int]]]:
            for number, batch in enumerate(sampler, start=step):
                rows.append(batch)
                seeds = number * sampler.world + sampler.rank
                yield item_keys(self._training[batch], seed=self._seed, step=seeds)

        loader = DataLoader(
            self._train,
            batch_sampler=keys(),
            collate_fn=self._train.collate,
            num_workers=self._workers,
            generator=torch.Generator(),  # its own: the global one must not notice a restart
        )
        for images in loader:
            yield images, rows.pop(0)

    def inputs(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Images of the given rows, without augmentation."""
        loader = DataLoader(
            self._plain,
            batch_size=EMBED_ROWS,
            sampler=[int(row) for row in rows],
            collate_fn=self._plain.collate,
            num_workers=self._workers,
            generator=torch.Generator(),
        )
        yield from loader


def _packed(manifest: Manifest, config: TrainConfig) -> PackedImages | None:
    return None if config.cache is None else PackedImages.open(config.cache, manifest)


def feature_table(encoder: Encoder, manifest: Manifest, config: TrainConfig) -> FeatureTable:
    """The table of all rows of the manifest, beside it; extracted if it is not there yet.

    Cost: one forward pass of the trunk per image, once per trunk and manifest.
    """
    view = f"{encoder.config.image_size} {encoder.config.crop} {encoder.features_digest()}"
    encoder_digest = hashlib.sha256(view.encode()).hexdigest()
    folder = Path(config.manifest).with_suffix(".features") / encoder_digest[:12]
    images = ImageDataset(manifest, plain_transform(encoder))
    loader = DataLoader(
        images, batch_size=EMBED_ROWS, num_workers=config.workers, collate_fn=images.collate
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trunk = encoder.to(device).eval()

    def batches() -> Iterator[tuple[np.ndarray, Tensor]]:
        start = 0
        for part in loader:
            yield manifest.ids[start : (start := start + len(part))], part

    return extract(
        lambda images: trunk.features(images.to(device)),
        batches(),
        folder,
        rows=len(manifest),
        width=encoder.width,
        digest=f"{encoder_digest} {manifest.image_digest()}",
        notes={"trunk": encoder.config.trunk, "image_size": encoder.config.image_size},
    )

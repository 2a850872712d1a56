"""Images of a manifest as tensors, each one a function of its row and a seed.

Since the seed comes with the row, from whoever made the batch, what an image looks like does not
depend on the number of workers, their order, or how often training was interrupted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from crossbatch.data._decode import decode
from crossbatch.data.manifest import Manifest
from crossbatch.data.pack import PackedImages
from crossbatch.data.transforms import Pipeline, Transform, seeded
from crossbatch.errors import CrossbatchError, expected

T = TypeVar("T")


def item_keys(rows: Iterable[int], *, seed: int, step: int) -> list[tuple[int, int]]:
    """The keys of a batch for `ImageDataset`: each row with a seed of its own.

    Args:
        rows: The rows of the batch.
        seed: Of the run, ≥ 0.
        step: The number of the batch in the stream of all ranks, ≥ 0.
    """
    rows = [int(row) for row in rows]
    seeds = np.random.SeedSequence([seed, step]).generate_state(len(rows), np.uint64)
    return [(row, int(s >> np.uint64(1))) for row, s in zip(rows, seeds, strict=True)]


class ImageDataset(Dataset[Tensor]):
    """Map-style: ``dataset[row, seed]`` is the image of a row, transformed with that seed.

    ``dataset[row]`` stands for ``dataset[row, row]``, for transforms without randomness and plain
    data loaders. Rows are positions in the manifest, not ids.

    Args:
        manifest: The images, as files or embedded.
        transform: Makes a tensor of an RGB picture. One of ours chooses its crop before the file
            is decoded; if another has an attribute `shortest`, JPEG files are decoded no larger
            than needed for a shorter side of that many pixels.
        packed: The same images, decoded before: they are looked at instead of the files.
    """

    def __init__(
        self, manifest: Manifest, transform: Transform, *, packed: PackedImages | None = None
    ) -> None:
        self.manifest = manifest
        self.packed = packed
        self.transform = transform
        self._shortest: int | None = getattr(transform, "shortest", None)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: tuple[int, int] | int) -> Tensor:
        """The image, ``(3, H, W)`` float32 under our transforms.

        Raises:
            CrossbatchError: The file is missing or is not a whole image.
        """
        with _seeded(key) as row:
            if isinstance(self.transform, Pipeline):
                return self.transform.standardise(self._seen(row, self.transform))
            return self.transform(self._picture(row))

    def __getitems__(self, keys: Sequence[tuple[int, int] | int]) -> list[Tensor]:
        """The images of a batch, which `collate` need not copy; DataLoader asks for this.

        Raises:
            CrossbatchError: As for one.
        """
        if not isinstance(self.transform, Pipeline) or not len(keys):
            return [self[key] for key in keys]
        size = self.transform.size
        batch = torch.empty(len(keys), 3, size, size)
        for place, key in zip(batch, keys, strict=True):
            with _seeded(key) as row:
                seen = self._seen(row, self.transform)
            self.transform.standardise(seen, out=place)
        return _Whole(batch)

    @staticmethod
    def collate(images: list[Tensor]) -> Tensor:
        """The images of a batch as one tensor, ``(B, 3, H, W)``: give it to DataLoader."""
        return images.batch if isinstance(images, _Whole) else default_collate(images)

    def _seen(self, row: int, transform: Pipeline) -> Tensor:
        if self.packed is not None:
            return transform.see(self.packed.pixels(row))
        return self._decoded(row, transform.read)

    def _picture(self, row: int) -> Image.Image:
        if self.packed is not None:
            return Image.fromarray(self.packed.pixels(row))
        return self._decoded(row, partial(decode, shortest=self._shortest))

    def _decoded(self, row: int, read: Callable[[Path | bytes], T]) -> T:
        try:
            return read(self.manifest.path(row) or self.manifest.image_bytes(row))
        except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into
            raise CrossbatchError(
                expected(
                    f"a readable image in row {row} (id {self.manifest.ids[row]}) of the manifest",
                    f"{self.manifest.name(row)}: {error or type(error).__name__}",
                    "Mend the file, or make the manifest again: `crossbatch manifest` leaves "
                    "unreadable images out and lists them.",
                )
            ) from error


class _Whole(list[Tensor]):
    """Images that lie side by side in one batch already."""

    def __init__(self, batch: Tensor) -> None:
        super().__init__(batch)
        self.batch = batch


@contextmanager
def _seeded(key: tuple[int, int] | int) -> Iterator[int]:
    """The row of a key; within, torch draws from its seed."""
    row, seed = key if isinstance(key, tuple) else (key, key)
    with seeded(int(seed)):
        yield int(row)

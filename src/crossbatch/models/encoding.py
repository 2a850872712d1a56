"""From pictures as people have them to embeddings: decoded in threads, embedded in batches.

A picture is a path, the bytes of a file, a picture of Pillow's, or a tensor (3, H, W) of uint8 in
0 to 255 or of floats in 0 to 1. All of them are seen as `Encoder` sees images outside of training:
upright, on white, resized, the centre cut out. While one batch is embedded, the next is decoded.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from crossbatch._shapes import Float
from crossbatch.data._decode import as_rgb
from crossbatch.data.transforms import Pipeline, eval_transform
from crossbatch.errors import CrossbatchError, expected

if TYPE_CHECKING:
    from crossbatch.models.classifier import Classifier
    from crossbatch.models.encoder import Encoder

Picture = Path | str | bytes | Image.Image | Tensor


class Fault(NamedTuple):
    """A picture that could not be embedded: its place among those given, and why."""

    place: int
    reason: str


class Embedded(NamedTuple):
    """Some pictures' embeddings.

    Attributes:
        places: Of the b pictures, among those given, ascending.
        embeddings: (b, D) on the unit sphere, float32, on the CPU.
        faults: The pictures between them that could not be read.
    """

    places: list[int]
    embeddings: Float[Tensor, "b D"]
    faults: list[Fault]


def plain_transform(encoder: "Encoder | Classifier") -> Pipeline:
    """How the encoder sees an image outside of training: resized, the centre cut out."""
    config = encoder.config
    return eval_transform(config.image_size, encoder.mean, encoder.std, crop=config.crop)


def embed_pictures(
    encoder: "Encoder", pictures: Iterable[Picture], *, batch_size: int = 32, workers: int = 2
) -> Iterator[Embedded]:
    """Embed pictures, in their order, a batch at a time.

    Args:
        encoder: Used in evaluation mode, where it is; its mode is put back after each batch.
        pictures: Taken as they are needed: two batches are held at once.
        batch_size: Pictures at a time, at least 1.
        workers: Threads that decode, at least 1.

    Yields:
        Every picture in exactly one batch or among its faults.

    Raises:
        CrossbatchError: A number is below 1.

    Cost: two batches of pictures in memory.
    """
    if batch_size < 1 or workers < 1:
        got = f"{batch_size} and {workers}"
        raise CrossbatchError(expected("`batch_size` and `workers` ≥ 1", got, "Raise them."))
    transform = plain_transform(encoder)
    with ThreadPoolExecutor(workers) as pool:
        given = enumerate(pictures)

        def begin() -> list[tuple[int, Future[Tensor | Fault]]]:
            some = islice(given, batch_size)
            return [(place, pool.submit(_read, x, place, transform)) for place, x in some]

        now = begin()
        while now:
            ahead = begin()
            yield _embed(encoder, [(place, future.result()) for place, future in now])
            now = ahead


def _read(picture: Picture, place: int, transform: Pipeline) -> Tensor | Fault:
    try:
        if not isinstance(picture, str | Path | bytes):
            return transform(_rgb(picture))
        source = picture if isinstance(picture, bytes) else Path(picture).expanduser()
        return transform.standardise(transform.read(source))
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into
        return Fault(place, str(error) or type(error).__name__)


def _rgb(picture: Image.Image | Tensor) -> Image.Image:
    return _from_tensor(picture) if isinstance(picture, Tensor) else as_rgb(picture)


def _from_tensor(pixels: Tensor) -> Image.Image:
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        remedy = "Give one picture at a time, channels first."
        got = tuple(pixels.shape)
        raise CrossbatchError(expected("a picture of shape (3, H, W)", got, remedy))
    pixels = pixels.detach().cpu()
    if pixels.is_floating_point():
        low, high = float(pixels.amin()), float(pixels.amax())
        if not 0 <= low <= high <= 1:
            remedy = "Give it before mean and deviation are taken; `encode` does that."
            got = f"{low:g} to {high:g}"
            raise CrossbatchError(expected("floating pixels from 0 to 1", got, remedy))
        pixels = (pixels * 255).round()
    elif pixels.dtype != torch.uint8:
        remedy = "Convert them to uint8 (0 to 255) or to floats (0 to 1)."
        raise CrossbatchError(expected("pixels of uint8 or floats", pixels.dtype, remedy))
    return Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


@torch.no_grad()
def _embed(encoder: "Encoder", read: list[tuple[int, Tensor | Fault]]) -> Embedded:
    faults = [image for _, image in read if isinstance(image, Fault)]
    good = [(place, image) for place, image in read if not isinstance(image, Fault)]
    if not good:
        return Embedded([], torch.zeros(0, encoder.config.dim), faults)
    images = torch.stack([image for _, image in good])
    training = encoder.training
    encoder.eval()
    try:
        found = encoder(images.to(next(encoder.parameters()).device)).float().cpu()
    finally:
        encoder.train(training)
    finite = torch.isfinite(found).all(dim=1)
    kept = [place for i, (place, _) in enumerate(good) if bool(finite[i])]
    lost = [place for i, (place, _) in enumerate(good) if not bool(finite[i])]
    faults += [Fault(place, "its embedding is not finite") for place in lost]
    return Embedded(kept, found[finite], sorted(faults))


def name(picture: Picture, place: int) -> str:
    """What to call a picture in a message."""
    return str(picture) if isinstance(picture, str | Path) else f"picture {place}"

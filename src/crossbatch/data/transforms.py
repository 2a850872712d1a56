"""Pictures to tensors: random crops for training, the centre for everything else.

Both resize the picture itself (antialiased), then scale to [0, 1] and standardise with the mean
and deviation that the trunk was trained with. `shortest` says how large a picture a transform can
make use of, so that a JPEG need not be decoded larger than that.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from crossbatch._shapes import Float
from crossbatch._torchvision import import_torchvision
from crossbatch.errors import CrossbatchError, expected

import_torchvision()

from torchvision.transforms import InterpolationMode, v2  # noqa: E402


class Transform(Protocol):
    """Anything that makes a tensor of an RGB picture; its randomness is torch's."""

    def __call__(self, image: Image.Image, /) -> Tensor:
        """The picture as ``(3, H, W)``."""
        ...


@dataclass(frozen=True)
class Pipeline:
    """A transform that knows how large a picture it can use.

    Attributes:
        pipeline: What is done, in torchvision's words.
        shortest: The shorter side, in pixels, beyond which more resolution is wasted.
    """

    pipeline: Callable[[Image.Image], Tensor]
    shortest: int

    def __call__(self, image: Image.Image, /) -> Float[Tensor, "3 H W"]:
        """The picture as a float32 tensor."""
        return self.pipeline(image)


@dataclass(frozen=True)
class Seeded:
    """A transform whose randomness depends on a seed alone, not on what was drawn before."""

    transform: Transform

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """The picture as the transform makes it after ``torch.manual_seed(seed)``."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.transform(image)


def train_transform(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    scale: tuple[float, float] = (0.2, 1.0),
) -> Pipeline:
    """A random crop of the picture's area, resized, mirrored every other time.

    Args:
        size: Side of the square, in pixels.
        mean: Of the three channels, in [0, 1].
        std: Of the three channels, positive.
        scale: The least and the largest share of the area, in (0, 1].

    Returns:
        A transform to ``(3, size, size)`` float32.

    Raises:
        CrossbatchError: A value is out of range.
    """
    _check(size, mean, std)
    if not 0 < scale[0] <= scale[1] <= 1:
        remedy = "Use (0.2, 1.0)."
        raise CrossbatchError(expected("`scale` with 0 < least ≤ largest ≤ 1", scale, remedy))
    steps = [
        v2.RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
        *_to_tensor(mean, std),
    ]
    return Pipeline(v2.Compose(steps), math.ceil(size / math.sqrt(scale[0])))


def eval_transform(
    size: int, mean: Sequence[float], std: Sequence[float], *, crop: float = 0.875
) -> Pipeline:
    """The centre of the picture: resized so that ``crop`` of its side is ``size``, and cut.

    Args:
        size: Side of the square, in pixels.
        mean: Of the three channels, in [0, 1].
        std: Of the three channels, positive.
        crop: The share of the side that is kept, in (0, 1]; 0.875 resizes to 256 for 224.

    Returns:
        A transform to ``(3, size, size)`` float32.

    Raises:
        CrossbatchError: A value is out of range.
    """
    _check(size, mean, std)
    if not 0 < crop <= 1:
        raise CrossbatchError(expected("`crop` in (0, 1]", crop, "1 keeps the whole side."))
    side = round(size / crop)
    steps = [
        _centre_square,
        v2.Resize((side, side), interpolation=InterpolationMode.BICUBIC),
        v2.CenterCrop(size),
        *_to_tensor(mean, std),
    ]
    return Pipeline(v2.Compose(steps), side)


def _centre_square(image: Image.Image) -> Image.Image:
    """What the centre crop can see. A very long picture is cut before it is enlarged."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _to_tensor(mean: Sequence[float], std: Sequence[float]) -> list[Callable[..., Tensor]]:
    return [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(mean), list(std)),
    ]


def _check(size: int, mean: Sequence[float], std: Sequence[float]) -> None:
    if size < 1:
        raise CrossbatchError(expected("`size` of at least 1 pixel", size, "Use, say, 224."))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise CrossbatchError(
            expected(
                "`mean` and `std` of three channels, `std` positive",
                f"{tuple(mean)} and {tuple(std)}",
                "Use those of the trunk.",
            )
        )

"""Pictures to tensors: random crops for training, the centre for everything else.

The part of the picture is chosen first, from its size alone, and only then is the picture decoded:
a JPEG at the smallest of its scales 1/s, s ∈ {1, 2, 4, 8}, at which the part still has the pixels
that are asked for. The part is resized (bicubic, antialiased) as bytes, mirrored, and standardised
with the mean μ and the deviation σ that the trunk was trained with: (p/255 − μ)/σ.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from crossbatch._shapes import Float
from crossbatch._torchvision import import_torchvision
from crossbatch.data._decode import Part, decode_part
from crossbatch.errors import CrossbatchError, expected

_ATTEMPTS = 10  # at a crop of drawn area and ratio that fits into the picture
_RATIO = (3 / 4, 4 / 3)  # of width to height


class Transform(Protocol):
    """Anything that makes a tensor of an RGB picture; its randomness is torch's."""

    def __call__(self, image: Image.Image, /) -> Tensor:
        """The picture as ``(3, H, W)``."""
        ...


class Choice(NamedTuple):
    """What is seen of a picture: a part of it, in its upright pixels, perhaps mirrored."""

    part: Part
    mirrored: bool = False


@dataclass(frozen=True)
class Pipeline:
    """A transform that chooses before it decodes.

    Attributes:
        choose: What to see of a picture of a width and a height; its randomness is torch's.
        side: What the part is resized to, a square of so many pixels.
        size: What is cut from the middle of that.
        mean: μ of the three channels, in [0, 1].
        std: σ of the three channels, positive.
        vary: What is done to the ``(3, size, size)`` uint8 besides; its randomness is torch's.
    """

    choose: Callable[[int, int], Choice]
    side: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    vary: Callable[[Tensor], Tensor] | None = None

    def __call__(self, image: Image.Image, /) -> Float[Tensor, "3 H W"]:
        """A decoded RGB picture as a float32 tensor."""
        part, mirrored = self.choose(*image.size)
        return self.standardise(self._seen(np.array(image.crop(part)), mirrored))

    def read(self, source: Path | bytes) -> Tensor:
        """An image file, given by its path or content, decoded no further than needed.

        Returns:
            ``(3, size, size)`` uint8, not standardised yet.

        Raises:
            OSError: As `decode`.
        """
        mirrored = False

        def part(width: int, height: int) -> Part:
            nonlocal mirrored
            part, mirrored = self.choose(width, height)
            return part

        return self._seen(decode_part(source, part, side=self.side), mirrored)

    def see(self, pixels: np.ndarray) -> Tensor:
        """Decoded pixels, ``(height, width, 3)`` uint8, of which only the part is touched.

        Returns:
            ``(3, size, size)`` uint8, not standardised yet.
        """
        height, width, _ = pixels.shape
        (left, top, right, bottom), mirrored = self.choose(width, height)
        return self._seen(np.array(pixels[top:bottom, left:right]), mirrored)

    def standardise(self, seen: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Bytes p to (p/255 − μ)/σ in float32, in a place that is given or a new one."""
        mean, scale = self._moments
        out = torch.empty(seen.shape) if out is None else out
        return out.copy_(seen).sub_(mean).mul_(scale)

    def _seen(self, pixels: np.ndarray, mirrored: bool) -> Tensor:
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        side, rest = (self.side, self.side), (self.side - self.size) // 2
        small = F.interpolate(planes, side, mode="bicubic", antialias=True)[0]
        cut = small[:, rest : rest + self.size, rest : rest + self.size]
        cut = cut.flip(2) if mirrored else cut
        return cut if self.vary is None else self.vary(cut)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """255 μ and 1/(255 σ)."""
        mean, std = (torch.tensor(m)[:, None, None] * 255 for m in (self.mean, self.std))
        return mean, 1 / std


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch draws as after ``torch.manual_seed(seed)``; afterwards as if nothing was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Seeded:
    """A transform whose randomness depends on a seed alone, not on what was drawn before."""

    transform: Transform

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """The picture as the transform makes it after ``torch.manual_seed(seed)``."""
        with seeded(seed):
            return self.transform(image)


def train_transform(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    rand_augment: int = 0,
) -> Pipeline:
    """A random crop of the picture's area, resized, mirrored every other time.

    Args:
        size: Side of the square, in pixels.
        mean: Of the three channels, in [0, 1].
        std: Of the three channels, positive.
        scale: The least and the largest share of the area, in (0, 1].
        rand_augment: Operations of RandAugment (Cubuk et al., 2020), of magnitude 9, that follow.

    Returns:
        A transform to ``(3, size, size)`` float32.

    Raises:
        CrossbatchError: A value is out of range.
    """
    _check(size, mean, std)
    if not 0 < scale[0] <= scale[1] <= 1:
        remedy = "Use (0.2, 1.0)."
        raise CrossbatchError(expected("`scale` with 0 < least ≤ largest ≤ 1", scale, remedy))
    vary = _rand_augment(rand_augment) if rand_augment else None
    choose = partial(_random, scale=scale)
    return Pipeline(choose, size, size, tuple(mean), tuple(std), vary)


def _rand_augment(operations: int) -> Callable[[Tensor], Tensor]:
    import_torchvision()
    from torchvision.transforms import v2

    return v2.RandAugment(num_ops=operations, magnitude=9)


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
    return Pipeline(_centre, side, size, tuple(mean), tuple(std))


def _centre(width: int, height: int) -> Choice:
    """The largest square in the middle: what the centre crop can see."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return Choice(Part(left, top, left + side, top + side))


def _random(width: int, height: int, *, scale: tuple[float, float]) -> Choice:
    return Choice(_random_part(width, height, scale), torch.rand(1).item() < 0.5)


def _random_part(width: int, height: int, scale: tuple[float, float]) -> Part:
    """Share of the area uniform, ratio log-uniform, place uniform (Szegedy et al. 2015).

    If none fits in ten attempts, the middle, with the nearest ratio that is allowed.
    """
    for _ in range(_ATTEMPTS):
        area = width * height * torch.empty(1).uniform_(*scale).item()
        ratio = math.exp(torch.empty(1).uniform_(*map(math.log, _RATIO)).item())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,)))
            left = int(torch.randint(0, width - w + 1, (1,)))
            return Part(left, top, left + w, top + h)
    w = min(width, round(height * _RATIO[1]))
    h = min(height, round(width / _RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return Part(left, top, left + w, top + h)


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

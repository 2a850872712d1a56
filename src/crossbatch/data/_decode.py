"""Any image file to an upright RGB picture with eight bits a channel.

Transparency is laid on white, 16-bit grey is scaled (not clipped) to 8 bits, CMYK is converted,
the EXIF orientation is applied, and of an animation the first frame is taken. JPEG files are
decoded at 1/2, 1/4 or 1/8 of their size where that is enough (Pillow's draft mode), which costs a
fraction of the time. Where simplejpeg is installed it decodes parts of JPEG files: the same pixels
by the same libjpeg-turbo, without the way through Pillow's own memory. What it refuses is left to
Pillow, so that no file is broken that Pillow reads.
"""

import functools
import importlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_DRAFTED = ("JPEG", "MPO")
_SCALES = (8, 4, 2)  # of JPEG's 8 × 8 cosines only 1, 2 or 4 in each direction are transformed
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Part(NamedTuple):
    """A rectangle of pixels: columns left ≤ x < right, rows top ≤ y < bottom."""

    left: int
    top: int
    right: int
    bottom: int


def decode(source: Path | bytes, *, shortest: int | None = None) -> Image.Image:
    """Decode a whole image; a truncated one is an error, as is one too large to be honest.

    Args:
        source: The path of a file, or its content.
        shortest: The shorter side that is wanted at least; None for the full size.

    Raises:
        OSError: The file is missing or is not a whole image. Broken files of some formats raise
            other exceptions of Pillow's.
    """
    with _opened(source) as image:
        if shortest is not None:
            image.draft(None, (shortest, shortest))  # pyright: ignore[reportArgumentType]
        return as_rgb(image)


def _opened(source: Path | bytes) -> Image.Image:
    """A picture of which the head is read; of bytes Pillow would say where they lie in memory."""
    if isinstance(source, Path):
        return Image.open(source)
    try:
        return Image.open(BytesIO(source))
    except UnidentifiedImageError:
        raise UnidentifiedImageError("cannot identify image file") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened image, upright and in RGB.

    Raises:
        OSError: It is not a whole image, or its pixels have no known range.
    """
    image.load()
    turn = _UPRIGHT.get(_orientation(image) or 0)
    picture = _rgb(image)
    return picture if turn is None else picture.transpose(turn)


def decode_part(
    source: Path | bytes, choose: Callable[[int, int], Part], *, side: int
) -> np.ndarray:
    """Decode a part that is chosen when the size is known, at the smallest scale that is enough.

    Args:
        source: The path of a file, or its content.
        choose: Given width and height of the upright picture, a part of it, not empty.
        side: What the part will be resized to, as a square, in pixels.

    Returns:
        ``(height, width, 3)`` uint8, writable: the part, pixel by pixel; or, where the file is a
        JPEG and the part has 2, 4 or 8 times ``side`` pixels in both directions, the part resized
        (bicubic) to that square from a picture decoded at 1/2, 1/4 or 1/8.

    Raises:
        OSError: As `decode`.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    with _opened(content) as image:
        if image.format not in _DRAFTED:
            image.load()  # first: what else breaks on a truncated file is passed over
        orientation = _orientation(image) or 0
        width, height = image.size
        upright = choose(*((height, width) if orientation in _SIDEWAYS else (width, height)))
        part = _stored(upright, orientation, width, height)
        shorter = min(part.right - part.left, part.bottom - part.top)
        enough = (s for s in _SCALES if shorter >= s * side and image.format in _DRAFTED)
        scale = next(enough, 1)
        pixels = _pixels(content, image, part, scale=scale, side=side)
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def _pixels(
    content: bytes, image: Image.Image, part: Part, *, scale: int, side: int
) -> np.ndarray:
    """A part of the picture as it is stored; resized, where 1/scale is decoded."""
    found = _jpeg_pixels(content, image, scale)
    if found is None:
        if scale > 1 and not image.draft(None, (image.width // scale, image.height // scale)):
            scale = 1
        return np.array(_cut(image, part, scale, side))
    if scale == 1:
        return np.ascontiguousarray(found[part.top : part.bottom, part.left : part.right])
    return np.array(_cut(Image.fromarray(found), part, scale, side))


def _jpeg_pixels(content: bytes, image: Image.Image, scale: int) -> np.ndarray | None:
    """A JPEG at 1/scale, ``(height, width, 3)`` uint8; None where Pillow has to do it."""
    decode_jpeg = _simplejpeg()
    if decode_jpeg is None or image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    least = {"min_width": -(-image.width // scale), "min_height": -(-image.height // scale)}
    try:
        return decode_jpeg(content, **least, min_factor=scale)
    except ValueError:  # it is stricter than Pillow, who then says whether the file is whole
        return None


@functools.cache
def _simplejpeg() -> Callable[..., np.ndarray] | None:
    try:
        return importlib.import_module("simplejpeg").decode_jpeg
    except ImportError:
        return None


def _stored(part: Part, orientation: int, width: int, height: int) -> Part:
    """Where a part of the upright picture lies in the file's, of the given size."""
    left, top, right, bottom = part
    if orientation in _SIDEWAYS:
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 7, 8):
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return Part(left, top, right, bottom)


def _cut(image: Image.Image, part: Part, scale: int, side: int) -> Image.Image:
    """A part, given in pixels of the full size, of a picture decoded at 1/scale, in RGB."""
    if scale == 1:
        picture = image.crop(part)
        plain = picture.mode == "RGB" and "transparency" not in picture.info
        return picture if plain else _rgb(picture)
    left, top, right, bottom = part
    outer = (left // scale, top // scale, -(-right // scale), -(-bottom // scale))
    x, y = outer[:2]
    box = (left / scale - x, top / scale - y, right / scale - x, bottom / scale - y)
    return _rgb(image.crop(outer)).resize((side, side), Image.Resampling.BICUBIC, box=box)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # what a broken EXIF block raises differs; the picture is none the worse
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64) // 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise OSError("floating-point pixels, whose range is not known")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")

"""Pictures from strangers: checked before they are decoded, cropped, and made small.

The header of a file tells its format and its size in pixels, and costs nothing to read. Only some
formats are read at all: those that cameras and browsers write. A picture of many pixels is decoded
alone, so that the memory of one bounds that of all, and its memory goes back to the system.
"""

import contextlib
import ctypes
import math
import warnings
from collections.abc import Callable, Generator
from io import BytesIO
from threading import Lock
from typing import NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError

from crossbatch.data._decode import decode
from crossbatch.search import thumbnail
from crossbatch.serving.refusals import Refusal

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_LARGE = 8_000_000  # pixels: decoded alone
_MANY = 2_000_000  # pixels: their memory is given back
_alone = Lock()
_T = TypeVar("_T")


class Crop(NamedTuple):
    """A rectangle of an upright picture, in shares of its width and height, from its top left."""

    left: float
    top: float
    width: float
    height: float


WHOLE = Crop(0.0, 0.0, 1.0, 1.0)


def read(
    data: bytes,
    look: Callable[[Image.Image], _T],
    *,
    pixels: int,
    shortest: int,
    crop: Crop = WHOLE,
) -> _T:
    """Decode a picture, cut the crop out of it, look at that, and forget the picture.

    Args:
        data: Of a file, of any content.
        look: Makes something small of it.
        pixels: It may have at most.
        shortest: Pixels that the crop's shorter side is wanted to have; JPEG files are decoded
            smaller where that is enough.
        crop: What of it is meant.

    Raises:
        Refusal: It is empty, of no format that is read, has too many pixels, or is broken.
    """
    count = check(data, pixels=pixels)
    wanted = math.ceil(shortest / min(crop.width, crop.height))
    with _room(count):
        return look(_cut(_decode(data, wanted), crop))


def _cut(picture: Image.Image, crop: Crop) -> Image.Image:
    if crop == WHOLE:
        return picture
    width, height = picture.size
    left, top = int(crop.left * width), int(crop.top * height)
    right = min(width, max(left + 1, round((crop.left + crop.width) * width)))
    bottom = min(height, max(top + 1, round((crop.top + crop.height) * height)))
    return picture.crop((left, top, right, bottom))


def small(data: bytes, side: int, *, pixels: int) -> bytes:
    """A small WebP of an image.

    Raises:
        Refusal: As for `read`.
    """
    try:
        with _room(check(data, pixels=pixels)):
            return thumbnail(data, side)
    except Refusal:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into
        raise _broken() from error


def check(data: bytes, *, pixels: int) -> int:
    """The pixels that the header of a file promises.

    Raises:
        Refusal: It is empty, of no format that is read, or has too many pixels.
    """
    if not data:
        raise Refusal("empty_image", "Expected an image. Got a file of 0 bytes. Choose another.")
    many = f"Expected an image of at most {pixels / 1e6:g} million pixels."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        message = f"{many} Got far more. Make it smaller."
        raise Refusal("too_many_pixels", message) from error
    except UnidentifiedImageError as error:
        message = f"Expected an image. Got {_kind(data)}. Save it as JPEG, PNG or WebP."
        raise Refusal("not_an_image", message) from error
    except Exception as error:  # as above: a header that is broken
        raise _broken() from error
    if width * height > pixels:
        message = f"{many} Got {width:,} × {height:,}. Make it smaller."
        raise Refusal("too_many_pixels", message)
    return width * height


@contextlib.contextmanager
def _room(pixels: int) -> Generator[None]:
    """Room for a picture that is forgotten in it. A large one has it alone.

    Each thread's pool of glibc keeps what was freed in it; after a few large pictures that is
    hundreds of megabytes (docs/log/2026-11-26-search.md).
    """
    with _alone if pixels > _LARGE else contextlib.nullcontext():
        try:
            yield
        finally:
            if pixels > _MANY:
                with contextlib.suppress(OSError, AttributeError):  # another C library
                    ctypes.CDLL(None).malloc_trim(0)


def _decode(data: bytes, shortest: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode(data, shortest=shortest)
    except Exception as error:  # as above
        raise _broken() from error


def _broken() -> Refusal:
    message = "Expected a whole image. Got one that is truncated or damaged. Save it anew."
    return Refusal("broken_image", message)


def _kind(data: bytes) -> str:
    head = data[:1024].lstrip().lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return "an SVG, which is a drawing and not pixels"
    if data.startswith(b"%PDF"):
        return "a PDF"
    if b"ftyphei" in data[:16] or b"ftypmif1" in data[:16]:
        return "a HEIC photo"
    return "a file of another kind"

"""Any image file to an upright RGB picture with eight bits a channel.

Transparency is laid on white, 16-bit grey is scaled (not clipped) to 8 bits, CMYK is converted,
the EXIF orientation is applied, and of an animation the first frame is taken. JPEG files are
decoded at 1/2, 1/4 or 1/8 of their size where that is enough (Pillow's draft mode), which costs a
fraction of the time.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(source: Path | bytes, *, shortest: int | None = None) -> Image.Image:
    """Decode a whole image; a truncated one is an error, as is one too large to be honest.

    Args:
        source: The path of a file, or its content.
        shortest: The shorter side that is wanted at least; None for the full size.

    Raises:
        OSError: The file is missing or is not a whole image. Broken files of some formats raise
            other exceptions of Pillow's.
    """
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
        if shortest is not None:
            image.draft(None, (shortest, shortest))  # pyright: ignore[reportArgumentType]
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened image, upright and in RGB.

    Raises:
        OSError: It is not a whole image, or its pixels have no known range.
    """
    image.load()
    turn = _UPRIGHT.get(_orientation(image) or 0)
    picture = _rgb(image)
    return picture if turn is None else picture.transpose(turn)


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

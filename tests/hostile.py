"""Files that a folder of images from the web holds, and what each of them gets.

    python -m tests.hostile [FOLDER]

makes them, runs ``crossbatch manifest folder`` over each, and prints the table that stands in
docs/guide/hostile-files.md.
"""

import io
import os
import struct
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from crossbatch.data import from_folder, validate
from crossbatch.data._decode import decode


def photo(width=90, height=60):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], 2).astype(np.uint8))


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(photo(), "JPEG", exif=exif)


def frames(kind):
    return saved(photo(), kind, save_all=True, append_images=[photo().rotate(180)] * 3)


def bomb(width, height):
    """A PNG that says it is huge, and is nearly empty."""

    def chunk(name, data):
        sum_ = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", sum_)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def with_text(length):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * length, zip=True)
    return saved(photo(), "PNG", pnginfo=info)


DEEP = (np.arange(90 * 60).reshape(60, 90) * 12).astype(np.uint16)
JPEG = saved(photo(), "JPEG")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'

CONTENTS = {
    "EXIF rotation": ("turned.jpg", turned),
    "broken EXIF": (
        "exif.jpg",
        lambda: saved(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    ),
    "grey": ("grey.png", lambda: saved(photo().convert("L"), "PNG")),
    "grey with alpha": ("grey-alpha.png", lambda: saved(photo().convert("LA"), "PNG")),
    "RGB with alpha": ("alpha.png", lambda: saved(photo().convert("RGBA"), "PNG")),
    "black and white": ("bits.png", lambda: saved(photo().convert("1"), "PNG")),
    "palette": ("palette.gif", lambda: saved(photo().quantize(16), "GIF")),
    "CMYK": ("cmyk.jpg", lambda: saved(photo().convert("CMYK"), "JPEG")),
    "16-bit grey": ("deep.png", lambda: saved(Image.fromarray(DEEP), "PNG")),
    "floating point": ("float.tiff", lambda: saved(photo().convert("F"), "TIFF")),
    "animated GIF": ("moving.gif", lambda: frames("GIF")),
    "animated WebP": ("moving.webp", lambda: frames("WEBP")),
    "one pixel": ("pixel.png", lambda: saved(photo(1, 1), "PNG")),
    "1 × 5,000 pixels": ("long.png", lambda: saved(photo(1, 5000), "PNG")),
    "truncated JPEG": ("cut.jpg", lambda: JPEG[: len(JPEG) // 2]),
    "truncated PNG": ("cut.png", lambda: saved(photo(), "PNG")[:200]),
    "zero bytes": ("empty.jpg", lambda: b""),
    "zeros only": ("zeros.jpg", lambda: bytes(5000)),
    "text named .jpg": ("text.jpg", lambda: b"404: not found"),
    "a web page named .jpg": ("page.jpg", lambda: b"<!doctype html><html></html>"),
    "PNG named .jpg": ("png.jpg", lambda: saved(photo(), "PNG")),
    "JPEG without a suffix": ("photo", lambda: JPEG),
    "suffix in capitals": ("PHOTO.JPG", lambda: JPEG),
    "SVG": ("drawing.svg", lambda: SVG),
    "SVG named .png": ("drawing.png", lambda: SVG),
    "10 gigapixels": ("bomb.png", lambda: bomb(100_000, 100_000)),
    "120 megapixels that are not there": ("hollow.png", lambda: bomb(12_000, 10_000)),
    "PNG with 8 MB of text": ("text.png", lambda: with_text(8_000_000)),
    "bytes after the end": ("more.jpg", lambda: JPEG + b"<?php ?>" * 99),
    "hidden file": (".hidden.jpg", lambda: JPEG),
    "spaces and commas": (" a, b;c .jpg", lambda: JPEG),
    "another script": ("写真-фото-صورة.jpg", lambda: JPEG),
    "line break in the name": ("two\nlines.jpg", lambda: JPEG),
}
"""What it is: the name of the file, and its content."""


def directory(place):
    (place / "folder.jpg").mkdir()


def broken_link(place):
    (place / "nowhere.jpg").symlink_to(place / "gone.jpg")


def link_in_a_circle(place):
    (place / "circle.jpg").symlink_to(place / "circle.jpg")


def link_outside(place):
    target = place.parent.parent / "outside.jpg"
    target.write_bytes(JPEG)
    (place / "link.jpg").symlink_to(target)


def pipe(place):
    os.mkfifo(place / "pipe.jpg")


def unreadable(place):
    (place / "locked.jpg").write_bytes(JPEG)
    (place / "locked.jpg").chmod(0)


def latin_1(place):
    Path(os.fsdecode(os.fsencode(place) + b"/\xe9t\xe9.jpg")).write_bytes(JPEG)


OTHERS = {
    "folder named .jpg": directory,
    "broken link": broken_link,
    "link to itself": link_in_a_circle,
    "link out of the root": link_outside,
    "named pipe": pipe,
    "file that may not be read": unreadable,
    "name in Latin-1": latin_1,
}
"""What it is, and what makes it in a folder."""


def make(what, place):
    """Put one of them into a class folder."""
    place.mkdir(parents=True)
    if what in OTHERS:
        OTHERS[what](place)
    else:
        name, content = CONTENTS[what]
        (place / name).write_bytes(content())


def outcome(root):
    """What the files below a root get, in words."""
    imported = from_folder(root)
    checked = validate(imported.manifest, found=imported.problems)
    said = [f"{p.kind}: {p.reason}" for p in checked.problems if str(p.kind) not in COMMON]
    for row in range(len(checked.manifest)):
        picture = decode(checked.manifest.path(row))
        said.append(f"kept, {picture.mode} {picture.width} × {picture.height}")
    said = [words.replace(str(root.parent), "…").replace("|", "\\|") for words in said]
    return "; ".join(said) or "passed over without a word"


COMMON = ("class with one image", "one class only", "empty class folder")
"""Notes on any folder with one image."""


def table(folder):
    """The lines of the table; needs a user whom permissions bind for one of them."""
    lines = ["| file | what it is | what it gets |", "|---|---|---|"]
    for number, what in enumerate((*CONTENTS, *OTHERS)):
        root = Path(folder) / f"{number}" / "root"
        make(what, root / "class")
        found = sorted(os.fsencode(p.name).decode("utf-8", "backslashreplace")
                       for p in (root / "class").iterdir())  # fmt: skip
        name = found[0].replace("\n", "\\n")
        lines.append(f"| `{name}` | {what} | {outcome(root)} |")
    return lines


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="PIL")
    with tempfile.TemporaryDirectory() as made:
        lines = table(sys.argv[1] if len(sys.argv) > 1 else made)
        sys.stdout.write("\n".join(lines) + "\n")

"""Data sets in miniature: the file names and formats of their owners, pictures of 2 pixels."""

from pathlib import Path

from PIL import Image

from crossbatch.cli.manifest import main
from crossbatch.data import Manifest


def picture(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (colour * 7 % 256, colour, 90)).save(path, "JPEG")


def text(path, lines, *, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def rows(manifest, *names):
    """The columns, row by row, as tuples."""
    return list(zip(*(manifest.column(name).tolist() for name in names), strict=True))


def counts(manifest):
    """Images and classes per split."""
    parts = {name: manifest.split(name) for name in ("train", "validation", "test")}
    return {name: (len(part), len(part.classes)) for name, part in parts.items() if len(part)}


def command(name, root, out, *options):
    """Run ``crossbatch manifest NAME ROOT`` in this process and read what it wrote."""
    out = Path(out) / "m.parquet"
    assert main([name, str(root), "--out", str(out), *map(str, options)]) == 0
    return Manifest.read(out)

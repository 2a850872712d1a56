"""A small gallery to serve, and files that no gallery wants."""

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from crossbatch.data import Manifest
from crossbatch.models import Encoder, EncoderConfig
from crossbatch.search import GalleryIndex
from tests import blobs

SMALL = EncoderConfig(trunk="test_efficientnet", weights="none", image_size=32, dim=7)
LABELS = ("cat", "dog")


def encoder():
    torch.manual_seed(0)
    return Encoder(SMALL).eval()


def photos(folder, many=12):
    """Files in a folder, listed with their absolute paths, and a manifest of them."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = {"path": [], "label": [], "stars": [], "note": []}
    for i in range(many):
        name = f"{i}.png" if i % 2 else f"deep/{i}.jpg"
        (folder / name).parent.mkdir(exist_ok=True)
        blobs.picture(rng, rng.uniform(0, 1, 3), side=64).save(folder / name)
        rows["path"].append(str(folder / name) if i == 3 else name)
        rows["label"].append(LABELS[i % 2])
        rows["stars"].append(float("nan") if i == 4 else i / 2)
        rows["note"].append(None if i == 5 else f"it's <b>{i}</b>")
    return Manifest(pa.table(rows), folder)


def make(folder, many=12):
    """An index with files, and its photos beside it."""
    index = GalleryIndex.create(folder / "some.index", encoder())
    done = index.add(photos(folder / "photos", many))
    assert done.added == many, done.problems
    return index


def png(side=40, colour=(200, 30, 40)):
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def bomb(width=30_000, height=30_000):
    """A PNG of a few hundred bytes whose header promises very many pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

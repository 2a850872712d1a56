"""Images as one tensor each, and the network that learns them.

``glyphs``   2,000 kanji in 14 fonts at 32 px, half of the characters for training; a small
             convolutional network from scratch
``emoji``    the demo's emoji at 32 px, the same network from scratch
``tuned``    the demo's emoji at 64 px; the demo's pretrained trunk, all of it trained but the
             statistics of its batch normalisation
``tiny``     the demo's emoji at 32 px; a residual network of timm's tests from scratch, which
             learns them badly
``head``     the demo's features of the frozen trunk; dropout and one linear layer
``icons``    800 names in 8 to 42 open icon sets at 32 px, half of the names for training; labels
             are noisy as they come; the small network
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from crossbatch.data import Manifest
from crossbatch.models import Encoder, EncoderConfig
from crossbatch.training.material import feature_table
from demo.emoji import make_manifest
from demo.fetch import install
from demo.rows import OUT as DEMO
from demo.rows import config
from experiments import icons as icon_names

CACHE = Path("runs/experiments")
PINS = Path(__file__).with_name("package.json")
CHARACTERS, FONTS = 2000, 10  # drawn, and the fewest fonts that have one


@dataclass(frozen=True)
class Data:
    """Inputs of shape (N, ...), a class code for each, and which are for training."""

    inputs: Tensor
    labels: np.ndarray
    training: np.ndarray
    network: Callable[[], nn.Module]


def load(name: str) -> Data:
    """A data set by its name; what has to be fetched or drawn is kept."""
    return {
        "glyphs": glyphs,
        "emoji": emoji,
        "tuned": tuned,
        "tiny": tiny,
        "head": head,
        "icons": icons,
    }[name]()


def small_network(channels: int, dim: int = 64) -> nn.Module:
    """Four convolutions with batch normalisation, one linear layer."""

    def block(a: int, b: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()
        )

    blocks = (block(channels, 24, 2), block(24, 48, 2), block(48, 96, 1), block(96, 128, 2))
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128 * 16, dim))


def glyphs() -> Data:
    """The same characters by different type designers."""
    file = CACHE / "glyphs.npz"
    if not file.exists():
        images, labels = _draw(_fonts())
        np.savez(file, images=images, labels=labels)
    held = np.load(file)
    labels = held["labels"]
    inputs = torch.from_numpy(held["images"])[:, None].float() / 127.5 - 1
    return Data(inputs, labels, labels % 2 == 0, lambda: small_network(1))


def emoji() -> Data:
    """The demo's pictures, small."""
    inputs, manifest = _pictures()
    training = manifest.column("split") == "train"
    return Data(F.avg_pool2d(inputs, 2), manifest.codes, training, lambda: small_network(3))


def tiny() -> Data:
    """As ``emoji`` with another network."""
    settings = EncoderConfig("test_resnet.r160_in1k", weights="none", image_size=32, dim=64)
    return replace(emoji(), network=lambda: Encoder(settings))


def tuned() -> Data:
    """The demo's pictures, for its pretrained trunk."""
    inputs, manifest = _pictures()
    settings = config(DEMO / "emoji.parquet", "contrastive", 0).encoder
    settings = replace(settings, image_size=64, dim=128, dropout=0.0, frozen_norm=True)
    training = manifest.column("split") == "train"
    file = CACHE / "tuned.npy"
    if not file.exists():
        with torch.no_grad():
            trunk = Encoder(settings).eval()
            features = torch.cat([trunk.features(x) for x in inputs[training].split(256)])
        np.save(file, features.numpy())
    held = np.load(file)

    def network() -> nn.Module:
        encoder = Encoder(settings)
        encoder.head.fit(held)
        return encoder.to(memory_format=torch.channels_last)  # faster on a CPU

    return Data(inputs, manifest.codes, training, network)


def head() -> Data:
    """The demo's features, standardised."""
    manifest = _demo()
    settings = replace(config(DEMO / "emoji.parquet", "contrastive", 0), workers=2)
    table = feature_table(Encoder(settings.encoder), manifest, settings)
    x = np.array(table.array[table.rows(manifest.ids)], dtype=np.float32)
    training = manifest.column("split") == "train"
    x = (x - x[training].mean(0)) / (x[training].std(0) + 1e-6)
    width = x.shape[1]
    network = lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(width, 512))  # noqa: E731
    return Data(torch.from_numpy(x), manifest.codes, training, network)


def icons() -> Data:
    """What many designers call by one name."""
    file = CACHE / "icons.npz"
    if not file.exists():
        images, labels, names, origin = icon_names.draw(_fetched("@iconify-json/"))
        np.savez(file, images=images, labels=labels, names=names, origin=origin)
    held = np.load(file)
    inputs = torch.from_numpy(held["images"])[:, None].float() / 127.5 - 1
    labels = held["labels"]
    return Data(inputs, labels, labels % 2 == 0, lambda: small_network(1))


def _pictures() -> tuple[Tensor, Manifest]:
    """The demo's at 64 px, between −1 and 1."""
    manifest = _demo()
    pictures = (Image.open(io.BytesIO(x["bytes"])) for x in manifest.column("image"))
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, manifest


def _demo() -> Manifest:
    path = DEMO / "emoji.parquet"
    if not path.exists():
        make_manifest(path, cache=DEMO / "icons")
    return Manifest.read(path)


def _fetched(kind: str) -> list[Path]:
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PINS, CACHE / PINS.name)
    install(CACHE)
    names = json.loads(PINS.read_text("utf-8"))["dependencies"]
    return [CACHE / "node_modules" / name for name in sorted(names) if kind in name]


def _fonts() -> list[Path]:
    return [next(folder.glob("400*/*.ttf")) for folder in _fetched("-fonts/")]


def _draw(fonts: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 32, 32) and which character each is."""
    has = [set(TTFont(font, lazy=True).getBestCmap()) for font in fonts]
    shared = [c for c in range(0x4E00, 0xA000) if sum(c in s for s in has) >= FONTS]
    shared.sort(key=lambda c: hashlib.sha256(chr(c).encode()).hexdigest())
    images, labels = [], []
    for font, drawn in zip(fonts, has, strict=True):
        face = ImageFont.truetype(str(font), 28)
        for label, character in enumerate(shared[:CHARACTERS]):
            picture = Image.new("L", (32, 32), 255)
            centre = {"fill": 0, "anchor": "mm"}
            ImageDraw.Draw(picture).text((16, 16), chr(character), font=face, **centre)
            pixels = np.asarray(picture)
            if character in drawn and pixels.min() <= 128:
                images.append(pixels)
                labels.append(label)
    return np.stack(images), np.array(labels)

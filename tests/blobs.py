"""Images that a test can train on: each class is a coloured blob, each image another place."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from crossbatch.data import Manifest


def picture(rng, colour, side=32):
    y, x = np.mgrid[:side, :side] / side
    cy, cx = rng.uniform(0.3, 0.7, 2)
    blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.03)[..., None]
    pixels = 255 * (1 - blob) + 255 * blob * colour + rng.normal(0, 12, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def manifest(path, classes=12, images=6, test=4, side=32):
    """A manifest with embedded images; the last ``test`` classes are the split `test`."""
    rng = np.random.default_rng(0)
    rows = {"image": [], "label": [], "split": []}
    for c in range(classes):
        colour = rng.uniform(0, 1, 3)
        for i in range(images):
            file = io.BytesIO()
            picture(rng, colour, side).save(file, "PNG")
            rows["image"].append({"bytes": file.getvalue(), "path": f"{c}-{i}.png"})
            rows["label"].append(f"class {c:02}")
            rows["split"].append("test" if c >= classes - test else "train")
    Manifest(pa.table(rows)).write(path)
    return path


def with_subsets(path, subsets, **sizes):
    """A manifest whose images are in these subsets, one after the other."""
    whole = Manifest.read(manifest(path, **sizes))
    column = [subsets[row % len(subsets)] for row in range(len(whole))]
    whole.with_column("subset", column).write(path)
    return path


def options(mode="head", **changes):
    """A small and fast config on a trunk without pretrained weights, as flags."""
    flags = {
        "mode": mode,
        "encoder.trunk": "test_resnet.r160_in1k",
        "encoder.weights": "none",
        "encoder.image-size": 32,
        "encoder.dim": 8,
        "sampler.classes": 4,
        "sampler.instances": 2,
        "memory": 24,
        "memory.start": 5,
        "validation.every": 7,
        "iterations": 30,
        "save-every": 6,
        "log-every": 1,
        "workers": 0,
        "optimizer.lr": 1e-2,
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]

"""Fashion-MNIST, as Debian's package dataset-fashion-mnist carries it, exported as image files.

    python -m experiments.fashion_mnist OUT [--from FOLDER]

writes 70,000 PNGs of 28 × 28 grey pixels to OUT/train/CLASS/00000.png and OUT/test/CLASS/....
``crossbatch manifest folder OUT --out fashion.parquet`` reads them. Xiao, Rasul and Vollgraf 2017.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGED = Path("/usr/share/datasets/fashion-mnist")
PARTS = {"train": "train", "test": "t10k"}
CLASSES = (
    *("T-shirt or top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def main() -> None:
    """Write both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="source", type=Path, default=PACKAGED)
    arguments = parser.parse_args()
    for part in PARTS:
        print(f"{part}: {export(arguments.source, arguments.out, part):,} images")


def export(source: Path, out: Path, part: str) -> int:
    """Write the images of a part; how many there were."""
    images = read_idx(source / f"{PARTS[part]}-images-idx3-ubyte.gz")
    labels = read_idx(source / f"{PARTS[part]}-labels-idx1-ubyte.gz")
    for name in CLASSES:
        (out / part / name).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(out / part / CLASSES[label] / f"{number:05}.png")
    return len(images)


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in LeCun's IDX format: 0, 0, type 8, axes, their sizes, the bytes."""
    content = gzip.decompress(path.read_bytes())
    zero, kind, axes = int.from_bytes(content[:2]), content[2], content[3]
    if zero or kind != 8:
        raise SystemExit(f"Expected bytes in IDX format at {path}. Got type {kind}.")
    shape = np.frombuffer(content, ">u4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


if __name__ == "__main__":
    main()

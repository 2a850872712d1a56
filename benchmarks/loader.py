"""Images per second of one core: torchvision's ImageFolder and standard transforms, and ours.

    python -m benchmarks.loader [--images 256] [--long 500] [--size 224] [--rounds 5]

JPEGs of 3:4 with waves of all lengths, without noise, so that files have the size of photos. Both
sides do what a training does: RandomResizedCrop with scale 0.08 to 1, flip, tensor, normalise,
batches of 64 in this process, on one thread. They take turns; the best round of each counts, in
seconds of the processor. *Packed* reads the same images from `crossbatch pack --shortest 256`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from crossbatch._torchvision import import_torchvision
from crossbatch.data import ImageDataset, from_folder
from crossbatch.data.pack import pack
from crossbatch.data.transforms import train_transform

import_torchvision()

from torchvision import datasets, transforms  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--long", type=int, default=500)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quality", type=int, default=80)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photos"
        kilobytes = [
            draw(root / f"{k % 4}" / f"{k:05}.jpg", arguments.long, arguments.quality, k)
            for k in range(arguments.images)
        ]
        print(f"{arguments.images} JPEGs of {arguments.long} × {arguments.long * 3 // 4} pixels, ")
        print(f"{min(kilobytes):.0f} to {max(kilobytes):.0f} kB, crops of {arguments.size}\n")
        contenders = sides(root, arguments.size)
        for loader in contenders.values():
            drain(loader)
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(arguments.rounds):
            for name, loader in contenders.items():
                best[name] = min(best[name], drain(loader))
    rate = {name: arguments.images / seconds for name, seconds in best.items()}
    print("| loader | images/s per core | × torchvision |\n|---|---|---|")
    for name, images in rate.items():
        print(f"| {name} | {images:.0f} | {images / rate['torchvision']:.2f} |")


def sides(root: Path, size: int) -> dict[str, DataLoader[torch.Tensor]]:
    standard = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    theirs = datasets.ImageFolder(str(root), standard)
    transform = train_transform(size, MEAN, STD, scale=(0.08, 1.0))
    ours = ImageDataset(from_folder(root).manifest, transform)
    packed = pack(ours.manifest, root.parent / "pack", shortest=256)
    cached = ImageDataset(ours.manifest, transform, packed=packed)
    return {
        "torchvision": DataLoader(theirs, batch_size=BATCH),
        "crossbatch": DataLoader(ours, batch_size=BATCH, collate_fn=ours.collate),
        "crossbatch, packed": DataLoader(cached, batch_size=BATCH, collate_fn=cached.collate),
    }


def drain(loader: Iterable[object]) -> float:
    """Seconds of the processor for one pass."""
    started = time.process_time()
    for _ in loader:
        pass
    return time.process_time() - started


def draw(path: Path, long: int, quality: int, seed: int) -> float:
    """A picture of waves, their strength falling with their frequency; its kilobytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    g = np.random.default_rng(seed)
    height, width = long * 3 // 4, long
    y, x = np.fft.fftfreq(height)[:, None, None], np.fft.rfftfreq(width)[None, :, None]
    strength = 1 / np.maximum(np.hypot(x, y), 1 / long)
    phase = np.exp(2j * np.pi * g.random((height, width // 2 + 1, 3)))
    waves = np.fft.irfft2(strength * phase, s=(height, width), axes=(0, 1))
    grey = waves.mean(2, keepdims=True)  # colours of photos follow their light
    picture = 128 + 55 * ((0.8 * grey + 0.2 * waves) / (0.8 * grey + 0.2 * waves).std())
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=quality)
    return path.stat().st_size / 1000


if __name__ == "__main__":
    main()

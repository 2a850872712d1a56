"""What rankings find on Fashion-MNIST with labels made wrong: subsets, baselines, trust.

    python -m experiments.ranking [--noise symmetric asymmetric similar] [--seeds 0 1 2]

20,000 images, a network of two convolutions and 128 features trained on the noisy labels, ranked
by its own features. ``asymmetric`` mistakes each class for the next; ``similar`` the classes that
look alike, in one direction. The data are those of Debian's dataset-fashion-mnist.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import crossbatch as xb
from crossbatch.curriculum import (
    Noise,
    asymmetric,
    confident_learning,
    judge,
    neighbour_agreement,
    small_loss,
    symmetric,
    trust,
)
from experiments.fashion_mnist import PACKAGED, PARTS, read_idx

SIMILAR = {0: 6, 3: 0, 4: 2, 2: 6, 6: 4, 5: 7, 7: 9, 9: 5, 1: 3, 8: 5}


def load(images: int, part: str = "train") -> tuple[Tensor, np.ndarray]:
    """Pictures (N, 1, 28, 28) in [0, 1] and their true classes; part ``train`` or ``test``."""
    pictures, labels = (
        read_idx(PACKAGED / f"{PARTS[part]}-{kind}-ubyte.gz")[:images]
        for kind in ("images-idx3", "labels-idx1")
    )
    return torch.tensor(pictures[:, None]).float() / 255, labels


def make_noise(kind: str, labels: np.ndarray, seed: int) -> Noise:
    """40 % symmetric, or 35 % in one direction."""
    if kind == "symmetric":
        return symmetric(labels, 0.4, seed=seed)
    confused = SIMILAR if kind == "similar" else None
    return asymmetric(labels, 0.35, confused=confused, seed=seed)


def make_trunk(channels: int = 32) -> nn.Module:
    """Pictures (N, 1, 28, 28) to features (N, 128)."""
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(98 * channels, 128), nn.ReLU()),
    )


def learn(x: Tensor, labels: np.ndarray, seed: int, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 128) and losses (N,) of a network trained on the labels."""
    torch.manual_seed(seed)
    trunk = make_trunk()
    head, y = nn.Linear(128, 10), torch.tensor(labels, dtype=torch.int64)
    optimizer = torch.optim.AdamW([*trunk.parameters(), *head.parameters()], 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            loss = F.cross_entropy(head(trunk(x[rows])), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        features = torch.cat([trunk(part) for part in x.split(1000)])
        losses = F.cross_entropy(head(features), y, reduction="none")
    return features.numpy(), losses.numpy()


def main() -> None:
    """Print a line per ranking."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ("symmetric", "asymmetric", "similar")
    parser.add_argument("--noise", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--cleanlab", action="store_true", help="a minute more for each")
    options = parser.parse_args()
    x, true = load(options.images)
    for kind in options.noise:
        for seed in options.seeds:
            noise = make_noise(kind, true, seed)
            z, losses = learn(x, noise.labels, seed, options.epochs)
            right, y = ~noise.wrong, noise.labels
            density = xb.DensityRanker().fit(z, y)
            centre = xb.DensityRanker(subsets="centre").fit(z, y)
            mended = xb.DensityRanker(contrast=True).fit(z, y)
            rankings = {
                "density": judge(density.subset_, right, score=-density.rank_),
                "centre": judge(centre.subset_, right),
                "contrast": judge(mended.subset_, right, score=mended.contrast_),
            }
            scores = {"small loss": small_loss(losses), "k-NN": neighbour_agreement(z, y)}
            if options.cleanlab:
                scores["cleanlab"] = confident_learning(z, y)
            for name, score in scores.items():
                rankings[name] = judge((score < 0.5).astype(int), right, score=score)
            for name, found in rankings.items():
                sizes = " / ".join(f"{size:.0f}" for size in found.sizes)
                recall = f"recall {100 * found.recall[0]:.1f} %"
                print(f"{kind} {seed} {name}: {found}; {recall}; {sizes} images", flush=True)
            print(f"{kind} {seed} trust {trust(z, y, density.subset_).value:.2f}", flush=True)


if __name__ == "__main__":
    main()

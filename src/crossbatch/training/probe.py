r"""Drift on a fixed set of images: the paper's figure.

    d²(t; Δ) = mean over x of ‖f(x; θ_t) − f(x; θ_{t−Δ})‖²,    Δ = 10, 100, 1,000 iterations

Unlike the drift of images that come round again, it is measured at every age at any time, without
augmentation and dropout, and without a memory; it costs a forward pass of the set every ten steps.

*Cross-Batch Memory for Embedding Learning* (Wang, Zhang, Huang, Scott, CVPR 2020), figure 3.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossbatch.training.trainee import Trainee

EVERY = 10
AGES = (10, 100, 1000)


class Probe:
    """Embeddings of some training images along a training.

    Args:
        trainee: Whose images, drawn with its seed.
        images: How many; all of them where there are fewer.

    Cost: a forward pass every ``EVERY`` steps, and 100 · images · D numbers.
    """

    def __init__(self, trainee: Trainee, images: int) -> None:
        rows = trainee.training.rows
        drawn = np.random.default_rng(trainee.config.seed).permutation(len(rows))[:images]
        self._rows = np.sort(rows[drawn])
        self._past: list[Tensor] = []  # every EVERY steps, the newest last

    def take(self, trainee: Trainee) -> dict[str, float]:
        """Embed the images; the mean d² for each age that there is by now."""
        now = trainee.embed(self._rows)
        found: dict[str, float] = {}
        for age in AGES:
            if len(self._past) >= age // EVERY:
                then = self._past[-(age // EVERY)]
                found[f"drift_{age}"] = (now - then).square().sum(dim=1).mean().item()
        self._past = [*self._past, now][-(max(AGES) // EVERY) :]
        return found

    def state_dict(self) -> dict[str, Any]:
        """What the next measurements compare with."""
        return {"past": torch.stack(self._past) if self._past else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._past = [] if state["past"] is None else list(state["past"])

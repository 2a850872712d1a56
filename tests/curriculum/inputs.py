"""Features of noisy classes: a dense kernel, a looser part, strays."""

import numpy as np


def noisy_classes(seed=0, classes=2, images=120, width=12, dtype=np.float64):
    """Features (classes · images, width) and labels, in an order that mixes the classes."""
    rng = np.random.default_rng(seed)
    spread = np.where(np.arange(images) < images // 2, 0.4, 1.0)
    spread[-images // 5 :] = 3.0
    x = rng.normal(0, 1, (classes, 1, width)) * 2
    x = x + rng.normal(0, 1, (classes, images, width)) * spread[None, :, None]
    y = np.repeat(np.arange(classes), images)
    order = rng.permutation(len(y))
    return x.reshape(-1, width)[order].astype(dtype), y[order]

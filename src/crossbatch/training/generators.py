"""The global generators of Python, numpy and torch: seeded, and kept in a checkpoint."""

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed every one of them."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (for libraries that use it)
    torch.manual_seed(seed)


def generators() -> dict[str, Any]:
    """The state of every global generator, in types that a safe checkpoint can hold."""
    _, keys, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            torch.from_numpy(np.array(keys, np.int64)),
            int(place),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(internal), gauss_next],
    }


def set_generators(state: dict[str, Any]) -> None:
    """The inverse of :func:`generators`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))

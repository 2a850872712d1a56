"""The memory that a config asks for."""

import torch

from crossbatch.errors import CrossbatchError, expected
from crossbatch.memory import CrossBatchMemory, PerImageMemory, ShardedMemory
from crossbatch.training.config import MemoryConfig

Memory = CrossBatchMemory | PerImageMemory | ShardedMemory


def make_memory(config: MemoryConfig, *, dim: int, images: int) -> Memory | None:
    """An empty memory, or None where the config has no rows for one.

    Args:
        config: With a capacity that is known, not -1.
        dim: The width of the embeddings.
        images: Those of the training set, for each of which one row per image needs room.

    Raises:
        CrossbatchError: A row per image is asked for, but not for all of them.
    """
    if not config.capacity:
        return None
    if config.kind == "sharded" and config.device == "cpu":
        raise CrossbatchError(
            expected(
                "`memory.device` network with `memory.kind` sharded",
                config.device,
                "A ring can be kept in the CPU's memory: --memory.kind ring.",
            )
        )
    dtype: torch.dtype = getattr(torch, config.dtype)
    if config.kind != "per_image":
        kind = ShardedMemory if config.kind == "sharded" else CrossBatchMemory
        return kind(config.capacity, dim, dtype=dtype)
    if config.capacity < images:
        raise CrossbatchError(
            expected(
                f"`memory.capacity` ≥ {images}, the training images, with `memory.kind` per_image",
                config.capacity,
                "-1 makes it as large as the training set; a ring holds the last rows of more.",
            )
        )
    return PerImageMemory(config.capacity, dim, dtype=dtype)

"""Memory that was used before: fresh memory costs a page fault per 4 kB."""

import torch
from torch import Tensor


class Scratch:
    """Matrices of anything, one of each dtype at a time."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.dtype, bool], Tensor] = {}

    def matrix(
        self, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A matrix of anything, on the device of another one; the last of its dtype is void."""
        dtype, size = dtype or like.dtype, shape[0] * shape[1]
        key = dtype, torch.is_inference_mode_enabled()
        held = self._held.get(key)
        if held is None or held.numel() < size or held.device != like.device:
            self._held[key] = held = like.new_empty(size, dtype=dtype)
        return held[:size].view(shape)

"""Lists of pairs and triplets, as pytorch-metric-learning passes them.

Pairs are (anchors, positives, anchors, negatives), triplets (anchors, positives, negatives): int64
tensors, of which anchors count rows of the batch and the others places in the memory.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Indices = tuple[Tensor, ...]


def all_pairs(labels: Tensor, row_labels: Tensor) -> Indices:
    """Every row of the batch with every row of the memory."""
    same = labels[:, None] == row_labels
    return (*torch.where(same), *torch.where(~same))


def keep(indices: Indices, wanted: Callable[[Tensor, Tensor], Tensor]) -> Indices:
    """Those pairs, or triplets of two pairs, that are wanted."""
    if len(indices) == 3:
        anchors, positives, negatives = indices
        kept = wanted(anchors, positives) & wanted(anchors, negatives)
        return tuple(index[kept] for index in indices)
    pull, push = wanted(*indices[:2]), wanted(*indices[2:])
    return (*(index[pull] for index in indices[:2]), *(index[push] for index in indices[2:]))


def append(indices: Indices, further: Indices) -> Indices:
    """Both, in the form of the first."""
    further = _triplets(further) if len(indices) == 3 else _pairs(further)
    return tuple(
        torch.cat([one, other.to(one.device)]) for one, other in zip(indices, further, strict=True)
    )


def _pairs(indices: Indices) -> Indices:
    """A triplet is a positive and a negative pair."""
    return indices if len(indices) == 4 else (*indices[:2], indices[0], indices[2])


def _triplets(indices: Indices) -> Indices:
    """Every positive pair with every negative pair of the same anchor."""
    if len(indices) == 3:
        return indices
    first, positives, second, negatives = indices
    p, n = torch.where(first[:, None] == second)
    return first[p], positives[p], negatives[n]

r"""Local density, and the distance to the nearest denser point, within one class.

*CurriculumNet* (Guo et al., ECCV 2018), after *Clustering by fast search and find of density
peaks* (Rodriguez, Laio, Science 2014). Of the n points of a class, with distances t:

    cutoff      d_c = the element ⌊q n²⌋, from 0, of all n² distances in rising order, the n zeros
                of points to themselves included;   ρ_i = |{j ≠ i : t_ij < d_c}|
    gaussian    ρ_i = Σ_j exp(−(t_ij / max t)² / 2) / √(2π),  j = i included
    knn         m_i = mean of t_ij² over the k nearest others;   ρ_i = exp(−m_i / mean m)
                (Du, Ding, Jia, Knowledge-Based Systems 2016)

    δ_i = min t_ij over the denser j, and max_j t_ij for the densest;
    j is denser than i if ρ_j > ρ_i, or ρ_j = ρ_i and j stands before i.

The order makes one point the centre, whatever the ties. Cutoff densities and δ are exact in the
sense of :mod:`crossbatch.curriculum.points`. Densities of the other two kinds come from float64
products and agree to about 1e-12 over tiles and threads.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from crossbatch.curriculum._quantile import cutoff
from crossbatch.curriculum.points import TILE, Block, Floats, Places, Points, upward


def cutoff_density(points: Points, quantile: float) -> Floats:
    """ρ of the kind ``cutoff``, shape (n,), whole numbers in [0, n − 1].

    Cost: half a product of n² D in float32, and t for the pairs within the error of d_c.
    Memory: one block, and some 80 n pairs that are near d_c.
    """
    return cutoff(points, quantile).below.astype(np.float64)


def gaussian_density(points: Points) -> Floats:
    """ρ of the kind ``gaussian``, shape (n,), in (0, n / √(2π)]. Cost: one product in float64."""
    n, largest = len(points), 0.0
    for block in points.blocks(double=True):
        apart = block.squares[np.isfinite(block.squares)]
        largest = max(largest, float(apart.max(initial=0.0)))
    if largest <= 0:
        return np.full(n, n / math.sqrt(2 * math.pi))
    density = np.ones(n)  # of each point to itself
    for block in points.blocks(double=True):
        kernel = np.clip(block.squares, 0, None)
        kernel *= -0.5 / largest
        np.exp(kernel, out=kernel)
        density[block.rows] += kernel.sum(axis=1)
        density[block.columns] += kernel.sum(axis=0)
    return density / math.sqrt(2 * math.pi)


def nearest_density(points: Points, neighbours: int) -> Floats:
    """ρ of the kind ``knn``, shape (n,), in (0, 1].

    A class of n ≤ k points takes its n − 1 others. Cost: one product in float64.
    """
    n = len(points)
    k = min(neighbours, n - 1)
    if k < 1:
        return np.ones(n)
    mean = np.empty(n)
    for start in range(0, n, TILE):
        rows = slice(start, min(start + TILE, n))
        nearest = torch.empty(rows.stop - start, 0, dtype=torch.float64, device="cpu")
        for first in range(0, n, TILE):
            columns = slice(first, min(first + TILE, n))
            squares = points.squares(rows, columns, double=True).clamp_(min=0)
            if rows == columns:
                squares.fill_diagonal_(math.inf)
            nearest = torch.cat([nearest, squares], dim=1)
            nearest = nearest.topk(min(k, nearest.shape[1]), largest=False).values
        mean[rows] = nearest.mean(dim=1).numpy()
    total = mean.mean()
    return np.exp(-mean / total) if total > 0 else np.ones(n)


_FAR = 1e30  # above the square of any distance in the units of points
_KEPT = 256  # pairs near the nearest that are kept, 12 bytes each, for every point


class Peaks(NamedTuple):
    """Attributes: delta: δ, shape (n,), in units of the features; order: the densest first."""

    delta: Floats
    order: Places


def peaks(points: Points, density: Floats) -> Peaks:
    """Distances to the nearest denser point.

    Cost: half a product of n² D in float32, and t for what is within the error of a minimum.
    Points that come again are left out.

    Args:
        points: n of them.
        density: Shape (n,).
    """
    order = np.argsort(-density, kind="stable")
    ordered = points.take(order)
    firsts = np.sort(np.unique(ordered.first, return_index=True)[1])
    alone = ordered if len(firsts) == len(points) else ordered.take(firsts)
    delta = np.zeros(len(points))  # of a point that comes again
    delta[order[firsts]] = _nearest_before(alone) * points.scale
    return Peaks(delta, order)


def _nearest_before(points: Points) -> Floats:
    """The least t of each point to those before it, and the greatest to any of the first one."""
    n = len(points)
    nearest = np.full(n, np.inf)
    near = points.before(_KEPT * n) if points.in_c else None
    if near is not None:
        np.minimum.at(nearest, near.j, points.distances(near.i, near.j))
    else:
        for start in range(0, n, TILE):
            i, j = _candidates(points, slice(start, min(start + TILE, n)))
            np.minimum.at(nearest, i, points.distances(i, j))
    if n:
        nearest[0] = points.distances(np.zeros(n, np.intp), np.arange(n)).max()
    return nearest


def _candidates(points: Points, rows: slice) -> tuple[Places, Places]:
    """Pairs (i, j < i) of some rows, the nearest j of each among them."""
    best = np.full(rows.stop - rows.start, _FAR)
    pairs: list[tuple[Places, Places, NDArray[np.floating]]] = []
    for first in range(0, rows.stop, TILE):
        columns = slice(first, min(first + TILE, len(points)))
        squares = points.squares(rows, columns)
        if rows == columns:
            squares += torch.full_like(squares, math.inf).triu_()
        block = Block(rows, columns, squares.numpy())
        np.minimum(best, block.squares.min(axis=1), out=best)
        near = block.squares <= upward(best + 2 * points.error)[:, None]
        pairs.append((*block.places(near), block.squares[near]))
    i, j, squares = (np.concatenate(part) for part in zip(*pairs, strict=True))
    near = squares <= upward(best + 2 * points.error)[i - rows.start]
    return i[near], j[near]

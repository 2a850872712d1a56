r"""Own density against that of other classes: what a class's own density cannot tell.

An image may lie where its class is dense, and another class denser: where a third of the bags are
labelled as shoes, the shoes have a dense part that is made of bags. So with labels that are wrong
in one direction, density ranks the wrong images first. The remedy compares, at the image x, the
densities of classes, each estimated from the references (a sample) R_a of the class a within the
ball around x that holds the k nearest of all of them:

    f_a(x) = |{r ∈ R_a : |x − r| ≤ r_k(x)}| / |R_a|
    contrast(x) = f_own(x) / (f_own(x) + max_{a ≠ own} f_a(x)),    in [0, 1]

A half says that another class is as dense here; a class of one image gets it, for want of
evidence. An image is no reference for itself. Of the other classes those with the nearest means
are asked. k is half the references of the own class, at least 3, at most 32.

The same number tells, without true labels, whether to trust densities (:func:`trust`): if images
that another class claims are not in the noisier subsets, dense regions are dense in wrong images.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossbatch.curriculum.inputs import Classes, read_rows
from crossbatch.curriculum.points import TILE, Floats, Places
from crossbatch.curriculum.purity import area
from crossbatch.errors import CrossbatchError, expected

NEIGHBOURS = 32
RIVALS = 10
REFERENCES = 512


def class_contrast(X: Any, y: Any) -> Floats:
    """The contrast of every row, shape (N,), in [0, 1]. One class alone has contrast 1.

    Args:
        X: Features, shape (N, D), as for :class:`DensityRanker`, in one space for all classes.
        y: Labels, shape (N,).

    Cost: N · 11 · 512 · D multiplications (10 other classes, 512 references each) and one pass
    over the features for the means; memory of 11 · 512 rows and a tile.

    Raises:
        CrossbatchError: As :meth:`DensityRanker.fit`.
    """
    classes = Classes.of(X, y)
    found = np.empty(len(classes.codes))
    for rows, part in zip(classes.rows, of_classes(classes), strict=True):
        found[rows] = part.contrast
    return found


class Contrasted(NamedTuple):
    """Of each row of a class.

    Attributes:
        contrast: In [0, 1].
        rival: The densest other class, or -1.
        claim: Its share of the densities of all classes asked, in [0, 1].
    """

    contrast: Floats
    rival: Places
    claim: Floats


def of_classes(classes: Classes) -> Iterator[Contrasted]:
    """The contrast of the rows of each class in turn."""
    samples = [_sample(rows, c) for c, rows in enumerate(classes.rows)]
    if len(samples) == 1:
        n = len(classes.codes)
        yield Contrasted(np.ones(n), np.full(n, -1, np.intp), np.zeros(n))
        return
    means = np.stack([classes.read(c).mean(axis=0) for c in range(len(samples))])
    for c in range(len(samples)):
        away = ((means - means[c]) ** 2).sum(axis=1)
        away[c] = -1
        asked: list[int] = np.argsort(away, kind="stable")[: RIVALS + 1].tolist()
        rows = [samples[a] for a in asked]
        references = np.concatenate([read_rows(classes.x, r) for r in rows])
        owner = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        itself = np.searchsorted(rows[0], classes.rows[c])
        is_in = rows[0][np.minimum(itself, len(rows[0]) - 1)] == classes.rows[c]
        x = classes.read(c) - means[c]
        place = np.where(is_in, itself, -1)
        found = _contrast(x, references - means[c], owner, place)
        yield found._replace(rival=np.where(found.rival < 0, -1, np.array(asked)[found.rival]))


def _sample(rows: Places, c: int) -> Places:
    if len(rows) <= REFERENCES:
        return rows
    draw = np.random.default_rng((0, c))
    return np.sort(draw.choice(rows, REFERENCES, replace=False))


def _contrast(x: Floats, references: Floats, owner: Places, itself: Places) -> Contrasted:
    """``owner`` 0 is the own class; ``itself`` is each row's place among the references or -1."""
    largest = max(float(np.abs(x).max()), float(np.abs(references).max())) or 1.0
    r = torch.as_tensor(references / largest).float()
    norms = r.square().sum(dim=1)
    owners = torch.as_tensor(owner)
    sizes, own = torch.bincount(owners).double(), int((owner == 0).sum())
    if own == 1:
        return Contrasted(np.full(len(x), 0.5), np.full(len(x), -1, np.intp), np.zeros(len(x)))
    found = Contrasted(np.empty(len(x)), np.empty(len(x), np.intp), np.empty(len(x)))
    for start in range(0, len(x), TILE):
        part = slice(start, start + TILE)
        q = torch.as_tensor(x[part] / largest).float()
        squares = torch.addmm(norms, q, r.T, alpha=-2)
        self = torch.as_tensor(itself[part])
        held = (self >= 0).nonzero()[:, 0]
        squares[held, self[held]] = torch.inf
        k = min(max(3, own // 2), NEIGHBOURS, len(references) - 1)
        nearest = squares.topk(k, largest=False).indices
        for whole, some in zip(found, _ratio(owners[nearest], sizes, self >= 0), strict=True):
            whole[part] = some.numpy()
    return found


def _ratio(near: Tensor, sizes: Tensor, held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Contrasts, the densest other owner (-1 where none is near), and its share of all."""
    counts = torch.zeros(len(near), len(sizes), dtype=torch.float64)
    counts.scatter_add_(1, near, torch.ones(near.shape, dtype=torch.float64))
    own = counts[:, 0] / (sizes[0] - held.double()).clamp(min=1)
    others, tiny = counts[:, 1:] / sizes[1:], torch.finfo(torch.float64).tiny
    other, rival = others.max(dim=1)
    ratio = own / (own + other).clamp(min=tiny)
    claim = other / (own + others.sum(dim=1)).clamp(min=tiny)
    return ratio, torch.where(other > 0, rival + 1, -1), claim


class Trust(NamedTuple):
    """Whether to believe a ranking by density.

    Attributes:
        value: Chance that an image where its own class is densest is in a cleaner subset than
            one of its class where another is, in [0, 1]; the same subset counts half. Averaged
            over classes by the number of the latter; NaN where no class has both, in two
            subsets. An estimate of the area under the curve of the subsets.
        doubted: Share of all images whose contrast is below a half.
        sentence: What that means.
    """

    value: float
    doubted: float
    sentence: str


def trust(X: Any, y: Any, subset: Any) -> Trust:
    """When to trust a ranking by density, told without true labels.

    Args:
        X: Features, shape (N, D), in one space for all classes.
        y: The labels that were ranked, shape (N,).
        subset: ``subset_`` of a :class:`DensityRanker` without ``contrast``, shape (N,).

    Raises:
        CrossbatchError: As :func:`class_contrast`, or the lengths differ.
    """
    classes = Classes.of(X, y)
    subset = np.asarray(subset)
    if subset.shape != (len(classes.codes),):
        wanted = f"`subset` of shape ({len(classes.codes)},)"
        raise CrossbatchError(expected(wanted, f"shape {subset.shape}", "Give one per row."))
    found = np.empty(len(subset))
    for rows, part in zip(classes.rows, of_classes(classes), strict=True):
        found[rows] = part.contrast
    return trust_of(classes.rows, found, subset)


def trust_of(rows: list[Places], contrasts: Floats, subset: Places) -> Trust:
    """:func:`trust` where the contrasts are known.

    Args:
        rows: Of each class.
        contrasts: Of each row, shape (N,).
        subset: Shape (N,).
    """
    total, weight = 0.0, 0
    for of_class in rows:
        firm, parts = contrasts[of_class] >= 0.5, subset[of_class]
        claimed = int(np.count_nonzero(~firm))
        if claimed and firm.any() and parts.min() < parts.max():
            total += claimed * area(-parts, firm)
            weight += claimed
    value = total / weight if weight else float("nan")
    doubted = float((contrasts < 0.5).mean())
    return Trust(value, doubted, _sentence(value, doubted))


def _sentence(value: float, doubted: float) -> str:
    if doubted < 0.03:
        share = f"{100 * doubted:.1f} % of the images lie where another class is denser"
        return f"Few labels look wrong ({share}); the order of densities matters little."
    share = f"{100 * doubted:.0f} % of the images lie where another class is denser"
    if np.isnan(value):
        return f"No class has subsets that could be judged; {share}."
    if value >= 0.75:
        return f"What other classes claim is in the noisier subsets ({share}): trust it."
    if value >= 0.6:
        return f"Density tells little about labels here ({share}): rank by contrast."
    return f"Dense regions belong to other classes ({share}): do not trust it, rank by contrast."

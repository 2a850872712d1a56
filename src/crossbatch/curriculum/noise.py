r"""Noise for controlled studies: labels made wrong on purpose, the same ones for the same seed.

    symmetric       ⌊r N⌉ images get one of the C − 1 other labels, each as likely
    asymmetric      ⌊r n_c⌉ images of class c get the label that c is confused with
    small_cluster   groups of a class, together ⌊r N⌉ images, each get one other label as a whole
                    (Liu et al., *Noise-resistant Deep Metric Learning with Ranking-based Instance
                    Selection*, CVPR 2021): a wrong class that hangs together
    open_set        ⌊r N⌉ places keep their label and get an image of none of the classes

Counts are exact, not expected ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossbatch.curriculum.inputs import check_features, check_labels, read_rows
from crossbatch.curriculum.points import Places
from crossbatch.errors import CrossbatchError, expected


@dataclass(frozen=True, eq=False)
class Noise:
    """Noisy labels and what was done to them.

    Attributes:
        labels: Shape (N,), of the type of those given.
        wrong: Shape (N,), where the label, or the image, is not the true one.
        images: Shape (N,): for ``open_set`` the row of the outside image that takes the place;
            -1 where the image stays.
        kind: The injector.
        rate: r, as asked.
        seed: Of the draw.
    """

    labels: NDArray[Any]
    wrong: NDArray[np.bool_]
    images: NDArray[np.int64]
    kind: str
    rate: float
    seed: int

    def notes(self) -> dict[str, str | int | float]:
        """What to keep beside the labels, such as in the notes of a manifest."""
        wrong = int(self.wrong.sum())
        return {"noise": self.kind, "rate": self.rate, "seed": self.seed, "wrong": wrong}


def symmetric(labels: ArrayLike, rate: float, *, seed: int) -> Noise:
    """Each wrong label as likely as any other.

    Args:
        labels: True ones, shape (N,), of two classes or more.
        rate: Share of all images, in [0, 1].
        seed: Of the draw.

    Raises:
        CrossbatchError: One class alone, or a rate outside of [0, 1].
    """
    names, codes, draw = _begin(labels, rate, seed)
    rows = draw.permutation(len(codes))[: round(rate * len(codes))]
    noisy = codes.copy()
    noisy[rows] = _other(draw, codes[rows], len(names))
    return _made(names, codes, noisy, ("symmetric", rate, seed))


def asymmetric(
    labels: ArrayLike, rate: float, *, confused: Mapping[Any, Any] | None = None, seed: int
) -> Noise:
    """Each class is mistaken for one other.

    Args:
        labels: True ones, shape (N,), of two classes or more.
        rate: Share of each class that is confused, in [0, 1].
        confused: From a label to the one that it is mistaken for; classes that are not named
            stay clean. None takes the next label in rising order, the first after the last.
        seed: Of the draw.

    Raises:
        CrossbatchError: As :func:`symmetric`, or ``confused`` names a label that does not occur.
    """
    names, codes, draw = _begin(labels, rate, seed)
    place = {name: c for c, name in enumerate(names.tolist())}
    if confused is None:
        target = (np.arange(len(names)) + 1) % len(names)
    else:
        unknown = [name for pair in confused.items() for name in pair if name not in place]
        if unknown:
            wanted, remedy = "`confused` between labels that occur", "Check their spelling."
            raise CrossbatchError(expected(wanted, unknown[:5], remedy))
        target = np.array([place[confused.get(name, name)] for name in names.tolist()])
    noisy = codes.copy()
    for c in range(len(names)):
        rows = draw.permutation(np.flatnonzero(codes == c))
        noisy[rows[: round(rate * len(rows))]] = target[c]
    return _made(names, codes, noisy, ("asymmetric", rate, seed))


def small_cluster(
    labels: ArrayLike,
    rate: float,
    *,
    size: int = 10,
    features: ArrayLike | None = None,
    seed: int,
) -> Noise:
    """Groups of a class go to another class together.

    Args:
        labels: True ones, shape (N,), of two classes or more.
        rate: Share of all images, in [0, 1].
        size: Images in a group, at least 1.
        features: Shape (N, D): a group is an image and its nearest of the same class. None: a
            group is drawn from the class.
        seed: Of the draw.

    Raises:
        CrossbatchError: As :func:`symmetric`, or ``size`` below 1.
    """
    names, codes, draw = _begin(labels, rate, seed)
    if size < 1:
        raise CrossbatchError(expected("`size` of at least 1", size, "Choose a larger number."))
    x = None if features is None else check_features(features)
    noisy, left = codes.copy(), round(rate * len(codes))
    free = np.ones(len(codes), bool)
    for first in draw.permutation(len(codes)):
        if left == 0:
            break
        if not free[first]:
            continue
        rows = np.flatnonzero(free & (codes == codes[first]))
        if x is None:
            rows = draw.permutation(rows)
        else:
            away = read_rows(x, rows) - read_rows(x, np.array([first]))
            rows = rows[np.argsort((away * away).sum(axis=1), kind="stable")]
        group = rows[: min(size, left)]
        noisy[group] = _other(draw, codes[group[:1]], len(names))
        free[group] = False
        left -= len(group)
    return _made(names, codes, noisy, ("small_cluster", rate, seed))


def open_set(labels: ArrayLike, rate: float, *, outside: int, seed: int) -> Noise:
    """Images of none of the classes under their labels.

    Args:
        labels: Shape (N,).
        rate: Share of all images, in [0, 1].
        outside: How many images of other classes there are to take from, without replacement.
        seed: Of the draw.

    Raises:
        CrossbatchError: There are too few outside images, or a rate outside of [0, 1].
    """
    names, codes, draw = _begin(labels, rate, seed, classes=1)
    rows = draw.permutation(len(codes))[: round(rate * len(codes))]
    if outside < len(rows):
        remedy = "Give more images, or a lower rate."
        raise CrossbatchError(expected(f"{len(rows)} outside images", outside, remedy))
    images = np.full(len(codes), -1, np.int64)
    images[rows] = draw.permutation(outside)[: len(rows)]
    return Noise(names[codes], images >= 0, images, "open_set", rate, seed)


def _begin(
    labels: ArrayLike, rate: float, seed: int, *, classes: int = 2
) -> tuple[NDArray[Any], NDArray[np.int64], np.random.Generator]:
    if not 0 <= rate <= 1:
        raise CrossbatchError(expected("`rate` in [0, 1]", rate, "It is a share of images."))
    labels = np.asarray(labels)
    names, codes = check_labels(labels, len(labels))
    if len(names) < classes:
        remedy = "There must be another label to give."
        raise CrossbatchError(expected(f"at least {classes} classes", len(names), remedy))
    return names, codes, np.random.default_rng(seed)


def _other(draw: np.random.Generator, codes: Places, classes: int) -> NDArray[np.int64]:
    """Another class than each row's."""
    return (codes + draw.integers(1, classes, len(codes))) % classes


def _made(
    names: NDArray[Any], codes: Places, noisy: Places, about: tuple[str, float, int]
) -> Noise:
    stays = np.full(len(codes), -1, np.int64)
    return Noise(names[noisy], noisy != codes, stays, *about)

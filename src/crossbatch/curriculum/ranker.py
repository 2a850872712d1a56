r"""The density ranker: which images of each class look like the class, and which do not.

Per class: features, reduced by PCA; density ρ and distance δ to the nearest denser image
(:mod:`crossbatch.curriculum.density`); subsets, from clean to highly noisy
(:mod:`crossbatch.curriculum.subsets`).

*CurriculumNet: Weakly Supervised Learning from Large-Scale Web Images* (Guo et al., ECCV 2018).
"""

import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from crossbatch.curriculum._estimator import Estimator
from crossbatch.curriculum.contrast import of_classes
from crossbatch.curriculum.density import (
    cutoff_density,
    gaussian_density,
    nearest_density,
    peaks,
)
from crossbatch.curriculum.inputs import Classes, first_alike
from crossbatch.curriculum.points import Floats, Places, Points
from crossbatch.curriculum.principal import Basis, common_basis, reduced
from crossbatch.curriculum.subsets import Integers, by_centre, by_density, by_quantile
from crossbatch.errors import CrossbatchError, expected, nearest

_CHOICES = {
    "density": ("cutoff", "gaussian", "knn"),
    "subsets": ("density", "centre", "quantile"),
    "pca": ("per_class", "once", None),
}


class _Ranked(NamedTuple):
    """One class: density, delta, subset and rank of its rows, and the place of its centre."""

    density: Floats
    delta: Floats
    subset: Integers
    rank: Integers
    centre: int


@dataclass(kw_only=True, eq=False, repr=False)
class DensityRanker(Estimator):
    """Rank the images of each class by the density of their features; part them into subsets.

    The defaults are the settings of the released CurriculumNet. It works without scikit-learn
    and has its contract: ``get_params``, ``set_params``, ``clone``, pipelines.

    Args:
        n_subsets: At least 1. Subset 0 is clean, the last one highly noisy.
        density: ``cutoff``: images nearer than a quantile of the class's distances;
            ``gaussian``: a sum of Gaussian kernels; ``knn``: from the k nearest.
        quantile: Of ``cutoff``, in [0, 1]. The paper's is 0.6, and 0.5 to 0.7 change little.
        neighbours: k of ``knn``, at least 1.
        subsets: ``density``: k-means on densities (released code); ``centre``: k-means on
            distances to the densest image (paper); ``quantile``: equal sizes.
        pca: ``per_class`` (released code), ``once`` over all rows, or None: features as they
            are.
        n_components: Of the PCA, at least 1. Classes of no more images or columns are not
            reduced, since that would change no distance.
        contrast: Rank and part by own density against the densest other class's
            (:func:`crossbatch.curriculum.class_contrast`) instead of own density alone, which is
            wrong where labels are wrong in one direction. Ties go by density. ``density_`` and
            ``delta_`` stay as they are. Not with ``subsets="centre"``.
        n_jobs: Threads, a class each; -1: one per core. A single class has them all. Results do
            not depend on them.

    Attributes:
        density_: ρ of each row, shape (N,). To be compared within a class.
        delta_: Distance to the nearest denser row of the class, shape (N,), in units of the
            (reduced) features; for the densest, to the farthest row.
        contrast_: Shape (N,), in [0, 1]; a half: another class is as dense. With ``contrast``
            alone.
        subset_: Shape (N,), in [0, n_subsets).
        rank_: Place within the class, shape (N,), 0 for the densest.
        centre_: The densest row of each class, shape (C,).
        classes_: The labels, shape (C,), rising.
        n_features_in_: D.

    A class of one image, or of equal densities (all images equal, or two images), is subset 0:
    nothing speaks against any of them. A class with fewer distinct densities than subsets uses
    the first subsets. ``quantile`` parts any class of two and more.

    Cost: per class of n images n² D' multiplications in float32 (D' after PCA), n D² / 2 + 4 D³
    in float64 for the PCA; memory per thread 20 n D or 32 n D' bytes, whichever is more, a few
    tiles, and some 80 n pairs of 20 bytes each.

    >>> import numpy as np
    >>> x = np.array([[0.0], [0.1], [0.2], [9.0]])
    >>> DensityRanker(n_subsets=2).fit(x, ["cat"] * 4).subset_
    array([0, 0, 0, 1])
    """

    cites: ClassVar[tuple[str, ...]] = ("guo2018curriculumnet",)

    n_subsets: int = 3
    density: Literal["cutoff", "gaussian", "knn"] = "cutoff"
    quantile: float = 0.6
    neighbours: int = 10
    subsets: Literal["density", "centre", "quantile"] = "density"
    pca: Literal["per_class", "once"] | None = "per_class"
    n_components: int = 256
    contrast: bool = False
    n_jobs: int = 1

    density_: Floats = field(init=False)
    delta_: Floats = field(init=False)
    contrast_: Floats = field(init=False)
    subset_: Integers = field(init=False)
    rank_: Integers = field(init=False)
    centre_: Integers = field(init=False)
    classes_: NDArray[Any] = field(init=False)
    n_features_in_: int = field(init=False)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Rank every row within its class.

        Args:
            X: Features, shape (N, D), real and finite, of any float or integer dtype and any
                strides. An array mapped from a file is read a class at a time.
            y: Labels, shape (N,): integers, or texts.

        Raises:
            CrossbatchError: A parameter, a shape or a label is wrong, or a feature is not
                finite.
        """
        self._check()
        classes = Classes.of(X, y)
        reduce = self._reduction(classes)

        def rank(c: int) -> _Ranked:
            x = classes.read(c)
            return self._rank(Points(reduce(x), first_alike(x)))

        rows = len(classes.codes)
        self.density_, self.delta_ = np.empty(rows), np.empty(rows)
        self.subset_, self.rank_ = np.empty(rows, np.int64), np.empty(rows, np.int64)
        self.centre_ = np.empty(len(classes.names), np.int64)
        for c, found in enumerate(_each(rank, len(classes.names), _threads(self.n_jobs))):
            at = classes.rows[c]
            self.density_[at], self.delta_[at] = found.density, found.delta
            self.subset_[at], self.rank_[at] = found.subset, found.rank
            self.centre_[c] = at[found.centre]
        if self.contrast:
            self._by_contrast(classes)
        self.classes_, self.n_features_in_ = classes.names, classes.x.shape[1]
        return self

    def _by_contrast(self, classes: Classes) -> None:
        self.contrast_ = np.empty(len(classes.codes))
        with _torch_threads(_threads(self.n_jobs)):
            for rows, (found, _, _) in zip(classes.rows, of_classes(classes), strict=True):
                order = np.lexsort((self.rank_[rows], -found))
                quantile = self.subsets == "quantile"
                part = by_quantile(order, self.n_subsets) if quantile else None
                self.subset_[rows] = by_density(found, self.n_subsets) if part is None else part
                self.rank_[rows[order]] = np.arange(len(rows))
                self.contrast_[rows] = found

    def _reduction(self, classes: Classes) -> Callable[[Floats], Floats]:
        k = self.n_components
        if self.pca == "once" and k < min(classes.x.shape):
            basis: Basis = common_basis(classes.chunks, k)
            return basis.project
        if self.pca == "per_class":
            return lambda x: reduced(x, k)
        return lambda x: x

    def _rank(self, points: Points) -> _Ranked:
        density = self._density(points)
        delta, order = peaks(points, density)
        rank = np.empty(len(points), np.int64)
        rank[order] = np.arange(len(points))
        return _Ranked(density, delta, self._part(points, density, order), rank, int(order[0]))

    def _density(self, points: Points) -> Floats:
        if self.density == "gaussian":
            return gaussian_density(points)
        if self.density == "knn":
            return nearest_density(points, self.neighbours)
        return cutoff_density(points, self.quantile)

    def _part(self, points: Points, density: Floats, order: Places) -> Integers:
        if self.subsets == "quantile":
            return by_quantile(order, self.n_subsets)
        if self.subsets == "centre":
            centre = np.full(len(points), order[0])
            return by_centre(points.distances(centre, np.arange(len(points))), self.n_subsets)
        return by_density(density, self.n_subsets)

    def _check(self) -> None:
        for name, valid in _CHOICES.items():
            got = getattr(self, name)
            if got not in valid:
                wanted = f"`{name}` of DensityRanker to be one of {', '.join(map(repr, valid))}"
                hint = nearest(str(got), [word for word in valid if word])
                raise CrossbatchError(expected(wanted, repr(got), hint))
        for name in ("n_subsets", "neighbours", "n_components"):
            _check_whole(name, getattr(self, name))
        if not 0 <= self.quantile <= 1:
            wanted = "`quantile` of DensityRanker in [0, 1]"
            raise CrossbatchError(expected(wanted, self.quantile, "The paper's is 0.6."))
        if self.contrast and self.subsets == "centre":
            wanted = "`subsets` other than 'centre' with `contrast`"
            remedy = "Distances to a centre know no other class: use 'density' or 'quantile'."
            raise CrossbatchError(expected(wanted, "'centre'", remedy))
        _threads(self.n_jobs)


def _check_whole(name: str, value: Any) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        wanted = f"`{name}` of DensityRanker to be a whole number of at least 1"
        raise CrossbatchError(expected(wanted, f"{value!r}", "Choose a larger number."))


def _threads(jobs: int) -> int:
    if jobs == -1:
        return os.cpu_count() or 1
    _check_whole("n_jobs", jobs)
    return jobs


def _each(rank: Callable[[int], _Ranked], classes: int, threads: int) -> Iterator[_Ranked]:
    """Rank every class, several at a time; fewer classes than threads share the threads."""
    workers = min(classes, threads)
    with _torch_threads(max(1, threads // workers)):
        if workers == 1:
            yield from map(rank, range(classes))
            return
        limit = torch.get_num_threads()
        with ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(limit,)
        ) as p:
            yield from p.map(rank, range(classes))


@contextmanager
def _torch_threads(number: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

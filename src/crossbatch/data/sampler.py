"""Batches of P classes × K images, as one endless stream.

A batch draws its classes anew, each as likely as any other, and takes min(K, size) distinct images
of each until it holds P·K rows. A class with fewer than K images gives all it has, and further
classes fill the batch; the last class is cut to fit. So every batch has exactly P·K rows, no image
stands twice in it, and no class comes twice.

Epochs in which every class comes once would be fairer, and hurt: a class that has just been seen
would be sure not to come, which proxies and classifiers learn (docs/log/2026-11-26-samplers.md).

A class with one image has no positive in any batch: it serves as a negative (and meets its own
past in a memory, where an image is never its own positive).

Batch k is a function of (seed, k) alone (:mod:`crossbatch.data.stream`). Which K images of a class
are taken is drawn by R. W. Floyd's method (Bentley and Floyd 1987, "A sample of brilliance"),
uniformly over the subsets of size K.
"""

from collections.abc import Sequence

import numpy as np

from crossbatch.data.stream import Stream
from crossbatch.errors import CrossbatchError, expected


class PKSampler(Stream):
    """Row numbers of batch after batch, without end.

    Args:
        codes: The class of each row, ``(N,)`` integers of any value.
        classes: P, how many classes make a batch where all have enough images; ≥ 1.
        instances: K, how many images of a class a batch holds at most; ≥ 1. With 1 no batch has
            a positive pair.
        seed: Of the stream, ≥ 0.
        rank: Which share of the stream this process takes, in [0, world).
        world: How many processes share the stream.
        least: Classes that there must be; 1 where the batch has other parts, with negatives.

    Raises:
        CrossbatchError: A number is out of range, there are fewer than ``least`` classes, or all
            classes together cannot fill a batch.

    Cost:
        16 N bytes, and about 0.1 ms for a batch.

    >>> sampler = PKSampler([0, 0, 1, 1, 2, 2], classes=2, instances=2, seed=0)
    >>> len(next(sampler))
    4
    """

    def __init__(
        self,
        codes: np.ndarray | Sequence[int],
        *,
        classes: int,
        instances: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        least: int = 2,
    ) -> None:
        codes = np.asarray(codes)
        self._check_at_least("classes", classes, 1)
        self._check_at_least("instances", instances, 1)
        _check_codes(codes)
        self.classes, self.instances = classes, instances
        self._sizes, self._rows, self._offsets = _by_class(codes)
        content = self._sizes.tobytes() + self._rows.tobytes()
        super().__init__(content, seed=seed, rank=rank, world=world)
        self._takes = np.minimum(self._sizes, instances)
        self._check_capacity(least)

    @property
    def batch_size(self) -> int:
        """P·K, the number of rows of every batch."""
        return self.classes * self.instances

    def _draw(self, batch: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, batch])
        most = min(self.batch_size, len(self._sizes))
        classes = generator.choice(len(self._sizes), most, replace=False)
        takes = self._takes[classes]
        ends = np.cumsum(takes)
        count = int(np.searchsorted(ends, self.batch_size)) + 1
        classes, takes = classes[:count], takes[:count].copy()
        takes[-1] -= ends[count - 1] - self.batch_size
        chosen = _subsets(self._sizes[classes], takes, generator)
        chosen += self._offsets[classes, None]
        return self._rows[chosen[np.arange(chosen.shape[1]) < takes[:, None]]]

    def _settings(self) -> dict[str, int]:
        return {"classes": self.classes, "instances": self.instances}

    def _check_capacity(self, least: int) -> None:
        if len(self._sizes) < least:
            remedy = "Add images of other classes: one class has no negatives."
            got = f"{len(self._sizes)}"
            raise CrossbatchError(expected("at least two classes to train on", got, remedy))
        if (capacity := int(self._takes.sum())) < self.batch_size:
            raise CrossbatchError(
                expected(
                    f"{self.classes} × {self.instances} = {self.batch_size} images for a batch",
                    f"{capacity} ({len(self._sizes)} classes of at most {self.instances} images)",
                    "Lower `classes`, or add classes or images.",
                )
            )


def _by_class(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes of the classes, rows sorted by class, and where each class begins among these."""
    _, inverse, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    rows = np.argsort(inverse, kind="stable").astype(np.int64)
    return sizes, rows, np.cumsum(sizes) - sizes


def _subsets(sizes: np.ndarray, takes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Floyd's method for many sets at once.

    Row c holds, in its first takes[c] places, a uniform subset of range(sizes[c]).
    """
    uniform = generator.random((len(sizes), int(takes.max())))
    chosen = np.empty(uniform.shape, dtype=np.int64)
    for j in range(uniform.shape[1]):
        top = sizes - takes + j
        guess = (uniform[:, j] * (top + 1)).astype(np.int64)
        taken = (chosen[:, :j] == guess[:, None]).any(axis=1)
        chosen[:, j] = np.where(taken, top, guess)
    return chosen


def _check_codes(codes: np.ndarray) -> None:
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer):
        wanted = "`codes` of shape (rows,) and an integer dtype in PKSampler"
        got = f"shape {codes.shape}, {codes.dtype}"
        raise CrossbatchError(expected(wanted, got, "Use `Manifest.codes`."))

"""Batches of images as they come, or of every class as often, as one endless stream.

*As they come*: an epoch is one shuffle of all N images, cut into batches of B; the last one is
filled from the start of the same shuffle. So no image stands twice in a batch, and every image
comes in every epoch.

*Balanced*: each batch draws its own order of all C classes and goes along it, round after round,
until it holds B images. So in a batch classes differ by one image at most, and which of them have
one more does not depend on the batches before. A class of n_c images gives each of its ⌈B / C⌉
places another image; a shuffle of them lasts ⌊n_c / ⌈B / C⌉⌋ batches, in which none comes twice.
Those of small classes come more often, and twice in a batch where there are too few.

Orders that went on from batch to batch would be fairer, and ruin a classifier of more classes than
fit a batch: classes that it has just seen would be sure not to come, so it learns the opposite.

Batch k is a function of (seed, k) alone (:mod:`crossbatch.data.stream`).
"""

from collections.abc import Sequence
from typing import Self

import numpy as np

from crossbatch.data.stream import Sampler, Stream
from crossbatch.errors import CrossbatchError, expected


class ImageSampler(Stream):
    """Row numbers of batch after batch, without end.

    Args:
        codes: The class of each row, ``(N,)`` integers of any value.
        batch: B, rows of a batch; ≥ 1, and at most N.
        seed: Of the stream, ≥ 0.
        balanced: Every class as often as any other, instead of every image.
        rank: Which share of the stream this process takes, in [0, world).
        world: How many processes share the stream.

    Raises:
        CrossbatchError: A number is out of range.

    Cost:
        16 N bytes; O(N) at the start of an epoch, or O(n_c) each time a class begins anew.

    >>> sampler = ImageSampler([0, 0, 0, 0, 1, 1], batch=4, seed=0, balanced=True)
    >>> sorted(np.array([0, 0, 0, 0, 1, 1])[next(sampler)].tolist())
    [0, 0, 1, 1]
    """

    def __init__(
        self,
        codes: np.ndarray | Sequence[int],
        *,
        batch: int,
        seed: int,
        balanced: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        codes = np.asarray(codes)
        if not 1 <= batch <= len(codes):
            raise CrossbatchError(
                expected(
                    f"a `batch` of 1 to {len(codes)} images, as many as there are",
                    batch,
                    "Make the batch smaller, or add images.",
                )
            )
        _, inverse = np.unique(codes, return_inverse=True)
        super().__init__(inverse.astype(np.int64).tobytes(), seed=seed, rank=rank, world=world)
        self.balanced, self._batch_size = balanced, batch
        order = np.argsort(inverse, kind="stable").astype(np.int64)
        self._rows = np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)
        self._shuffles: dict[int, tuple[int, np.ndarray]] = {}  # of a class, or of all (-1)

    @property
    def batch_size(self) -> int:
        """B, the number of rows of every batch."""
        return self._batch_size

    def _draw(self, batch: int) -> np.ndarray:
        return self._even(batch) if self.balanced else self._plain(batch)

    def _settings(self) -> dict[str, int]:
        return {"batch": self._batch_size, "balanced": int(self.balanced)}

    def _plain(self, batch: int) -> np.ndarray:
        rows = sum(map(len, self._rows))
        epoch, place = divmod(batch, -(-rows // self._batch_size))
        places = (place * self._batch_size + np.arange(self._batch_size)) % rows
        return self._shuffle(-1, epoch, rows)[places]

    def _even(self, batch: int) -> np.ndarray:
        classes = len(self._rows)
        order = np.random.default_rng([self.seed, 0, batch]).permutation(classes).tolist()
        places = range(self._batch_size)
        return np.array([self._image(order[p % classes], p // classes, batch) for p in places])

    def _image(self, c: int, place: int, batch: int) -> int:
        """The row that a class has at one of its places in a batch."""
        size, most = len(self._rows[c]), -(-self._batch_size // len(self._rows))
        lasts = max(size // most, 1)
        number, part = divmod(batch, lasts)
        return int(self._rows[c][self._shuffle(c, number, size)[(part * most + place) % size]])

    def _shuffle(self, c: int, number: int, size: int) -> np.ndarray:
        """The last one is kept: it is a function of its arguments and the seed."""
        if self._shuffles.get(c, (-1,))[0] != number:
            generator = np.random.default_rng([self.seed, 1, c + 1, number])
            self._shuffles[c] = number, generator.permutation(size).astype(np.int64)
        return self._shuffles[c][1]


class MixedSampler:
    """Batches that are put together from several streams, each with rows of its own.

    Batch k of the whole takes batch k of every part, one behind the other: a function of the
    seeds of the parts and of k, like theirs.

    Args:
        parts: The rows that a part draws from, ``(n,)`` int64, and its sampler of places among
            these, made for one rank. No row is in two of them.
        rank: Which share of the stream this process takes, in [0, world).
        world: How many processes share the stream.

    Raises:
        CrossbatchError: There is no part.
    """

    def __init__(
        self, parts: Sequence[tuple[np.ndarray, Sampler]], *, rank: int = 0, world: int = 1
    ) -> None:
        if not parts:
            raise CrossbatchError(expected("at least one part of a batch", "none", "Add one."))
        self._parts, self.rank, self.world = list(parts), rank, world

    @property
    def batch_size(self) -> int:
        """The rows of all parts."""
        return sum(sampler.batch_size for _, sampler in self._parts)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> np.ndarray:
        """The next batch of this rank, ``(B,)`` int64. Afterwards all ranks stand alike."""
        self.skip(self.rank)
        batch = np.concatenate([rows[next(sampler)] for rows, sampler in self._parts])
        self.skip(self.world - self.rank - 1)
        return batch

    def skip(self, batches: int) -> None:
        """Pass over batches of the whole stream (of all ranks) without drawing them."""
        for _, sampler in self._parts:
            sampler.skip(batches)

    def state_dict(self) -> dict[str, int]:
        """The place of every part, a few integers each."""
        return {
            f"{number}.{name}": value
            for number, (_, sampler) in enumerate(self._parts)
            for name, value in sampler.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to the place that `state_dict` told. The number of ranks may differ.

        Raises:
            CrossbatchError: The state is of other data, another seed or other sizes.
        """
        for number, (_, sampler) in enumerate(self._parts):
            mine = {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith(f"{number}.")}
            sampler.load_state_dict(mine)

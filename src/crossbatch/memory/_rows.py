r"""What memories share: rows of embeddings, labels and ids in buffers, and how they are stored.

A row r is kept in the floating dtype of the memory, or, with ``torch.int8``, as

    q = round(r / c) ∈ {−127, …, 127}^D,   c = max |r| / 127,   read back as r̂ = c q.

Each number is off by c / 2 at most, so ‖r − r̂‖ ≤ √D max |r| / 254, and by Cauchy and Schwarz no
similarity with a unit vector is off by more. A row takes D + 4 bytes instead of 4 D.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossbatch._check import check_embeddings, check_integers
from crossbatch._shapes import Float, Int
from crossbatch.codes import Codes, Rounded, coded, encode
from crossbatch.errors import CrossbatchError, expected
from crossbatch.memory.drift import Drift
from crossbatch.references import Tile

_ROWS = 1 << 14  # whose norm is taken at a time, to need little room


class Counter:
    """A count that is kept in a buffer, read from its device only where somebody else wrote it.

    Whoever writes past torch's in-place operations, through ``.data`` or a raw collective, is not
    seen.
    """

    def __init__(self) -> None:
        self._seen: tuple[Tensor, int | float] | None = None
        self._value = 0

    def __reduce__(self) -> tuple[type["Counter"], tuple[()]]:
        return Counter, ()  # a copy of the buffer begins to count its writes anew

    def read(self, buffer: Tensor) -> int:
        """What it says."""
        if self._seen is None or self._seen[0] is not buffer or self._seen[1] != _version(buffer):
            self._value, self._seen = int(buffer), (buffer, _version(buffer))
        return self._value

    def add(self, buffer: Tensor, number: int) -> None:
        """Count on, there and here."""
        value = self.read(buffer) + number
        buffer += number
        self._value, self._seen = value, (buffer, _version(buffer))


def _version(x: Tensor) -> int | float:
    """How often it has been written to, equal to nothing where nobody counts."""
    return math.nan if x.is_inference() else x._version


class Rows(nn.Module, ABC):
    """Embeddings, labels, ids and births of rows, the filled ones first; all in buffers.

    They may be on another device than the network: batches are copied to them, and the engine
    copies them, a tile at a time, to the anchors.
    """

    cites: ClassVar[tuple[str, ...]]

    embeddings: Tensor
    labels: Tensor
    ids: Tensor
    births: Tensor
    enqueued_batches: Tensor
    scales: Tensor | None

    def __init__(self, capacity: int, dim: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        name = type(self).__name__
        if capacity < 1 or dim < 1 or not (dtype.is_floating_point or dtype == torch.int8):
            raise CrossbatchError(
                expected(
                    f"{name} with capacity ≥ 1, dim ≥ 1 and a floating dtype or torch.int8",
                    f"capacity={capacity}, dim={dim}, dtype={dtype}",
                    "To train without a memory, leave it out.",
                )
            )
        self.capacity, self.dim = capacity, dim
        self.register_buffer("embeddings", torch.zeros(capacity, dim, dtype=dtype))
        self.register_buffer("labels", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("ids", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("births", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("enqueued_batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scales", torch.zeros(capacity) if dtype == torch.int8 else None)
        self._counter = Counter()
        self._codes: Codes | Rounded | None = None
        self._coded: list[tuple[Tensor, int | float]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Without codes: the copied tensors begin to count their writes anew."""
        return {**self.__dict__, "_codes": None, "_coded": []}

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, filled or not, and of their codes once the engine asked for them."""
        parts = (*self.buffers(), *(self._codes or ()))
        return sum({x.data_ptr(): x.nbytes for x in parts}.values())  # rows may be their own codes

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored embeddings."""
        return self.embeddings.dtype

    @abstractmethod
    def __len__(self) -> int:
        """How many rows are filled."""

    @abstractmethod
    def enqueue(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        ids: Int[Tensor, " B"],
    ) -> None:
        """Copy a batch in."""

    @abstractmethod
    def drift(self, embeddings: Float[Tensor, "B D"], ids: Int[Tensor, " B"]) -> Drift:
        """How far the images of a batch have moved since their newest rows were stored."""

    @abstractmethod
    def clear(self) -> None:
        """Forget every row."""

    @abstractmethod
    def _order(self) -> Int[Tensor, " M"]:
        """Places of the filled rows, the oldest first."""

    def tiles(self, rows: int) -> Iterator[Tile]:
        """Yield every filled row once, in tiles of at most ``rows`` rows.

        Views, not copies; with ``torch.int8`` each tile is read back as float32.
        """
        filled = len(self)
        for start in range(0, filled, rows):
            part = slice(start, min(start + rows, filled))
            codes = self._codes.rows(part) if self._codes is not None and self._fresh() else None
            yield Tile(self._read(part), self.labels[part], self.ids[part], codes)

    def standing(self, device: torch.device) -> Hashable | None:
        """How many rows are filled, and what and where their tensors are; None if elsewhere."""
        if self.embeddings.device != device:
            return None
        parts = (self.embeddings, self.labels, self.ids, self.scales)
        return len(self), *((x.dtype, x.data_ptr()) for x in parts if x is not None)

    def encode(self) -> None:
        """Keep codes from now on: M · (D + 12) bytes, or M · (2 D + 8) of bfloat16.

        Those of bfloat16 are for processors with matrix units where :mod:`crossbatch._native` does
        not run: without a compiler, or for a width that is no multiple of 64. Rows of
        ``torch.int8``, with matrix units those of ``torch.bfloat16``, too, are codes themselves:
        M · 8.
        The engine asks for them where they save time. They follow from the embeddings and are in
        no checkpoint; whatever else writes to the embeddings makes them void.
        """
        if self.embeddings.is_inference():
            return  # they tell nobody when they change
        if self._codes is None or not self._fresh():
            self._codes = self._encoded(slice(None))
            self._coded = self._writes()

    def contents(self) -> Tile:
        """A copy of every filled row, the oldest first."""
        order = self._order()
        return Tile(self._read(order), self.labels[order], self.ids[order])

    def ages(self) -> Int[Tensor, " M"]:
        """How many batches have been enqueued since each row was, the oldest row first."""
        return self.enqueued_batches - 1 - self.births[self._order()]

    def extra_repr(self) -> str:
        """Prints as code."""
        return f"capacity={self.capacity}, dim={self.dim}, dtype={self.dtype}"

    def _check(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Raise unless a batch can be enqueued."""
        where = f"{type(self).__name__}.enqueue"
        check_embeddings(embeddings, where=where, dim=self.dim)
        check_integers(labels, name="labels", rows=len(embeddings), where=where)
        check_integers(ids, name="ids", rows=len(embeddings), where=where)

    def _here(self, *rows: Tensor) -> list[Tensor]:
        """What comes from the network's device, on the memory's."""
        return [x.detach().to(self.embeddings.device) for x in rows]

    def _check_drift(self, embeddings: Tensor, ids: Tensor) -> None:
        """Raise unless the drift of a batch can be taken."""
        where = f"{type(self).__name__}.drift"
        check_embeddings(embeddings, where=where, dim=self.dim)
        check_integers(ids, name="ids", rows=len(embeddings), where=where)

    def _write(
        self, place: slice | Tensor, embeddings: Tensor, labels: Tensor, ids: Tensor
    ) -> None:
        """Put a batch at distinct places, and keep the codes in step."""
        fresh = self._fresh()
        values = embeddings.detach()
        if self.scales is not None:
            codes = encode(values)
            values, self.scales[place] = codes.values, codes.scale.to(self.scales.dtype)
        self.embeddings[place] = values.to(self.embeddings.dtype)
        self.labels[place] = labels.to(self.labels)
        self.ids[place] = ids.to(self.ids)
        self.births[place] = self.enqueued_batches
        if self._codes is not None and fresh:
            for part, rows in zip(self._codes, self._encoded(place), strict=True):
                part[place] = rows
            self._coded = self._writes()
        self.enqueued_batches += 1

    def _read(self, place: slice | Tensor) -> Tensor:
        """Embeddings at some places; a view where a slice is asked for and nothing is decoded."""
        if self.scales is None:
            return self.embeddings[place]
        return self.embeddings[place].float().mul_(self.scales[place, None])

    def _drift(self, place: Tensor, embeddings: Tensor) -> Drift:
        """Fresh embeddings beside the rows at some places."""
        old = self._read(place).float()
        squared = (embeddings.float() - old).square().sum(dim=1)
        return Drift(self.enqueued_batches - self.births[place], squared)

    def _encoded(self, place: slice | Tensor) -> Codes | Rounded:
        """Codes of the rows at some places; int8 rows are their own."""
        if self.scales is None:
            return coded(self.embeddings[place])
        values, scale = self.embeddings[place], self.scales[place].float()
        norm = torch.empty_like(scale)
        for start in range(0, len(values), _ROWS):
            part = slice(start, start + _ROWS)
            norm[part] = values[part].float().square().sum(dim=1).sqrt() * scale[part]
        return Codes(values, scale, torch.zeros_like(scale), norm)

    def _writes(self) -> list[tuple[Tensor, int | float]]:
        """The stored tensors, and how often each has been written to, whoever wrote."""
        parts = [self.embeddings, *([] if self.scales is None else [self.scales])]
        return [(x, _version(x)) for x in parts]

    def _fresh(self) -> bool:
        """Whether the codes are those of what is stored now."""
        now = self._writes()
        return len(now) == len(self._coded) and all(
            x is y and version == coded
            for (x, version), (y, coded) in zip(now, self._coded, strict=True)
        )

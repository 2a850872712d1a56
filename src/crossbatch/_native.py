r"""Pairs above a bound, sums over pairs and look-ups, in C, where the system has a compiler.

    above:  (j, i) with ⟨r_j, a_i⟩ > t_i, and the similarity;      sum:  G_i = Σ_j w_ij r_j.

Torch and numpy write each intermediate of these to memory, and wait for every row; C does neither,
and asks for rows before it needs them. ``_native.c`` is compiled when it is first needed
(:mod:`crossbatch._compiled`). Without a compiler nothing is said and nothing is missing but speed:
whoever calls has a way of their own.
"""

import ctypes
import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from crossbatch._compiled import compiled
from crossbatch._shapes import Float, Int, Int8, Shaped

T = TypeVar("T")

_SOURCE = Path(__file__).with_suffix(".c")
_ANCHORS, _NUMBERS = 32, 64  # that come in multiples for matrix units
_WIDEST = 1 << 17  # of whose products of eight bits sums fit 32
_FINE = 254  # of the second digit in the first
_PRODUCTS = 1 << 25  # that are worth a thread
_SUMMED = 1 << 20  # numbers that are
_LOOKED_UP = 1 << 18  # rows that are
_SHARE = 16  # of the pairs there is room for one in so many

_LONG, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_ARGUMENTS = {
    "listed_above": [_POINTER, _POINTER, _LONG, *[_POINTER] * 3, _LONG, *[_POINTER] * 3],
    "sum_rows": [*[_POINTER] * 3, _LONG, _POINTER, _LONG, _POINTER],
    "coded_above": [
        *[_POINTER] * 4, *[_FLOAT] * 3, _LONG, _POINTER, _LONG, *[_POINTER] * 4, _LONG, _LONG,
        *[_POINTER] * 3, _LONG, *[_POINTER] * 3,
    ],
    "many_above": [
        _POINTER, _FLOAT, _LONG, _POINTER, _LONG, *[_POINTER] * 4, _LONG, _LONG, *[_POINTER] * 2,
    ],
    "occurring": [*[_POINTER] * 2, _LONG, *[_POINTER] * 2, _LONG, _POINTER],
    "room_needed": [_LONG],
    "pairs_of_columns": [
        *[_POINTER] * 2, *[_LONG] * 3, *[_FLOAT] * 2, *[_POINTER] * 4, _LONG,
    ],
    "has_matrix_units": [],
}  # fmt: skip

_NOWHERE = (None, None, None, 0, ctypes.byref(ctypes.c_int64()))  # no room for pairs


class Above(NamedTuple):
    """n pairs above a bound, near others of the same row."""

    row: Int[Tensor, " n"]
    anchor: Int[Tensor, " n"]
    sim: Float[Tensor, " n"]


class Packed(NamedTuple):
    """Anchors as matrix units take them: two digits of each number, those of some side by side.

    Attributes:
        values: First digits, then second ones; G groups of 16 anchors, K steps of 64 bytes.
        x: The anchors.
        bound: Of so many as fill the groups.
        scale: A number is (first + second / 254) times that; with digits of bfloat16 1.
        reach: The largest norm of an anchor's digits.
        residual: The largest norm of what an anchor's digits leave.
    """

    values: Shaped[Tensor, "G K P A E"]
    x: Float[Tensor, "B D"]
    bound: Float[Tensor, " F"]
    scale: float
    reach: float
    residual: float


class Screened(NamedTuple):
    """T references: rows, eight bits of them, and by how much similarities exceed their products.

    That is at most ``reach * residual + slack * norm``; of :func:`many_sum`, ``slack * norm``.
    """

    rows: Float[Tensor, "T D"]
    values: Int8[Tensor, "T D"]
    scale: Float[Tensor, " T"]
    residual: Float[Tensor, " T"]
    norm: Float[Tensor, " T"]
    reach: float
    slack: float

    def part(self, place: slice) -> "Screened":
        """Some of them."""
        rows, values, scale, residual, norm = (x[place] for x in self[:5])
        return Screened(rows, values, scale, residual, norm, self.reach, self.slack)


def at_hand(*tensors: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the functions of this module run here, on such tensors."""
    fit = all(x.device.type == "cpu" and x.dtype == dtype and x.is_contiguous() for x in tensors)
    return fit and _library() is not None


def has_matrix_units(dim: int) -> bool:
    """Whether :func:`coded_above` runs here, for rows of this width."""
    return units_at_hand() and dim % _NUMBERS == 0 < dim <= _WIDEST


def units_at_hand() -> bool:
    """Whether there is a compiler, and the processor has matrix units."""
    library = _library()
    return library is not None and bool(library.has_matrix_units())


def eight_bits(x: Float[Tensor, "B D"], bound: Tensor | float) -> Packed:
    """Anchors for :func:`coded_above` and :func:`coded_sum`: two digits of eight bits.

    Args:
        x: In float32.
        bound: A number, or one for each anchor (B,).
    """
    scale = max(float(x.abs().amax()) / 127, torch.finfo(torch.float32).tiny)
    whole = x / scale
    first = whole.round()
    second = ((whole - first) * _FINE).round().clamp_(-127, 127)
    told = (first + second / _FINE) * scale
    values = _tiles(x, torch.int8, first, second)
    return Packed(values, x.contiguous(), _bounds(x, bound), scale, *_norms(x, told))


def halves(x: Float[Tensor, "B D"], bound: Tensor | float) -> Packed:
    """Anchors for :func:`many_sum`: two digits of bfloat16."""
    first = x.bfloat16()
    values = _tiles(x, torch.bfloat16, first, x - first)
    return Packed(values, x.contiguous(), _bounds(x, bound), 1.0, *_norms(x, first.float()))


def _tiles(x: Tensor, dtype: torch.dtype, *digits: Tensor) -> Tensor:
    """Numbers that fill four bytes side by side, beneath those of 15 other anchors."""
    count, dim = x.shape
    padded = x.new_zeros(2, -(-count // _ANCHORS) * _ANCHORS, dim, dtype=dtype)
    for place, digit in zip(padded, digits, strict=True):
        place[:count] = digit
    beside = 4 // dtype.itemsize
    return (
        padded.view(-1, 16, dim // (16 * beside), 16, beside).permute(0, 2, 3, 1, 4).contiguous()
    )


def _bounds(x: Tensor, bound: Tensor | float) -> Tensor:
    bounds = x.new_full((-(-len(x) // _ANCHORS) * _ANCHORS,), torch.inf)
    bounds[: len(x)] = bound
    return bounds


def _norms(x: Tensor, told: Tensor) -> tuple[float, float]:
    """The largest of what digits tell, and of what they leave."""
    return float(told.norm(dim=1).amax()), float((x - told).norm(dim=1).amax())


def coded_above(anchors: Packed, references: Screened, hidden: Int[Tensor, " H"]) -> Above:
    """Pairs above the bounds of the anchors, found by matrix units.

    Args:
        anchors: B of them.
        references: T of them.
        hidden: Places of rows that are left out, ascending.
    """
    rows = len(references.rows)
    work = rows * anchors.x.numel()

    def one(part: slice) -> list[Above]:
        return _found(anchors, references.part(part), _within(hidden, part), part.start)

    return _joined([pairs for found in _each(one, rows, work // _PRODUCTS) for pairs in found])


def coded_sum(
    anchors: Packed, references: Screened, hidden: Int[Tensor, " H"]
) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
    """Of the pairs that :func:`coded_above` finds the sum of the rows, and how many there are."""
    return _sum(_coded, anchors, references, hidden)


def many_sum(
    anchors: Packed, references: Screened, hidden: Int[Tensor, " H"]
) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
    """The same, sooner where some hundredths of the pairs pass.

    All rows are read and matrix units add them, each number as the sum of three of bfloat16.

    Args:
        anchors: In :func:`halves`.
        references: Whose ``slack`` is that of products of two numbers of bfloat16 for each number.
        hidden: As above.
    """
    return _sum(_many, anchors, references, hidden)


def _sum(
    take: Callable[..., int], anchors: Packed, references: Screened, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    rows = len(references.rows)
    full, dim = len(anchors.bound), references.rows.shape[1]

    def one(part: slice) -> tuple[Tensor, Tensor]:
        sums = anchors.x.new_zeros(full, dim), anchors.x.new_zeros(full)
        take(anchors, references.part(part), _within(hidden, part), *_NOWHERE, *sums)
        return sums

    totals, counts = zip(*_each(one, rows, rows * full * dim // _PRODUCTS), strict=True)
    count = len(anchors.x)
    total, number = (functools.reduce(Tensor.add_, parts)[:count] for parts in (totals, counts))
    return total, number


def listed_above(
    pairs: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
    rows: Float[Tensor, "T D"],
    x: Float[Tensor, "B D"],
    bound: Tensor | float,
) -> Above:
    """Of pairs (row, anchor) those above the bound, a number or one for each anchor (B,)."""
    bounds = torch.as_tensor(bound, dtype=torch.float32, device="cpu").expand(len(x)).contiguous()
    x = x.contiguous()

    def one(part: slice) -> Above:
        row, anchor = (places[part].contiguous() for places in pairs)
        found = _room(len(row))
        count = call(
            "listed_above", row, anchor, len(row), rows, x, bounds, rows.shape[1], *found
        )  # fmt: skip
        return _shifted(found, count, 0)

    work = len(pairs[0]) * rows.shape[1]
    return _joined(_each(one, len(pairs[0]), work // _SUMMED))


def sum_rows(
    pairs: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
    weights: Float[Tensor, " n"],
    rows: Float[Tensor, "T D"],
    anchors: int,
) -> Float[Tensor, "B D"]:
    """G_i = Σ_j w_ij r_j over pairs (row, anchor), in the order of the pairs."""

    def one(part: slice) -> Tensor:
        row, anchor = (places[part].contiguous() for places in pairs)
        total = rows.new_zeros(anchors, rows.shape[1])
        weight = weights[part].contiguous()
        call("sum_rows", row, anchor, weight, len(row), rows, rows.shape[1], total)
        return total

    work = len(weights) * rows.shape[1]
    return functools.reduce(Tensor.add_, _each(one, len(weights), work // _SUMMED))


def occurring(
    labels: tuple[Int[Tensor, " M"], Int[Tensor, " B"]],
    ids: tuple[Int[Tensor, " M"], Int[Tensor, " B"]],
) -> Int[Tensor, " C"]:
    """Where a label or an id of the many may be among the few: all that are, and few more."""
    few_labels, few_ids = labels[1].contiguous(), ids[1].contiguous()

    def one(part: slice) -> Tensor:
        place = torch.empty(part.stop - part.start, dtype=torch.int64, device="cpu")
        many = labels[0][part], ids[0][part]
        count = call("occurring", *many, len(place), few_labels, few_ids, len(few_ids), place)
        return place[:count] + part.start

    return torch.cat(_each(one, len(ids[0]), len(ids[0]) // _LOOKED_UP))


def _found(anchors: Packed, references: Screened, hidden: Tensor, start: int) -> list[Above]:
    """The pairs of a part, in as many calls as the room asks for."""
    full, rows = len(anchors.bound), len(references.rows)
    room = max(rows * full // _SHARE, call("room_needed", full))
    done, parts = ctypes.c_int64(), []
    while rows:
        found = _room(room)
        count = _coded(
            anchors, references, hidden, *found, room, ctypes.byref(done), None, None
        )  # fmt: skip
        parts.append(_shifted(found, count, start))
        rest = slice(done.value, None)
        references, start, rows = references.part(rest), start + done.value, rows - done.value
        hidden = hidden[hidden >= done.value] - done.value
    return parts


def _coded(anchors: Packed, references: Screened, hidden: Tensor, *out: Any) -> int:
    rows, values, scale, residual, norm, reach, slack = references
    count = call(
        "coded_above",
        *(values, scale, residual, norm, anchors.scale, reach, slack),
        *_both(rows, hidden, anchors, *out),
    )
    if count < 0:
        raise MemoryError
    return count


def _many(anchors: Packed, references: Screened, hidden: Tensor, *out: Any) -> int:
    rows, norm, slack = references.rows, references.norm, references.slack
    failed = call("many_above", norm, slack, *_both(rows, hidden, anchors, *out[-2:]))
    if failed:
        raise MemoryError
    return failed


def _both(rows: Tensor, hidden: Tensor, anchors: Packed, *out: Any) -> tuple[Any, ...]:
    """The arguments in which the functions of matrix units agree."""
    values, x, bound = anchors[:3]
    sizes = len(bound), rows.shape[1]
    return len(rows), hidden, len(hidden), rows, values, x, bound, *sizes, *out


def _within(places: Tensor, part: slice) -> Tensor:
    """Those of some places, ascending, that lie in a part, counted from where it begins."""
    first, last = np.searchsorted(places.numpy(), (part.start, part.stop))
    return places[first:last] - part.start


def _room(pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    row, anchor = (torch.empty(pairs, dtype=torch.int64, device="cpu") for _ in "ra")
    return row, anchor, torch.empty(pairs, dtype=torch.float32, device="cpu")


def _shifted(found: tuple[Tensor, Tensor, Tensor], count: int, start: int) -> Above:
    row, anchor, sim = (part[:count] for part in found)
    return Above(row.add_(start) if start else row, anchor, sim)


def _joined(parts: list[Above]) -> Above:
    return parts[0] if len(parts) == 1 else Above(*map(torch.cat, zip(*parts, strict=True)))


def _each(one: Callable[[slice], T], count: int, worth: int) -> list[T]:
    """Parts of so many, on as many threads as torch has and the work is worth."""
    threads = max(min(torch.get_num_threads(), worth), 1)
    if threads == 1:
        return [one(slice(0, count))]
    ends = [count * n // threads for n in range(threads + 1)]
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    try:
        return list(_pool(os.getpid(), threads).map(one, parts))
    except RuntimeError:  # the interpreter is about to end and begins no threads
        return [one(part) for part in parts]


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process; a fork has none."""
    del process
    return ThreadPoolExecutor(threads, thread_name_prefix="crossbatch")


def call(name: str, *arguments: Any) -> int:
    """A function of the library; other threads go on meanwhile."""
    plain = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    return getattr(_library(), name)(*plain)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled functions, or None."""
    return compiled(_SOURCE, _ARGUMENTS)

"""One version of an index, as it is searched: its table, and its vectors in memory."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.search import _ann, _commits, _table
from crossbatch.search._change import Held, hold
from crossbatch.search._header import Header
from crossbatch.search._lock import writing
from crossbatch.search.filters import Where, condition
from crossbatch.search.hits import Hit, Item, as_items
from crossbatch.search.nearest import nearest
from crossbatch.search.refine import Refinement, refined

_PLACE = re.compile(r", /\S+\.rs:\d+:\d+$")  # in the engine's source
_STATEMENT = re.compile(r"(?<=statement: )SELECT 1 FROM t WHERE ")  # what the engine makes of it
_SAID = 300  # characters of what the engine says


@dataclass(frozen=True)
class View:
    """A version.

    Attributes:
        table: At that version.
        columns: Its metadata, name to type.
    """

    table: Any
    columns: dict[str, str]

    @classmethod
    def at(cls, path: Path, header: Header) -> Self:
        """The version that a header names.

        Raises:
            FormatError: It is gone.
        """
        table = _readable(path, header.version)
        return cls(table, columns_of(table))

    @cached_property
    def held(self) -> Held:
        """All vectors, read when first asked for."""
        return hold(self.table)

    def rows(self, where: Where | None) -> np.ndarray | None:
        """Places among the vectors of the items that meet a condition; None without one."""
        if where is None:
            return None
        ids = np.array(matching(self.table, where), np.int64)
        return np.searchsorted(self.held.ids, np.sort(ids))

    def exact(
        self, queries: np.ndarray, k: int, where: Where | None, *, refine: Refinement | None
    ) -> list[list[Hit]]:
        """The k nearest of each query, by one product; perhaps at a second look."""
        held, among = self.held, self.rows(where)
        if refine is None:
            rows, similarities = nearest(held.vectors, queries, k, among=among)
        else:
            rows, similarities = refined(held.vectors, queries, k, how=refine, among=among)
        items = self.items(held.row_ids[rows.reshape(-1)])
        cosines = similarities.reshape(-1).tolist()
        hits = [Hit(item, cosine) for item, cosine in zip(items, cosines, strict=True)]
        width = rows.shape[1]
        return [hits[i * width : (i + 1) * width] for i in range(len(queries))]

    def approximate(
        self, queries: np.ndarray, k: int, where: Where | None, *, probes: int
    ) -> list[list[Hit]]:
        """Those of the k nearest of each query that lie in the cells looked into."""
        asked = None if where is None else condition(where, self.columns)
        found: list[list[Hit]] = []
        for query in queries:
            with _judged():
                hits = _ann.search(self.table, query, k, probes=probes, where=asked)
            items = self.items(hits["_rowid"].to_numpy())
            far = hits["_distance"].to_pylist()
            found.append([Hit(item, 1 - d) for item, d in zip(items, far, strict=True)])
        return found

    def items(self, row_ids: np.ndarray) -> list[Item]:
        """The items at some places of the table, in their order."""
        if not len(row_ids):
            return []
        distinct, place = np.unique(row_ids, return_inverse=True)
        query = self.table.take_row_ids(distinct.tolist())
        found = query.select(list(self.columns)).with_row_id().to_arrow()
        order = np.argsort(found["_rowid"].to_numpy())
        items = as_items(found.drop_columns(["_rowid"]).take(pa.array(order)))
        return [items[i] for i in place.reshape(-1)]


def columns_of(table: Any) -> dict[str, str]:
    """The metadata of a table, name to type."""
    return {f.name: str(f.type) for f in table.schema if f.name not in _table.OWN}


def matching(table: Any, where: Where) -> list[int]:
    """The ids of the items that meet a condition.

    Raises:
        CrossbatchError: It is none.
    """
    asked = condition(where, columns_of(table))
    with _judged():
        return _table.rows(table, ["id"], where=asked)["id"].to_pylist()


def unit_queries(embeddings: np.ndarray, dim: int) -> np.ndarray:
    """Queries (Q, D) of unit norm, float32.

    Raises:
        CrossbatchError: Another shape, or an embedding without a direction.
    """
    queries = np.atleast_2d(np.asarray(embeddings, np.float32))
    if queries.ndim != 2 or queries.shape[1] != dim or not len(queries):
        wanted = f"embeddings of shape (queries, {dim})"
        raise CrossbatchError(expected(wanted, np.shape(embeddings), "Embed pictures first."))
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        remedy = "Look for a picture that could not be embedded."
        wanted = "embeddings with a direction"
        raise CrossbatchError(expected(wanted, "zeros, NaN or infinity", remedy))
    return queries / lengths


@contextmanager
def _judged() -> Iterator[None]:
    """Say in a sentence what is wrong with a condition."""
    try:
        yield
    except ValueError as error:
        got = str(error).removeprefix("Invalid input, ").splitlines()[0]
        got = _STATEMENT.sub("", _PLACE.sub("", got))
        got = got if len(got) <= _SAID else f"{got[:_SAID]}…"
        remedy = "Compare columns with values of their type: label = 'shoe' AND id < 10."
        raise CrossbatchError(expected("a condition on metadata", got, remedy)) from error


def _readable(path: Path, version: int) -> Any:
    """The table at the version that counts; what a dead writer left after it may be unreadable."""
    try:
        return _table.open_table(path, version)
    except FormatError:
        with writing(path):  # nobody is at work, so it is rubbish
            _commits.roll_back(path, version)
        return _table.open_table(path, version)

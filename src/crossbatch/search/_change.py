"""A change of an index: commits that count one by one, then tidying up."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from crossbatch.search import _ann, _commits, _table
from crossbatch.search._header import Header, Source
from crossbatch.search._intake import matrix

_GROWN = 1.5  # the approximate index is built anew when the gallery has grown so much


class Held(NamedTuple):
    """The vectors of one version in memory.

    Attributes:
        ids: (N,) ascending.
        row_ids: (N,) places in the table.
        vectors: (N, D) float32.
    """

    ids: np.ndarray
    row_ids: np.ndarray
    vectors: np.ndarray


def hold(table: Any) -> Held:
    """Read all vectors."""
    found = table.search().select(["id", "vector"]).with_row_id(True).to_arrow()
    ids, row_ids = found["id"].to_numpy(), found["_rowid"].to_numpy()
    vectors, order = matrix(found["vector"]), np.argsort(ids)
    if (order[1:] < order[:-1]).any():
        vectors, ids, row_ids = vectors[order], ids[order], row_ids[order]
    return Held(ids, row_ids, vectors)


@dataclass
class Change:
    """Made by who holds the lock.

    Attributes:
        folder: Of the index.
        header: As it stands in the folder.
        table: At the version that the header names, which is the last.
    """

    folder: Path
    header: Header
    table: Any

    @classmethod
    def begin(cls, folder: Path) -> Self:
        """Drop what a writer left that died between a commit and its confirmation."""
        header = Header.read(folder)
        _commits.roll_back(folder, header.version)
        return cls(folder, header, _table.open_table(folder))

    @contextmanager
    def commit(self, **header: Any) -> Iterator[None]:
        """Whatever the block does to the table counts when it leaves, all of it or nothing.

        Args:
            header: Fields of the header that change with it.
        """
        try:
            with _commits.whole(self.folder):
                yield
            changed = replace(self.header, version=int(self.table.version), **header)
            if changed != self.header:
                changed.write(self.folder)
                self.header = changed
        except BaseException:
            _commits.roll_back(self.folder, self.header.version)
            raise

    def add_source(self, source: Source) -> int:
        """The place of a source in the header, which is written before items count on it."""
        changed, place = self.header.with_source(source)
        if changed != self.header:
            changed.write(self.folder)
            self.header = changed
        return place

    def settle(self, ann_from: int) -> None:
        """Join small files; build the approximate index where there are enough items.

        Old versions go last: the one that the header names must not be among them.
        """
        with self.commit():
            _table.compact(self.table, kept=_table.FOREVER)
        many, ann = self.table.count_rows(), self.header.ann
        if many >= ann_from and (ann is None or many >= _GROWN * ann.rows):
            held = hold(self.table)
            with self.commit():
                _ann.build(self.table, len(held.ids))
            found = _ann.measure(self.table, held.ids, held.vectors)
            changed = replace(self.header, ann=found)
            changed.write(self.folder)
            self.header = changed
        with self.commit():
            _table.compact(self.table, kept=_table.KEPT)

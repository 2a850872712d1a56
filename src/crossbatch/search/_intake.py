"""What a manifest changes in an index: only images whose content is new are embedded.

Rows are taken some hundred at a time. Each block is hashed, compared with what the index holds,
embedded where it must be, and committed: the whole block or nothing of it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from crossbatch.data import Kind, Manifest, Problem
from crossbatch.errors import CrossbatchError, expected
from crossbatch.models import Encoder
from crossbatch.models.encoding import Picture, embed_pictures
from crossbatch.search import _table
from crossbatch.search.sizes import BLOCK

_TAKEN = ("id", "path", "image", "label")


class Stored(NamedTuple):
    """What the index holds of an item."""

    id: int
    digest: str
    about: str
    source: int


@dataclass
class Changes:
    """What an intake did.

    Attributes:
        added: Items that were new.
        changed: Items whose image was another, and was embedded again.
        relabelled: Items of which other columns changed.
        kept: Items that were as they are.
        deleted: Items that their source no longer has.
        embedded: Images that went through the encoder.
        problems: Images that were left out.
    """

    added: int = 0
    changed: int = 0
    relabelled: int = 0
    kept: int = 0
    deleted: int = 0
    embedded: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass
class Intake:
    """One manifest on its way into one table.

    Attributes:
        table: Of the index, at its last version.
        folder: Of the index, for messages.
        encoder: Of the index.
        manifest: The images.
        commit: A context around each change of the table, which counts when it leaves.
        source: Place of their source in the header.
        origin: Of the source, which tells embedded images of two manifests apart.
    """

    table: Any
    folder: Path
    encoder: Encoder
    manifest: Manifest
    commit: Callable[[], AbstractContextManager[None]]
    source: int
    origin: str
    batch_size: int = 32
    workers: int = 2

    def __post_init__(self) -> None:
        self.done = Changes()
        self.seen: set[str] = set()
        held = _table.rows(self.table, ["id", "_key", "_digest", "_about", "_source"])
        columns = (held[name].to_pylist() for name in held.column_names)
        self.stored = {key: Stored(i, d, a, s) for i, key, d, a, s in zip(*columns, strict=True)}
        self.by_digest = {item.digest: item.id for item in self.stored.values()}
        self.next_id = 1 + max((item.id for item in self.stored.values()), default=-1)
        self.columns = _metadata(self.manifest)

    def blocks(self) -> Iterator[int]:
        """Take the manifest in; yields the number of rows of each block once it is committed."""
        with self.commit():
            _table.widen(self.table, self.columns.schema, self.folder)
        for start in range(0, len(self.manifest), BLOCK):
            rows = list(range(start, min(start + BLOCK, len(self.manifest))))
            self._commit(*self._compare(rows))
            yield len(rows)

    def prune(self) -> None:
        """Delete what came from the same source and is not in it any more."""
        gone = [
            item.id
            for key, item in self.stored.items()
            if item.source == self.source and key not in self.seen
        ]
        with self.commit():
            _table.delete(self.table, gone)
        self.done.deleted = len(gone)

    def _compare(self, rows: list[int]) -> tuple[list["_Row"], list["_Row"]]:
        """The rows to embed, and those whose vector is known."""
        fresh: list[_Row] = []
        known: list[_Row] = []
        with ThreadPoolExecutor(self.workers) as pool:
            digests = list(pool.map(self._digest, rows))
        for row, digest in zip(rows, digests, strict=True):
            key = self._key(row)
            if isinstance(digest, Problem):
                self.done.problems.append(digest)
            elif key in self.seen:
                again = Problem(Kind.LISTED_TWICE, self.manifest.name(row), "the first one counts")
                self.done.problems.append(again)
            else:
                self.seen.add(key)
                one = _Row(row, key, digest, self._about(row), self.stored.get(key))
                if one.stored and one.stored[1:] == (digest, one.about, self.source):
                    self.done.kept += 1
                else:
                    (known if digest in self.by_digest else fresh).append(one)
        return fresh, known

    def _commit(self, fresh: list["_Row"], known: list["_Row"]) -> None:
        vectors = self._embed(fresh)
        vectors |= self._vectors(known)
        good = [one for one in (*fresh, *known) if one.row in vectors]
        good.sort(key=lambda one: one.row)
        new = [one for one in good if one.stored is None]
        old = [one for one in good if one.stored is not None]
        for one in new:
            self.stored[one.key] = Stored(self.next_id, one.digest, one.about, self.source)
            self.next_id += 1
        with self.commit():
            if new:
                self.table.add(self._items(new, vectors))
            if old:
                merge = self.table.merge_insert("_key").when_matched_update_all()
                merge.execute(self._items(old, vectors))
        for one in good:
            if one.stored and self.by_digest.get(one.stored.digest) == one.stored.id:
                del self.by_digest[one.stored.digest]  # that item shows another image now
        for one in good:
            self.by_digest[one.digest] = self.stored[one.key].id
        self.done.added += len(new)
        again = sum(one.stored is not None and one.stored.digest != one.digest for one in old)
        self.done.changed += again
        self.done.relabelled += len(old) - again

    def _embed(self, fresh: list["_Row"]) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        batches = embed_pictures(
            self.encoder,
            (self._picture(one.row) for one in fresh),
            batch_size=self.batch_size,
            workers=self.workers,
        )
        for batch in batches:
            for place, vector in zip(batch.places, batch.embeddings.numpy(), strict=True):
                found[fresh[place].row] = vector
            for place, reason in batch.faults:
                name = self.manifest.name(fresh[place].row)
                self.done.problems.append(Problem(Kind.UNREADABLE, name, reason))
                self.seen.discard(fresh[place].key)
        self.done.embedded += len(found)
        return found

    def _vectors(self, known: list["_Row"]) -> dict[int, np.ndarray]:
        """Vectors of images that the index holds, under this key or another."""
        ids = {self.by_digest[one.digest] for one in known}
        held = _table.by_ids(self.table, sorted(ids), ["id", "vector"])
        by_id = dict(zip(held["id"].to_pylist(), matrix(held["vector"]), strict=True))
        return {one.row: by_id[self.by_digest[one.digest]] for one in known}

    def _items(self, some: list["_Row"], vectors: dict[int, np.ndarray]) -> pa.Table:
        rows = [one.row for one in some]
        images = [None if self.manifest.path(r) else self.manifest.image_bytes(r) for r in rows]
        flat = pa.array(np.concatenate([vectors[row] for row in rows]), pa.float32())
        own = {
            "id": pa.array([self.stored[one.key].id for one in some], pa.int64()),
            "path": pa.array([self.manifest.name(row) for row in rows], pa.string()),
            "_key": pa.array([one.key for one in some], pa.string()),
            "_digest": pa.array([one.digest for one in some], pa.string()),
            "_about": pa.array([one.about for one in some], pa.string()),
            "_source": pa.array([self.source] * len(some), pa.int32()),
            "_image": pa.array(images, pa.large_binary()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, len(flat) // len(some)),
        }
        given = self.columns.take(pa.array(rows))
        columns = own | {name: given[name] for name in given.column_names}
        wanted = self.table.schema
        return pa.table(
            [columns.get(f.name, pa.nulls(len(some), f.type)) for f in wanted], schema=wanted
        )

    def _picture(self, row: int) -> Picture:
        return self.manifest.path(row) or self.manifest.image_bytes(row)

    def _key(self, row: int) -> str:
        path = self.manifest.path(row)
        return str(path.absolute()) if path else f"{self.origin}#{self.manifest.ids[row]}"

    def _digest(self, row: int) -> str | Problem:
        path = self.manifest.path(row)
        try:
            content = path.read_bytes() if path else self.manifest.image_bytes(row)
        except OSError as error:
            kind = Kind.MISSING if isinstance(error, FileNotFoundError) else Kind.UNREADABLE
            return Problem(kind, self.manifest.name(row), error.strerror or str(error))
        return hashlib.sha256(content).hexdigest()

    def _about(self, row: int) -> str:
        values = [(name, self.columns[name][row].as_py()) for name in self.columns.column_names]
        known = [(name, value) for name, value in sorted(values) if value is not None]
        text = json.dumps([self.manifest.name(row), known], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Row(NamedTuple):
    row: int
    key: str
    digest: str
    about: str
    stored: Stored | None


def matrix(vectors: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Lists of one length as (N, D) float32."""
    dim = vectors.type.list_size
    parts = vectors.chunks if isinstance(vectors, pa.ChunkedArray) else [vectors]
    blocks = [part.flatten().to_numpy().reshape(-1, dim) for part in parts]
    return np.concatenate(blocks) if blocks else np.zeros((0, dim), np.float32)


def _metadata(manifest: Manifest) -> pa.Table:
    """The columns of a manifest that an item keeps: texts, numbers, truths, dates."""
    columns: dict[str, Any] = {}
    for name in manifest.table.column_names:
        column = manifest.table[name]
        if name in _table.OWN or name.startswith("_"):
            remedy = "Rename the column."
            wanted = "columns that do not begin with `_` and are not `vector`"
            raise CrossbatchError(expected(wanted, f"`{name}`", remedy))
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_large_string(column.type):
            column = column.cast(pa.string())
        if name in ("split", "role") and set(column.unique().to_pylist()) <= {"train", None}:
            continue  # nobody said so, or it says no more than the split
        if name == "label" or (name not in _TAKEN and _plain(column.type)):
            columns[name] = column
    return pa.table(columns)


def _plain(kind: pa.DataType) -> bool:
    tests: Iterable[Any] = (
        pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean,
        pa.types.is_date, pa.types.is_timestamp,
    )  # fmt: skip
    return any(test(kind) for test in tests)

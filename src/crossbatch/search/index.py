"""The gallery index: pictures, their embeddings and what is known of them, searched by picture.

======================== =====================================================================
``index.json``           format, digest of the encoder, sources, what the ANN was measured to find
``encoder/``             a copy of the encoder: an index can be searched without its run
``items.lance/``         the items, in versions; see `crossbatch.search._table`
======================== =====================================================================

Similarity is cosine. A search is exact, over vectors held in memory, unless the gallery is large
and an approximate index was built. An open index shows one version; `refresh` moves to the last.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from crossbatch._files import replace_folder
from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.models import Encoder
from crossbatch.models.encoding import Picture
from crossbatch.search import _commits, _table
from crossbatch.search._change import Change
from crossbatch.search._header import Ann, Header, Source
from crossbatch.search._intake import Changes, Intake, matrix
from crossbatch.search._lock import writing
from crossbatch.search._view import View, matching, unit_queries
from crossbatch.search.filters import Where
from crossbatch.search.hits import Duplicates, Hit, Item, as_items
from crossbatch.search.nearest import groups, near_pairs, together
from crossbatch.search.refine import Refinement

ENCODER = "encoder"
ANN_FROM = 200_000  # items


class GalleryIndex:
    """An index in a folder, open at one version.

    Make one with :meth:`create`, open one with :meth:`open`.

    Attributes:
        path: Of the folder.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._show(header)

    @classmethod
    def create(cls, path: Path | str, encoder: Encoder) -> Self:
        """Make an index without items.

        Raises:
            CrossbatchError: Something stands at ``path`` already, or it cannot be written.
        """
        path = Path(path).absolute()
        with writing(path):
            if path.exists():
                remedy = "Open that one, delete it, or choose another place."
                raise CrossbatchError(expected(f"no file or folder at {path}", "one", remedy))
            for left in path.parent.glob(f".????????.part.{path.name}"):
                shutil.rmtree(left, ignore_errors=True)  # of a process that died
            created = datetime.now(UTC).isoformat(timespec="seconds")
            header = Header(encoder.digest(), encoder.config.dim, created)

            def write(part: Path) -> None:
                encoder.save(part / ENCODER)
                with _commits.whole(part):
                    _table.create(part, header.dim)
                header.write(part)

            replace_folder(path, write)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open an index at its last version. Nothing but its header is read yet.

        Raises:
            FormatError: There is none, it is damaged, or of another format version.
        """
        path = Path(path).absolute()
        return cls(path, Header.read(path))

    def refresh(self) -> bool:
        """Move to the last version; whether there was a later one. Costs a look at the folder.

        Raises:
            FormatError: The index is gone.
        """
        header = Header.read(self.path)
        if header.model != self.model:
            remedy = "It was made anew with another encoder. Open it again."
            raise FormatError(expected(f"the index of model {self.model[:12]}", "another", remedy))
        if header == self._header:
            return False
        self._show(header)
        return True

    def __len__(self) -> int:
        with _table.translated(self.path):
            return int(self._view.table.count_rows())

    @property
    def columns(self) -> dict[str, str]:
        """The metadata that items have and conditions may name: name to type, in words."""
        return self._view.columns

    @property
    def model(self) -> str:
        """Digest of the encoder; embeddings of another are refused."""
        return self._header.model

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self._header.dim

    @property
    def ann(self) -> Ann | None:
        """What was measured of the approximate index, if there is one."""
        return self._header.ann

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the index, on the CPU; loaded when first asked for.

        Raises:
            FormatError: It is not the one that the index was made with.
        """
        encoder = Encoder.load(self.path / ENCODER)
        self.check_model(encoder.digest())
        return encoder

    def check_model(self, digest: str) -> None:
        """Raise unless that is the encoder of the index."""
        if digest != self.model:
            wanted = f"embeddings of the model of {self.path.name}, digest {self.model[:12]}"
            remedy = "Embeddings of two models cannot be compared: make an index with that one."
            raise FormatError(expected(wanted, f"a model of digest {digest[:12]}", remedy))

    # What changes an index

    def add(
        self,
        manifest: Manifest,
        *,
        origin: Path | str | None = None,
        prune: bool = False,
        ann_from: int = ANN_FROM,
        batch_size: int = 32,
        workers: int = 2,
        watch: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> Changes:
        """Take in the images of a manifest; only content that is new is embedded.

        Every 512 rows are committed. Whatever stops this, what was committed stands and is whole,
        and calling it again goes on.

        Args:
            manifest: The images. Its label and all columns of texts, numbers, truths and dates
                become metadata. Embedded images are copied into the index, files stay where they
                are.
            origin: The folder or the file that the manifest is of [default: its root].
            prune: Delete items of this origin that it does not list, or that cannot be read.
            ann_from: Items from which on an approximate index is built.
            batch_size: Images embedded at a time.
            workers: Threads that read and decode.
            watch: Wrapped around the numbers of rows as they are committed.

        Raises:
            CrossbatchError: Another writer is at work, a column has another type than in the
                index, or there is no room.
            FormatError: The index is gone.
        """
        source = Source(
            str(Path(origin or manifest.root).absolute()), str(manifest.root.absolute())
        )
        Header.read(self.path)  # is it still there?
        encoder = self.encoder
        with self._changing() as change:
            place = change.add_source(source)
            intake = Intake(
                table=change.table,
                folder=self.path,
                encoder=encoder,
                manifest=manifest,
                commit=change.commit,
                source=place,
                origin=source.origin,
                batch_size=batch_size,
                workers=workers,
            )
            for _ in watch(intake.blocks()):
                pass
            if prune:
                intake.prune()
            change.settle(ann_from)
        self.refresh()
        return intake.done

    def delete(self, where: Where | Sequence[int]) -> int:
        """Delete the items that meet a condition, or those with these ids; how many they were.

        Raises:
            CrossbatchError: Another writer is at work, or the condition is none.
        """
        with self._changing() as change:
            if isinstance(where, str | Mapping):
                ids = matching(change.table, where)
            else:
                some = [int(i) for i in where]
                ids = _table.by_ids(change.table, some, ["id"])["id"].to_pylist()
            with change.commit():
                _table.delete(change.table, ids)
        self.refresh()
        return len(ids)

    # What asks an index

    def search(
        self,
        embeddings: np.ndarray,
        *,
        model: str,
        k: int = 10,
        where: Where | None = None,
        exact: bool | None = None,
        refine: Refinement | None = None,
    ) -> list[list[Hit]]:
        """The k nearest items of each query, the most similar first.

        Args:
            embeddings: (Q, D), or (D,) for one query; of any length but zero.
            model: Digest of the encoder that made them.
            k: At least 1; fewer items come back where there are fewer.
            where: A condition on metadata, such as ``label = 'shoe'``, or a mapping of columns to
                values; see `crossbatch.search.filters`.
            exact: Exactly, or by the approximate index; [default: by the latter if there is one].
            refine: Expand the queries, re-rank what is found, or both: exactly, and with its own
                scores in place of the similarity.

        Raises:
            CrossbatchError: Wrong shapes, no such column, or a condition that is none.
            FormatError: The embeddings are another model's, or the index is gone.

        Cost: exact, one product with the gallery in memory, N · D · 4 bytes; a condition is one
        pass over its columns.
        """
        self.check_model(model)
        queries = unit_queries(embeddings, self.dim)
        if k < 1:
            raise CrossbatchError(expected("`k` of at least 1", k, "Ask for one item or more."))
        with _table.translated(self.path):
            if self.ann is not None and not exact and refine is None:
                return self._view.approximate(queries, k, where, probes=self.ann.probes)
            return self._view.exact(queries, k, where, refine=refine)

    def search_pictures(
        self,
        pictures: Sequence[Picture],
        *,
        k: int = 10,
        where: Where | None = None,
        exact: bool | None = None,
        refine: Refinement | None = None,
        one_query: bool = False,
    ) -> list[list[Hit]]:
        """Search by pictures: files, bytes, pictures of Pillow's, tensors.

        Args:
            pictures: One query each.
            k: As for :meth:`search`, like `where`, `exact` and `refine`.
            where: A condition.
            exact: Whether exactly.
            refine: A second look.
            one_query: The pictures show one thing, and are one query: the mean of their
                embeddings.

        Raises:
            CrossbatchError: A picture cannot be read, or see :meth:`search`.
        """
        embeddings = np.asarray(self.encoder.encode(list(pictures)))
        if one_query and len(embeddings):
            embeddings = together(embeddings)
        return self.search(
            embeddings, model=self.model, k=k, where=where, exact=exact, refine=refine
        )

    def duplicates(
        self, threshold: float = 0.95, *, where: Where | None = None
    ) -> list[Duplicates]:
        """Groups of items that pairs of at least this cosine connect, the most similar first.

        Args:
            threshold: In (-1, 1].
            where: Among the items that meet this condition.

        Raises:
            CrossbatchError: There are more than two million such pairs.

        Cost: N² D / 2 multiplications: 100,000 × 128 take about a minute on one core.
        """
        if not -1 < threshold <= 1:
            remedy = "Near-duplicates are above 0.9."
            raise CrossbatchError(expected("`threshold` in (-1, 1]", threshold, remedy))
        with _table.translated(self.path):
            held, rows = self._view.held, self._view.rows(where)
            rows = np.arange(len(held.ids)) if rows is None else rows
            # A copy has the cosine 1 but for rounding.
            pairs = near_pairs(held.vectors[rows], threshold - 1e-6)
            found = groups(pairs)
            flat = [row for group in found for row in group]
            items = iter(self._view.items(held.row_ids[rows[flat]]))
        group_of = {row: place for place, group in enumerate(found) for row in group}
        cosines: list[list[float]] = [[] for _ in found]
        for pair in pairs:
            cosines[group_of[pair.first]].append(min(1.0, pair.similarity))
        return [
            Duplicates([next(items) for _ in group], min(values), max(values))
            for group, values in zip(found, cosines, strict=True)
        ]

    def items(self, ids: Sequence[int]) -> list[Item]:
        """The items with these ids, in their order.

        Raises:
            CrossbatchError: There is no such item.
        """
        with _table.translated(self.path):
            found = _table.by_ids(self._view.table, [int(i) for i in ids], list(self.columns))
        known = {item.id: item for item in as_items(found)}
        for i in ids:
            if int(i) not in known:
                remedy = "It was deleted, or belongs to another index."
                raise CrossbatchError(expected(f"an item of id {i}", "none", remedy))
        return [known[int(i)] for i in ids]

    def embedding(self, item: int) -> np.ndarray:
        """The vector of an item, (D,): what to search on from a result."""
        with _table.translated(self.path):
            found = _table.by_ids(self._view.table, [int(item)], ["vector"])
        if not len(found):
            self.items([item])
        return matrix(found["vector"])[0]

    def image(self, item: int) -> bytes:
        """The image of an item as it was, still encoded.

        Raises:
            CrossbatchError: There is no such item, or its file is gone.
        """
        with _table.translated(self.path):
            found = _table.by_ids(self._view.table, [int(item)], ["path", "_source", "_image"])
        if not len(found):
            self.items([item])
        row = found.to_pylist()[0]
        if row["_image"] is not None:
            return row["_image"]
        file = Path(self._header.sources[row["_source"]].root) / row["path"]
        try:
            return file.read_bytes()
        except OSError as error:
            remedy = "Put the file back, or index its folder again."
            wanted = f"the image file of item {item}, {row['path']}"
            raise CrossbatchError(expected(wanted, error.strerror, remedy)) from error

    # Within

    def _show(self, header: Header) -> None:
        self._header = header
        self._view = View.at(self.path, header)

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        with writing(self.path), _table.translated(self.path):
            yield Change.begin(self.path)

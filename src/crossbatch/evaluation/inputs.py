"""What `evaluate` accepts: embeddings, labels and ids in the shapes people have them, checked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossbatch._check import check_embeddings
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation._labelled import Cameras as CameraCodes
from crossbatch.references import Tile

Array = np.ndarray[Any, Any]
Labels = Sequence[str] | Sequence[int] | Array | Tensor
Cameras = Sequence[str | None] | Sequence[int | None] | Array | Tensor


class Rows(NamedTuple):
    """Checked input: embeddings as a tensor, labels as integers or strings, ids if given."""

    embeddings: Tensor
    labels: Array
    ids: Array | None

    def numbers(self) -> Array:
        """The ids; the places 0, 1, 2 and on where none were given."""
        return np.arange(len(self.labels)) if self.ids is None else self.ids


def read_rows(
    embeddings: Tensor | Array, labels: Labels, ids: Array | Tensor | None, *, where: str
) -> Rows:
    """Check one side of an evaluation.

    Raises:
        CrossbatchError: Wrong shapes or dtypes, no rows, non-finite or zero rows, repeated ids.
    """
    rows = torch.as_tensor(embeddings).detach()
    check_embeddings(rows, where=where)
    if len(rows) == 0:
        raise CrossbatchError(
            expected(f"at least one row in {where}", 0, "Check the split that was asked for.")
        )
    zero = (rows == 0).all(dim=1).nonzero()[:, 0].tolist()
    if zero:
        raise CrossbatchError(
            expected(
                f"embeddings with a direction in {where}",
                f"only zeros in {len(zero)} rows, the first: {zero[:5]}",
                "A zero vector has no cosine. Look for a dead layer or an empty image.",
            )
        )
    return Rows(rows, _labels(labels, len(rows), where), _ids(ids, len(rows), where))


def as_tiles(queries: Rows, gallery: Rows) -> tuple[Tile, Tile]:
    """Both sides with labels as common codes, ready to be swept.

    Where one side has no ids, no query is in the gallery: it gets an id that is not there.

    Raises:
        CrossbatchError: The sides do not fit, the gallery has one class only, or an id has two
            labels.
    """
    _check_sides(queries, gallery)
    if (gallery.labels == gallery.labels[0]).all():
        raise CrossbatchError(
            expected(
                "a gallery of at least two classes",
                f"{len(gallery.labels)} images of one class, {gallery.labels[0]}",
                "With nothing wrong to find, every score is 1 whatever the embedding is.",
            )
        )
    both = np.concatenate([queries.labels, gallery.labels])
    codes = np.unique(both, return_inverse=True)[1].reshape(-1)
    own, ids = queries.numbers(), gallery.numbers()
    if queries is not gallery and (queries.ids is None or gallery.ids is None):
        own, ids = np.full(len(own), -1), np.arange(len(ids))
    here = queries.embeddings.device
    asked, found = (
        Tile(rows.embeddings, torch.from_numpy(part).to(here), torch.from_numpy(numbers).to(here))
        for rows, part, numbers in (
            (queries, codes[: len(own)], own),
            (gallery, codes[len(own) :], ids),
        )
    )
    _check_copies(asked, found)
    return asked, found


def camera_codes(
    queries: Cameras | None, gallery: Cameras | None, sides: tuple[Tile, Tile]
) -> CameraCodes | None:
    """Both sides' cameras as common codes, -1 where there is none.

    Raises:
        CrossbatchError: Not one camera per row, or the cameras of one side of two alone.
    """
    if queries is None and gallery is None:
        return None
    asked, held = sides
    alone = (
        gallery is None and held.ids.shape == asked.ids.shape and torch.equal(asked.ids, held.ids)
    )
    both = [_list(side) for side in (queries, queries if alone else gallery)]
    for side, tile, where in zip(both, sides, ("queries", "gallery"), strict=True):
        if side is None or len(side) != len(tile.ids):
            raise CrossbatchError(
                expected(
                    f"{len(tile.ids)} cameras, one for each row of the {where}",
                    "none" if side is None else len(side),
                    "Give cameras of both sides; None stands for one that is not known.",
                )
            )
    numbers: dict[Any, int] = {}
    codes = [
        [-1 if camera is None else numbers.setdefault(camera, len(numbers)) for camera in side]
        for side in both
        if side is not None
    ]
    here = asked.ids.device
    return CameraCodes(*(torch.tensor(side, device=here) for side in codes))


def _list(cameras: Cameras | None) -> list[Any] | None:
    if cameras is None:
        return None
    return cameras.tolist() if isinstance(cameras, np.ndarray | Tensor) else list(cameras)


def _labels(labels: Labels, rows: int, where: str) -> Array:
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
    array = np.asarray(values)
    if array.dtype.kind in "OU" and array.ndim == 1:  # numpy writes a list of 1 and "1" as text
        strings = all(isinstance(value, str) for value in values)
        array = np.asarray(values, dtype=np.str_ if strings else object)
    if array.dtype.kind not in "biuU" or array.shape != (rows,):
        raise CrossbatchError(
            expected(
                f"{rows} labels, all integers or all strings, one per row of {where}",
                f"shape {array.shape} of {array.dtype}",
                "Give one label per embedding; a missing label needs a name too.",
            )
        )
    return array if array.dtype.kind == "U" else array.astype(np.int64)


def _ids(ids: Array | Tensor | None, rows: int, where: str) -> Array | None:
    if ids is None:
        return None
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.dtype.kind not in "iu" or array.shape != (rows,):
        raise CrossbatchError(
            expected(
                f"{rows} integer ids, one per row of {where}",
                f"shape {array.shape} of {array.dtype}",
                "Give the ids of the manifest, or leave them out.",
            )
        )
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise CrossbatchError(
            expected(
                f"ids that are unique in {where}",
                f"repeated: {values[counts > 1][:5].tolist()}",
                "An id says which image a row is; give a duplicate image an id of its own.",
            )
        )
    return array.astype(np.int64)


def _check_sides(queries: Rows, gallery: Rows) -> None:
    width = queries.embeddings.shape[1]
    if gallery.embeddings.shape[1] != width:
        raise CrossbatchError(
            expected(
                f"a gallery of width {width}, as the queries",
                gallery.embeddings.shape[1],
                "Embed both with the same encoder.",
            )
        )
    if gallery.embeddings.device != queries.embeddings.device:
        raise CrossbatchError(
            expected(
                f"a gallery on {queries.embeddings.device}, as the queries",
                gallery.embeddings.device,
                "Move both to the device that shall compute.",
            )
        )
    if gallery.labels.dtype.kind != queries.labels.dtype.kind:
        raise CrossbatchError(
            expected(
                f"gallery labels of the same kind as the queries', {queries.labels.dtype}",
                gallery.labels.dtype,
                "Use integers on both sides, or strings on both.",
            )
        )


def _check_copies(queries: Tile, gallery: Tile) -> None:
    ordered, order = gallery.ids.sort()
    place = torch.searchsorted(ordered, queries.ids).clamp(max=len(ordered) - 1)
    torn = (ordered[place] == queries.ids) & (gallery.labels[order[place]] != queries.labels)
    if bool(torn.any()):
        raise CrossbatchError(
            expected(
                "one label for each id",
                "other labels in the gallery than among the queries for ids "
                f"{queries.ids[torn][:5].tolist()}",
                "Number the images of both sides together, or leave the ids out.",
            )
        )

"""A folder with one feature vector an image.

`features.npy` holds (N, F) float32, row-major; `ids.npy` the N ids of the manifest in the same
order; `meta.json` the format's version, the digest of all that the features depend on, and notes.
The features are memory-mapped: opening costs nothing, and only the rows that are read are loaded.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from crossbatch._files import recover_folder
from crossbatch.errors import CrossbatchError, FormatError, expected

FORMAT = 1
FEATURES, IDS, META = "features.npy", "ids.npy", "meta.json"


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """The features of a set of images.

    Attributes:
        array: ``(N, F)`` float32, memory-mapped, read-only.
        ids: ``(N,)`` int64, distinct.
        digest: Of all that the features depend on.
        notes: What was told about them, such as trunk and image size.
    """

    array: np.memmap
    ids: np.ndarray
    digest: str
    notes: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str, *, digest: str | None = None) -> Self:
        """Open the table in a folder.

        Args:
            folder: What `extract` wrote.
            digest: If given, a table of another digest is refused.

        Raises:
            FormatError: There is no whole table, it is of another format version, or its digest
                is another.
        """
        folder = Path(folder)
        recover_folder(folder)
        remedy = "Extract the features again."
        wanted = f"a table of features in {folder}"
        try:
            meta = json.loads((folder / META).read_text("utf-8"))
            _check(meta, folder, digest)
            array, ids = np.load(folder / FEATURES, mmap_mode="r"), np.load(folder / IDS)
            table = cls(array, ids, meta["digest"], meta["notes"])
        except FormatError:
            raise
        except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
            inside = sorted(str(meta.parent) for meta in folder.glob(f"*/{META}"))
            if inside:
                remedy = f"Features are in folders of this one: give {' or '.join(inside)}."
            raise FormatError(expected(wanted, repr(error), remedy)) from error
        if array.ndim != 2 or array.dtype != np.float32 or ids.shape != array.shape[:1]:
            got = f"features {array.dtype} {array.shape}, ids {ids.shape}"
            raise FormatError(expected(wanted, got, remedy))
        return table

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """F."""
        return self.array.shape[1]

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The row of each id, ``(K,)`` int64: ``table.array[table.rows(ids)]`` are its features.

        Raises:
            CrossbatchError: The table does not hold an id.
        """
        ids = np.asarray(ids)
        order, sorted_ids = self._order
        places = np.searchsorted(sorted_ids, ids)
        found = sorted_ids[np.minimum(places, len(sorted_ids) - 1)] == ids
        if not found.all():
            wanted = f"ids among the {len(self)} images whose features were extracted"
            missing = f"{(~found).sum()} others, the first: {ids[~found][:5].tolist()}"
            raise CrossbatchError(expected(wanted, missing, "Extract from the same manifest."))
        return order[places]

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.ids, kind="stable")
        return order, self.ids[order]


def _check(meta: Any, folder: Path, digest: str | None) -> None:
    if meta["format"] != FORMAT:
        wanted = f"a table of features of format {FORMAT} in {folder}"
        raise FormatError(expected(wanted, meta["format"], "Extract the features again."))
    if digest not in (None, meta["digest"]):
        wanted = f"features of digest {digest} in {folder}"
        remedy = "Images or trunk have changed since: extract the features again."
        raise FormatError(expected(wanted, meta["digest"], remedy))

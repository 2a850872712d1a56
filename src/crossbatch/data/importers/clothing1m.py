"""Clothing1M: lists of keys, and labels by key, noisy and clean.

*Learning from Massive Noisy Labeled Data for Image Classification* (Xiao, Xia, Yang, Huang, Wang,
CVPR 2015). noisy_label_kv.txt and clean_label_kv.txt hold lines ``key class``, a key being the
path ``images/…``; the lists *_key_list.txt hold keys. Training is noisy, clean or both, validation
and test are clean; the column `source` says which of the labels a row has. Classes are named by
category_names_eng.txt, where it is there, else by their number.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from crossbatch.data.importers._lists import ListFile, as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.problems import Imported

Training = Literal["noisy", "clean", "both"]

_TRAINING: dict[Training, tuple[str, ...]] = {
    "noisy": ("noisy",),
    "clean": ("clean",),
    "both": ("clean", "noisy"),
}
_CLEAN = (("validation", "val"), ("test", "test"))
_IMAGES: dict[Training, int] = {"noisy": 1_000_000, "clean": 47_570, "both": 1_047_570}


def from_clothing1m(root: Path, *, train: Training = "noisy") -> Imported:
    """Read Clothing1M; no image is opened.

    Args:
        root: The folder with the lists, or with ``annotations`` that holds them, and with
            ``images``, or the folders ``0`` to ``9`` in their place.
        train: Which labels training images have.

    Raises:
        CrossbatchError: A list is missing or broken, a key has no label, or images are missing.

    Cost: a dictionary of the labels, some 200 MB for a million.
    """
    folder = locate(root, "clean_label_kv.txt", inside=["annotations"])
    parts = [("train", f"{kind}_train_key_list.txt", kind) for kind in _TRAINING[train]]
    parts += [(split, f"clean_{name}_key_list.txt", "clean") for split, name in _CLEAN]
    names = _names(folder)
    strip = "" if (root / "images").exists() else "images/"
    rows = (
        (path.removeprefix(strip), label, split, kind)
        for split, name, kind in parts
        for path, label in _labelled(folder, name, kind, names)
    )
    published = {
        "train": Count(_IMAGES[train], 14),
        "validation": Count(14_313, 14),
        "test": Count(10_526, 14),
    }
    dataset = DataSet("Clothing1M", published, notes={"protocol": f"training labels: {train}"})
    return finish(as_table(("path", "label", "split", "source"), rows), root, dataset)


def _names(folder: Path) -> list[str] | None:
    listed = ListFile(folder / "category_names_eng.txt")
    return [name for _, name in listed.lines()] if listed.path.exists() else None


def _labelled(
    folder: Path, name: str, kind: str, names: list[str] | None
) -> Iterator[tuple[str, str]]:
    labels = _labels(ListFile(folder / f"{kind}_label_kv.txt"), names)
    listed = ListFile(folder / name)
    for number, key in listed.lines():
        if (label := labels.get(key)) is None:
            raise listed.broken(number, f"a key that {kind}_label_kv.txt knows", key)
        yield listed.inside(number, key), label


def _labels(listed: ListFile, names: list[str] | None) -> dict[str, str]:
    labels: dict[str, str] = {}
    for number, text in listed.lines():
        key, _, word = text.rpartition(" ")
        code = listed.integer(number, word, "the class")
        if not key or (names is not None and code not in range(len(names))):
            known = "" if names is None else f", a class of {len(names)}"
            raise listed.broken(number, f"`key class`{known}", text)
        labels[key.rstrip()] = str(code) if names is None else names[code]
    return labels

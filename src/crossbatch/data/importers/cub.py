"""Caltech-UCSD Birds-200-2011: images.txt, image_class_labels.txt and classes.txt.

*The Caltech-UCSD Birds-200-2011 Dataset* (Wah, Branson, Welinder, Perona, Belongie, 2011). Each
line is a number and what belongs to it: the path, the class, the name of the class. For retrieval
the classes 1 to 100 train and 101 to 200 test, as in *Deep Metric Learning via Lifted Structured
Feature Embedding* (Song et al., CVPR 2016); train_test_split.txt, which divides the images of
every class for classification, is not read.
"""

from collections.abc import Iterator
from pathlib import Path

from crossbatch.data.importers._lists import ListFile, as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.problems import Imported

CUB = DataSet(
    "CUB-200-2011",
    {"train": Count(5_864, 100), "test": Count(5_924, 100)},
    disjoint=True,
    notes={"protocol": "classes 1 to 100 train, 101 to 200 test"},
)
_TRAINING = 100  # the last class of training


def from_cub(root: Path) -> Imported:
    """Read CUB-200-2011; no image is opened.

    Args:
        root: ``CUB_200_2011``, or the folder that holds it.

    Raises:
        CrossbatchError: A list is missing, broken or at odds with another, or images are missing.
    """
    base = locate(root, "images.txt", inside=["CUB_200_2011"])
    return finish(as_table(("path", "label", "split"), _rows(base)), base, CUB)


def _rows(base: Path) -> Iterator[tuple[str, str, str]]:
    names = {int(number): name for _, number, name in _pairs(ListFile(base / "classes.txt"))}
    listed = ListFile(base / "image_class_labels.txt")
    classes: dict[str, int] = {}
    for line, image, text in _pairs(listed):
        classes[image] = listed.integer(line, text, "the class")
        if classes[image] not in names:
            raise listed.broken(line, f"one of the {len(names)} classes of classes.txt", text)
    listed = ListFile(base / "images.txt")
    for line, image, path in _pairs(listed):
        if (number := classes.get(image)) is None:
            raise listed.broken(line, "an image that image_class_labels.txt knows", image)
        split = "train" if number <= _TRAINING else "test"
        yield f"images/{listed.inside(line, path)}", names[number], split


def _pairs(listed: ListFile) -> Iterator[tuple[int, str, str]]:
    """Per line: its number, the number it begins with, the rest."""
    for line, text in listed.lines():
        number, _, rest = text.partition(" ")
        if not number.isdecimal() or not rest.strip():
            raise listed.broken(line, "a number and what belongs to it", text)
        yield line, number, rest.strip()

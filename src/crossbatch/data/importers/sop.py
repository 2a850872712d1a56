"""Stanford Online Products: the lists Ebay_train.txt and Ebay_test.txt.

*Deep Metric Learning via Lifted Structured Feature Embedding* (Song, Xiang, Jegelka, Savarese,
CVPR 2016). A list begins with the line ``image_id class_id super_class_id path``. A class is a
product; its category, the super class, goes into the column `superclass`. Training and test have
no product in common; test images search among each other.
"""

from collections.abc import Iterator
from pathlib import Path

from crossbatch.data.importers._lists import ListFile, as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.problems import Imported

SOP = DataSet(
    "Stanford Online Products",
    {"train": Count(59_551, 11_318), "test": Count(60_502, 11_316)},
    disjoint=True,
)
_HEADER = "image_id class_id super_class_id path"


def from_sop(root: Path) -> Imported:
    """Read Stanford Online Products; no image is opened.

    Args:
        root: ``Stanford_Online_Products``, or the folder that holds it.

    Raises:
        CrossbatchError: A list is missing or broken, images are missing, or classes leak.
    """
    base = locate(root, "Ebay_train.txt", inside=["Stanford_Online_Products"])
    rows = (row for split in ("train", "test") for row in _rows(base, split))
    return finish(as_table(("path", "label", "split", "superclass"), rows), base, SOP)


def _rows(base: Path, split: str) -> Iterator[tuple[str, ...]]:
    listed = ListFile(base / f"Ebay_{split}.txt")
    for number, text in listed.lines():
        fields = text.split(maxsplit=3)
        if number == 1 and text.split() != _HEADER.split():
            raise listed.broken(1, f"the header `{_HEADER}`", text)
        if number == 1:
            continue
        if len(fields) != 4:
            raise listed.broken(number, f"`{_HEADER}`", text)
        _, product, category, path = fields
        yield listed.inside(number, path), product, split, category

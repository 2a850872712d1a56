"""Food-101: the lists meta/train.txt, meta/test.txt and meta/classes.txt.

*Food-101: Mining Discriminative Components with Random Forests* (Bossard et al., ECCV 2014). A
line is ``class/number``, the path below ``images`` without its suffix ``.jpg``. The split is for
classification: every class is in both parts, and training images are noisy.
"""

from collections.abc import Iterator
from pathlib import Path

from crossbatch.data.importers._lists import ListFile, as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.problems import Imported

FOOD101 = DataSet("Food-101", {"train": Count(75_750, 101), "test": Count(25_250, 101)})


def from_food101(root: Path) -> Imported:
    """Read Food-101; no image is opened.

    Args:
        root: ``food-101``, or the folder that holds it.

    Raises:
        CrossbatchError: A list is missing or broken, or images are missing.
    """
    base = locate(root, "meta/train.txt", inside=["food-101"])
    classes = {name for _, name in ListFile(base / "meta" / "classes.txt").lines()}
    rows = (row for split in ("train", "test") for row in _rows(base, split, classes))
    return finish(as_table(("path", "label", "split"), rows), base, FOOD101)


def _rows(base: Path, split: str, classes: set[str]) -> Iterator[tuple[str, str, str]]:
    listed = ListFile(base / "meta" / f"{split}.txt")
    for number, text in listed.lines():
        label, _, image = text.partition("/")
        if not image or label not in classes:
            raise listed.broken(number, "`class/number` with a class of classes.txt", text)
        yield f"images/{listed.inside(number, text)}.jpg", label, split

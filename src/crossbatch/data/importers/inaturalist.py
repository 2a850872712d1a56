"""iNaturalist 2018 for retrieval: the lists Inaturalist_train_set1.txt and _test_set1.txt.

*The iNaturalist Species Classification and Detection Dataset* (Van Horn et al., CVPR 2018), split
by species in *Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval* (Brown, Xie,
Kalogeiton, Zisserman, ECCV 2020), whose authors publish the lists. A line is a path,
``train_val2018/SUPERCLASS/SPECIES/IMAGE``; the class is ``SUPERCLASS/SPECIES``, where the species
is the number in the folder's name.
"""

from collections.abc import Iterator
from pathlib import Path

from crossbatch.data.importers._lists import ListFile, as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.problems import Imported

INATURALIST = DataSet(
    "iNaturalist 2018, split for retrieval by Smooth-AP",
    {"train": Count(325_846, 5_690), "test": Count(136_093, 2_452)},
    disjoint=True,
)
_TRAIN = "Inaturalist_train_set1.txt"
_TEST = "Inaturalist_test_set1.txt"


def from_inaturalist(root: Path) -> Imported:
    """Read iNaturalist 2018 with its split for retrieval; no image is opened.

    Args:
        root: The folder with ``train_val2018``, and with the lists or ``Inat_dataset_splits``.

    Raises:
        CrossbatchError: A list is missing or broken, images are missing, or species leak.
    """
    folder = locate(root, _TRAIN, inside=["Inat_dataset_splits"])
    files = {"train": folder / _TRAIN, "test": folder / _TEST}
    rows = (row for split, file in files.items() for row in _rows(ListFile(file), split))
    return finish(as_table(("path", "label", "split", "superclass"), rows), root, INATURALIST)


def _rows(listed: ListFile, split: str) -> Iterator[tuple[str, str, str, str]]:
    for number, path in listed.lines():
        parts = path.split("/")
        if len(parts) < 3:
            raise listed.broken(number, "`train_val2018/SUPERCLASS/SPECIES/IMAGE`", path)
        yield listed.inside(number, path), f"{parts[-3]}/{parts[-2]}", split, parts[-3]

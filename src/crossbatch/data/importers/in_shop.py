"""In-Shop Clothes Retrieval of DeepFashion: the list Eval/list_eval_partition.txt.

*DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations* (Liu, Luo,
Qiu, Wang, Tang, CVPR 2016). The list's first line is the number of images, its second the header
``image_name item_id evaluation_status``; the status is train, query or gallery. Queries search in
the gallery. Paths begin with ``img/``, which the archive puts into ``Img``.
"""

from collections.abc import Iterator
from pathlib import Path

from crossbatch.data.importers._lists import ListFile, as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.problems import Imported

IN_SHOP = DataSet(
    "In-Shop Clothes Retrieval (DeepFashion)",
    {
        "train": Count(25_882, 3_997),
        "test": Count(None, 3_985),
        "query": Count(14_218, 3_985),
        "gallery": Count(12_612, 3_985),
    },
    disjoint=True,
)
_LIST = "list_eval_partition.txt"
_HEADER = "image_name item_id evaluation_status"


def from_in_shop(root: Path) -> Imported:
    """Read In-Shop Clothes Retrieval; no image is opened.

    Args:
        root: The folder with ``Eval/list_eval_partition.txt`` and ``Img/img`` or ``img``; or with
            the list and ``img`` side by side.

    Raises:
        CrossbatchError: The list is missing, broken or shorter than it says, images are missing,
            an image is query and gallery, or items leak.
    """
    folder = locate(root, _LIST, inside=["Eval", "In-shop Clothes Retrieval Benchmark/Eval"])
    base = folder.parent if folder.name == "Eval" else folder
    pictures = locate(base, "img", inside=["Img"])
    table = as_table(("path", "label", "split", "role"), _rows(ListFile(folder / _LIST)))
    return finish(table, pictures, IN_SHOP)


def _rows(listed: ListFile) -> Iterator[tuple[str, str, str, str]]:
    lines = listed.lines()
    number, text = next(lines, (1, ""))
    said = listed.integer(number, text, "the number of images")
    number, text = next(lines, (2, ""))
    if text.split() != _HEADER.split():
        raise listed.broken(number, f"the header `{_HEADER}`", text)
    seen = 0
    for number, text in lines:
        fields = text.rsplit(maxsplit=2)
        if len(fields) != 3 or fields[2] not in ("train", "query", "gallery"):
            raise listed.broken(number, f"`{_HEADER}`, the status train, query or gallery", text)
        path, item, status = fields
        seen += 1
        yield listed.inside(number, path), item, "train" if status == "train" else "test", status
    if seen != said:
        raise listed.broken(1, f"{said} images, as its first line says,", f"{seen} images")

"""WebVision 1.0: the lists in ``info``, images from Google and Flickr by query.

*WebVision Database: Visual Learning and Understanding from Web Data* (Li et al., 2017).
train_filelist_google.txt and train_filelist_flickr.txt hold lines ``google/q0001/NAME.jpg CLASS``,
val_filelist.txt lines ``NAME.jpg CLASS``. Classes count from 0; class c stands in line c + 1 of
synsets.txt, which begins with the WordNet id, the label. The column `source` is google or flickr,
`query` the folder of the query that found the image.

*mini-WebVision* (*MentorNet*, Jiang, Zhou, Leung, Li, Fei-Fei, ICML 2018) is the Google part of
the first 50 classes.
"""

from collections.abc import Iterator
from pathlib import Path

from crossbatch.data.importers._lists import ListFile, as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.problems import Imported

WEBVISION = DataSet(
    "WebVision 1.0",
    {"train": Count(2_439_574, 1000), "validation": Count(50_000, 1000)},
)
MINI = DataSet(
    "mini-WebVision",
    {"train": Count(65_944, 50), "validation": Count(2_500, 50)},
    notes={"protocol": "the first 50 classes, Google alone"},
)
_MINI_CLASSES = 50

_Row = tuple[str, str, str, str | None, str | None]


def from_webvision(root: Path, *, mini: bool = False) -> Imported:
    """Read WebVision 1.0 or mini-WebVision; no image is opened.

    Args:
        root: The folder with ``info``, ``google``, ``flickr`` and ``val_images_256``, or
            ``val_images`` with images of full size.
        mini: Whether to read mini-WebVision, which needs no ``flickr``.

    Raises:
        CrossbatchError: A list is missing or broken, or images are missing.
    """
    info = locate(root, "info/synsets.txt") / "info"
    synsets = [text.split()[0] for _, text in ListFile(info / "synsets.txt").lines()]
    limit = _MINI_CLASSES if mini else len(synsets)
    rows = _rows(root, synsets, limit, ("google",) if mini else ("google", "flickr"))
    table = as_table(("path", "label", "split", "source", "query"), rows)
    return finish(table, root, MINI if mini else WEBVISION)


def _rows(root: Path, synsets: list[str], limit: int, sources: tuple[str, ...]) -> Iterator[_Row]:
    for source in sources:
        listed = ListFile(root / "info" / f"train_filelist_{source}.txt")
        for path, code in _listed(listed, len(synsets)):
            if code < limit:
                parts = path.split("/")
                query = parts[1] if len(parts) > 2 else None
                yield path, synsets[code], "train", source, query
    full = not (root / "val_images_256").exists() and (root / "val_images").exists()
    folder = "val_images" if full else "val_images_256"
    for path, code in _listed(ListFile(root / "info" / "val_filelist.txt"), len(synsets)):
        if code < limit:
            yield f"{folder}/{path}", synsets[code], "validation", None, None


def _listed(listed: ListFile, classes: int) -> Iterator[tuple[str, int]]:
    for number, text in listed.lines():
        path, _, word = text.rpartition(" ")
        code = listed.integer(number, word, "the class")
        if not path or not 0 <= code < classes:
            raise listed.broken(number, f"`path class`, a class of {classes}", text)
        yield listed.inside(number, path.rstrip()), code

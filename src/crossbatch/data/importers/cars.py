"""Cars-196: the annotations in cars_annos.mat.

*3D Object Representations for Fine-Grained Categorization* (Krause, Stark, Deng, Fei-Fei, 3dRR
2013). The MATLAB 5 file holds an array `annotations` with the fields `relative_im_path`, `class`
(from 1) and others, and `class_names`. For retrieval the classes 1 to 98 train and 99 to 196 test,
as in *Deep Metric Learning via Lifted Structured Feature Embedding* (Song et al., CVPR 2016); the
field `test`, which divides the images of every class for classification, is not read.

Reading it takes scipy, which crossbatch does not require.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crossbatch.data.importers._lists import as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.problems import Imported
from crossbatch.errors import CrossbatchError, FormatError, expected

CARS = DataSet(
    "Cars-196",
    {"train": Count(8_054, 98), "test": Count(8_131, 98)},
    disjoint=True,
    notes={"protocol": "classes 1 to 98 train, 99 to 196 test"},
)
_TRAINING = 98  # the last class of training
_FILE = "cars_annos.mat"


def from_cars(root: Path) -> Imported:
    """Read Cars-196; no image is opened.

    Args:
        root: The folder with ``cars_annos.mat`` and ``car_ims``.

    Raises:
        CrossbatchError: scipy or the annotations are missing, the annotations are broken, or
            images are missing.
    """
    base = locate(root, _FILE)
    return finish(as_table(("path", "label", "split"), _rows(base / _FILE)), base, CARS)


def _rows(file: Path) -> Iterator[tuple[str, str, str]]:
    names, annotations = _read(file)
    for place, (path, number) in enumerate(annotations, 1):
        if not isinstance(path, str) or path.startswith("/") or ".." in path.split("/"):
            raise _broken(file, f"a path below the root in annotation {place}", repr(path))
        if number not in range(1, len(names) + 1):
            raise _broken(file, f"a class of 1 to {len(names)} in annotation {place}", number)
        yield path, names[int(number) - 1], "train" if number <= _TRAINING else "test"


def _read(file: Path) -> tuple[list[str], Iterator[tuple[Any, Any]]]:
    """The names of the classes, and per image its path and class."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        remedy = "Install it: pip install scipy."
        raise CrossbatchError(expected(f"scipy, to read {file}", error, remedy)) from error
    try:
        held = loadmat(file, squeeze_me=True)
    except Exception as error:  # scipy raises whatever a broken file leads it into
        raise _broken(file, "a file of MATLAB 5", error) from error
    try:
        names = [str(name) for name in np.atleast_1d(held["class_names"])]
        listed = np.atleast_1d(held["annotations"])
        return names, zip(listed["relative_im_path"], listed["class"], strict=True)
    except (KeyError, ValueError, IndexError) as error:
        wanted = "`class_names` and `annotations` with `relative_im_path` and `class`"
        raise _broken(file, wanted, error) from error


def _broken(file: Path, wanted: str, got: object) -> FormatError:
    remedy = "Get the annotations anew: cars_annos.mat, not those of the development kit."
    return FormatError(expected(f"{wanted} in {file}", got, remedy))

"""PKU VehicleID: the lists train_test_split/train_list.txt and test_list_800|1600|2400.txt.

*Deep Relative Distance Learning: Tell the Difference Between Similar Vehicles* (Liu, Tian, Wang,
Pang, Huang, CVPR 2016). A line is an image, without suffix, and its vehicle. The test lists are
for measurements of their own, so a manifest holds one of them. Two protocols:

- *metric learning*: the images of the list search among each other.
- *re-identification*: one random image per vehicle is the gallery, the others are queries, ten
  times over. The columns `trial_0` … `trial_9` hold the roles of each trial, `role` those of the
  first; trial t is drawn with seed s + t, and the notes list the seeds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from crossbatch.data.importers._lists import ListFile, as_table, locate
from crossbatch.data.importers._published import Count, DataSet, finish
from crossbatch.data.problems import Imported
from crossbatch.errors import CrossbatchError, expected

TRIALS = 10
TEST_LISTS = (800, 1600, 2400)
TRAIN = (Count(110_178, 13_134), Count(113_346, 13_164))  # of the paper, of the list

Protocol = Literal["metric-learning", "re-identification"]


def from_vehicle_id(
    root: Path,
    *,
    test_list: int = 2400,
    protocol: Protocol = "metric-learning",
    seed: int = 0,
) -> Imported:
    """Read PKU VehicleID; no image is opened.

    Args:
        root: ``VehicleID_V1.0``, or the folder that holds it.
        test_list: The vehicles of the test list: 800 (small), 1600 (medium) or 2400 (large).
        protocol: Who searches where; see the module.
        seed: s ≥ 0, of the first trial.

    Raises:
        CrossbatchError: A list is missing or broken, images are missing, or vehicles leak.
    """
    if test_list not in TEST_LISTS or seed < 0:
        wanted = f"a test list of {', '.join(map(str, TEST_LISTS))} vehicles, and a seed ≥ 0"
        remedy = "Choose the small, the medium or the large list."
        raise CrossbatchError(expected(wanted, f"{test_list}, seed {seed}", remedy))
    base = locate(root, "train_test_split/train_list.txt", inside=["VehicleID_V1.0"])
    files = {"train": "train_list.txt", "test": f"test_list_{test_list}.txt"}
    rows = (row for split, name in files.items() for row in _rows(base, split, name))
    table = as_table(("path", "label", "split"), rows)
    notes = {"protocol": protocol, "test list": test_list}
    published = {"train": TRAIN, "test": Count(None, test_list)}
    if protocol == "metric-learning":
        return finish(table, base, DataSet("PKU VehicleID", published, disjoint=True, notes=notes))
    notes["seeds"] = list(range(seed, seed + TRIALS))
    dataset = DataSet("PKU VehicleID", published, disjoint=True, notes=notes)
    return _with_trials(finish(table, base, dataset), notes["seeds"])


def _rows(base: Path, split: str, name: str) -> Iterator[tuple[str, str, str]]:
    listed = ListFile(base / "train_test_split" / name)
    for number, text in listed.lines():
        fields = text.split()
        if len(fields) != 2:
            raise listed.broken(number, "`image vehicle`", text)
        image = listed.integer(number, fields[0].removesuffix(".jpg"), "the image")
        vehicle = listed.integer(number, fields[1], "the vehicle")
        yield f"image/{image:07d}.jpg", str(vehicle), split


def _with_trials(imported: Imported, seeds: list[int]) -> Imported:
    manifest = imported.manifest
    test = np.flatnonzero(manifest.column("split") == "test")
    vehicles, start = _by_vehicle(manifest.labels[test])
    for trial, seed in enumerate(seeds):
        roles = np.full(len(manifest), None, object)
        roles[test] = "query"
        sizes = np.diff([*start, len(test)])
        drawn = start + np.random.default_rng(seed).integers(sizes)
        roles[test[vehicles[drawn]]] = "gallery"
        manifest = manifest.with_column(f"trial_{trial}", pa.array(roles, pa.string()))
    train = manifest.column("split") == "train"
    roles = np.where(train, "train", manifest.column("trial_0"))
    return imported._replace(manifest=manifest.with_column("role", pa.array(roles, pa.string())))


def _by_vehicle(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows grouped by vehicle, in the order of the list, and where each group starts."""
    _, codes = np.unique(labels.astype(str), return_inverse=True)
    rows = np.argsort(codes, kind="stable")
    return rows, np.flatnonzero(np.diff(codes[rows], prepend=-1))

"""Images set aside: some of every class."""

import numpy as np

from crossbatch.data import Manifest, hold_out_images
from tests import blobs


def test_images_are_held_out_of_every_class(tmp_path):
    sizes = blobs.manifest(tmp_path / "b.parquet", classes=5, images=10, test=0)
    whole = Manifest.read(sizes)
    held = hold_out_images(whole, split="validation", fraction=0.25, seed=1)
    moved = held.column("split") == "validation"
    assert np.bincount(held.codes[moved]).tolist() == [2] * 5
    again = hold_out_images(whole, split="validation", fraction=0.25, seed=2)
    assert again.column("split").tolist() != held.column("split").tolist()
    rest = whole.select(whole.codes > 0)  # the choice in a class does not depend on others
    part = hold_out_images(rest, split="validation", fraction=0.25, seed=1)
    assert part.column("split").tolist() == held.column("split")[whole.codes > 0].tolist()
    few = whole.select(np.array([0, 1, 10]))
    split = hold_out_images(few, split="test", fraction=0.1, seed=0).column("split").tolist()
    assert sorted(split[:2]) == ["test", "train"]
    assert split[2] == "train"

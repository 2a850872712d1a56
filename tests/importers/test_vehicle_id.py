"""PKU VehicleID: three test lists, two protocols, ten trials."""

import numpy as np
import pytest
import torch

from crossbatch.data import Kind
from crossbatch.data.importers import from_vehicle_id
from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.evaluation import evaluate_manifest
from tests.importers.miniature import command, counts, picture, rows, text

TRAIN = ["0000011 100", "0000012 100", "0000013 7"]
SMALL = ["0000003 20", "0000004 20", "0000005 20", "0000006 21", "0000007 21", "0000008 22"]
MEDIUM = [*SMALL, "0000009 23", "0000010 23"]


def vehicle_id(root, *, train=TRAIN, end="\n", **lists):
    lists = {"800": SMALL, "1600": MEDIUM, "2400": [*MEDIUM, "0000014 24"]} | lists
    split = root / "VehicleID_V1.0" / "train_test_split"
    text(split / "train_list.txt", train, end=end)
    for size, lines in lists.items():
        text(split / f"test_list_{size}.txt", lines, end=end)
    for number in range(3, 15):
        picture(root / "VehicleID_V1.0" / "image" / f"{number:07d}.jpg", number)
    return root / "VehicleID_V1.0"


def test_rows(tmp_path):
    manifest, problems = from_vehicle_id(vehicle_id(tmp_path), test_list=800)
    assert rows(manifest, "path", "label", "split", "role")[2:5] == [
        ("image/0000013.jpg", "7", "train", "train"),
        ("image/0000003.jpg", "20", "test", None),
        ("image/0000004.jpg", "20", "test", None),
    ]
    assert counts(manifest) == {"train": (3, 2), "test": (6, 3)}
    assert problems == ()
    assert manifest.notes == {
        "data set": "PKU VehicleID",
        "protocol": "metric-learning",
        "test list": 800,
        "differs": [
            "train: 3 images of 2 classes here, 110,178 images of 13,134 classes or "
            "113,346 images of 13,164 classes published",
            "test: 6 images of 3 classes here, 800 classes published",
        ],
    }


@pytest.mark.parametrize(("size", "images"), [(800, 6), (1600, 8), (2400, 9)])
def test_each_list_is_a_manifest(tmp_path, size, images):
    manifest = from_vehicle_id(vehicle_id(tmp_path, end="\r\n"), test_list=size).manifest
    assert len(manifest.split("test")) == images


def trials(manifest):
    return [manifest.column(f"trial_{t}") for t in range(10)]


def test_re_identification(tmp_path):
    root = vehicle_id(tmp_path)
    manifest, _ = from_vehicle_id(root, test_list=800, protocol="re-identification", seed=5)
    assert manifest.notes["seeds"] == list(range(5, 15))
    test = manifest.column("split") == "test"
    for roles in trials(manifest):
        assert set(roles[~test]) == {None}
        gallery = manifest.labels[roles == "gallery"]
        assert sorted(gallery) == ["20", "21", "22"], "one image of every vehicle"
        assert (roles == "query").sum() == 3
    assert manifest.column("role").tolist() == ["train"] * 3 + trials(manifest)[0][test].tolist()
    assert len({tuple(roles) for roles in trials(manifest)}) > 3
    drawn = {row for roles in trials(manifest) for row in np.flatnonzero(roles == "gallery")}
    assert {3, 4, 5} & drawn != {3}, "any image of a vehicle may be drawn"


def test_trials_follow_from_their_seeds(tmp_path):
    root = vehicle_id(tmp_path)
    first, later = (
        from_vehicle_id(root, protocol="re-identification", seed=seed).manifest for seed in (0, 1)
    )
    assert (first.column("trial_1") == later.column("trial_0")).all()


def test_every_trial_can_be_evaluated(tmp_path):
    manifest = from_vehicle_id(vehicle_id(tmp_path), protocol="re-identification").manifest
    test = manifest.split("test")
    codes = torch.as_tensor(test.codes)
    for trial in range(10):
        of_trial = test.with_column("role", test.column(f"trial_{trial}"))
        result = evaluate_manifest(torch.eye(5)[codes], of_trial, ks=(1,))
        assert result.gallery == 5
        assert result.metrics["R@1"] == 1


def test_command(tmp_path, capsys):
    root = vehicle_id(tmp_path)
    manifest = command("vehicle-id", root, tmp_path, "--test-list", 1600)
    assert counts(manifest) == {"train": (3, 2), "test": (8, 4)}
    options = ("--protocol", "re-identification", "--seed", 3)
    manifest = command("vehicle-id", tmp_path, tmp_path, *options)
    assert manifest.notes["seeds"] == list(range(3, 13))
    assert sorted(set(manifest.split("test").column("role"))) == ["gallery", "query"]
    assert "warning: train: 3 images" in capsys.readouterr().out


def test_a_vehicle_in_training_and_test(tmp_path):
    with pytest.raises(FormatError, match=r"no class in training and test.*in both: 20\."):
        from_vehicle_id(vehicle_id(tmp_path, train=[*TRAIN, "0000014 20"]), test_list=800)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0000011", r"`image vehicle` in .*train_list.txt:4. Got '0000011'"),
        ("x 3", r"a whole number as the image in .*train_list.txt:4. Got 'x'"),
        ("0000011 3 4", r"`image vehicle` in .*train_list.txt:4"),
        ("0000011 blue", r"as the vehicle in .*train_list.txt:4. Got 'blue'"),
    ],
)
def test_broken_lines(tmp_path, line, message):
    with pytest.raises(FormatError, match=message):
        from_vehicle_id(vehicle_id(tmp_path, train=[*TRAIN, line]))


def test_missing_lists_images_and_sizes(tmp_path):
    root = vehicle_id(tmp_path)
    with pytest.raises(CrossbatchError, match=r"800, 1600, 2400 vehicles.*Got 3200, seed 0"):
        from_vehicle_id(root, test_list=3200)
    (root / "image/0000009.jpg").unlink()
    with pytest.raises(CrossbatchError, match=r"Got 1 missing, first image/0000009.jpg"):
        from_vehicle_id(root)
    assert from_vehicle_id(root, test_list=800).problems == ()
    (root / "train_test_split/test_list_800.txt").unlink()
    with pytest.raises(FormatError, match=r"the list .*test_list_800.txt"):
        from_vehicle_id(root, test_list=800)


def test_an_image_listed_twice(tmp_path):
    root = vehicle_id(tmp_path, **{"800": [*SMALL, SMALL[0]]})
    manifest, problems = from_vehicle_id(root, test_list=800)
    assert [p.kind for p in problems] == [Kind.LISTED_TWICE]
    assert len(manifest.split("test")) == 6

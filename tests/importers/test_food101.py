"""Food-101: paths without suffix, classes in both parts."""

import pytest

from crossbatch.data.importers import from_food101
from crossbatch.errors import CrossbatchError, FormatError
from tests.importers.miniature import command, counts, picture, rows, text

CLASSES = ["apple_pie", "crème brûlée", "waffles"]
TRAIN = ["apple_pie/1005649", "apple_pie/1014775", "crème brûlée/13463", "waffles/999047"]
TEST = ["apple_pie/1011328", "crème brûlée/2.5"]


def food101(root, *, train=TRAIN, test=TEST, end="\n"):
    base = root / "food-101"
    text(base / "meta/classes.txt", CLASSES, end=end)
    for split, lines in (("train", train), ("test", test)):
        text(base / "meta" / f"{split}.txt", lines, end=end)
        for line in lines:
            if "/" in line and ".." not in line:
                picture(base / "images" / f"{line}.jpg")
    return base


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows(tmp_path, end):
    manifest, problems = from_food101(food101(tmp_path, end=end))
    assert rows(manifest, "path", "label", "split", "role") == [
        ("images/apple_pie/1005649.jpg", "apple_pie", "train", "train"),
        ("images/apple_pie/1014775.jpg", "apple_pie", "train", "train"),
        ("images/crème brûlée/13463.jpg", "crème brûlée", "train", "train"),
        ("images/waffles/999047.jpg", "waffles", "train", "train"),
        ("images/apple_pie/1011328.jpg", "apple_pie", "test", None),
        ("images/crème brûlée/2.5.jpg", "crème brûlée", "test", None),
    ]
    assert problems == ()


def test_command(tmp_path, capsys):
    food101(tmp_path)
    manifest = command("food101", tmp_path, tmp_path)
    assert counts(manifest) == {"train": (4, 3), "test": (2, 2)}
    assert manifest.notes["differs"] == [
        "train: 4 images of 3 classes here, 75,750 images of 101 classes published",
        "test: 2 images of 2 classes here, 25,250 images of 101 classes published",
    ]
    assert "warning: test: 2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1005649", r"`class/number` with a class of classes.txt in .*train.txt:5. Got '1005649'"),
        ("sushi/1", r"with a class of classes.txt in .*train.txt:5. Got 'sushi/1'"),
        ("waffles/../../1", r"a path below the root in .*train.txt:5"),
    ],
)
def test_broken_lines(tmp_path, line, message):
    with pytest.raises(FormatError, match=message):
        from_food101(food101(tmp_path, train=[*TRAIN, line]))


def test_an_image_in_training_and_test(tmp_path):
    with pytest.raises(FormatError, match=r"waffles/999047.jpg to be.*Got split train and test"):
        from_food101(food101(tmp_path, test=[*TEST, TRAIN[3]]))


def test_missing(tmp_path):
    base = food101(tmp_path)
    (base / "images/waffles/999047.jpg").unlink()
    with pytest.raises(CrossbatchError, match=r"Got 1 missing, first images/waffles/999047.jpg"):
        from_food101(base)
    with pytest.raises(
        FormatError, match=r"meta/train.txt or .*food-101/meta/train.txt. Got none"
    ):
        from_food101(base / "images")

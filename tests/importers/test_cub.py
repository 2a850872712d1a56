"""CUB-200-2011: halves by class number, three lists that must agree."""

import pytest

from crossbatch.data.importers import from_cub
from crossbatch.errors import CrossbatchError, FormatError
from tests.importers.miniature import command, counts, picture, rows, text

CLASSES = [
    "1 001.Black_footed_Albatross",
    "100 100.Brown_Pelican",
    "101 101.White_Pelican",
    "200 200.Чиж, обыкновенный",
]
IMAGES = [
    ("1", "1", "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"),
    ("2", "1", "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg"),
    ("3", "100", "100.Brown_Pelican/Brown_Pelican_0122_94022.jpg"),
    ("4", "101", "101.White_Pelican/White_Pelican_0044_96028.jpg"),
    ("5", "200", "200.Чиж, обыкновенный/Чиж 0001.jpg"),
]


def cub(root, images=IMAGES, *, classes=CLASSES, labels=None, end="\n"):
    base = root / "CUB_200_2011"
    text(base / "images.txt", [f"{i} {path}" for i, _, path in images], end=end)
    labels = [f"{i} {label}" for i, label, _ in images] if labels is None else labels
    text(base / "image_class_labels.txt", labels, end=end)
    text(base / "classes.txt", classes, end=end)
    text(base / "train_test_split.txt", [f"{i} {int(i) % 2}" for i, *_ in images], end=end)
    for number, (*_, path) in enumerate(images):
        picture(base / "images" / path, number)
    return base


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows(tmp_path, end):
    manifest, problems = from_cub(cub(tmp_path, end=end))
    assert rows(manifest, "path", "label", "split", "role") == [
        (f"images/{IMAGES[0][2]}", "001.Black_footed_Albatross", "train", "train"),
        (f"images/{IMAGES[1][2]}", "001.Black_footed_Albatross", "train", "train"),
        (f"images/{IMAGES[2][2]}", "100.Brown_Pelican", "train", "train"),
        (f"images/{IMAGES[3][2]}", "101.White_Pelican", "test", None),
        (f"images/{IMAGES[4][2]}", "200.Чиж, обыкновенный", "test", None),
    ]
    assert problems == ()


def test_lists_in_another_order(tmp_path):
    labels = ["5 200", "4 101", "3 100", "2 1", "1 1"]
    assert from_cub(cub(tmp_path, labels=labels)).manifest.labels.tolist() == (
        from_cub(cub(tmp_path)).manifest.labels.tolist()
    )


def test_command(tmp_path, capsys):
    cub(tmp_path)
    manifest = command("cub", tmp_path, tmp_path)
    assert counts(manifest) == {"train": (3, 2), "test": (2, 2)}
    assert manifest.notes["differs"] == [
        "train: 3 images of 2 classes here, 5,864 images of 100 classes published",
        "test: 2 images of 2 classes here, 5,924 images of 100 classes published",
    ]
    assert "warning: test: 2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["1 1", "2 1"]}, r"image_class_labels.txt knows in .*images.txt:3. Got '3'"),
        ({"labels": ["1 7"]}, r"one of the 4 classes of classes.txt in .*labels.txt:1. Got '7'"),
        ({"labels": ["1 one"]}, r"a whole number as the class in .*_labels.txt:1. Got 'one'"),
        ({"labels": ["1"]}, r"a number and what belongs to it in .*_labels.txt:1. Got '1'"),
        ({"classes": ["a 001.X"]}, r"a number and what belongs.*classes.txt:1. Got 'a 001.X'"),
    ],
)
def test_lists_that_disagree(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        from_cub(cub(tmp_path, **change))


def test_a_path_out_of_the_root(tmp_path):
    cub(tmp_path)
    text(tmp_path / "CUB_200_2011/images.txt", ["1 ../../x.jpg"])
    with pytest.raises(FormatError, match=r"a path below the root in .*images.txt:1"):
        from_cub(tmp_path)


def test_two_classes_of_one_name_in_both_halves(tmp_path):
    classes = [*CLASSES[:3], "200 001.Black_footed_Albatross"]
    with pytest.raises(FormatError, match=r"no class in training and test.*001.Black_footed_Alb"):
        from_cub(cub(tmp_path, classes=classes))


def test_missing(tmp_path):
    base = cub(tmp_path)
    (base / "images" / IMAGES[4][2]).unlink()
    with pytest.raises(CrossbatchError, match=r"Got 1 missing, first images/200.Чиж, обыкнов"):
        from_cub(base)
    (base / "classes.txt").unlink()
    with pytest.raises(FormatError, match=r"the list .*classes.txt"):
        from_cub(base)

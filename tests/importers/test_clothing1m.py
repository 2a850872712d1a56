"""Clothing1M: keys and labels in files of their own, noisy and clean."""

import pytest

from crossbatch.data.importers import from_clothing1m
from crossbatch.errors import CrossbatchError, FormatError
from tests.importers.miniature import command, counts, picture, rows, text

NAMES = ["T-Shirt", "Shirt", "Knitwear", "毛衣, wool"]
NOISY = {"images/0/0/1_0.jpg": 3, "images/7/7/2,a b.jpg": 0, "images/9/1/3_1.jpg": 1}
CLEAN = {"images/1/1/4.jpg": 0, "images/1/2/5.jpg": 1, "images/2/2/6.jpg": 2}


def clothing1m(root, *, noisy=NOISY, clean=CLEAN, names=NAMES, folder=".", end="\n", **keys):
    lists = {"noisy_train": list(NOISY), "clean_train": list(CLEAN)[:1]}
    lists |= {"clean_val": list(CLEAN)[1:2], "clean_test": list(CLEAN)[2:]} | keys
    for kind, labels in (("noisy", noisy), ("clean", clean)):
        lines = [f"{key} {label}" for key, label in labels.items()]
        text(root / folder / f"{kind}_label_kv.txt", lines[::-1], end=end)
    for name, lines in lists.items():
        text(root / folder / f"{name}_key_list.txt", lines, end=end)
    if names:
        text(root / folder / "category_names_eng.txt", names, end=end)
    for number, key in enumerate([*NOISY, *CLEAN]):
        picture(root / key, number)
    return root


HELD_OUT = [
    ("images/1/2/5.jpg", "Shirt", "validation", None, "clean"),
    ("images/2/2/6.jpg", "Knitwear", "test", None, "clean"),
]
FROM_WEB = [
    ("images/0/0/1_0.jpg", "毛衣, wool", "train", "train", "noisy"),
    ("images/7/7/2,a b.jpg", "T-Shirt", "train", "train", "noisy"),
    ("images/9/1/3_1.jpg", "Shirt", "train", "train", "noisy"),
]
BY_HAND = [("images/1/1/4.jpg", "T-Shirt", "train", "train", "clean")]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("noisy", FROM_WEB + HELD_OUT),
        ("clean", BY_HAND + HELD_OUT),
        ("both", BY_HAND + FROM_WEB + HELD_OUT),
    ],
)
def test_rows(tmp_path, train, expected):
    manifest, problems = from_clothing1m(clothing1m(tmp_path), train=train)
    assert rows(manifest, "path", "label", "split", "role", "source") == expected
    assert problems == ()


def test_annotations_of_their_own_and_folders_without_images(tmp_path):
    root = clothing1m(tmp_path, folder="annotations", end="\r\n", names=None)
    for folder in (root / "images").iterdir():
        folder.rename(root / folder.name)
    (root / "images").rmdir()
    manifest = from_clothing1m(root).manifest
    assert rows(manifest, "path", "label")[:2] == [("0/0/1_0.jpg", "3"), ("7/7/2,a b.jpg", "0")]
    assert manifest.path(0).is_file()


def test_command(tmp_path, capsys):
    root = clothing1m(tmp_path)
    manifest = command("clothing1m", root, tmp_path)
    assert counts(manifest) == {"train": (3, 3), "validation": (1, 1), "test": (1, 1)}
    assert manifest.notes["differs"] == [
        "train: 3 images of 3 classes here, 1,000,000 images of 14 classes published",
        "validation: 1 images of 1 classes here, 14,313 images of 14 classes published",
        "test: 1 images of 1 classes here, 10,526 images of 14 classes published",
    ]
    manifest = command("clothing1m", root, tmp_path, "--train", "both")
    assert counts(manifest)["train"] == (4, 3)
    out = capsys.readouterr().out
    assert "warning: train: 4 images of 3 classes here, 1,047,570 images" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noisy_train": ["images/x.jpg"]}, r"a key that noisy_label_kv.txt knows .*list.txt:1"),
        ({"clean": CLEAN | {"a": 4}}, r"`key class`, a class of 4 in .*clean_label_kv.txt:1"),
        ({"clean": CLEAN | {"a": "b"}}, r"a whole number as the class in .*clean_label_kv.txt:1"),
        ({"noisy": NOISY | {"": 4}}, r"`key class`.*noisy_label_kv.txt:1. Got '4'"),
        (
            {"noisy": NOISY | {"../x": 1}, "noisy_train": ["../x"]},
            r"a path below the root in .*noisy_train_key_list.txt:1",
        ),
        (
            {"clean_test": list(CLEAN)[1:]},
            r"images/1/2/5.jpg to be.*Got split validation and test",
        ),
    ],
)
def test_broken_lists(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        from_clothing1m(clothing1m(tmp_path, **change))


def test_missing(tmp_path):
    root = clothing1m(tmp_path)
    (root / "images/0/0/1_0.jpg").unlink()
    with pytest.raises(CrossbatchError, match=r"Got 1 missing, first images/0/0/1_0.jpg"):
        from_clothing1m(root)
    (root / "clean_val_key_list.txt").unlink()
    with pytest.raises(FormatError, match=r"the list .*clean_val_key_list.txt"):
        from_clothing1m(root)
    with pytest.raises(FormatError, match=r"annotations/clean_label_kv.txt. Got none"):
        from_clothing1m(root / "images")

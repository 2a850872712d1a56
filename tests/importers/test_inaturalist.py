"""iNaturalist 2018: paths alone, the class is in the folders."""

import pytest

from crossbatch.data.importers import from_inaturalist
from crossbatch.errors import CrossbatchError, FormatError
from tests.importers.miniature import command, counts, picture, rows, text

TRAIN = [
    "train_val2018/Aves/2761/c4b5b5b8e1ee1a7d1d3b2e0f2c9b8f6d.jpg",
    "train_val2018/Aves/2761/0a877f2d5ef6c1a6eb9e29e3b7a4a5cd.jpg",
    "train_val2018/Plantae/7477/0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e.jpg",
]
TEST = ["train_val2018/Aves/3001/1.jpg", "train_val2018/Plantae/6000/2.jpg"]


def inaturalist(root, *, train=TRAIN, test=TEST, folder="Inat_dataset_splits", end="\n"):
    for split, lines in (("train", train), ("test", test)):
        text(root / folder / f"Inaturalist_{split}_set1.txt", lines, end=end)
        for path in lines:
            if path.startswith("train_val2018") and ".." not in path:
                picture(root / path)
    return root


@pytest.mark.parametrize(("folder", "end"), [("Inat_dataset_splits", "\n"), (".", "\r\n")])
def test_rows(tmp_path, folder, end):
    manifest, problems = from_inaturalist(inaturalist(tmp_path, folder=folder, end=end))
    assert rows(manifest, "path", "label", "split", "role", "superclass") == [
        (TRAIN[0], "Aves/2761", "train", "train", "Aves"),
        (TRAIN[1], "Aves/2761", "train", "train", "Aves"),
        (TRAIN[2], "Plantae/7477", "train", "train", "Plantae"),
        (TEST[0], "Aves/3001", "test", None, "Aves"),
        (TEST[1], "Plantae/6000", "test", None, "Plantae"),
    ]
    assert problems == ()


def test_command(tmp_path, capsys):
    manifest = command("inaturalist", inaturalist(tmp_path), tmp_path)
    assert counts(manifest) == {"train": (3, 2), "test": (2, 2)}
    assert manifest.notes["differs"] == [
        "train: 3 images of 2 classes here, 325,846 images of 5,690 classes published",
        "test: 2 images of 2 classes here, 136,093 images of 2,452 classes published",
    ]
    assert "warning: train: 3 images" in capsys.readouterr().out


def test_a_species_in_training_and_test(tmp_path):
    leak = "train_val2018/Aves/2761/other.jpg"
    with pytest.raises(FormatError, match=r"no class in training and test.*both: Aves/2761\."):
        from_inaturalist(inaturalist(tmp_path, test=[*TEST, leak]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7477/1.jpg", r"`train_val2018/SUPERCLASS.*train_set1.txt:4. Got '7477/1.jpg'"),
        ("train_val2018/../x/1.jpg", r"a path below the root in .*train_set1.txt:4"),
        ("/data/Aves/2761/1.jpg", r"a path below the root in .*train_set1.txt:4"),
    ],
)
def test_broken_lines(tmp_path, line, message):
    with pytest.raises(FormatError, match=message):
        from_inaturalist(inaturalist(tmp_path, train=[*TRAIN, line]))


def test_missing(tmp_path):
    root = inaturalist(tmp_path)
    (root / TEST[0]).unlink()
    with pytest.raises(
        CrossbatchError, match=r"the 5 listed.*Got 1 missing, first train_val2018/"
    ):
        from_inaturalist(root)
    with pytest.raises(FormatError, match=r"Inat_dataset_splits/Inat.*Got none; .*holds Aves, Pl"):
        from_inaturalist(root / "train_val2018")

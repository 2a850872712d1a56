"""ImageNet: folders by synset, no lists."""

import os

import pytest

from crossbatch.data import Kind, Problem
from crossbatch.data.importers import from_imagenet
from crossbatch.errors import CrossbatchError, FormatError
from tests.importers.miniature import command, counts, picture, rows

FILES = [
    "train/n01440764/n01440764_10026.JPEG",
    "train/n01440764/n01440764_10027.JPEG",
    "train/n01443537/n01443537_2, copy.JPEG",
    "val/n01440764/ILSVRC2012_val_00000293.JPEG",
]


def imagenet(root, *, base="."):
    for number, name in enumerate(FILES):
        picture(root / base / name, number)
    return root


@pytest.mark.parametrize("base", [".", "ILSVRC/Data/CLS-LOC"])
def test_rows(tmp_path, base):
    root = imagenet(tmp_path, base=base)
    (root / base / "test").mkdir()
    (root / base / "train/.DS_Store").touch()
    manifest, problems = from_imagenet(root)
    assert rows(manifest, "path", "label", "split", "role") == [
        (FILES[0], "n01440764", "train", "train"),
        (FILES[1], "n01440764", "train", "train"),
        (FILES[2], "n01443537", "train", "train"),
        (FILES[3], "n01440764", "validation", None),
    ]
    assert problems == ()


def test_command(tmp_path, capsys):
    manifest = command("imagenet", imagenet(tmp_path), tmp_path)
    assert counts(manifest) == {"train": (3, 2), "validation": (1, 1)}
    assert manifest.notes["differs"] == [
        "train: 3 images of 2 classes here, 1,281,167 images of 1,000 classes published",
        "validation: 1 images of 1 classes here, 50,000 images of 1,000 classes published",
    ]
    assert "warning: train: 3 images" in capsys.readouterr().out


def test_what_is_no_image_is_listed(tmp_path):
    root = imagenet(tmp_path)
    (root / "train/n01440764/n01440764.tar").touch()
    (root / "val/n01443537").mkdir()
    manifest, problems = from_imagenet(root)
    assert len(manifest) == 4
    assert problems == (
        Problem(Kind.NOT_AN_IMAGE, "train/n01440764/n01440764.tar", "no suffix of an image"),
        Problem(Kind.EMPTY_CLASS, "val/n01443537", "no image in it"),
    )


def test_names_that_are_no_text_are_listed(tmp_path):
    root = imagenet(tmp_path)
    try:
        (root / "val/n01440764" / os.fsdecode(b"\xff.JPEG")).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 names only: nothing to test")
    assert from_imagenet(root).problems == (
        Problem(Kind.BAD_NAME, r"val/n01440764/\xff.JPEG", "rename the file"),
    )


def test_validation_images_without_folders(tmp_path):
    picture(imagenet(tmp_path) / "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(FormatError, match=r"a folder per synset.*val. Got ILSVRC2012.* Sort the"):
        from_imagenet(tmp_path)


def test_the_wrong_root(tmp_path):
    root = imagenet(tmp_path)
    with pytest.raises(FormatError, match=r"val/train or .*Got none; .*val holds n01440764"):
        from_imagenet(root / "val")
    (root / "val").rename(root / "valid")
    with pytest.raises(CrossbatchError, match=r"the folder .*val. Got .*No such file"):
        from_imagenet(root)


def test_dangling_links_are_missing(tmp_path):
    root = imagenet(tmp_path)
    (root / "val/n01440764/gone.JPEG").symlink_to(root / "nowhere")
    with pytest.raises(CrossbatchError, match=r"1 missing, first val/n01440764/gone.JPEG"):
        from_imagenet(root)

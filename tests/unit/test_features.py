"""Tables of features: extracted once, bounded in memory, whole or not there."""

import errno
import json
import os

import numpy as np
import pytest
import torch

from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.features import FeatureTable, extract

IMAGES = torch.randn(7, 3, 4, 4)
IDS = np.array([4, -1, 9, 2, 0, 7, 30])


def encode(images):
    """Five features an image."""
    return images.flatten(1)[:, :5] * 2


def batches(size=3, ids=IDS, images=IMAGES):
    for start in range(0, len(ids), size):
        yield ids[start : start + size], images[start : start + size]


def untouched():
    pytest.fail("the images were read")
    yield


def make(folder, given=None, *, encode=encode, rows=7, width=5, digest="d"):
    given = batches() if given is None else given
    return extract(encode, given, folder, rows=rows, width=width, digest=digest, notes={"k": 1})


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_a_table_holds_each_images_features(tmp_path, size):
    table = make(tmp_path / "t", batches(size))
    assert isinstance(table.array, np.memmap)
    assert table.array.dtype == np.float32
    assert table.ids.dtype == np.int64
    assert np.array_equal(table.array, encode(IMAGES).numpy())
    assert np.array_equal(table.ids, IDS)
    assert (len(table), table.width, table.digest, table.notes) == (7, 5, "d", {"k": 1})
    names = ["features.npy", "ids.npy", "meta.json"]
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == names


def test_ids_may_be_tensors_and_features_of_low_precision_on_the_tape(tmp_path):
    weight = torch.ones(48, 5, dtype=torch.bfloat16, requires_grad=True)
    given = ((torch.from_numpy(ids), images.bfloat16()) for ids, images in batches())
    table = make(tmp_path / "t", given, encode=lambda images: images.flatten(1) @ weight)
    assert table.array.dtype == np.float32
    assert np.array_equal(table.ids, IDS)


def test_rows_are_found_by_id(tmp_path):
    table = make(tmp_path / "t")
    wanted = np.array([30, 4, 4, -1])
    assert table.rows(wanted).tolist() == [6, 0, 0, 1]
    assert np.array_equal(table.ids[table.rows(wanted)], wanted)
    assert table.rows(np.array([], np.int64)).tolist() == []
    with pytest.raises(CrossbatchError, match=r"7 images.*Got 2 others, the first: \[5, 31\]"):
        table.rows(np.array([5, 4, 31]))


def test_a_table_of_the_same_digest_is_used_again(tmp_path):
    make(tmp_path / "t")
    assert np.array_equal(make(tmp_path / "t", untouched()).ids, IDS)


def test_a_table_of_another_digest_is_replaced(tmp_path):
    make(tmp_path / "t")
    table = make(tmp_path / "t", digest="e", encode=lambda images: -encode(images))
    assert table.digest == "e"
    assert np.array_equal(table.array, -encode(IMAGES).numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("file", ["features.npy", "ids.npy", "meta.json"])
@pytest.mark.parametrize("harm", ["lost", "empty", "torn"])
def test_a_broken_table_is_refused_and_made_again(tmp_path, file, harm):
    make(tmp_path / "t")
    path = tmp_path / "t" / file
    content = path.read_bytes()
    if harm == "lost":
        path.unlink()
    else:
        path.write_bytes(b"" if harm == "empty" else content[:-30])
    with pytest.raises(FormatError, match=r"a table of features in .*Extract the features again"):
        FeatureTable.open(tmp_path / "t")
    assert np.array_equal(make(tmp_path / "t").array, encode(IMAGES).numpy())


def test_the_folder_above_a_table_names_the_table(tmp_path):
    make(tmp_path / "t")
    with pytest.raises(FormatError, match=r"folders of this one: give .*t\.$"):
        FeatureTable.open(tmp_path)


@pytest.mark.parametrize("meta", [[], {}, {"format": 1}, {"format": 1, "digest": "d"}])
def test_a_table_with_other_notes_is_refused(tmp_path, meta):
    make(tmp_path / "t")
    (tmp_path / "t" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(FormatError, match=r"a table of features in .*Got (Key|Type)Error"):
        FeatureTable.open(tmp_path / "t")


def test_a_table_of_another_version_or_digest_is_refused(tmp_path):
    make(tmp_path / "t")
    assert len(FeatureTable.open(tmp_path / "t", digest="d")) == 7
    with pytest.raises(FormatError, match=r"features of digest e in .*Got d. Images or trunk"):
        FeatureTable.open(tmp_path / "t", digest="e")
    (tmp_path / "t" / "meta.json").write_text('{"format": 2, "digest": "d", "notes": {}}')
    with pytest.raises(FormatError, match=r"features of format 1 in .*Got 2. Extract"):
        FeatureTable.open(tmp_path / "t")


@pytest.mark.parametrize("array", [np.zeros((7, 5)), np.zeros(7, "f4"), np.zeros((6, 5), "f4")])
def test_a_table_of_another_shape_is_refused(tmp_path, array):
    make(tmp_path / "t")
    np.save(tmp_path / "t" / "features.npy", array)
    with pytest.raises(FormatError, match=r"Got features float.*, ids \(7,\). Extract"):
        FeatureTable.open(tmp_path / "t")


def not_finite(value):
    def encode_badly(images):
        features = encode(images).clone()
        features[images[:, 0, 0, 0] == IMAGES[4, 0, 0, 0], 2] = value
        return features

    return encode_badly


def fails(message, folder, **changes):
    """The call raises, and what stood in the folder stands alone and as it was."""
    make(folder, digest="old")
    with pytest.raises(CrossbatchError, match=message):
        make(folder, **changes)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert np.array_equal(FeatureTable.open(folder, digest="old").ids, IDS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_name_the_image(tmp_path, value):
    message = r"finite features. Got NaN or infinity for 1 images of a batch, ids \[0\]. Look"
    fails(message, tmp_path / "t", encode=not_finite(value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 8}, "8 images. Got 7. Count the images again"),
        ({"rows": 6}, "0 more images at most. Got 1. Count"),
        ({"rows": 0}, "at least one image. Got 0. Check the manifest"),
        ({"width": 4}, r"shape \(3, 4\) for 3 images. Got \(3, 5\). Give"),
        ({"given": batches(ids=IDS[:6])}, "7 images. Got 6"),
        ({"given": iter([(IDS[:2], IMAGES)])}, r"shape \(2, 5\) for 2 images. Got \(7, 5\)"),
        ({"given": batches(ids=np.array([1, 2, 3, 3, 4, 5, 6]))}, r"id once. Got some twice: \[3"),
    ],
)
def test_images_that_do_not_match_the_announcement(tmp_path, changes, message):
    fails(message, tmp_path / "t", **changes)


def test_an_unreadable_image_leaves_the_old_table(tmp_path):
    def images():
        yield from [(IDS[:3], IMAGES[:3])]
        raise CrossbatchError("Expected a readable image in row 3.")

    fails("Expected a readable image in row 3.", tmp_path / "t", given=images())


def test_an_interruption_leaves_nothing(tmp_path):
    def interrupted():
        yield IDS[:3], IMAGES[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "t", interrupted())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_table(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    make(tmp_path / "t", digest="old")
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(CrossbatchError, match=r"Could not write .*No space left.*Make room"):
            make(tmp_path / "t")
    assert FeatureTable.open(tmp_path / "t").digest == "old"


def test_a_table_put_aside_by_a_crash_is_found(tmp_path):
    make(tmp_path / "t")
    (tmp_path / "t").rename(tmp_path / ".t.old")
    assert len(make(tmp_path / "t", untouched())) == 7

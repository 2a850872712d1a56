"""The export of Fashion-MNIST, on files of the same format."""

import gzip

import numpy as np
import pytest
from PIL import Image

from crossbatch.data import from_folder, validate
from experiments.fashion_mnist import CLASSES, export, read_idx


def idx(path, array, kind=8):
    head = bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes()))


def test_every_image_becomes_a_file_of_its_class(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(20, dtype=np.uint8) % 10)
    out = tmp_path / "out"
    assert [export(tmp_path, out, part) for part in ("train", "test")] == [20, 20]
    assert (np.asarray(Image.open(out / "test/Ankle boot/00019.png")) == images[19]).all()
    checked = validate(from_folder(out).manifest)
    assert len(checked.manifest.split("train")) == 20
    assert checked.manifest.classes == sorted(CLASSES)
    assert checked.excluded == ()


def test_other_files_are_refused(tmp_path):
    idx(tmp_path / "x.gz", np.zeros(3, np.uint8), kind=13)
    with pytest.raises(SystemExit, match=r"bytes in IDX format at .*x.gz. Got type 13"):
        read_idx(tmp_path / "x.gz")

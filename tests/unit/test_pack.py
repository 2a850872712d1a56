"""A pack shows what its files show, and is refused as soon as they show something else."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from crossbatch.cli.main import run
from crossbatch.cli.train import parse
from crossbatch.data import ImageDataset, Manifest, PackedImages
from crossbatch.data._decode import decode
from crossbatch.data.pack import pack
from crossbatch.data.transforms import eval_transform, train_transform
from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.training import Trainee, steps
from tests import blobs

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIZES = [(90, 70), (64, 64), (20, 300), (300, 33), (5, 4), (128, 96)]


def smooth(width, height, seed):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x * (seed % 3) / 3], 2).astype(np.uint8))


@pytest.fixture
def photos(tmp_path):
    for i, size in enumerate(SIZES):
        smooth(*size, i).save(tmp_path / f"{i}.{'png' if i % 2 else 'jpg'}")
    names = [f"{i}.{'png' if i % 2 else 'jpg'}" for i in range(len(SIZES))]
    return Manifest(pa.table({"path": names, "label": list("aabbcc")}), tmp_path)


def test_pixels_are_those_of_the_files_where_nothing_is_resized(photos, tmp_path):
    packed = pack(photos, tmp_path / "p", shortest=1000)
    assert len(packed) == 6
    for row in range(6):
        assert (packed.pixels(row) == np.asarray(decode(photos.path(row)))).all()
        assert not packed.pixels(row).flags.writeable


def test_the_shorter_side_is_as_stated_and_nothing_is_enlarged(photos, tmp_path):
    packed = pack(photos, tmp_path / "p", shortest=32)
    shapes = [packed.pixels(row).shape[1::-1] for row in range(6)]
    assert shapes == [(41, 32), (32, 32), (20, 300), (291, 32), (5, 4), (43, 32)]
    whole = np.asarray(decode(photos.path(5)).resize((43, 32), Image.Resampling.BICUBIC))
    assert np.abs(packed.pixels(5).astype(int) - whole).max() <= 1


def test_data_sets_look_alike_with_and_without(photos, tmp_path):
    packed = pack(photos, tmp_path / "p", shortest=1000)
    for transform in (train_transform(32, MEAN, STD), eval_transform(32, MEAN, STD)):
        files, cached = ImageDataset(photos, transform), ImageDataset(
            photos, transform, packed=packed
        )  # fmt: skip
        for row in (1, 3, 5):  # PNG: nothing is drafted
            assert cached[row, 4].equal(files[row, 4])
    sizes = ImageDataset(photos, lambda image: torch.tensor(image.size), packed=packed)
    assert sizes[0].tolist() == [90, 70]


@pytest.mark.parametrize("change", ["content", "time", "gone", "ids", "fewer"])
def test_a_stale_pack_is_refused(photos, tmp_path, change):
    pack(photos, tmp_path / "p", shortest=32)
    assert len(PackedImages.open(tmp_path / "p", photos)) == 6
    file, manifest = photos.path(2), photos
    if change == "content":
        stamp = file.stat()
        smooth(21, 300, 1).save(file)
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    elif change == "time":
        os.utime(file, (1, 1))
    elif change == "gone":
        file.unlink()
    elif change == "ids":
        manifest = photos.with_column("id", np.arange(6)[::-1].copy())
    else:
        manifest = photos.select(np.arange(5))
    message = "other ids" if change in ("ids", "fewer") else r"Got 1 that have changed.*: 2.jpg"
    with pytest.raises(FormatError, match=message + r".*Make it again with `crossbatch pack`"):
        PackedImages.open(tmp_path / "p", manifest)


def test_embedded_images_are_known_by_their_content(photos, tmp_path):
    inside = photos.embed()
    pack(inside, tmp_path / "p", shortest=32)
    images = [dict(image) for image in inside.table["image"].to_pylist()]
    images[4]["bytes"] = images[4]["bytes"][:-1] + b"x"
    with pytest.raises(FormatError, match=r"Got 1 that have changed"):
        PackedImages.open(tmp_path / "p", inside.with_column("image", images))


@pytest.mark.parametrize("broken", ["pixels.bin", "index.npy", "meta.json"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_broken_pack_is_refused(photos, tmp_path, broken, how):
    pack(photos, tmp_path / "p", shortest=32)
    file = tmp_path / "p" / broken
    content = file.read_bytes()
    file.unlink()
    if how == "cut":
        file.write_bytes(content[:-7])
    with pytest.raises(FormatError, match=r"a pack of decoded images in .*Make it again"):
        PackedImages.open(tmp_path / "p", photos)


def test_an_image_that_cannot_be_read_leaves_the_old_pack(photos, tmp_path):
    pack(photos, tmp_path / "p", shortest=32)
    before = (tmp_path / "p/pixels.bin").read_bytes()
    photos.path(3).write_bytes(b"text")
    with pytest.raises(CrossbatchError, match=r"in row 3 \(id 3\).*3.png: cannot identify"):
        pack(photos, tmp_path / "p", shortest=16)
    assert (tmp_path / "p/pixels.bin").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []
    with pytest.raises(CrossbatchError, match="`shortest` of at least 1"):
        pack(photos, tmp_path / "p", shortest=0)


KILLED = """
import sys, time
from crossbatch.data import Manifest
from crossbatch.data.pack import pack
def slow(images):
    for image in images:
        print(flush=True)
        time.sleep(0.05)
        yield image
pack(Manifest.read(sys.argv[1]), sys.argv[2], shortest=16, watch=slow)
"""


def test_a_kill_leaves_the_old_pack_whole(photos, tmp_path):
    photos.write(tmp_path / "m.parquet")
    pack(photos, tmp_path / "p", shortest=32)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "m.parquet", tmp_path / "p"],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    packed = PackedImages.open(tmp_path / "p", photos)
    assert packed.shortest == 32
    assert packed.pixels(0).shape == (32, 41, 3)


def test_command(photos, tmp_path, capsys):
    photos.write(tmp_path / "m.parquet")
    assert run("pack", [str(tmp_path / "m.parquet"), "--shortest", "32"]) == 0
    assert "Wrote 6 images, 0 MB: " in capsys.readouterr().out
    assert PackedImages.open(tmp_path / "m.pack", Manifest.read(tmp_path / "m.parquet"))


def test_training_reads_the_pack(tmp_path):
    """The images are PNGs of 32 pixels, so what is read is the same and so is every loss."""
    path = blobs.manifest(tmp_path / "blobs.parquet")
    manifest = Manifest.read(path)
    # 37 = 32 / 0.875 is what validation resizes to; a pack of smaller images is refused.
    for shortest in (36, 37):
        pack(manifest, tmp_path / f"{shortest}", shortest=shortest)

    def losses(**changes):
        options = blobs.options(mode="fine_tune", iterations=3, workers=0, **changes)
        config = parse([str(path), "--out", "unused", *options])[1]
        return [report.loss for report in steps(Trainee(config, Manifest.read(path)))]

    assert losses(cache=tmp_path / "37") == losses()
    with pytest.raises(CrossbatchError, match=r"shorter side of 37 .*Got 36.*--shortest 37"):
        losses(cache=tmp_path / "36")

"""WebVision 1.0 and mini-WebVision; and what two million rows cost."""

import resource
import subprocess
import sys

import pytest

from crossbatch.data.importers import from_webvision
from crossbatch.errors import CrossbatchError, FormatError
from tests.importers.miniature import command, counts, picture, rows, text

SYNSETS = [f"n{1440764 + place:08d} name {place}, a name in 中文" for place in range(60)]
GOOGLE = [
    "google/q0001/2kdN_Nwp0aNAjM.jpg 0",
    "google/q0001/a b, c.jpg 0",
    "google/q0077/x.jpg 49",
    "google/q0078/x.jpg 50",
]
FLICKR = ["flickr/q0001/3168264914.jpg 0", "flickr/q0102/1.jpg 59"]
VALIDATION = ["val000001.jpg 49", "val000002.jpg 50", "val000003.jpg 0"]


def webvision(root, *, google=GOOGLE, flickr=FLICKR, folder="val_images_256", end="\n"):
    text(root / "info/synsets.txt", SYNSETS, end=end)
    text(root / "info/train_filelist_google.txt", google, end=end)
    text(root / "info/train_filelist_flickr.txt", flickr, end=end)
    text(root / "info/val_filelist.txt", VALIDATION, end=end)
    for line in [*google, *flickr, *(f"{folder}/{line}" for line in VALIDATION)]:
        if " " in line and ".." not in line:
            picture(root / line.rpartition(" ")[0])
    return root


def wnid(place):
    return SYNSETS[place].split()[0]


@pytest.mark.parametrize(
    ("folder", "end"), [("val_images_256", "\n"), ("val_images", "\n"), ("val_images_256", "\r\n")]
)
def test_rows(tmp_path, folder, end):
    manifest, problems = from_webvision(webvision(tmp_path, folder=folder, end=end))
    assert rows(manifest, "path", "label", "split", "role", "source", "query") == [
        ("google/q0001/2kdN_Nwp0aNAjM.jpg", wnid(0), "train", "train", "google", "q0001"),
        ("google/q0001/a b, c.jpg", wnid(0), "train", "train", "google", "q0001"),
        ("google/q0077/x.jpg", wnid(49), "train", "train", "google", "q0077"),
        ("google/q0078/x.jpg", wnid(50), "train", "train", "google", "q0078"),
        ("flickr/q0001/3168264914.jpg", wnid(0), "train", "train", "flickr", "q0001"),
        ("flickr/q0102/1.jpg", wnid(59), "train", "train", "flickr", "q0102"),
        (f"{folder}/val000001.jpg", wnid(49), "validation", None, None, None),
        (f"{folder}/val000002.jpg", wnid(50), "validation", None, None, None),
        (f"{folder}/val000003.jpg", wnid(0), "validation", None, None, None),
    ]
    assert problems == ()


def test_mini(tmp_path):
    root = webvision(tmp_path)
    (root / "info/train_filelist_flickr.txt").unlink()
    manifest, _ = from_webvision(root, mini=True)
    assert set(manifest.column("source")) == {"google", None}
    assert manifest.classes == [wnid(0), wnid(49)]
    assert manifest.notes["differs"] == [
        "train: 3 images of 2 classes here, 65,944 images of 50 classes published",
        "validation: 2 images of 2 classes here, 2,500 images of 50 classes published",
    ]


def test_command(tmp_path, capsys):
    manifest = command("webvision", webvision(tmp_path), tmp_path)
    assert counts(manifest) == {"train": (6, 4), "validation": (3, 3)}
    assert "here, 2,439,574 images of 1,000 classes published" in capsys.readouterr().out
    manifest = command("webvision", tmp_path, tmp_path, "--mini")
    assert counts(manifest) == {"train": (3, 2), "validation": (2, 2)}
    assert manifest.notes["data set"] == "mini-WebVision"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("google/q0001/x.jpg", r"a whole number as the class in .*_google.txt:5. Got 'google/q0"),
        ("google/q0001/x.jpg 60", r"`path class`, a class of 60 in .*_google.txt:5"),
        ("google/q0001/x.jpg -1", r"`path class`, a class of 60 in .*_google.txt:5"),
        ("7", r"`path class`, a class of 60 in .*_google.txt:5. Got '7'"),
        ("google/../../x.jpg 3", r"a path below the root in .*_google.txt:5"),
    ],
)
def test_broken_lines(tmp_path, line, message):
    with pytest.raises(FormatError, match=message):
        from_webvision(webvision(tmp_path, google=[*GOOGLE, line]))


def test_missing(tmp_path):
    root = webvision(tmp_path)
    (root / "google/q0078/x.jpg").unlink()
    with pytest.raises(
        CrossbatchError, match=r"the 9 listed.*Got 1 missing, first google/q0078/x"
    ):
        from_webvision(root)
    assert len(from_webvision(root, mini=True).manifest) == 5
    (root / "info/train_filelist_flickr.txt").unlink()
    with pytest.raises(FormatError, match=r"the list .*train_filelist_flickr.txt"):
        from_webvision(root)
    with pytest.raises(FormatError, match=r"info/synsets.txt. Got none; .*holds q0001, q0077"):
        from_webvision(root / "google")


def test_an_image_of_two_classes(tmp_path):
    with pytest.raises(FormatError, match=r"google/q0077/x.jpg to be .*Got label n014408"):
        from_webvision(webvision(tmp_path, google=[*GOOGLE, "google/q0077/x.jpg 1"]))


MANY = """
import resource, sys
from pathlib import Path
from crossbatch.data import validate
from crossbatch.data.importers import from_webvision
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
imported = from_webvision(Path(sys.argv[1]))
assert len(validate(imported.manifest, decode=False).manifest) == 100_003
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_hundred_thousand_rows_cost_little(tmp_path):
    root = webvision(tmp_path, google=[], flickr=[])
    lines = []
    for query in range(100):
        folder = root / f"google/q{query:04d}"
        folder.mkdir(parents=True)
        for place in range(1000):
            (folder / f"{place:012d}.jpg").touch()
            lines.append(f"google/q{query:04d}/{place:012d}.jpg {query % 60}")
    text(root / "info/train_filelist_google.txt", lines)
    run = [sys.executable, "-c", MANY, str(root)]
    started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200_000, "kilobytes: 2 kB a row at most"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started < 20

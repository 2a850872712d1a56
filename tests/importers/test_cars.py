"""Cars-196: annotations of MATLAB, halves by class number."""

import sys

import numpy as np
import pytest
from scipy.io import savemat

from crossbatch.data.importers import from_cars
from crossbatch.errors import CrossbatchError, FormatError
from tests.importers.miniature import command, counts, picture, rows

NAMES = [f"Car {number} Sedan, 2012" for number in range(1, 197)]
NAMES[0], NAMES[98] = "AM General Hummer SUV 2000", "Dodge Dakota Crew Cab 2010"
IMAGES = [("000001.jpg", 1), ("000002.jpg", 98), ("000003.jpg", 98), ("000004.jpg", 99)]


def cars(root, images=IMAGES, names=NAMES, **changed):
    kind = [("relative_im_path", "O"), ("bbox_x1", "O"), ("class", "O"), ("test", "O")]
    annotations = np.zeros((1, len(images)), kind)
    for place, (name, number) in enumerate(images):
        annotations[0, place] = (f"car_ims/{name}", 30, np.uint8(number), place % 2)
        if "/" not in name:
            picture(root / "car_ims" / name, place)
    classes = np.empty((1, len(names)), object)
    classes[0] = names
    held = {"annotations": annotations, "class_names": classes} | changed
    savemat(root / "cars_annos.mat", {name: value for name, value in held.items() if len(value)})
    return root


def test_rows(tmp_path):
    manifest, problems = from_cars(cars(tmp_path))
    assert rows(manifest, "path", "label", "split", "role") == [
        ("car_ims/000001.jpg", "AM General Hummer SUV 2000", "train", "train"),
        ("car_ims/000002.jpg", "Car 98 Sedan, 2012", "train", "train"),
        ("car_ims/000003.jpg", "Car 98 Sedan, 2012", "train", "train"),
        ("car_ims/000004.jpg", "Dodge Dakota Crew Cab 2010", "test", None),
    ]
    assert problems == ()


def test_a_single_image(tmp_path):
    assert len(from_cars(cars(tmp_path, IMAGES[:1], NAMES[:1])).manifest) == 1


def test_command(tmp_path, capsys):
    manifest = command("cars", cars(tmp_path), tmp_path)
    assert counts(manifest) == {"train": (3, 2), "test": (1, 1)}
    assert manifest.notes["differs"] == [
        "train: 3 images of 2 classes here, 8,054 images of 98 classes published",
        "test: 1 images of 1 classes here, 8,131 images of 98 classes published",
    ]
    assert "warning: train: 3 images" in capsys.readouterr().out


def test_without_scipy(tmp_path, monkeypatch):
    cars(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(CrossbatchError, match=r"scipy, to read .*annos.mat.* pip install scipy\."):
        from_cars(tmp_path)


def test_scipy_is_loaded_for_cars_only():
    import subprocess

    code = (
        "import sys, crossbatch.cli.manifest, crossbatch.data.importers; "
        "sys.exit('scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [*IMAGES, ("5.jpg", 197)]}, r"a class of 1 to 196 in annotation 5 .*Got 197"),
        ({"images": [("../../x.jpg", 1)]}, r"below the root in annotation 1 .*Got 'car_ims/\.\./"),
        ({"annotations": ()}, r"`class_names` and `annotations` with .*Got 'annotations'"),
        ({"annotations": np.ones((1, 2))}, r"`relative_im_path` and `class` in .*cars_annos.mat"),
    ],
)
def test_broken_annotations(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        from_cars(cars(tmp_path, **change))


def test_no_annotations(tmp_path):
    with pytest.raises(FormatError, match=r"cars_annos.mat. Got none; .* holds nothing"):
        from_cars(tmp_path)
    (tmp_path / "cars_annos.mat").write_text("no MATLAB")
    with pytest.raises(FormatError, match=r"a file of MATLAB 5 in .*cars_annos.mat"):
        from_cars(tmp_path)

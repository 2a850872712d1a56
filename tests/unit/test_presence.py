"""Files looked for by folder, against asking for each."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from crossbatch.data._presence import look
from crossbatch.errors import CrossbatchError


def scattered(root, rng):
    """Paths in random folders and random order, some without a file."""
    paths = []
    for i in range(400):
        path = f"{'abcdefg'[rng.integers(7)]}/{rng.integers(3)}/{i}.jpg" if i % 9 else f"{i}.jpg"
        if rng.random() < 0.7:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        paths.append(path)
    (root / "folder.jpg").mkdir()
    (root / "dangling.jpg").symlink_to(root / "nowhere")
    (root / "linked.jpg").symlink_to(root / "1.jpg")
    (root / "1.jpg").touch()
    return [*paths, "folder.jpg", "dangling.jpg", "linked.jpg", "none/x.jpg", "1.jpg/x.jpg"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_the_same_as_asking_for_each(tmp_path, pieces):
    paths = scattered(tmp_path, np.random.default_rng(0))
    parts = np.array_split(np.array(paths, dtype=object), pieces)
    presence = look(tmp_path, pa.chunked_array([pa.array(part, pa.string()) for part in parts]))
    assert presence.missing.tolist() == [not (tmp_path / path).is_file() for path in paths]
    assert 0 < presence.missing.sum() < len(paths)
    assert presence.links == []


def test_absolute_paths_and_no_paths(tmp_path):
    (tmp_path / "x").touch()
    paths = pa.chunked_array([[str(tmp_path / "x"), str(tmp_path / "y")]])
    assert look(Path("/nowhere"), paths).missing.tolist() == [False, True]
    assert look(tmp_path, pa.chunked_array([], pa.string())).missing.shape == (0,)


def test_every_folder_is_listed_once(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    listed, scandir = [], os.scandir

    def counting(folder):
        listed.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counting)
    look(tmp_path, pa.chunked_array([[f"{'ab'[i % 2]}/{i}" for i in range(100)]]))
    assert listed == [tmp_path / "a", tmp_path / "b"]


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CrossbatchError, match=r"to list the folder .*a. Got .*denied.* Allow"):
        look(tmp_path, pa.chunked_array([["a/1"]]))

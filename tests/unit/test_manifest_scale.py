"""What makes millions of rows cheap, against the slow way of saying the same."""

import hashlib
import json
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest

from crossbatch.data import Manifest, manifest, validation

ROWS = 400


@pytest.fixture
def drawn():
    """A manifest in which everything occurs: splits, roles, missing paths, paths that repeat."""
    g = np.random.default_rng(3)
    paths = [f"{g.integers(300)}, é.jpg" if g.random() < 0.9 else None for _ in range(ROWS)]
    table = {
        "id": g.permutation(ROWS) * 7,
        "path": paths,
        "image": [{"bytes": b"x" * (i % 5), "path": None} if p is None or not i % 7 else None
                  for i, p in enumerate(paths)],
        "label": [f"{g.integers(60)}" for _ in range(ROWS)],
        "split": g.choice(["train", "validation", "test"], ROWS),
        "role": g.choice(np.array(["query", "gallery", None], object), ROWS),
        "note": [None if i % 3 else f'"{i}" ' for i in range(ROWS)],
    }  # fmt: skip
    return Manifest(pa.table(table))


def test_repeated_paths(drawn, monkeypatch):
    monkeypatch.setattr(validation, "_PIECE", 7)
    counts = Counter(p for p in drawn.column("path") if p is not None)
    wanted = {name: count for name, count in counts.items() if count > 1}
    assert validation._twice(drawn.table["path"]) == wanted
    monkeypatch.setattr(validation, "hash", len, raising=False)  # paths of one hash
    assert validation._twice(drawn.table["path"]) == wanted
    assert validation._twice(pa.chunked_array([pa.array(["a", None, None])])) == {}


def test_queries_without_a_match(drawn):
    splits, roles = drawn.column("split"), drawn.column("role")
    gallery = defaultdict(int)
    for split, label, role in zip(splits, drawn.labels, roles, strict=True):
        gallery[split, label] += role in ("gallery", None)
    wanted = [
        row
        for row, (split, role) in enumerate(zip(splits, roles, strict=True))
        if split != "train"
        and role in ("query", None)
        and gallery[split, drawn.labels[row]] <= (role is None)
    ]
    assert 5 < len(wanted) < ROWS / 2
    assert validation._unmatched(drawn).tolist() == wanted


def test_digests_are_those_of_the_whole_columns(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_PIECE", 7)
    first = next(p for row, p in enumerate(drawn.column("path")) if p and row % 7)
    (tmp_path / first).write_bytes(b"abc")
    here = Manifest(drawn.table, tmp_path)
    images = hashlib.sha256()
    for row, (i, path) in enumerate(zip(here.ids, here.column("path"), strict=True)):
        file = here.path(row)
        if file is None:
            data = hashlib.sha256(here.image_bytes(row)).hexdigest()
        else:
            data = file.stat().st_size if file.is_file() else None
        images.update(json.dumps([int(i), path, data]).encode())
    assert here.image_digest() == images.hexdigest()
    content = hashlib.sha256(images.hexdigest().encode())
    for name in ("label", "split", "role", "note"):
        content.update(json.dumps([name, here.table[name].to_pylist()]).encode())
    assert here.digest() == content.hexdigest()


def test_columns_are_what_arrow_says(drawn):
    for name in drawn.table.column_names:
        if name != "image":
            assert drawn.column(name).tolist() == drawn.table[name].to_pylist()
    words = drawn.column("label")
    assert len({id(word) for word in words}) == len(set(words)), "equal texts are one object"


PEAK = """
import re, sys
from pathlib import Path
from crossbatch.data import Manifest, validate
def peak(): return int(re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[0])
validate(Manifest.read(sys.argv[2]), decode=False)
before = peak()
manifest = Manifest.read(sys.argv[1])
assert not validate(manifest, decode=False).problems
print((peak() - before) * 1024 / manifest.table.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_peak_is_a_small_multiple_of_the_columns(tmp_path):
    rows = 400_000
    for name, count in (("many", rows), ("few", 4)):
        table = {
            "path": [f"google/q{row:05}/{row:012}.jpg" for row in range(count)],
            "image": pa.StructArray.from_arrays(
                [pa.repeat(b"", count), pa.nulls(count, pa.string())], names=["bytes", "path"]
            ),
            "label": [f"n{row // 2 % 500:08}" for row in range(count)],
        }
        Manifest(pa.table(table)).write(tmp_path / f"{name}.parquet")
    paths = [tmp_path / "many.parquet", tmp_path / "few.parquet"]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 4

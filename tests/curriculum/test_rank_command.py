"""``crossbatch rank``: a manifest with columns, a page that stands alone, a list to act on."""

import csv
import re

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import torch

import crossbatch as xb
from crossbatch.cli import main as cli
from crossbatch.curriculum import Ranking
from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.features import extract, read_features
from crossbatch.report.ranking import write_ranking
from tests.unit.run_folders import embeddings, write_manifest

IDS = np.array([7, 3, 11, 5])
X = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def work(tmp_path):
    """A manifest of 8 classes of 6 images, one of them under a wrong label, and features."""
    write_manifest(tmp_path / "m.parquet", images=6)
    manifest = Manifest.read(tmp_path / "m.parquet")
    x = embeddings(manifest, 0, 0.3).numpy()
    x[5] = x[20]
    np.save(tmp_path / "x.npy", x)
    return tmp_path


def rank(work, *arguments):
    files = ("--out", str(work / "r.parquet"), "--split", "test")
    return cli.run("rank", [str(work / "m.parquet"), *map(str, arguments), *files])


def test_columns_page_and_suspects(work, capsys):
    assert rank(work, work / "x.npy", "--suspects", work / "s.csv", "--subsets", "2") == 0
    assert "48 images of 8 classes" in capsys.readouterr().out
    before, after = Manifest.read(work / "m.parquet"), Manifest.read(work / "r.parquet")
    x = np.load(work / "x.npy")
    expected = xb.DensityRanker(n_subsets=2).fit(x, before.labels)
    for name in ("density", "delta", "subset", "rank"):
        assert np.array_equal(after.column(name), getattr(expected, f"{name}_")), name
    assert after.table.schema.field("subset").type == pa.int64()
    assert after.notes["ranking"]["ranker"] == "DensityRanker(n_subsets=2)"
    with (work / "s.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [before.name(row) for row in range(len(before))]
    assert {row["path"] for row in rows} <= set(names)
    wrong = [row for row in rows if row["nearest_other_class"] == before.labels[20]]
    assert any(row["label"] == before.labels[5] and float(row["suspicion"]) > 0.5 for row in wrong)


def test_the_page_stands_alone_and_is_lazy(work):
    rank(work, work / "x.npy")
    page = (work / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in page
    assert page.count("<template>") == page.count("<details data") == 8
    assert "&lt;class 3&gt;" in page
    assert "<class 3>" not in page
    pictures = page.count("data:image/webp")
    assert pictures == 8 * 6
    assert "another class is denser" in page


def test_contrast_and_equal_subsets(work):
    rank(work, work / "x.npy", "--contrast", "--by", "quantile")
    after = Manifest.read(work / "r.parquet")
    assert np.bincount(after.column("subset")).tolist() == [16, 16, 16]
    assert after.column("contrast").min() < 0.5
    assert "Ranked by contrast" in (work / "r.html").read_text(encoding="utf-8")


def test_copies_are_told_and_shown_once(work, capsys):
    x = np.load(work / "x.npy")
    assert rank(work, work / "x.npy") == 0
    assert "Copies" not in capsys.readouterr().out
    x[6:10] = x[11]  # of the second class all but one
    np.save(work / "x.npy", x)
    assert rank(work, work / "x.npy") == 0
    out = capsys.readouterr().out
    labels = Manifest.read(work / "m.parquet").labels
    assert f"`delta` 0): 4, above all in `{labels[6]}`, 4 of 6." in out
    page = (work / "r.html").read_text(encoding="utf-8")
    assert "4 are copies (equal features, δ = 0)" in page
    assert page.count("data:image/webp") == 48 - 4
    after = Manifest.read(work / "r.parquet")
    clean = np.count_nonzero(after.column("subset")[[7, 8, 9, 11]] == 0)
    assert f"Subset 0 holds {clean} of them" in out
    assert np.flatnonzero(after.column("delta") == 0).tolist() == [7, 8, 9, 11]


def test_a_small_clean_subset_is_told(tmp_path, capsys):
    write_manifest(tmp_path / "m.parquet", images=30)
    x = np.random.default_rng(0).standard_normal((240, 8))
    x[np.arange(240) % 30 < 5] *= 0.02  # few of each class lie together
    np.save(tmp_path / "x.npy", x)
    for by, told in (("density", True), ("quantile", False)):
        assert rank(tmp_path, tmp_path / "x.npy", "--by", by, "--quantile", "0.06") == 0
        assert ("--by quantile makes subsets of one size" in capsys.readouterr().out) == told


def test_images_of_other_splits_have_no_density(work):
    manifest = Manifest.read(work / "m.parquet")
    split = np.where(np.arange(48) < 36, "test", "train").astype(object)
    manifest.with_column("split", split).with_column("role", [None] * 48).write(work / "m.parquet")
    rank(work, work / "x.npy")
    table = pq.read_table(work / "r.parquet")
    assert table["density"].null_count == table["subset"].null_count == 12


def test_a_picture_that_cannot_be_read_is_left_blank(work):
    manifest = Manifest.read(work / "m.parquet")
    bad = pa.array([{"bytes": b"none", "path": "x.png"}] * 48)
    broken = manifest.with_column("image", bad)
    ranking = Ranking.of(xb.DensityRanker(), np.load(work / "x.npy"), manifest.labels)
    write_ranking(ranking, broken, work / "p.html")
    assert (work / "p.html").read_text(encoding="utf-8").count('class="none"') == 48


def test_a_large_class_is_drawn_in_part(work, monkeypatch):
    monkeypatch.setattr("crossbatch.report.ranking._POINTS", 4)
    manifest = Manifest.read(work / "m.parquet")
    x = np.load(work / "x.npy")
    ranking = Ranking.of(xb.DensityRanker(), x, manifest.labels)
    write_ranking(ranking, manifest, work / "p.html")
    assert "of 6 images drawn" in (work / "p.html").read_text(encoding="utf-8")


def test_bad_input_is_said(work):
    with pytest.raises(CrossbatchError, match=r"images in split `train`.*The manifest has: test"):
        cli.run("rank", [str(work / "m.parquet"), str(work / "x.npy"), "--out", str(work / "r")])
    np.save(work / "y.npy", np.zeros((3, 2)))
    with pytest.raises(CrossbatchError, match=r"48 rows of features.*\(3, 2\)"):
        rank(work, work / "y.npy")
    with pytest.raises(FormatError, match=r"nothing there"):
        rank(work, work / "nothing")


def test_features_of_every_kind_are_found_by_id(tmp_path):
    extract(
        lambda images: images,
        [(IDS, torch.as_tensor(X))],
        tmp_path / "t",
        rows=4,
        width=3,
        digest="d",
    )
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 3)
    table = pa.table({"id": IDS, "features": lists})
    feather.write_feather(table, tmp_path / "f.feather", compression="uncompressed")
    ragged = pa.table({"id": IDS, "features": X.tolist()})
    feather.write_feather(ragged, tmp_path / "l.arrow")
    pq.write_table(table, tmp_path / "p.parquet")
    for name in ("t", "f.feather", "l.arrow", "p.parquet"):
        path = tmp_path / name
        assert np.array_equal(read_features(path, IDS), X), name
        assert np.array_equal(read_features(path, IDS[[2, 0]]), X[[2, 0]]), name
        with pytest.raises(CrossbatchError, match=r"the first: \[4\]"):
            read_features(path, np.array([7, 4]))
    assert isinstance(read_features(tmp_path / "t", IDS[1:3]), np.memmap)
    assert not read_features(tmp_path / "f.feather", IDS).flags.owndata


def test_features_that_are_none(tmp_path):
    feather.write_feather(
        pa.table({"id": [1, 2], "features": [[1.0], [1.0, 2, 3]]}), tmp_path / "a.arrow"
    )
    with pytest.raises(FormatError, match=r"lengths from 1 to 3"):
        read_features(tmp_path / "a.arrow", np.array([1]))
    feather.write_feather(pa.table({"id": [1, 2]}), tmp_path / "b.arrow")
    (tmp_path / "c.npy").write_bytes(b"no")
    (tmp_path / "d.txt").write_bytes(b"no")
    for name in ("b.arrow", "c.npy", "d.txt"):
        with pytest.raises(FormatError, match=r"features in .*Got"):
            read_features(tmp_path / name, np.array([1]))

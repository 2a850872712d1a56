"""Embeddings with their neighbours as a file, and the map that may open it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossbatch.cli import explore, main
from crossbatch.curriculum import DensityRanker
from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError
from crossbatch.studies.neighbourhoods import write_neighbourhoods
from tests import galleries
from tests.unit.run_folders import write_manifest, write_run


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Images of which two are one another's copies, with what a ranking leaves."""
    folder = tmp_path_factory.mktemp("images")
    plain = galleries.photos(folder / "photos", many=9)
    table = plain.table.append_column("density", pa.array([i / 9 for i in range(9)]))
    table = table.append_column("subset", pa.array(range(9), pa.int64()))
    names = table["path"].to_pylist()
    names[7] = names[1]
    place = table.schema.get_field_index("path")
    table = table.set_column(place, "path", pa.array(names))
    place = table.schema.get_field_index("id")
    table = table.set_column(place, "id", pa.array([i * 10 + 5 for i in range(9)]))
    return Manifest(table, plain.root)


def naive(vectors, k):
    """One at a time, by sorting everything."""
    found = []
    for own, vector in enumerate(vectors):
        cosines = [float(vector @ other) for other in vectors]
        others = sorted((j for j in range(len(vectors)) if j != own), key=lambda j: -cosines[j])
        found.append([cosines[j] for j in others[:k]])
    return np.array(found)


@pytest.mark.parametrize("k", [1, 4, 8, 50])
def test_neighbours_are_those_of_sorting_everything(manifest, tmp_path, k):
    out = tmp_path / "x.parquet"
    assert write_neighbourhoods(galleries.encoder(), manifest, out, neighbours=k) == []
    rows = pq.read_table(out).to_pylist()
    vectors = np.array([row["embedding"] for row in rows])
    similar = np.array([row["neighbour_similarities"] for row in rows])
    np.testing.assert_allclose(similar, naive(vectors, k), atol=1e-5)
    ids = [row["id"] for row in rows]
    assert ids == [5, 15, 25, 35, 45, 55, 65, 75, 85]
    for own, row in enumerate(rows):
        assert row["id"] not in row["neighbour_ids"]
        assert len(set(row["neighbour_ids"])) == min(k, 8)
        atlas = row["atlas_neighbors"]
        assert [ids[place] for place in atlas["ids"]] == row["neighbour_ids"]
        np.testing.assert_allclose(atlas["distances"], 1 - similar[own], atol=1e-6)
        cosines = [vectors[own] @ vectors[ids.index(i)] for i in row["neighbour_ids"]]
        np.testing.assert_allclose(cosines, similar[own], atol=1e-5)
    assert rows[1]["neighbour_ids"][0] == 75
    assert rows[7]["neighbour_ids"][0] == 15
    assert (rows[2]["density"], rows[2]["subset"], rows[2]["label"]) == (2 / 9, 2, "cat")


def test_what_no_ranking_says_is_the_density_of_these_embeddings(manifest, tmp_path):
    plain = Manifest(manifest.table.drop_columns(["density", "subset"]), manifest.root)
    write_neighbourhoods(galleries.encoder(), plain, tmp_path / "x.parquet")
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    labels = [row["label"] for row in rows]
    ranker = DensityRanker().fit(np.array([row["embedding"] for row in rows]), labels)
    assert [row["density"] for row in rows] == ranker.density_.tolist()
    assert [row["subset"] for row in rows] == ranker.subset_.tolist()
    assert len({row["density"] for row in rows}) > 2


def test_one_image_has_no_neighbours(manifest, tmp_path):
    write_neighbourhoods(galleries.encoder(), manifest.select([0]), tmp_path / "x.parquet")
    (row,) = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert (row["neighbour_ids"], row["atlas_neighbors"]["ids"]) == ([], [])


def test_more_copies_than_neighbours(manifest, tmp_path):
    table = manifest.table.drop_columns(["id"]).take(pa.array([1] * 6))
    same = Manifest(table, manifest.root)
    write_neighbourhoods(galleries.encoder(), same, tmp_path / "x.parquet", neighbours=2)
    for row in pq.read_table(tmp_path / "x.parquet").to_pylist():
        assert len({row["id"], *row["neighbour_ids"]}) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.csv", {}, r"ending in \.parquet"),
        ("x.parquet", {"neighbours": 0}, r"`neighbours` ≥ 1\. Got 0"),
    ],
)
def test_what_cannot_be_written(manifest, tmp_path, name, options, message):
    with pytest.raises(CrossbatchError, match=message):
        write_neighbourhoods(galleries.encoder(), manifest, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    path = write_manifest(folder / "m.parquet", classes=3, images=2)
    run = write_run(folder / "run", path, evaluated=False)
    galleries.encoder().save(run / "encoder")
    return run


@pytest.fixture
def atlas(tmp_path, monkeypatch):
    """A program of the map's name that notes how it was called."""

    def install(status=0):
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "embedding-atlas"
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/called"\nexit {status}\n'
        )
        program.chmod(0o755)
        return tmp_path / "called"

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return install


def test_without_the_map_the_file_is_written_and_the_way_is_said(run, atlas, tmp_path, capsys):
    out = tmp_path / "new" / "x.parquet"
    assert main.run("explore", [str(run), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"Wrote 6 embeddings to {out}" in said
    assert "pip install 'crossbatch[explore]'" in said
    assert pq.read_table(out).num_rows == 6


def test_the_map_is_opened(run, atlas, tmp_path):
    called = atlas()
    assert main.run("explore", [str(run), "--no-open"]) == 0
    assert not called.exists()
    assert main.run("explore", [str(run), "--split", "test", "--neighbours", "2"]) == 0
    out = str(run / "explore.parquet")
    wanted = [out, "--vector", "embedding", "--neighbors", "atlas_neighbors"]
    assert called.read_text().splitlines() == wanted
    assert set(wanted[2::2]) <= set(pq.read_schema(out).names)
    assert explore.ATLAS == "embedding-atlas"


def test_a_map_that_fails_is_told(run, atlas):
    atlas(status=3)
    with pytest.raises(CrossbatchError, match=r"exit status 3\. The file stands"):
        main.run("explore", [str(run)])


def test_a_split_that_is_not_there(run, atlas):
    with pytest.raises(CrossbatchError, match=r"the split 'train'\. Got test"):
        main.run("explore", [str(run), "--split", "train"])

"""The Parquet file as other tools meet it. A change here is a new format version."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossbatch.data import Manifest
from crossbatch.data.manifest import FORMAT

FILE = {
    "id": pa.int64(),
    "path": pa.string(),
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "label": pa.string(),
    "split": pa.string(),
    "role": pa.string(),
    "source": pa.string(),
    "camera": pa.string(),
    "subset": pa.int64(),
    "weight": pa.float64(),
}


@pytest.fixture
def written(tmp_path):
    """A manifest with every column and one more, written; its path."""
    columns = {
        "caption": ["x"],
        "weight": [1],
        "subset": pa.array([1], pa.int8()),
        "camera": [4],
        "source": ["web"],
        "role": ["query"],
        "split": ["test"],
        "label": pa.array([3], pa.uint8()),
        "image": [{"path": "0.png", "bytes": b"png"}],
        "path": ["a/0.png"],
        "id": pa.array([5], pa.int32()),
    }
    path = tmp_path / "m.parquet"
    Manifest(pa.table(columns), tmp_path / "photos", {"licence": "CC-BY-4.0"}).write(path)
    return path


def test_columns_and_their_types(written):
    schema = pq.read_schema(written)
    assert dict(zip(schema.names, schema.types, strict=True)) == FILE | {"caption": pa.string()}
    assert schema.names == [*FILE, "caption"]


def test_metadata(written):
    assert FORMAT == 1
    assert json.loads(pq.read_schema(written).metadata[b"crossbatch"]) == {
        "format": 1,
        "root": "photos",
        "notes": {"licence": "CC-BY-4.0"},
    }


def test_values(written):
    assert pq.read_table(written).to_pylist() == [
        {
            "id": 5,
            "path": "a/0.png",
            "image": {"bytes": b"png", "path": "0.png"},
            "label": "3",
            "split": "test",
            "role": "query",
            "source": "web",
            "camera": "4",
            "subset": 1,
            "weight": 1.0,
            "caption": "x",
        }
    ]


def test_only_what_is_known_is_written(tmp_path):
    Manifest(pa.table({"path": ["a"], "label": ["x"]})).write(tmp_path / "m.parquet")
    names = pq.read_schema(tmp_path / "m.parquet").names
    assert names == ["id", "path", "label", "split", "role"]


def test_the_digest_is_frozen(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    table = pa.table({"path": ["a", "b"], "label": ["x", "y"], "weight": [1.0, 0.1]})
    assert Manifest(table, tmp_path).digest().startswith("9446be70780be471")

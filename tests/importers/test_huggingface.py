"""Hugging Face data sets: Parquet and Arrow files, class names in metadata, the hub by proxy."""

import io
import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from crossbatch.data.importers import from_huggingface
from crossbatch.errors import CrossbatchError, FormatError
from tests.importers.miniature import command, counts, picture, rows

NAMES = ["apple pie", "寿司", "waffles, plain"]


def content(number):
    held = io.BytesIO()
    Image.new("RGB", (2, 2), (number, 9, 9)).save(held, "PNG")
    return held.getvalue()


def table(labels, *, names=NAMES, chunks=1, **columns):
    images = [{"bytes": content(n), "path": f"{n}.png"} for n in range(len(labels))]
    held = pa.table({"image": images, "label": labels, "caption": ["x"] * len(labels)} | columns)
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        held = held.replace_schema_metadata(about)
    size = -(-len(labels) // chunks)
    return pa.concat_tables([held.slice(i, size) for i in range(0, len(labels), size)])


def parquet(path, held, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(held, path, **options)


def arrow(path, held, *, stream=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = pa.ipc.new_stream if stream else pa.ipc.new_file
    with writer(str(path), held.schema) as file:
        file.write_table(held)


def test_parquet_of_the_hub(tmp_path):
    parquet(tmp_path / "data/train-00000-of-00002.parquet", table([0, 1]), row_group_size=1)
    parquet(tmp_path / "data/train-00001-of-00002.parquet", table([2, -1]))
    parquet(tmp_path / "data/validation-00000-of-00001.parquet", table([1]))
    parquet(tmp_path / "default/test/0000.parquet", table([0, 0, 0], chunks=2))
    manifest, problems = from_huggingface(str(tmp_path))
    assert rows(manifest, "path", "label", "split", "role") == [
        (None, "apple pie", "train", "train"),
        (None, "寿司", "train", "train"),
        (None, "waffles, plain", "train", "train"),
        (None, "", "train", "train"),
        (None, "寿司", "validation", None),
        (None, "apple pie", "test", None),
        (None, "apple pie", "test", None),
        (None, "apple pie", "test", None),
    ]
    assert [manifest.image_bytes(row) for row in (1, 5, 7)] == [content(1), content(0), content(2)]
    assert manifest.name(1) == "1.png"
    assert "caption" not in manifest.table.column_names
    assert problems == ()


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_as_saved_to_disk(tmp_path, stream):
    info = {"features": {"label": {"names": NAMES, "_type": "ClassLabel"}}}
    for split, state in (("train", "train"), ("held_out", "validation")):
        held = table([0, 1], names=None)
        arrow(tmp_path / split / "data-00000-of-00001.arrow", held, stream=stream)
        (tmp_path / split / "dataset_info.json").write_text(json.dumps(info))
        (tmp_path / split / "state.json").write_text(json.dumps({"_split": state}))
    manifest = from_huggingface(str(tmp_path)).manifest
    assert sorted(rows(manifest, "label", "split")) == [
        ("apple pie", "train"),
        ("apple pie", "validation"),
        ("寿司", "train"),
        ("寿司", "validation"),
    ]
    assert [manifest.image_bytes(row) for row in range(4)] == [content(0), content(1)] * 2


def test_paths_instead_of_bytes_and_texts_or_bare_numbers_as_labels(tmp_path):
    picture(tmp_path / "images/a.jpg")
    images = [{"bytes": None, "path": "images/a.jpg"}, {"bytes": content(3), "path": None}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    held = {"pixels": pa.array(images, kind), "breed": ["cat, tabby", None], "n": [4, 5]}
    parquet(tmp_path / "all.parquet", pa.table(held))
    source = str(tmp_path / "all.parquet")
    manifest = from_huggingface(source, image="pixels", label="breed").manifest
    assert rows(manifest, "path", "label") == [("images/a.jpg", "cat, tabby"), (None, "")]
    assert manifest.path(0).is_file()
    assert manifest.image_bytes(1) == content(3)
    manifest = from_huggingface(source, image="pixels", label="n").manifest
    assert manifest.labels.tolist() == ["4", "5"]


def test_command(tmp_path, capsys):
    parquet(tmp_path / "hf/train.parquet", table([0, 0, 1, 1, 2]))
    parquet(tmp_path / "hf/test.parquet", table([0, -1]))
    manifest = command("huggingface", tmp_path / "hf", tmp_path)
    assert counts(manifest) == {"train": (5, 3), "test": (1, 1)}
    assert "empty label" in capsys.readouterr().out
    parquet(tmp_path / "other/x.parquet", table(["a", "b"], names=None))
    options = ("--image", "image", "--label", "caption")
    assert command("huggingface", tmp_path / "other", tmp_path, *options).classes == ["x"]


@pytest.mark.parametrize(
    ("held", "options", "message"),
    [
        (
            table([0]),
            {"label": "labels"},
            r"a column `labels` in .*x.parquet. Got none. Did you mean `label`.*--label",
        ),
        (table([0]), {"image": "img"}, r"a column `img` in .*Name it with --image"),
        (table([0]), {"image": "caption"}, r"`caption` in .* to hold structs .*Got string"),
        (table([9]), {}, r"labels of 3 classes in .*x.parquet. Got 9"),
        (table([0.5], names=None), {}, r"text or integers as labels in .*Got double. Name the"),
    ],
)
def test_columns_that_are_none(tmp_path, held, options, message):
    parquet(tmp_path / "x.parquet", held)
    with pytest.raises(FormatError, match=message):
        from_huggingface(str(tmp_path / "x.parquet"), **options)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FormatError, match=r"files .parquet or .arrow at .*Got none. Download"):
        from_huggingface(str(tmp_path))
    (tmp_path / "x.parquet").write_text("no Parquet")
    with pytest.raises(FormatError, match=r"a file of images at .*x.parquet.*Get the file anew"):
        from_huggingface(str(tmp_path))
    (tmp_path / "x.parquet").rename(tmp_path / "x.arrow")
    with pytest.raises(FormatError, match=r"a file of images at .*x.arrow"):
        from_huggingface(str(tmp_path))


def test_a_name_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        CrossbatchError, match=r"files at owner/birds, or the library.*pip install"
    ):
        from_huggingface("owner/birds")


class Part:
    """What importing asks of a `datasets.Dataset`."""

    def __init__(self, held):
        self.held, self.column_names = held, held.column_names
        self.features = {"label": SimpleNamespace(names=NAMES), "image": None}
        self.decoding = True

    def cast_column(self, name, kind):
        assert name == "image"
        self.decoding = kind["decode"]
        return self

    def with_format(self, name):
        assert name == "arrow"
        assert not self.decoding
        return self

    def __getitem__(self, rows):
        return self.held


def test_a_name_with_the_library(monkeypatch):
    parts = {"train": Part(table([0, 2])), "validation": Part(table([1]))}
    stub = SimpleNamespace(load_dataset=lambda name: parts, Image=dict)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    manifest = from_huggingface("owner/birds").manifest
    assert rows(manifest, "label", "split") == [
        ("apple pie", "train"),
        ("waffles, plain", "train"),
        ("寿司", "validation"),
    ]
    assert manifest.notes == {"data set": "owner/birds"}
    parts["unsupervised"] = Part(table([0]))
    with pytest.raises(FormatError, match=r"splits train, validation, test.*Got unsupervised"):
        from_huggingface("owner/birds")

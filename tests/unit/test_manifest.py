"""Manifests: what is read, what is refused, what stays the same through a file."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossbatch.data import Manifest, hold_out
from crossbatch.errors import CrossbatchError, FormatError


def table(**columns):
    """Four rows, with columns replaced or added; None leaves one out."""
    plain = {"path": ["a/0", "a/1", "b/0", "c/0"], "label": ["a", "a", "b", "c"]}
    kept = {name: values for name, values in (plain | columns).items() if values is not None}
    return pa.table(kept)


def images(*contents):
    return pa.array([{"bytes": content, "path": "x.png"} for content in contents])


def test_what_stands_where_nothing_was_said():
    manifest = Manifest(table(split=["train", None, "validation", "test"]))
    assert manifest.ids.tolist() == [0, 1, 2, 3]
    assert manifest.ids.dtype == np.int64
    assert manifest.column("split").tolist() == ["train", "train", "validation", "test"]
    assert manifest.column("role").tolist() == ["train", "train", None, None]
    assert manifest.notes == {}


def test_classes_and_codes_are_sorted():
    manifest = Manifest(table(label=["10", "9", "10", "a"]))
    assert manifest.classes == ["10", "9", "a"]
    assert manifest.codes.tolist() == [0, 1, 0, 2]
    assert manifest.codes.dtype == np.int64
    assert manifest.labels.tolist() == ["10", "9", "10", "a"]
    assert [manifest.classes[code] for code in manifest.codes] == manifest.labels.tolist()


def test_integer_labels_are_read_as_their_decimal_text():
    manifest = Manifest(table(label=pa.array([-1, 0, 7, 0], pa.int16()), camera=[1, 2, 3, 4]))
    assert manifest.labels.tolist() == ["-1", "0", "7", "0"]
    assert manifest.column("camera").tolist() == ["1", "2", "3", "4"]


def test_dictionaries_large_text_and_missing_labels_are_read():
    manifest = Manifest(table(label=pa.array(["x", None, "x", "y"]).dictionary_encode()))
    assert manifest.labels.tolist() == ["x", "", "x", "y"]
    manifest = Manifest(table(label=pa.array(["x", "y", "x", "y"], pa.large_string())))
    assert manifest.table["label"].type == pa.string()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": None}, "a column `label`. Got columns path. Name one of them `label`"),
        ({"path": None}, "a column `path` or `image`. Got columns label"),
        (
            {"label": [0.0, 1.0, 2.0, 3.0]},
            r"column `label` to hold text \(or integers.*Got double. Convert the column",
        ),
        ({"label": [True, False, True, True]}, "column `label` to hold text.*Got bool"),
        ({"id": ["0", "1", "2", "3"]}, "column `id` to hold 64-bit integers. Got string"),
        ({"id": pa.array([0, 1, 2, 2**64 - 1], pa.uint64())}, "`id` to hold 64-bit integers"),
        ({"subset": [0.5, 1, 2, 3]}, "column `subset` to hold 64-bit integers. Got double"),
        ({"weight": ["1", "1", "1", "1"]}, "column `weight` to hold numbers. Got string"),
        ({"image": [b"a", b"b", b"c", b"d"]}, "`image` to hold structs of `bytes` and `path`"),
        ({"image": [{"path": "x"}] * 4}, "`image` to hold structs of `bytes` and `path`"),
        ({"id": [4, 4, 5, 6]}, "every `id` once. Got more than one row with id 4. Number"),
        ({"id": [4, None, None, 6]}, "an `id` in every row. Got 2 without. Fill"),
        ({"split": ["train", "tset", "test", "test"]}, "`split`.*'tset'. Did you mean `test`"),
        ({"role": ["train", "query", "galery", None]}, "'galery'. Did you mean `gallery`"),
        ({"path": ["a", None, "b", None]}, "`image` bytes in every row. Got neither in 2 rows, f"),
    ],
)
def test_tables_that_are_no_manifest(columns, message):
    with pytest.raises(FormatError, match=message):
        Manifest(table(**columns))


def test_a_row_may_have_bytes_or_a_path():
    contents = pa.array([None, {"bytes": b"1", "path": None}, None, {"bytes": None, "path": "d"}])
    manifest = Manifest(table(path=["a", None, "c", "d"], image=contents))
    assert [manifest.name(row) for row in range(4)] == ["a", "embedded image, id 1", "c", "d"]
    assert [manifest.path(row) is None for row in range(4)] == [False, True, False, False]
    assert manifest.image_bytes(1) == b"1"


def test_bytes_without_a_name_are_read():
    contents = pa.array([{"bytes": b"1"}, {"bytes": b"2"}, None, {"bytes": b"4"}])
    manifest = Manifest(table(image=contents))
    assert manifest.image_bytes(3) == b"4"
    assert manifest.path(2) is not None


def test_a_file_keeps_everything(tmp_path):
    extra = {"weight": [1, 0.5, None, 0], "subset": [1, 2, 3, None], "caption": list("wxyz")}
    role = [None, "query", "gallery", None]
    written = Manifest(
        table(id=[7, -5, 0, 2], split=["test"] * 4, role=role, **extra),
        root=tmp_path / "elsewhere",
        notes={"licences": {"noto": "Apache-2.0"}},
    )
    written.write(tmp_path / "new" / "m.parquet")
    read = Manifest.read(tmp_path / "new" / "m.parquet")
    assert read == written
    assert read.digest() == written.digest()
    assert pickle.loads(pickle.dumps(read)) == written


def test_embedded_images_go_through_a_file(tmp_path):
    written = Manifest(table(path=None, image=images(b"1", b"22", b"", b"4" * 1000)))
    written.write(tmp_path / "m.parquet")
    read = Manifest.read(tmp_path / "m.parquet")
    assert [read.image_bytes(row) for row in range(4)] == [b"1", b"22", b"", b"4" * 1000]
    assert read.table == written.table
    assert read.name(0) == "x.png"


def test_large_embedded_images_are_split_into_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("crossbatch.data.manifest._GROUP_BYTES", 500)
    written = Manifest(table(path=None, image=images(*[bytes([i]) * 400 for i in range(4)])))
    written.write(tmp_path / "m.parquet")
    assert pq.ParquetFile(tmp_path / "m.parquet").num_row_groups == 4
    assert Manifest.read(tmp_path / "m.parquet").image_bytes(3) == b"\3" * 400


def test_manifest_and_images_can_move_together(tmp_path):
    folder = tmp_path / "here"
    (folder / "photos" / "a").mkdir(parents=True)
    (folder / "photos" / "a" / "0").write_bytes(b"picture")
    Manifest(table(), folder / "photos").write(folder / "m.parquet")
    folder.rename(tmp_path / "there")
    assert Manifest.read(tmp_path / "there" / "m.parquet").image_bytes(0) == b"picture"


def test_a_root_outside_stays_where_it_is(tmp_path):
    Manifest(table(), tmp_path / "photos").write(tmp_path / "lists" / "m.parquet")
    (tmp_path / "lists").rename(tmp_path / "moved")
    read = Manifest.read(tmp_path / "moved" / "m.parquet")
    assert read.path(0) == tmp_path / "photos" / "a" / "0"


def test_absolute_paths_are_left_alone(tmp_path):
    manifest = Manifest(table(path=[str(tmp_path / name) for name in "abcd"]), root=tmp_path / "z")
    assert manifest.path(1) == tmp_path / "b"


def test_parquet_of_other_tools_is_read(tmp_path):
    pq.write_table(table(label=[1, 1, 2, 3]), tmp_path / "m.parquet")
    read = Manifest.read(tmp_path / "m.parquet")
    assert read.classes == ["1", "2", "3"]
    assert read.path(0) == tmp_path / "a" / "0"


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path):
    Manifest(table()).write(tmp_path / "split=test" / "m.parquet")
    assert len(Manifest.read(tmp_path / "split=test" / "m.parquet").split("train")) == 4


def test_another_format_version(tmp_path):
    other = table().replace_schema_metadata({"crossbatch": '{"format": 2}'})
    pq.write_table(other, tmp_path / "m.parquet")
    with pytest.raises(FormatError, match=r"a manifest of format 1. Got 2. Make it again"):
        Manifest.read(tmp_path / "m.parquet")


@pytest.mark.parametrize("metadata", ["nonsense", "[]", '{"format": 1}'])
def test_broken_metadata(tmp_path, metadata):
    other = table().replace_schema_metadata({"crossbatch": metadata})
    pq.write_table(other, tmp_path / "m.parquet")
    with pytest.raises(FormatError, match="to be a manifest of format 1"):
        Manifest.read(tmp_path / "m.parquet")


def test_files_that_are_no_manifest(tmp_path):
    with pytest.raises(FormatError, match=r"a Parquet manifest at .*none.*No such file.*Make one"):
        Manifest.read(tmp_path / "none")
    (tmp_path / "text").write_text("path,label\n")
    with pytest.raises(FormatError, match=r"a Parquet manifest at .*text"):
        Manifest.read(tmp_path / "text")
    Manifest(table()).write(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match=r"a Parquet manifest at .*half"):
        Manifest.read(tmp_path / "half")
    with pytest.raises(FormatError, match="a Parquet manifest at"):
        Manifest.read(tmp_path)


def test_zero_rows_are_neither_written_nor_read(tmp_path):
    empty = table().slice(0, 0)
    with pytest.raises(FormatError, match=r"at least one row in the manifest .*x. Got 0. Check"):
        Manifest(empty).write(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    pq.write_table(empty, tmp_path / "y")
    with pytest.raises(FormatError, match=r"at least one row in the manifest .*y. Got 0"):
        Manifest.read(tmp_path / "y")


def test_selecting_keeps_ids_and_makes_new_codes():
    manifest = Manifest(table())
    rows = manifest.select(np.array([3, 2]))
    assert rows.ids.tolist() == [3, 2]
    assert rows.classes == ["b", "c"]
    assert rows.codes.tolist() == [1, 0]
    mask = manifest.select(np.array([True, False, False, True]))
    assert mask.ids.tolist() == [0, 3]
    nothing = manifest.select(np.array([]))
    assert len(nothing) == 0
    assert nothing.codes.tolist() == nothing.classes == []


def test_wrong_masks_columns_and_splits():
    manifest = Manifest(table())
    with pytest.raises(CrossbatchError, match=r"a mask of shape \(4,\).*Got \(3,\)"):
        manifest.select(np.array([True, True, False]))
    with pytest.raises(CrossbatchError, match=r"'labek'. Did you mean `label`"):
        manifest.column("labek")
    with pytest.raises(CrossbatchError, match=r"'tests'. Did you mean `test`"):
        manifest.split("tests")
    with pytest.raises(CrossbatchError, match=r"4 values. Got 3"):
        manifest.with_column("subset", [1, 2, 3])
    with pytest.raises(FormatError, match="`subset` to hold 64-bit integers"):
        manifest.with_column("subset", ["a", "b", "c", "d"])


def test_columns_can_be_added_and_replaced():
    manifest = Manifest(table()).with_column("weight", np.array([1, np.nan, 2, 3]))
    assert manifest.table["weight"].to_pylist() == [1.0, None, 2.0, 3.0]
    manifest = manifest.with_column("weight", [0, 0, 0, 1]).with_column(
        "mine", ["p", "q", "r", "s"]
    )
    assert manifest.column("weight").tolist() == [0.0, 0.0, 0.0, 1.0]
    assert manifest.column("mine").tolist() == ["p", "q", "r", "s"]


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_embedding_takes_the_files_in(tmp_path):
    files(tmp_path, "a/0", "a/1", "b/0", "c/0")
    manifest = Manifest(table(), tmp_path)
    embedded = manifest.embed()
    assert [embedded.image_bytes(row) for row in range(4)] == [b"a/0", b"a/1", b"b/0", b"c/0"]
    assert embedded.path(0) is None
    assert embedded.embed() == embedded
    assert manifest.image_bytes(2) == b"b/0"


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(CrossbatchError, match=r"an image file for row 1 \(id 1\).*a/1.*Put the"):
        Manifest(table(), tmp_path).image_bytes(1)


def test_the_digest_tells_contents_not_places(tmp_path):
    for place in ("one", "two"):
        files(tmp_path / place, "a/0", "a/1", "b/0", "c/0")
    first, second = (Manifest(table(), tmp_path / place) for place in ("one", "two"))
    assert first.digest() == second.digest()
    assert first.embed().digest() == second.embed().digest() != first.digest()
    (tmp_path / "two" / "c" / "0").write_bytes(b"redrawn")
    assert first.digest() != second.digest()
    assert first.embed().digest() != second.embed().digest()
    (tmp_path / "two" / "c" / "0").unlink()
    assert first.digest() != second.digest()


@pytest.mark.parametrize(
    "change", [{"label": ["a", "a", "b", "b"]}, {"split": ["test"] * 4}, {"subset": [1, 1, 1, 2]}]
)
def test_the_image_digest_does_not_look_at_labels(tmp_path, change):
    one, other = Manifest(table(), tmp_path), Manifest(table(**change), tmp_path)
    assert one.digest() != other.digest()
    assert one.image_digest() == other.image_digest()
    renumbered = Manifest(table(id=[1, 2, 3, 4]), tmp_path)
    assert one.image_digest() != renumbered.image_digest()
    assert one.digest() != renumbered.digest()


def many(classes=10, **columns):
    labels = np.repeat([f"class {i}" for i in range(classes)], 3)
    return Manifest(pa.table({"path": [f"{i}" for i in range(len(labels))], "label": labels}))


def test_held_out_classes_leave_training_whole():
    parts = hold_out(many(), split="test", fraction=0.3, seed=0)
    training, test = parts.split("train"), parts.split("test")
    assert (len(training.classes), len(test.classes)) == (7, 3)
    assert not set(training.classes) & set(test.classes)
    assert len(training) + len(test) == 30
    assert set(test.column("role")) == {None}
    assert set(training.column("role")) == {"train"}
    assert parts.ids.tolist() == list(range(30))


def test_holding_out_depends_on_class_names_and_seed_alone():
    def chosen(manifest, seed):
        return hold_out(manifest, split="validation", fraction=0.5, seed=seed).split("validation")

    assert chosen(many(), 1).classes == chosen(many().select(np.arange(29, -1, -1)), 1).classes
    assert chosen(many(), 1).classes != chosen(many(), 2).classes


def test_validation_is_taken_from_training_never_from_test():
    tested = hold_out(many(), split="test", fraction=0.5, seed=0)
    both = hold_out(tested, split="validation", fraction=0.4, seed=0)
    assert both.split("test") == tested.split("test")
    assert [len(both.split(name).classes) for name in ("train", "validation", "test")] == [3, 2, 5]


def test_images_of_a_moved_class_stay_in_the_split_they_are_in():
    splits = np.where(np.arange(30) % 3, "train", "validation")
    parts = hold_out(many().with_column("split", splits), split="test", fraction=0.9, seed=0)
    assert (parts.column("split") == "validation").tolist() == (splits == "validation").tolist()
    assert len(parts.split("test")) == 18


@pytest.mark.parametrize(("fraction", "moved"), [(0.001, 1), (0.999, 9)])
def test_at_least_one_class_moves_and_one_stays(fraction, moved):
    parts = hold_out(many(), split="test", fraction=fraction, seed=0)
    assert len(parts.split("test").classes) == moved


def test_holding_out_what_cannot_be():
    with pytest.raises(CrossbatchError, match=r"a fraction of classes in \(0, 1\). Got 1.5"):
        hold_out(many(), split="test", fraction=1.5, seed=0)
    with pytest.raises(CrossbatchError, match=r"at least two training classes. Got 1"):
        hold_out(many(1), split="test", fraction=0.5, seed=0)
    parts = hold_out(many(), split="test", fraction=0.5, seed=0)
    with pytest.raises(CrossbatchError, match=r"without a test split. Got 15 rows in it. Leave"):
        hold_out(parts, split="test", fraction=0.5, seed=0)

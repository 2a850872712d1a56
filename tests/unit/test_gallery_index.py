"""The gallery index: what it takes in, keeps, finds and refuses."""

import io
import json
import os
import re
import resource
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

import crossbatch as xb
from crossbatch.data import Kind, Manifest
from crossbatch.data.importers import from_pictures
from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.models import Encoder, EncoderConfig
from crossbatch.search import GalleryIndex, _ann, _commits, _intake, _table
from crossbatch.search._lock import writing
from tests import blobs

SMALL = EncoderConfig(trunk="test_efficientnet", weights="none", image_size=32, dim=7)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(SMALL).eval()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(_intake, "BLOCK", 5)


def draw(folder, names, seed=0):
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        blobs.picture(rng, rng.uniform(0, 1, 3)).save(folder / name)
    return folder


@pytest.fixture
def photos(tmp_path):
    names = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(6)]
    return draw(tmp_path / "photos", names)


def take_in(index, folder, **options):
    done = index.add(from_pictures(folder).manifest, **options)
    kinds = ("added", "changed", "relabelled", "kept", "deleted", "embedded")
    return {kind: getattr(done, kind) for kind in kinds if getattr(done, kind)}, done.problems


@pytest.fixture
def index(tmp_path, encoder, photos):
    index = GalleryIndex.create(tmp_path / "x.index", encoder)
    assert take_in(index, photos) == ({"added": 12, "embedded": 12}, [])
    return index


def paths(index):
    found = index.search(np.ones(7), model=index.model, k=100)[0]
    return sorted(hit.item.path for hit in found)


def test_the_public_name():
    assert xb.GalleryIndex is GalleryIndex


# What is taken in


def test_only_new_content_is_embedded(index, photos):
    before = {hit.item.path: hit.item.id for hit in search(index, k=100)}
    assert take_in(index, photos) == ({"kept": 12}, [])
    draw(photos, ["cat/new.png", "dog/1.png"], seed=1)
    assert take_in(index, photos) == ({"added": 1, "changed": 1, "kept": 11, "embedded": 2}, [])
    after = {hit.item.path: hit.item.id for hit in search(index, k=100)}
    assert before.items() <= after.items()
    assert len(after) == len(set(after.values())) == 13


def search(index, **options):
    return index.search(np.ones(7), model=index.model, **options)[0]


def test_each_item_has_the_embedding_of_its_image(index, photos, encoder):
    draw(photos, ["dog/1.png"], seed=1)
    shutil.copy(photos / "cat" / "1.png", photos / "dog" / "copy.png")
    (photos / "dog" / "2.png").rename(photos / "dog" / "moved.png")
    done, _ = take_in(index, photos, prune=True)
    assert done == {"added": 2, "changed": 1, "kept": 10, "deleted": 1, "embedded": 1}
    for hit in search(index, k=100):
        expected = encoder.encode(photos / hit.item.path)
        np.testing.assert_allclose(index.embedding(hit.item.id), expected, atol=1e-6)
        assert index.image(hit.item.id) == (photos / hit.item.path).read_bytes()


def test_an_image_whose_old_content_turns_up_again(index, photos, encoder):
    """Content that an item no longer has must not lend its new vector."""
    old = (photos / "cat" / "0.png").read_bytes()
    draw(photos, ["cat/0.png"], seed=1)
    (photos / "dog" / "z.png").write_bytes(old)
    take_in(index, photos)
    for hit in search(index, k=100, where="path IN ('cat/0.png', 'dog/z.png')"):
        expected = encoder.encode(photos / hit.item.path)
        np.testing.assert_allclose(index.embedding(hit.item.id), expected, atol=1e-6)


def test_other_labels_need_no_embedding(index, photos):
    manifest = from_pictures(photos).manifest.with_column("label", ["bird"] * 12)
    done = index.add(manifest)
    assert (done.relabelled, done.embedded, len(index)) == (12, 0, 12)
    assert {hit.item.label for hit in search(index)} == {"bird"}


def test_what_is_gone_is_deleted_only_when_asked_and_only_of_its_source(index, photos, tmp_path):
    other = draw(tmp_path / "other", ["a.png"], seed=2)
    take_in(index, other)
    for file in (photos / "dog").iterdir():
        file.unlink()
    assert take_in(index, photos)[0] == {"kept": 6}
    assert take_in(index, photos, prune=True)[0] == {"kept": 6, "deleted": 6}
    assert paths(index) == ["a.png", *(f"cat/{i}.png" for i in range(6))]


def test_corrupt_images_are_left_out_and_named(index, photos):
    (photos / "cat" / "bad.png").write_bytes(b"no image")
    (photos / "cat" / "empty.jpg").write_bytes(b"")
    (photos / "dog" / "0.png").write_bytes((photos / "dog" / "0.png").read_bytes()[:90])
    done, problems = take_in(index, photos)
    assert done == {"kept": 11}
    assert [(p.kind, p.path) for p in problems] == [
        (Kind.UNREADABLE, f"{name}") for name in ("cat/bad.png", "cat/empty.jpg", "dog/0.png")
    ]
    assert len(index) == 12  # what it held of dog/0 stands
    assert take_in(index, photos, prune=True)[0] == {"kept": 11, "deleted": 1}


def test_a_missing_file_and_one_listed_twice(index, photos, tmp_path):
    table = pa.table({"path": ["cat/0.png", "cat/0.png", "none.png"], "label": ["a", "b", "c"]})
    done = index.add(Manifest(table, photos))
    assert [p.kind for p in done.problems] == [Kind.LISTED_TWICE, Kind.MISSING]
    assert search(index, where="path = 'cat/0.png'")[0].item.label == "a"


def embedded(folder, name, seed):
    """A manifest file with images inside; both have the ids 0 and 1."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(2):
        file = io.BytesIO()
        blobs.picture(rng, rng.uniform(0, 1, 3)).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": None})
    table = pa.table({"image": rows, "label": ["a", "b"]})
    Manifest(table).write(folder / name)
    return folder / name


def test_embedded_images_are_kept_and_told_apart_by_their_manifest(encoder, tmp_path):
    index = GalleryIndex.create(tmp_path / "x", encoder)
    files = [embedded(tmp_path, f"{seed}.parquet", seed) for seed in (1, 2)]
    for file in files:
        index.add(Manifest.read(file), origin=file)
    assert len(index) == 4
    assert index.image(3) == Manifest.read(files[1]).image_bytes(1)
    for file in files:
        file.unlink()
    assert index.image(0)


def test_metadata_of_any_plain_type(encoder, photos, tmp_path):
    index = GalleryIndex.create(tmp_path / "x", encoder)
    manifest = from_pictures(photos).manifest.with_column("weight", [i / 2 for i in range(12)])
    index.add(manifest)
    more = manifest.with_column("Shop name", pa.array(["Bob's", None] * 6).dictionary_encode())
    more = more.with_column("tags", [["x"]] * 12).with_column("new", [True, False] * 6)
    assert index.add(more).relabelled == 12
    names = ["id", "path", "label", "weight", "Shop name", "new"]
    assert list(index.columns) == names
    hits = search(index, where="\"Shop name\" = 'Bob''s' AND weight > 3 AND new")
    assert sorted(hit.item.metadata["weight"] for hit in hits) == [4, 5]
    assert len(search(index, k=100, where={"Shop name": None})) == 6
    index.add(manifest.select(np.arange(1)))
    assert search(index, where={"weight": 0})[0].item.metadata["Shop name"] is None
    with pytest.raises(CrossbatchError, match=r"column `new` to hold bool.*Got string"):
        index.add(manifest.with_column("new", ["x"] * 12))
    with pytest.raises(CrossbatchError, match=r"do not begin with `_`.*Got `_image`"):
        index.add(manifest.with_column("_image", ["x"] * 12))


@pytest.mark.parametrize(("role", "kept"), [("train", False), ("query", True)])
def test_a_role_is_kept_where_it_says_more_than_the_split(encoder, photos, tmp_path, role, kept):
    index = GalleryIndex.create(tmp_path / "x", encoder)
    manifest = from_pictures(photos).manifest
    half = pa.array([role, None] * 6)
    index.add(manifest.with_column("split", ["train", "test"] * 6).with_column("role", half))
    assert ("role" in index.columns) is kept
    assert "split" in index.columns


# What is found


@pytest.mark.parametrize("queries", [1, 3])
def test_search_is_sorting_everything(index, queries):
    asked = np.random.default_rng(0).normal(size=(queries, 7))
    found = index.search(asked, model=index.model, k=5)
    ids = [item.id for item in index.items(range(12))]
    vectors = np.stack([index.embedding(i) for i in ids])
    similar = asked / np.linalg.norm(asked, axis=1, keepdims=True) @ vectors.T
    for hits, row in zip(found, similar, strict=True):
        best = np.argsort(-row)[:5]
        assert [hit.item.id for hit in hits] == [ids[i] for i in best]
        np.testing.assert_allclose([hit.similarity for hit in hits], row[best], atol=1e-5)


def test_search_by_pictures(index, photos):
    hits = index.search_pictures([photos / "cat" / "3.png", photos / "dog" / "3.png"], k=1)
    assert [hit[0].item.path for hit in hits] == ["cat/3.png", "dog/3.png"]
    assert hits[0][0].similarity == pytest.approx(1, abs=1e-5)
    both = index.search_pictures(
        [photos / "cat" / "3.png", photos / "dog" / "3.png"], k=12, one_query=True
    )
    assert len(both) == 1
    mean = index.embedding(3) + index.embedding(9)
    expected = index.search(mean, model=index.model, k=12)[0]
    assert [hit.item for hit in both[0]] == [hit.item for hit in expected]


def test_conditions(index):
    assert {hit.item.label for hit in search(index, where="label = 'dog'")} == {"dog"}
    assert search(index, where="label = 'd''og; --'") == []
    assert len(search(index, where={"label": "cat"}, k=3)) == 3
    for where, message in (
        ("labl = 'x'", "Did you mean `label`"),
        ("id > 'a'", "could not convert.*values of their type"),
        ("label", "does not return a boolean"),
        ("label = ", "a condition on metadata"),
        ("(" * 5000 + "id = 1", r"^(?!.*SELECT).{1,500}$"),  # the engine repeats all of it
    ):
        with pytest.raises(CrossbatchError, match=message):
            search(index, where=where)


def test_fewer_items_than_asked_for(index, encoder, tmp_path):
    assert len(search(index, k=100)) == 12
    empty = GalleryIndex.create(tmp_path / "empty", encoder)
    assert search(empty) == []
    assert empty.duplicates() == []
    assert len(empty) == 0


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (np.ones(6), {}, r"shape \(queries, 7\). Got \(6,\)"),
        (np.ones((0, 7)), {}, r"Got \(0, 7\)"),
        (np.zeros(7), {}, "with a direction"),
        (np.full(7, np.nan), {}, "with a direction"),
        (np.ones(7), {"k": 0}, "`k` of at least 1"),
    ],
)
def test_what_cannot_be_asked(index, queries, options, message):
    with pytest.raises(CrossbatchError, match=message):
        index.search(queries, model=index.model, **options)


def test_duplicates(index, photos):
    shutil.copy(photos / "cat" / "1.png", photos / "dog" / "copy.png")
    take_in(index, photos)
    found = index.duplicates(1.0)
    assert [[item.path for item in group.items] for group in found] == [
        ["cat/1.png", "dog/copy.png"]
    ]
    assert found[0].greatest <= 1
    assert index.duplicates(1.0, where="label = 'cat'") == []
    assert sum(len(group.items) for group in index.duplicates(-0.999)) == 13
    with pytest.raises(CrossbatchError, match=r"`threshold` in \(-1, 1\]. Got 2"):
        index.duplicates(2)


def test_items_that_are_not_there(index, photos):
    for ask in (index.items, index.embedding, index.image):
        with pytest.raises(CrossbatchError, match=r"an item of id 99. Got none"):
            ask([99]) if ask == index.items else ask(99)
    (photos / "cat" / "0.png").unlink()
    with pytest.raises(
        CrossbatchError, match=r"image file of item 0, cat/0.png. Got No such"
    ) as e:
        index.image(0)
    assert str(photos) not in str(e.value)  # a server shows this


# What is deleted


def test_deleting(index):
    assert index.delete("label = 'dog' AND path LIKE '%/1.png'") == 1
    assert index.delete([0, 1, 99]) == 2
    assert len(index) == 9
    assert index.delete({"label": "dog"}) == 5
    assert paths(index) == [f"cat/{i}.png" for i in range(2, 6)]
    with pytest.raises(CrossbatchError, match="no place"):
        index.delete("id = 3; x")


# Versions, models, formats


def test_an_open_index_shows_one_version_until_it_is_refreshed(index, photos):
    other = GalleryIndex.open(index.path)
    assert not other.refresh()
    index.delete("label = 'dog'")
    assert (len(index), len(other)) == (6, 12)
    assert len(paths(other)) == 12
    assert other.refresh()
    assert paths(other) == paths(index)


def test_another_model_is_refused(index, encoder, tmp_path):
    with pytest.raises(FormatError, match=r"model of x.index, digest .*Got a model of digest abc"):
        index.search(np.ones(7), model="abc")
    torch.manual_seed(1)
    Encoder(SMALL).save(index.path / "encoder")
    fresh = GalleryIndex.open(index.path)
    with pytest.raises(FormatError, match="cannot be compared"):
        fresh.search_pictures([torch.rand(3, 9, 9)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "an index of format 1. Got format 2. Use the crossbatch"),
        ({"format": "x"}, "Got format x"),
        ({"ann": 3}, r"Got an index.json that cannot be read \(.*mapping"),
        (None, r"an index at .*Got an index.json that cannot be read \(Expecting"),
    ],
)
def test_an_index_of_another_format(index, change, message):
    file = index.path / "index.json"
    stored = json.loads(file.read_text())
    if change is None:
        file.write_text("{")
    else:
        file.write_text(json.dumps(stored | change))
    with pytest.raises(FormatError, match=message):
        GalleryIndex.open(index.path)


def test_no_index_and_one_without_items(index, tmp_path, encoder):
    with pytest.raises(FormatError, match=r"an index at .*nowhere. Got no index.json"):
        GalleryIndex.open(tmp_path / "nowhere")
    with pytest.raises(CrossbatchError, match=r"no file or folder at .*x.index. Got one"):
        GalleryIndex.create(index.path, encoder)
    shutil.rmtree(index.path / "items.lance")
    with pytest.raises(FormatError, match="the items of the index at"):
        GalleryIndex.open(index.path)


# Trouble


def test_a_second_writer_gets_a_sentence(index, photos):
    with writing(index.path):
        with pytest.raises(CrossbatchError, match=rf"only writer.*process {os.getpid()}. Wait"):
            take_in(index, photos)
        with pytest.raises(CrossbatchError, match="only writer"):
            index.delete("label = 'cat'")
        assert len(paths(index)) == 12
    assert take_in(index, photos)[0] == {"kept": 12}


def test_an_index_that_is_deleted_while_it_is_open(index, photos):
    held = GalleryIndex.open(index.path)
    shutil.rmtree(index.path)
    with pytest.raises(FormatError, match=r"Got files that are gone. It was deleted"):
        search(held)
    for ask in (index.refresh, lambda: take_in(held, photos)):
        with pytest.raises(FormatError, match="index at"):
            ask()
    assert not index.path.exists()  # nothing grows back


@contextmanager
def full_beyond(size):
    """No file may grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [200, 1500, 3000, 4000, 5000, 6500])
def test_a_full_disk_leaves_the_last_version(index, photos, size):
    """At some sizes the table's engine takes a file that was cut off for whole."""
    draw(photos, [f"new/{i}.png" for i in range(12)], seed=3)
    with full_beyond(size), pytest.raises(CrossbatchError) as told:
        take_in(index, photos)
    data = list((index.path / "items.lance" / "data").iterdir())
    assert all(file.read_bytes().endswith(b"LANC") for file in data)  # no rubbish is left
    assert re.match(
        r"Could not write .*: (File too large|a file was cut off).*committed before stands. Make",
        str(told.value),
    )
    fresh = GalleryIndex.open(index.path)
    assert len(paths(fresh)) == len(fresh)
    assert len(fresh) in (12, 15, 20, 24)  # whole blocks
    done, _ = take_in(fresh, photos)
    assert done["kept"] == 24 - done.get("added", 0)
    assert len(fresh) == 24


def test_a_commit_that_was_not_confirmed_is_none(index, photos):
    """What a writer leaves that dies between the table's commit and ours, whole or not."""
    before = _commits.versions(index.path)
    table = _table.open_table(index.path)
    _table.delete(table, list(range(12)))
    assert len(_commits.versions(index.path)) == len(before) + 1
    assert len(GalleryIndex.open(index.path)) == 12
    last = _commits.versions(index.path)[int(table.version)]
    last.write_bytes(b"")
    assert len(GalleryIndex.open(index.path)) == 12
    assert set(_commits.versions(index.path)) == set(before)
    _table.delete(_table.open_table(index.path), list(range(12)))
    assert take_in(index, photos)[0] == {"kept": 12}
    assert len(GalleryIndex.open(index.path)) == 12


def test_a_block_that_fails_leaves_nothing_of_itself(index, photos, monkeypatch):
    draw(photos, [f"new/{i}.png" for i in range(12)], seed=3)
    draw(photos, ["cat/0.png"], seed=4)
    items = _intake.Intake._items

    def fail(self, some, vectors):
        if some[0].stored is not None:
            raise KeyboardInterrupt
        return items(self, some, vectors)

    monkeypatch.setattr(_intake.Intake, "_items", fail)
    manifest = from_pictures(photos).manifest
    order = [0, *range(12, 24), *range(1, 12)]  # the changed one beside new ones
    with pytest.raises(KeyboardInterrupt):
        index.add(manifest.select(np.array(order)))
    assert len(GalleryIndex.open(index.path)) == 12


# The approximate index


def test_an_approximate_index_is_built_measured_used_and_kept_up(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(_ann, "QUERIES", 60)
    monkeypatch.setattr(_intake, "BLOCK", 100)
    photos = draw(tmp_path / "p", [f"{i % 4}/{i:03}.png" for i in range(160)])
    index = GalleryIndex.create(tmp_path / "x", encoder)
    assert take_in(index, photos, ann_from=160)[0]["added"] == 160
    ann = index.ann
    assert ann is not None
    assert (ann.rows, ann.queries) == (160, 60)
    assert ann.recall >= 0.95
    asked = np.random.default_rng(0).normal(size=(20, 7))
    exact = index.search(asked, model=index.model, exact=True)
    found = index.search(asked, model=index.model)
    same = [
        len({hit.item.id for hit in a} & {hit.item.id for hit in b})
        for a, b in zip(exact, found, strict=True)
    ]
    assert sum(same) >= 0.9 * 200
    best = [a[0].similarity for a in exact]
    np.testing.assert_allclose([b[0].similarity for b in found], best, atol=0.05)
    hits = index.search(asked[0], model=index.model, where="label = '3' OR label = '2'")[0]
    assert {hit.item.label for hit in hits} <= {"2", "3"}
    index.delete("label = '3'")
    draw(photos, ["new/a.png"], seed=5)
    take_in(index, photos, ann_from=100)
    assert index.ann == ann  # it has not grown by half
    hit = index.search_pictures([photos / "new" / "a.png"], k=1)[0][0]
    assert hit.item.path == "new/a.png"


def test_small_galleries_are_searched_exactly(index):
    assert index.ann is None


def test_settings_of_training_are_not_another_model(index, encoder):
    same = Encoder(replace(SMALL, dropout=0.5))
    same.load_state_dict(encoder.state_dict())
    index.check_model(same.digest())

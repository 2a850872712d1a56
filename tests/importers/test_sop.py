"""Stanford Online Products, and what can be wrong with any list of a data set."""

import pytest

from crossbatch.cli import main as cli
from crossbatch.data import Kind, Problem
from crossbatch.data.importers import from_sop
from crossbatch.errors import CrossbatchError, FormatError
from tests.importers.miniature import command, counts, picture, rows, text

HEADER = "image_id class_id super_class_id path"
TRAIN = [
    "1 1 1 bicycle_final/111085122871_0.JPG",
    "2 1 1 bicycle_final/111085122871_1.JPG",
    "3 2 12 toaster_final/a b, c_0.JPG",
]
TEST = [
    "59552 11319 1 bicycle_final/251952414262_0.JPG",
    "59553 11319 1 bicycle_final/251952414262_1.JPG",
]


def sop(root, *, train=TRAIN, test=TEST, end="\n"):
    base = root / "Stanford_Online_Products"
    for split, lines in (("train", train), ("test", test)):
        text(base / f"Ebay_{split}.txt", [HEADER, *lines], end=end)
        for number, line in enumerate(lines):
            if len(line.split(maxsplit=3)) == 4 and ".." not in line and "/" in line:
                picture(base / line.split(maxsplit=3)[3].lstrip("/"), number)
    return base


def test_rows(tmp_path):
    manifest, problems = from_sop(sop(tmp_path))
    assert rows(manifest, "path", "label", "split", "role", "superclass") == [
        ("bicycle_final/111085122871_0.JPG", "1", "train", "train", "1"),
        ("bicycle_final/111085122871_1.JPG", "1", "train", "train", "1"),
        ("toaster_final/a b, c_0.JPG", "2", "train", "train", "12"),
        ("bicycle_final/251952414262_0.JPG", "11319", "test", None, "1"),
        ("bicycle_final/251952414262_1.JPG", "11319", "test", None, "1"),
    ]
    assert manifest.path(2).is_file()
    assert problems == ()


def test_counts_that_differ_are_noted(tmp_path):
    manifest, _ = from_sop(sop(tmp_path))
    assert manifest.notes == {
        "data set": "Stanford Online Products",
        "differs": [
            "train: 3 images of 2 classes here, 59,551 images of 11,318 classes published",
            "test: 2 images of 1 classes here, 60,502 images of 11,316 classes published",
        ],
    }


def test_a_whole_copy_differs_in_nothing(tmp_path, monkeypatch):
    from crossbatch.data.importers import sop as module

    published = dict(module.SOP.published)
    monkeypatch.setitem(module.SOP.published, "train", type(published["train"])(3, 2))
    monkeypatch.setitem(module.SOP.published, "test", type(published["test"])(2, None))
    assert from_sop(sop(tmp_path))[0].notes["differs"] == []


def test_crlf_and_the_parent_folder_and_a_byte_order_mark(tmp_path):
    base = sop(tmp_path, end="\r\n")
    plain = rows(from_sop(base).manifest, "path", "label", "superclass")
    listed = base / "Ebay_test.txt"
    listed.write_bytes(b"\xef\xbb\xbf" + listed.read_bytes() + b"\r\n")
    assert rows(from_sop(tmp_path).manifest, "path", "label", "superclass") == plain
    assert plain[0] == ("bicycle_final/111085122871_0.JPG", "1", "1")


def test_command(tmp_path, capsys):
    manifest = command("sop", sop(tmp_path), tmp_path)
    assert counts(manifest) == {"train": (3, 2), "test": (2, 1)}
    out = capsys.readouterr().out
    assert "warning: train: 3 images of 2 classes here, 59,551 images of 11,318 classes" in out
    assert manifest.notes["differs"][1].startswith("test: 2 images")


def test_missing_images_end_the_command_with_status_2(tmp_path, capsys, monkeypatch):
    base = sop(tmp_path)
    (base / TEST[0].split()[3]).unlink()
    out = tmp_path / "m.parquet"
    line = ["crossbatch", "manifest", "sop", str(base), "--out", str(out)]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "the 5 listed images" in (said := capsys.readouterr().err)
    assert f"Got 1 missing, first {TEST[0].split()[3]}. Unpack" in said
    assert not out.exists()


def test_command_opens_the_images_unless_told_not_to(tmp_path, capsys):
    base = sop(tmp_path)
    (base / "bicycle_final/111085122871_1.JPG").write_text("no picture")
    assert len(command("sop", base, tmp_path)) == 4
    assert "unreadable image" in capsys.readouterr().out
    assert len(command("sop", base, tmp_path, "--no-decode")) == 5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("4 2 12", r"`image_id class_id super_class_id path` in .*Ebay_train.txt:5. Got '4 2 12'"),
        ("4 2 12 ../x.JPG", r"a path below the root in .*Ebay_train.txt:5. Got '../x.JPG'"),
        ("4 2 12 /etc/x.JPG", r"a path below the root in .*Ebay_train.txt:5. Got '/etc/x.JPG'"),
    ],
)
def test_broken_lines(tmp_path, line, message):
    with pytest.raises(FormatError, match=message):
        from_sop(sop(tmp_path, train=[*TRAIN, line]))


def test_a_list_that_is_not_text(tmp_path):
    base = sop(tmp_path)
    with (base / "Ebay_test.txt").open("ab") as file:
        file.write(b"59554 11319 1 \xff.JPG\n")
    with pytest.raises(FormatError, match=r"text in UTF-8 in .*Ebay_test.txt:4. Got '59554"):
        from_sop(base)


def test_a_list_without_header(tmp_path):
    base = sop(tmp_path)
    text(base / "Ebay_test.txt", TEST)
    with pytest.raises(FormatError, match=r"header `image_id class_id.*Ebay_test.txt:1. Got '595"):
        from_sop(base)


def test_missing_images(tmp_path):
    lines = [f"{i} 3 1 gone/{i}.JPG" for i in range(7)]
    base = sop(tmp_path, train=[*TRAIN, *lines])
    for file in (base / "gone").iterdir():
        file.unlink()
    message = r"12 listed images below .*Products. Got 7 missing, first gone/0.JPG, .*gone/4.JPG\."
    with pytest.raises(CrossbatchError, match=message):
        from_sop(base)


def test_the_wrong_root(tmp_path):
    (tmp_path / "photos").mkdir()
    message = r"Ebay_train.txt or .*Products/Ebay_train.txt. Got none; .*holds photo"
    with pytest.raises(FormatError, match=message):
        from_sop(tmp_path)
    with pytest.raises(CrossbatchError, match=r"a folder at .*nowhere. Got nothing"):
        from_sop(tmp_path / "nowhere")
    (base := sop(tmp_path)).joinpath("Ebay_test.txt").unlink()
    with pytest.raises(FormatError, match=r"the list .*Ebay_test.txt. Got .*No such file"):
        from_sop(base)


def test_classes_that_leak(tmp_path):
    line = "59554 2 12 toaster_final/other_0.JPG"
    with pytest.raises(FormatError, match=r"no class in training and test.*Got 1 in both: 2\."):
        from_sop(sop(tmp_path, test=[*TEST, line]))


def test_an_image_listed_twice_alike_is_kept_once(tmp_path):
    manifest, problems = from_sop(sop(tmp_path, train=[*TRAIN, TRAIN[0]]))
    assert len(manifest) == 5
    assert problems == (Problem(Kind.LISTED_TWICE, TRAIN[0].split()[3], "kept once"),)


def test_an_image_listed_for_two_purposes(tmp_path):
    with pytest.raises(FormatError, match=r"bicycle.*_0.JPG to be .*Got split train and test"):
        from_sop(sop(tmp_path, test=[*TEST, TRAIN[0]]))
    with pytest.raises(FormatError, match=r"bicycle.*_0.JPG to be .*Got label 1 and 2"):
        from_sop(sop(tmp_path, train=[*TRAIN, TRAIN[0].replace("1 1 1", "1 2 1")]))


def test_links_out_of_the_root_are_named(tmp_path):
    base = sop(tmp_path)
    outside = tmp_path / "elsewhere"
    (base / "toaster_final").rename(outside)
    (base / "toaster_final").symlink_to(outside)
    picture(outside / "one.jpg")
    linked = base / TEST[0].split()[3]
    linked.unlink()
    linked.symlink_to(outside / "one.jpg")
    within = base / TEST[1].split()[3]
    within.rename(base / "real.jpg")
    within.symlink_to(base / "real.jpg")
    (base / "bicycle_final/not listed.JPG").symlink_to(outside / "one.jpg")
    _, problems = from_sop(base)
    assert [(p.kind, p.path) for p in problems] == [
        (Kind.OUTSIDE, "bicycle_final"),
        (Kind.OUTSIDE, "toaster_final"),
    ]
    assert problems[0].reason == (
        f"listed links out of the root: 1, first {linked.name} to {outside / 'one.jpg'}"
    )
    linked.unlink()
    linked.symlink_to(tmp_path / "gone")
    with pytest.raises(CrossbatchError, match=r"Got 1 missing"):
        from_sop(base)

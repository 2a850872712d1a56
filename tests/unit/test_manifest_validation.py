"""Every row is kept or listed, from both the library and the command line."""

import csv

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from crossbatch.cli.manifest import main
from crossbatch.data import Imported, Kind, Manifest, Problem, validate
from crossbatch.errors import CrossbatchError


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.fixture
def photos(tmp_path):
    """Four classes of three images."""
    root = tmp_path / "photos"
    for number in range(12):
        picture(root / "abcd"[number // 3] / f"{number}.jpg", number)
    return root


def manifest_of(root, paths, labels, **columns):
    return Manifest(pa.table({"path": paths, "label": labels, **columns}), root)


def kinds(validation):
    return {str(kind): count for kind, count in validation.counts.items()}


def test_sound_images_are_all_kept(photos):
    manifest = manifest_of(photos, ["a/0.jpg", "a/1.jpg", "b/3.jpg", "b/4.jpg"], list("aabb"))
    checked = validate(manifest)
    assert checked.manifest == manifest
    assert checked.problems == checked.excluded == ()


def test_each_bad_row_is_named_with_its_reason(photos):
    truncate(photos / "a/1.jpg")
    (photos / "b/3.jpg").write_text("no picture")
    (photos / "b/4.jpg").write_bytes(b"")
    paths = ["a/0.jpg", "a/1.jpg", "b/3.jpg", "b/4.jpg", "gone.jpg", "c/6.jpg", "a/2.jpg", "b"]
    manifest = manifest_of(photos, paths, ["a", "a", "b", "b", "b", " ", "a", "a"])
    checked = validate(manifest)
    assert checked.manifest.ids.tolist() == [0, 6]
    assert [(problem.kind, problem.path) for problem in checked.excluded] == [
        (Kind.UNREADABLE, "a/1.jpg"),
        (Kind.UNREADABLE, "b/3.jpg"),
        (Kind.UNREADABLE, "b/4.jpg"),
        (Kind.MISSING, "gone.jpg"),
        (Kind.EMPTY_LABEL, "c/6.jpg"),
        (Kind.MISSING, "b"),
    ]
    assert "truncated" in checked.excluded[0].reason
    assert "cannot identify" in checked.excluded[1].reason
    assert kinds(checked) == {
        "missing file": 2,
        "unreadable image": 3,
        "empty label": 1,
        "one class only": 1,
    }


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "webp", "tiff"])
def test_truncation_is_found_in_every_format(photos, suffix):
    picture(photos / f"x.{suffix}")
    truncate(photos / f"x.{suffix}")
    checked = validate(manifest_of(photos, [f"x.{suffix}"], ["a"]))
    assert kinds(checked) == {"unreadable image": 1}


def test_a_broken_exif_block_costs_nothing(photos):
    broken = b"Exif\0\0II*\0\xff\xff\xff\xff"
    Image.new("RGB", (9, 9)).save(photos / "a/0.jpg", exif=broken)
    assert validate(manifest_of(photos, ["a/0.jpg"], ["a"])).excluded == ()


def test_without_decoding_only_missing_files_are_found(photos):
    truncate(photos / "a/1.jpg")
    manifest = manifest_of(photos, ["a/0.jpg", "a/1.jpg", "gone", "b/3.jpg"], list("aabb"))
    checked = validate(manifest, decode=False)
    assert kinds(checked) == {"missing file": 1, "class with one image": 1}


def test_embedded_images_are_decoded_too(photos):
    truncate(photos / "a/1.jpg")
    manifest = manifest_of(photos, ["a/0.jpg", "a/1.jpg"], list("ab")).embed()
    for path in photos.rglob("*.jpg"):
        path.unlink()
    checked = validate(manifest)
    assert [problem.path for problem in checked.excluded] == ["a/1.jpg"]


def test_labels_beyond_the_known_ones(photos):
    manifest = manifest_of(photos, ["a/0.jpg", "a/1.jpg", "b/3.jpg"], ["a", "A", "b"])
    checked = validate(manifest, known=["a", "b"], decode=False)
    assert checked.excluded == (Problem(Kind.UNKNOWN_LABEL, "a/1.jpg", "A"),)


def test_notes_do_not_exclude(photos):
    paths = ["a/0.jpg", "a/1.jpg", "b/3.jpg", "a/0.jpg"]
    checked = validate(manifest_of(photos, paths, ["a", "a", "b", "a"]))
    assert len(checked.manifest) == 4
    assert checked.excluded == ()
    assert set(checked.problems) == {
        Problem(Kind.LISTED_TWICE, "a/0.jpg", "2 times"),
        Problem(Kind.ONE_IMAGE, "b", "serves as a negative only"),
    }


def test_queries_without_a_match(photos):
    rows = [
        ("alone", "a", "test", None, True),
        ("pair 1", "b", "test", None, False),
        ("pair 2", "b", "test", None, False),
        ("query with gallery", "c", "test", "query", False),
        ("its gallery", "c", "test", "gallery", False),
        ("two queries, no gallery", "d", "test", "query", True),
        ("the other", "d", "test", "query", True),
        ("gallery alone", "e", "test", "gallery", False),
        ("match in another split", "f", "test", "query", True),
        ("that match", "f", "validation", "gallery", False),
        ("match in training", "g", "test", "query", True),
        ("training 1", "g", "train", "train", False),
        ("training 2", "g", "train", "train", False),
        ("training without a role", "i", "train", None, False),
        ("query with a match that is both", "h", "validation", "query", False),
        ("both", "h", "validation", None, True),
    ]
    names, labels, splits, roles, _ = zip(*rows, strict=True)
    contents = [{"bytes": b"", "path": name} for name in names]
    table = {"image": contents, "label": labels, "split": splits, "role": roles}
    checked = validate(Manifest(pa.table(table)), decode=False)
    unmatched = [p.path for p in checked.problems if p.kind == Kind.NO_MATCH]
    assert unmatched == [name for name, *_, lonely in rows if lonely]
    assert len(checked.manifest) == len(rows)


def test_what_an_importer_found_comes_first(photos):
    found = (Problem(Kind.NOT_AN_IMAGE, "a/x.txt", "suffix .txt"),)
    manifest, found = Imported(manifest_of(photos, ["gone", "a/0.jpg"], ["a", "a"]), found)
    checked = validate(manifest, found=found)
    assert [p.kind for p in checked.problems[:2]] == [Kind.NOT_AN_IMAGE, Kind.MISSING]
    assert len(checked.excluded) == 2


def test_nothing_may_remain(photos):
    checked = validate(manifest_of(photos, ["gone"], ["a"]))
    assert len(checked.manifest) == 0
    assert kinds(checked) == {"missing file": 1}


def test_progress_can_be_watched(photos):
    seen = []

    def watch(results):
        for result in results:
            seen.append(result)
            yield result

    validate(manifest_of(photos, ["a/0.jpg", "gone"], ["a", "a"]), watch=watch)
    assert [result is None for result in seen] == [True, False]


def test_many_rows_keep_their_order(photos, monkeypatch):
    monkeypatch.setattr("crossbatch.data.validation._BLOCK", 5)
    paths = [f"{name}/{i}.jpg" if i % 3 else "gone" for i, name in enumerate("aaabbbcccddd")]
    checked = validate(manifest_of(photos, paths, list("aaabbbcccddd")))
    assert checked.manifest.ids.tolist() == [i for i in range(12) if i % 3]


def test_problems_are_written_as_a_table(tmp_path, photos):
    checked = validate(manifest_of(photos, ["gone, away", "a/0.jpg"], ["b", "a"]))
    checked.write_problems(tmp_path / "x.problems.csv")
    with (tmp_path / "x.problems.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["kind", "excluded", "path", "reason"]
    assert lines[1][:3] == ["missing file", "true", "gone, away"]
    assert lines[2] == ["class with one image", "false", "a", "serves as a negative only"]


def run(capsys, *argv):
    status = main([str(word) for word in argv])
    return status, capsys.readouterr().out


def test_command_folder(photos, tmp_path, capsys):
    out = tmp_path / "photos.parquet"
    status, text = run(capsys, "folder", photos, "--out", out)
    assert status == 0
    assert "train  12      4" in text
    assert "Wrote" in text
    assert not (tmp_path / "photos.problems.csv").exists()
    manifest = Manifest.read(out)
    assert manifest.classes == ["a", "b", "c", "d"]
    assert manifest.path(5).is_file()


def test_command_names_problems_and_goes_on(photos, tmp_path, capsys):
    truncate(photos / "c/6.jpg")
    (photos / "e").mkdir()
    (photos / "c/[red]notes.txt").touch()
    out, listed = tmp_path / "m.parquet", tmp_path / "m.problems.csv"
    status, text = run(capsys, "folder", photos, "--out", out)
    assert status == 0
    assert "unreadable image    1      c/6.jpg: image file is truncated" in text
    assert "not an image file   1      c/[red]notes.txt: suffix .txt" in text
    assert "empty class folder  1      e: no image in it" in text
    assert "2 left out. All are listed in" in text
    assert len(Manifest.read(out)) == 11
    assert len(listed.read_text().splitlines()) == 4
    picture(photos / "c/6.jpg")
    (photos / "c/[red]notes.txt").unlink()
    (photos / "e").rmdir()
    run(capsys, "folder", photos, "--out", out)
    assert not listed.exists()


def test_command_strict_writes_no_manifest(photos, tmp_path, capsys):
    truncate(photos / "c/6.jpg")
    with pytest.raises(CrossbatchError, match=r"no image to be left out.*Got 1, listed in.*Mend"):
        main(["folder", str(photos), "--out", str(tmp_path / "m.parquet"), "--strict"])
    assert "unreadable image" in capsys.readouterr().out
    assert not (tmp_path / "m.parquet").exists()
    assert (tmp_path / "m.problems.csv").exists()


def test_command_strict_passes_over_notes(photos, tmp_path, capsys):
    picture(photos / "single" / "1.jpg")
    status, text = run(capsys, "folder", photos, "--out", tmp_path / "m.parquet", "--strict")
    assert status == 0
    assert "class with one image" in text


def test_command_test_fraction(photos, tmp_path, capsys):
    out = tmp_path / "m.parquet"
    arguments = ("folder", photos, "--out", out, "--test-fraction", "0.5", "--seed", "3")
    status, text = run(capsys, *arguments)
    assert status == 0
    assert "train  6       2" in text
    assert "test   6       2" in text
    first = Manifest.read(out)
    assert not set(first.split("train").classes) & set(first.split("test").classes)
    run(capsys, *arguments)
    assert Manifest.read(out) == first


def test_command_embed(photos, tmp_path, capsys):
    content = (photos / "a" / "0.jpg").read_bytes()
    out = tmp_path / "m.parquet"
    run(capsys, "folder", photos, "--out", out, "--embed")
    photos.rename(tmp_path / "gone")
    manifest = Manifest.read(out)
    assert manifest.image_bytes(0) == content
    assert len(validate(manifest).manifest) == 12


def test_command_csv_with_root_and_classes(photos, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("a/0.jpg,a\na/1.jpg,a\nb/3.jpg,b\nb/4.jpg,bee\n")
    (tmp_path / "names.txt").write_text("a\nb\n")
    out = tmp_path / "m.parquet"
    arguments = ("csv", tmp_path / "list.csv", "--root", photos, "--out", out)
    status, text = run(capsys, *arguments, "--classes", tmp_path / "names.txt")
    assert status == 0
    assert "unknown label         1      b/4.jpg: bee" in text
    assert Manifest.read(out).labels.tolist() == ["a", "a", "b"]


def test_command_no_decode(photos, tmp_path, capsys):
    truncate(photos / "c/6.jpg")
    out = tmp_path / "m.parquet"
    run(capsys, "folder", photos, "--out", out, "--no-decode")
    assert len(Manifest.read(out)) == 12


def test_command_with_nothing_to_write(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    out = tmp_path / "m.parquet"
    out.write_text("old")
    with pytest.raises(CrossbatchError, match=r"at least one image.*Got none, and 0 left out"):
        main(["folder", str(tmp_path / "photos"), "--out", str(out), "--test-fraction", "0.5"])
    assert out.read_text() == "old"


def test_command_with_unreadable_names_of_classes(photos, tmp_path):
    arguments = ["folder", str(photos), "--out", str(tmp_path / "m"), "--classes"]
    with pytest.raises(CrossbatchError, match=r"the known labels in .*none.*one label a line"):
        main([*arguments, str(tmp_path / "none")])


def test_command_does_not_import_torch(photos, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from crossbatch.cli.manifest import main; "
        f"main(['folder', {str(photos)!r}, '--out', {str(tmp_path / 'm.parquet')!r}]); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_command_says_what_is_missing(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["folder", "photos"])
    assert stop.value.code == 2
    assert "--out" in capsys.readouterr().err

"""Hostile files get what the documentation says; hostile lists stop with file and line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crossbatch.cli.manifest import main
from crossbatch.data import Manifest, from_csv, validate
from crossbatch.errors import CrossbatchError, FormatError
from tests.hostile import CONTENTS, JPEG, OTHERS, make, table

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "hostile-files.md"


@pytest.mark.filterwarnings("ignore:.*DecompressionBomb|Corrupt EXIF")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_each_gets_what_the_page_says(tmp_path):
    found = table(tmp_path)
    written = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    written = written[: len(found)]
    if os.geteuid() == 0:  # whom no permission binds
        found, written = ([x for x in lines if "locked" not in x] for lines in (found, written))
    assert found == written
    assert len(found) > 30


def test_a_folder_of_all_of_them_becomes_a_manifest(tmp_path, capsys):
    root = tmp_path / "root"
    for what in (*CONTENTS, *OTHERS):
        make(what, root / what)
    out = tmp_path / "m.parquet"
    assert main(["folder", str(root), "--out", str(out)]) == 0
    kept = Manifest.read(out)
    assert 20 < len(kept) < len(CONTENTS)
    assert {"another script", "spaces and commas", "1 × 5,000 pixels"} <= set(kept.classes)
    text = capsys.readouterr().out
    assert "unreadable image" in text
    assert "link out of the root" in text
    with pytest.raises(CrossbatchError, match=r"\(--strict\). Got \d+, listed in .*, first .*, "):
        main(["folder", str(root), "--out", str(out), "--strict"])


def test_class_names_in_any_script(tmp_path):
    names = ["鳥", "птица", "طائر", "पक्षी", "ä, b", "🐦", "a b"]
    for name in names:
        for number in range(2):
            place = tmp_path / "root" / name / f"{number},{name}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(JPEG)
    out = tmp_path / "m.parquet"
    assert main(["folder", str(tmp_path / "root"), "--out", str(out), "--strict"]) == 0
    assert Manifest.read(out).classes == sorted(names)


def test_links_to_themselves_are_missing(tmp_path):
    make("link to itself", tmp_path / "a")
    (tmp_path / "list.csv").write_text("a/circle.jpg,a\n")
    listed, _ = from_csv(tmp_path / "list.csv")
    assert [str(p.kind) for p in validate(listed, decode=False).problems] == ["missing file"]


def test_absolute_paths_are_no_links_out_of_the_root(tmp_path):
    make("suffix in capitals", tmp_path / "a")
    (tmp_path / "lists").mkdir()
    line = f"{tmp_path}/a/PHOTO.JPG,a\n"
    (tmp_path / "lists/list.csv").write_text(line + line.replace("JPG,a", "JPG,b"))
    listed, _ = from_csv(tmp_path / "lists/list.csv")
    assert [str(p.kind) for p in validate(listed).problems] == [
        "image listed twice",
        *["class with one image"] * 2,
    ]


def listed(tmp_path, *lines):
    file = tmp_path / "list.csv"
    file.write_text("path,label,split,role\n" + "".join(line + "\n" for line in lines))
    return file


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["1.jpg,a,train,", "2.jpg,b,test,query", "3.jpg,b,test,", "2.jpg,b,test,gallery"],
            r"2.jpg as query or in the gallery, not both. Got query in list.csv:3 and gallery in "
            r"list.csv:5. Leave the role empty",
        ),
        (
            ["1.jpg,a,train,", "2.jpg,b,test,query", "3.jpg,b,test,gallery", "4.jpg,b,train,"],
            r"no class in training and test.*Got 1 in both: b; b in list.csv:5 and list.csv:3.",
        ),
    ],
)  # fmt: skip
def test_retrieval_lists_that_leak(tmp_path, lines, message):
    with pytest.raises(FormatError, match=message):
        from_csv(listed(tmp_path, *lines))


def test_lists_that_only_look_as_if_they_leaked(tmp_path):
    twice = [
        "1.jpg,a,train,",
        "1.jpg,a,train,",
        "2.jpg,b,test,query",
        "2.jpg,b,validation,gallery",
    ]
    assert len(from_csv(listed(tmp_path, *twice)).manifest) == 4
    classified = ["1.jpg,a,train,", "2.jpg,a,test,"]
    assert len(from_csv(listed(tmp_path, *classified)).manifest) == 2


def test_the_command_ends_with_status_2_and_one_sentence(tmp_path):
    file = listed(tmp_path, "1.jpg,b,train,", "2.jpg,b,test,query")
    code = "import sys; from crossbatch.cli.main import main; sys.argv[0] = 'crossbatch'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "manifest", "csv", file, "--out", tmp_path / "m.parquet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert re.fullmatch(r"crossbatch: Expected no class in training and test.*\n", done.stderr)

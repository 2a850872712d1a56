"""From a folder of pictures to a search engine, by the commands of the README; and bad input."""

import io
import json
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from crossbatch.cli import main as cli
from crossbatch.data import Manifest
from crossbatch.models import Encoder, EncoderConfig
from tests import blobs
from tests.end_to_end.many_index_kills import Growing, check

SMALL = EncoderConfig(trunk="test_resnet.r160_in1k", weights="none", image_size=32, dim=8)


def crossbatch(*arguments, cwd=None):
    """The command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["crossbatch", *map(str, arguments)])
        patch.setenv("COLUMNS", "120")
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return SimpleNamespace(
        returncode=stop.value.code, stdout=out.getvalue(), stderr=err.getvalue()
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder of pictures, an untrained encoder, and an index made by the command."""
    work = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    for c in range(3):
        (work / "photos" / f"class{c}").mkdir(parents=True)
        for i in range(4):
            blobs.picture(rng, rng.uniform(0, 1, 3)).save(
                work / "photos" / f"class{c}" / f"{i}.png"
            )
    (work / "photos" / "broken.jpg").write_bytes(b"no image")
    torch.manual_seed(0)
    Encoder(SMALL).save(work / "encoder")
    made = crossbatch("index", work / "encoder", work / "photos", "--out", work / "x.index")
    assert made.returncode == 0, made.stderr
    assert "x.index: 12 items (12 added, 1 left out)." in made.stdout
    assert "unreadable image: broken.jpg" in made.stdout
    assert "broken.jpg" in (work / "x.index.problems.csv").read_text()
    return work


def test_index_again_add_and_delete(work, tmp_path):
    index = shutil.copytree(work / "x.index", tmp_path / "y.index")
    (tmp_path / "more").mkdir()
    shutil.copy(work / "photos" / "class0" / "0.png", tmp_path / "more" / "copy.png")
    added = crossbatch("index", "add", index, tmp_path / "more")
    assert "y.index: 13 items (1 added)." in added.stdout, added.stderr
    again = crossbatch("index", work / "encoder", work / "photos", "--out", index)
    assert "y.index: 13 items (12 as they were, 1 left out)." in again.stdout, again.stderr
    found = crossbatch("duplicates", index, "--threshold", 0.9999, "--json")
    groups = [[item["path"] for item in group["items"]] for group in json.loads(found.stdout)]
    assert ["class0/0.png", "copy.png"] in groups
    assert "groups with" in crossbatch("duplicates", index, "--threshold", 0.9999).stdout
    gone = crossbatch("index", "delete", index, "--where", "label = 'class0'")
    assert "y.index: 4 deleted, 9 left." in gone.stdout, gone.stderr


def test_search_as_table_json_and_page(work, tmp_path):
    query = work / "photos" / "class1" / "2.png"
    table = crossbatch("search", work / "x.index", query, "-k", 3)
    assert table.returncode == 0, table.stderr
    assert "class1/2.png" in table.stdout
    assert "1.000" in table.stdout
    found = crossbatch(
        *("search", work / "x.index", query, work / "photos" / "class0" / "1.png", "-k", 2),
        *("--where", "label <> 'class1'", "--json", "--gallery", tmp_path / "out.html"),
    )
    assert found.returncode == 0, found.stderr
    hits = [[hit["path"] for hit in one["hits"]] for one in json.loads(found.stdout)]
    assert len(hits) == 2
    assert hits[1][0] == "class0/1.png"
    assert not any("class1/" in path for row in hits for path in row)
    page = (tmp_path / "out.html").read_text()
    assert page.count("data:image/webp") == 6
    assert "label &lt;&gt; &#39;class1&#39;" in page
    for outside in ('src="http', "<script", "<link", "url(", str(work)):
        assert outside not in page
    both = crossbatch("search", work / "x.index", query, query, "--together", "--json", "-k", 1)
    assert len(json.loads(both.stdout)) == 1


def test_embed_and_export(work, tmp_path):
    made = crossbatch("embed", work / "encoder", work / "photos", "--out", tmp_path / "z.npy")
    assert "Wrote 12 embeddings of 8 numbers" in made.stdout, made.stderr
    assert np.load(tmp_path / "z.npy").shape == (12, 8)
    assert pq.read_table(tmp_path / "z.parquet").num_rows == 12
    assert "broken.jpg" in (tmp_path / "z.problems.csv").read_text()
    nothing = crossbatch("export", work / "encoder")
    assert nothing.returncode == 2
    assert "`--folder`, `--hub` or `--onnx`" in nothing.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "x.index"), "an image to search by. Got none. Name a file"),
        (("search", "x.index", "nowhere.png"), "Got nowhere.png"),
        (("search", "x.index", "photos/broken.jpg"), "Got photos/broken.jpg: cannot identify"),
        (("search", "x.index", "a", "--where", "labl = 'a'"), "a.*No such file"),
        (("search", "nowhere", "a.png"), "an index at .*nowhere"),
        (("search", "x.index", "photos/class0/0.png", "--where", "labl = 1"), "Did you mean"),
        (("search", "x.index", "photos/class0/0.png", "--run", "other"), "cannot be compared"),
        (("search", "x.index", "photos/class0/0.png", "-k", "0"), "`k` of at least 1"),
        (("index", "nowhere", "photos", "--out", "new"), "a run folder at nowhere"),
        (("index", "encoder", "nowhere", "--out", "new"), "manifest at nowhere"),
        (("index", "encoder", "empty", "--out", "new"), "one image in empty"),
        (("index", "other", "photos", "--out", "x.index"), "cannot be compared"),
        (("index", "delete", "x.index"), "`--where` or `--id`"),
        (("index", "add", "nowhere", "photos"), "an index at .*nowhere"),
        (("duplicates", "x.index", "--threshold", "3"), "`threshold` in"),
        (("embed", "encoder", "photos", "--out", "x.csv"), "ending in .parquet or .npy"),
    ],
)
def test_bad_input_exits_with_2_and_no_traceback(work, arguments, message):
    if not (work / "other").exists():
        torch.manual_seed(1)
        Encoder(SMALL).save(work / "other")
        (work / "empty").mkdir()
    run = crossbatch(*arguments, cwd=work)
    assert run.returncode == 2, run.stdout
    assert re.search(message, run.stderr), run.stderr
    assert "Traceback" not in run.stderr
    assert not (work / "new").exists()


@pytest.mark.parametrize("command", ["index", "add"])
def test_killed_at_any_moment_leaves_whole_blocks(tmp_path, command):
    growing = Growing.make(tmp_path, pictures=60, block=6, command=command)
    process = growing.start()
    growing.wait_for(2, process)
    process.kill()
    process.wait()
    assert check(growing, 0) > 0 or command == "index"
    growing.finish()


def test_words_are_cut_off_for_nobody_but_a_terminal(work, tmp_path):
    name = "a-rather-long-name-" * 10 + ".png"
    (tmp_path / "long").mkdir()
    shutil.copy(work / "photos" / "class0" / "0.png", tmp_path / "long" / name)
    crossbatch("index", work / "encoder", tmp_path / "long", "--out", tmp_path / "z.index")
    found = crossbatch("search", tmp_path / "z.index", tmp_path / "long" / name)
    head, row = found.stdout.splitlines()[1:3]
    assert name in row.split()
    assert head.split() == ["similarity", "id", "path"]  # nothing else is known


def test_an_image_that_came_within_a_manifest_has_no_path_to_show(work, tmp_path):
    picture = work / "photos" / "class0" / "0.png"
    row = {"bytes": picture.read_bytes(), "path": None}
    Manifest(pa.table({"image": [row, row], "label": ["a", "b"]})).write(tmp_path / "m.parquet")
    index, page = tmp_path / "m.index", tmp_path / "out.html"
    crossbatch("index", work / "encoder", tmp_path / "m.parquet", "--out", index)
    found = crossbatch("search", index, picture, "--gallery", page)
    same = crossbatch("duplicates", index)
    assert same.stdout.splitlines()[1:3] == ["  0  a", "  1  b"], same.stderr
    assert found.stdout.split()[1:4] == ["similarity", "id", "label"], found.stderr
    assert "embedded image" not in found.stdout + page.read_text()

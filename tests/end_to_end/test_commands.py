"""From a folder of pictures to a page, by the commands of the README; and what bad input meets."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest

from tests import blobs

RUN = [sys.executable, "-W", "ignore", "-c", "from crossbatch.cli.main import main; main()"]


def crossbatch(*arguments):
    run = [*RUN, *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder of pictures, a manifest, and two evaluated runs."""
    work = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    for c in range(12):
        colour = rng.uniform(0, 1, 3)
        folder = work / "photos" / f"class{c}"
        folder.mkdir(parents=True)
        for i in range(6):
            blobs.picture(rng, colour).save(folder / f"{i}.png")
    (work / "photos" / "class0" / "broken.png").write_bytes(b"no image")
    made = crossbatch(
        "manifest", "folder", work / "photos", "--out", work / "m.parquet", "--test-fraction", 0.4
    )
    assert made.returncode == 0, made.stderr
    for name, memory in (("plain", 0), ("xbm", 24)):
        flags = blobs.options(memory=memory)
        run = crossbatch("train", work / "m.parquet", "--out", work / name, *flags)
        assert run.returncode == 0, run.stderr
        measured = crossbatch("evaluate", work / name)
        assert measured.returncode == 0, measured.stderr
        assert "R@1" in measured.stdout
    return work


def test_what_is_unreadable_is_named(work):
    problems = (work / "m.problems.csv").read_text()
    assert "broken.png" in problems


def test_an_evaluation_is_kept(work):
    stored = json.loads((work / "xbm" / "evaluation" / "metrics.json").read_text())
    assert stored["metrics"]["R@1"] > 1 / 6  # well above chance, on classes it never saw


def test_the_page_stands_alone(work):
    made = crossbatch("report", work / "plain", work / "xbm", "--out", work / "r.html")
    assert made.returncode == 0, made.stderr
    page = (work / "r.html").read_text()
    assert page.count("<svg") >= 3
    assert "memory.capacity: 0 → 24" in page
    assert "data:image/webp" in page
    for outside in ('src="http', "<script", "<link", "url("):
        assert outside not in page.replace("url(#", "")  # clip paths within the figures


def test_weights_are_looked_at_in_a_run(work, tmp_path):
    made = crossbatch("study", "weights", work / "xbm", "--out", tmp_path, "--batches", 2)
    assert made.returncode == 0, made.stderr
    assert "Contrastive(margin=0.5)" in made.stdout
    assert len(list(tmp_path.iterdir())) == 3


def test_images_are_ranked_by_what_a_run_sees(work, tmp_path):
    out, listed = tmp_path / "r.parquet", tmp_path / "s.csv"
    made = crossbatch(
        "rank", work / "m.parquet", work / "plain", "--out", out, "--suspects", listed
    )
    assert made.returncode == 0, made.stderr
    assert "subset" in made.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"r.parquet", "r.html", "s.csv"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rank", "nothing.parquet", "nothing"), "manifest at nothing.parquet"),
        (("study", "weights", "nothing", "--out", "o"), "a run folder at"),
        (("evaluate", "nothing"), "a run folder at"),
        (("report", "nothing"), "a run folder at"),
        (("train", "nothing.parquet", "--out", "r"), "manifest at nothing.parquet"),
        (("train", "--resume", "nothing"), "a run folder at"),
        (("train", "--resume", "nothing", "--seed", "3"), "`--resume RUN` alone"),
        (("train", "--config"), "a file after `--config`"),
        (("train", "m", "--out", "r", "--weighting", "contrastve"), "Contrastive"),
    ],
)
def test_bad_input_exits_with_2_and_no_traceback(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = crossbatch(*arguments)
    assert run.returncode == 2
    assert message in run.stderr + run.stdout
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kilobytes", [2, 25])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(work, tmp_path, kilobytes):
    """No file may grow beyond a size: the log, or later the checkpoint, cannot be written."""
    limit = 1024 * kilobytes
    run = subprocess.run(
        [*RUN, "train", str(work / "m.parquet"), "--out", str(tmp_path / "r"), *blobs.options()],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert run.returncode == 2
    assert "Could not write" in run.stderr
    assert "File too large" in run.stderr
    assert "Traceback" not in run.stderr
    assert not [path for path in (tmp_path / "r").rglob("*") if ".part." in path.name]
    assert not (tmp_path / "r" / "checkpoint.pt").exists()


def test_an_image_that_is_gone_when_it_is_wanted_is_one_sentence(tmp_path):
    """Though a process of the loader finds it, whose traceback torch puts before the message."""
    rng = np.random.default_rng(0)
    for c in range(12):
        (tmp_path / "photos" / f"class{c}").mkdir(parents=True)
        for i in range(3):
            blobs.picture(rng, rng.uniform(0, 1, 3)).save(tmp_path / f"photos/class{c}/{i}.png")
    crossbatch("manifest", "folder", tmp_path / "photos", "--out", tmp_path / "m.parquet")
    for file in tmp_path.glob("photos/*/*.png"):
        file.unlink()
    flags = blobs.options(mode="fine_tune", workers=1)
    run = crossbatch("train", tmp_path / "m.parquet", "--out", tmp_path / "run", *flags)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "crossbatch: Expected a readable image in row" in run.stderr

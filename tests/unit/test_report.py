"""The page: what it says, that it needs nothing but itself, and what it refuses."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.report import write_report
from crossbatch.report.groups import group_runs
from crossbatch.training import RunFolder, TrainConfig
from tests.unit.run_folders import write_manifest, write_run

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Sees that tags close in order; collects text, and whatever is referred to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.refers, self.text = [], [], ""
        self.feed(text)
        assert self.open == ["html"] or not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.refers += [value for name, value in attributes if name in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        self.refers += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        while self.open[-1] != tag:
            assert self.open.pop() in ("p", "tr", "td", "th")

        self.open.pop()

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    manifest = write_manifest(base / "m.parquet")
    for seed in (0, 1):
        write_run(base / f"plain-seed{seed}", manifest, noise=1.5, seed=seed)
        write_run(base / f"memory-seed{seed}", manifest, noise=0.8, memory=500, seed=seed)
    return base


def page(base, *names):
    out = base / "page.html"
    write_report([base / name for name in names], out)
    text = out.read_text()
    return Page(text), text


def test_a_comparison_says_what_was_measured(base):
    names = [f"{kind}-seed{seed}" for kind in ("plain", "memory") for seed in (0, 1)]
    parsed, _ = page(base, *names)
    plain, memory = group_runs([base / name for name in names])
    values = [100 * e.result.metrics["R@1"] for e in plain.evaluations]
    assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in parsed.text
    difference = memory.against(plain, "R@1")
    assert f"{100 * difference.difference:+.2f} (" in parsed.text
    gain = memory.evaluations[0].result.per_query["R@1"]
    gain = gain - plain.evaluations[0].result.per_query["R@1"]
    assert f"Found by memory, not by plain ({(gain > 0).sum()})" in parsed.text
    assert "memory.capacity: 0 → 500" in parsed.text
    assert "memory: Stored rows are near: after 8 batches" in parsed.text
    for title in (
        "Loss",
        "Active negatives",
        "Drift of stored rows",
        "Time of the memory",
        "Validation R@1",
        "Images per second",
    ):
        assert title in parsed.text


def test_a_page_needs_nothing_but_itself(base):
    parsed, text = page(base, "plain-seed0", "memory-seed0")
    assert parsed.refers
    for reference in parsed.refers:
        assert reference.startswith(("data:image/webp;base64,", "#")), reference
    assert "<script" not in text
    assert "url(http" not in text
    assert "prefers-color-scheme: dark" in text


def test_labels_are_escaped(base):
    _, text = page(base, "plain-seed0")
    assert "&lt;class 0&gt;" in text
    assert "<class 0>" not in text


def test_one_run_has_intervals_and_no_comparison(base):
    parsed, _ = page(base, "memory-seed1")
    assert re.search(r"\d\d\.\d\d \(\d\d\.\d\d to \d\d+\.\d\d\)", parsed.text)
    assert "query by query" not in parsed.text
    assert "Drawn at random" in parsed.text


def test_frames_tell_right_from_wrong(base):
    _, text = page(base, "plain-seed0")
    labels = re.findall(r'alt="">(&lt;class \d&gt;)(.*?)</div></div>', text, re.DOTALL)
    assert len(labels) == 8
    for label, hits in labels:
        shown = re.findall(r'<img class="(\w+)" src="[^"]*" title="([^"]*)"', hits)
        assert len(shown) == 5
        for kind, hit in shown:
            assert (kind == "right") == (hit == label)


def test_runs_on_other_queries_are_refused(base, tmp_path):
    other = write_run(tmp_path / "other", write_manifest(tmp_path / "o.parquet", classes=5))
    with pytest.raises(CrossbatchError, match="same queries"):
        write_report([base / "plain-seed0", other], tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_what_is_no_evaluated_run_is_refused(base, tmp_path):
    with pytest.raises(CrossbatchError, match="at least one run folder"):
        write_report([], tmp_path / "p.html")
    with pytest.raises(FormatError, match="run folder"):
        write_report([tmp_path], tmp_path / "p.html")
    bare = write_run(tmp_path / "bare", base / "m.parquet", evaluated=False)
    with pytest.raises(CrossbatchError, match="evaluat"):
        write_report([bare], tmp_path / "p.html")


def test_stages_are_told_and_drawn(base, tmp_path):
    _, plain = page(base, "plain-seed0")
    assert "stage" not in plain.split("<h2>Config")[0].lower()
    run = write_run(tmp_path / "staged", base / "m.parquet")
    stages = {"subsets": [0, 1], "images": [2400, 80], "batch": [8, 8], "weights": [1.0, 0.5]}
    for number, step in enumerate((1, 17, 29)):
        row = {"step": step, "stage": number + 1, "lr": 0.1, "reranked": number == 2, **stages}
        RunFolder.open(run).append("stages.jsonl", row)
    write_report([base / "plain-seed0", run], tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    figures = text.count("<svg")
    assert text.count('id="stage-1-17"') == text.count('id="stage-1-29"') == figures
    assert 'id="stage-1-1"' not in text
    assert text.count("2,400, 80") == 3
    assert text.count("ranked anew") == 1
    assert "<td>0.1</td>" in text


def test_classifiers_are_refused(base, tmp_path):
    config = TrainConfig(str(base / "m.parquet"), task="classification")
    RunFolder.create(tmp_path / "run", config, digest="")
    with pytest.raises(CrossbatchError, match=r"runs of retrieval.*crossbatch evaluate"):
        write_report([tmp_path / "run"], tmp_path / "p.html")

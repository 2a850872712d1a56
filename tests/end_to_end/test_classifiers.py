"""Models A to D of the paper by commands, and what several of them say together."""

import csv
import json
import re

import pytest

from crossbatch.data import Manifest, hold_out_images
from crossbatch.training import RunFolder
from crossbatch.training.predict import predict
from tests import blobs
from tests.end_to_end.test_commands import crossbatch

MODELS = ("all_at_once", "clean_only", "two_stages", "curriculumnet")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    path = blobs.with_subsets(work / "m.parquet", [0, 0, 1, 2], classes=6, images=12, test=0)
    hold_out_images(Manifest.read(path), split="test", fraction=0.25, seed=0).write(path)
    for name in MODELS[2:]:
        flags = blobs.options(task="classification", plan=name, **{"sampler.batch": 16})
        pairs = [flags[i : i + 2] for i in range(0, len(flags), 2)]
        flags = [text for pair in pairs if "memory" not in pair[0] for text in pair]
        run = crossbatch("train", path, "--out", work / name, *flags)
        assert run.returncode == 0, run.stderr
    return work


def test_runs_are_measured_alone_and_together(work):
    runs = [work / name for name in MODELS[2:]]
    measured = crossbatch("evaluate", *runs)
    assert measured.returncode == 0, measured.stderr
    assert "18 images of 6 classes" in measured.stdout
    alone = [predict(RunFolder.open(run), "test") for run in runs]
    codes, mean = alone[0].codes, sum(p.probabilities for p in alone) / len(alone)
    right = (mean.argmax(dim=1) == codes).double().mean().item()
    row = next(line for line in measured.stdout.splitlines() if "ensemble of 2" in line)
    assert float(re.findall(r"\d+\.\d+", row)[0]) == pytest.approx(100 * right, abs=0.01)
    stored = json.loads((runs[0] / "classification" / "metrics.json").read_text())
    assert stored["split"] == "test"
    assert stored["metrics"]["top-1"] == pytest.approx(
        (alone[0].probabilities.argmax(dim=1) == codes).double().mean().item()
    )
    with (runs[0] / "classification" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == alone[0].classes
    mean = sum(float(row["top-1"]) for row in rows) / 6
    assert mean == pytest.approx(stored["metrics"]["macro top-1"])


def test_what_cannot_be_compared_is_named(work, tmp_path):
    other = blobs.manifest(tmp_path / "other.parquet", classes=8, images=3, test=8)
    run = crossbatch("evaluate", work / "two_stages", "--manifest", other)
    assert run.returncode == 2
    assert "of others, such as 'class 06'" in run.stderr
    flags = blobs.options(memory=0, iterations=2)
    assert crossbatch("train", work / "m.parquet", "--out", tmp_path / "r", *flags).returncode == 0
    run = crossbatch("evaluate", work / "two_stages", tmp_path / "r")
    assert run.returncode == 2
    assert "runs of one task" in run.stderr

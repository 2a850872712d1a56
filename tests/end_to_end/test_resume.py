"""Killed at any step and resumed equals never stopped, bit for bit, whatever the memory."""

import re
import sys

import pytest

from tests import blobs
from tests import kills as driver
from tests.kills import KINDS, crossbatch, differences, kill_after, state

PARTS = {
    "ring": "/memory/enqueued_rows",
    "per_image": "/memory/slots",
    "momentum": "/keys/network.trunk.",
    "int8": "/memory/scales",
    "normalised": "/normalisation/mean",
    "young": "/age_limit/recent",
    "prism": "/prism/quantiles",
    "chunks": "/memory/enqueued_rows",
}


@pytest.mark.parametrize(
    ("kind", "mode", "iterations", "kills"),
    [
        ("ring", "head", 200, (27, 71)),
        ("per_image", "head", 120, (47,)),
        ("int8", "head", 120, (33,)),
        ("normalised", "head", 120, (14,)),
        ("young", "head", 60, (20,)),
        ("prism", "head", 120, (61,)),
        ("momentum", "fine_tune", 40, (15,)),
        ("chunks", "fine_tune", 20, (8,)),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(tmp_path, kind, mode, iterations, kills):
    manifest = blobs.manifest(tmp_path / "blobs.parquet")
    changes = {"encoder.dropout": 0.3, "iterations": iterations, **KINDS[kind]}
    flags = blobs.options(mode, **changes)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = crossbatch("train", manifest, "--out", cut, *flags)
    for step in kills:
        kill_after(process, cut, step)
        process = crossbatch("train", "--resume", cut)
    uninterrupted = crossbatch("train", manifest, "--out", whole, *flags)  # beside the last part
    assert [process.wait(), uninterrupted.wait()] == [0, 0]
    assert not differences(whole, cut)
    assert any(name.startswith(PARTS[kind]) for name in state(whole))
    assert "/memory/embeddings" in state(whole)


RANKED = """
import numpy as np, sys, crossbatch.training as training
from pathlib import Path
from crossbatch.cli.train import parse
class Ranker:
    def fit(self, features, codes):
        far = np.abs(features - features.mean(0)).sum(1)
        self.subset_ = np.searchsorted(np.quantile(far, [0.5, 0.8]), far)
if sys.argv[1] == "--resume":
    training.resume(Path(sys.argv[2]), ranker=Ranker())
else:
    out, config = parse(sys.argv[1:])
    training.train(config, out, ranker=Ranker())
"""
STAGES = """Plan(stages=(
    Stage(subsets=(0,), balanced=True, epochs=6.0),
    Stage(subsets=(0, 1), shares=(0.5, 0.5), weights=(1.0, 0.5), lr=0.5, iterations=30),
    Stage(subsets=(0, 1, 2), shares=(0.5, 0.25, 0.25), weights=(1.0, 0.5, 0.5), rerank=True),
))"""


def test_a_plan_is_resumed_inside_every_stage(tmp_path, monkeypatch):
    """Killed in the second stage, and in the third, whose subsets the run has ranked itself.

    PRISM leaves out some of each batch, with their weights.
    """
    monkeypatch.setattr(driver, "RUN", [sys.executable, "-W", "ignore", "-c", RANKED])
    manifest = blobs.with_subsets(tmp_path / "blobs.parquet", [0, 0, 0, 1, 1, 2])
    changes = {"encoder.dropout": 0.3, "iterations": 75, "plan": STAGES, "memory": 16}
    flags = blobs.options(**changes, **{"memory.noise": 0.3, "memory.sub_centres": 2})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = crossbatch(manifest, "--out", cut, *flags)
    for step in (26, 57):
        kill_after(process, cut, step)
        process = crossbatch("--resume", cut)
    uninterrupted = crossbatch(manifest, "--out", whole, *flags)
    assert [process.wait(), uninterrupted.wait()] == [0, 0]
    assert not differences(whole, cut)
    stages = (whole / "stages.jsonl").read_text()
    assert re.findall(r'"iterations": (\d+)', stages) == ["14", "30", "31"]
    assert state(whole)["/course/stage"] == 2
    assert state(whole)["/prism/seen"] == 75 - 6  # asked since the memory has rows
    assert state(whole)["/course/subsets"].tolist() == state(cut)["/course/subsets"].tolist()
    ranked = [(run / "stages" / "3.parquet").read_bytes() for run in (whole, cut)]
    assert ranked[0] == ranked[1]


def test_classification_is_resumed(tmp_path):
    """Mixed and varied images, balanced classes, a moving average."""
    manifest = blobs.with_subsets(tmp_path / "b.parquet", [0, 0, 1], test=0)
    flags = blobs.options(
        "fine_tune",
        **{"task": "classification", "sampler.batch": 8, "plan": "two_stages", "ema": 0.9},
        **{"classification.mixup": 0.2, "classification.rand_augment": 2, "iterations": 20},
    )
    pairs = [flags[i : i + 2] for i in range(0, len(flags), 2)]
    flags = [text for pair in pairs if "memory" not in pair[0] for text in pair]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = crossbatch("train", manifest, "--out", cut, *flags)
    kill_after(process, cut, 15)
    process = crossbatch("train", "--resume", cut)
    uninterrupted = crossbatch("train", manifest, "--out", whole, *flags)
    assert [process.wait(), uninterrupted.wait()] == [0, 0]
    assert not differences(whole, cut)
    assert any(name.startswith("/average/network.") for name in state(whole))

"""Cameras, trials, averages over classes, and the options of the command."""

import csv

import numpy as np
import pyarrow as pa
import pytest
import torch

from crossbatch.cli.evaluate import main
from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError
from crossbatch.evaluation import (
    Search,
    describe,
    evaluate,
    evaluate_manifest,
    evaluate_trials,
    per_class,
    read_evaluation,
    write_evaluation,
)
from crossbatch.models import Encoder, EncoderConfig
from tests.unit.run_folders import embeddings, write_manifest, write_run


@pytest.fixture
def manifest(tmp_path):
    path = write_manifest(tmp_path / "m.parquet", classes=6, notes={"seeds": [7, 8, 9]})
    return Manifest.read(path)


def with_trials(manifest, count=3):
    """One random gallery image per class and trial, as the importer of VehicleID draws them."""
    for trial in range(count):
        rng = np.random.default_rng(7 + trial)
        roles = np.full(len(manifest), "query", object)
        roles[np.arange(6) * 4 + rng.integers(0, 4, 6)] = "gallery"
        manifest = manifest.with_column(f"trial_{trial}", pa.array(roles))
    return manifest


def test_market_1501_by_hand():
    """On a line of angles: the query, its camera's own picture, a wrong one, the right one.

    With cameras the nearest is neither right nor wrong, so the right one stands second, and the
    picture of the same camera cannot be found at all.
    """
    angles = np.deg2rad([0, 5, 10, 20, 90])
    x = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], 1))
    labels, cameras = ["a", "a", "b", "a", "c"], ["k", "k", "k", "l", None]
    plain = evaluate(x, labels, ks=(1,), neighbours=2)
    assert plain.per_query["R@1"][0] == 1
    found = evaluate(x, labels, ks=(1, 2), neighbours=2, search=Search(cameras=cameras))
    assert found.query_ids.tolist() == [0, 1, 3]
    assert found.per_query["R@1"].tolist() == [0, 0, 0]
    assert found.per_query["mAP"].tolist() == [1 / 2, 1 / 2, (1 / 2 + 2 / 3) / 2]
    assert found.neighbours[0].tolist() == [2, 3]
    assert found.skipped.tolist() == [2, 4]
    assert found.search == ("images of the query's class and camera ignored",)


def test_a_query_whose_camera_took_all_is_skipped_and_counted():
    x = torch.eye(4)
    found = evaluate(x, list("aabb"), ks=(1,), search=Search(cameras=["k", "k", "k", "l"]))
    assert found.skipped.tolist() == [0, 1]
    assert found.query_ids.tolist() == [2, 3]


def test_a_column_of_the_manifest_excludes(manifest):
    x = embeddings(manifest, seed=0, noise=2.0)
    cameras = [None if i % 5 == 0 else f"c{i % 2}" for i in range(24)]
    seen = manifest.with_column("camera", pa.array(cameras))
    found = evaluate_manifest(x, seen, exclude="camera")
    labels, ids = manifest.labels.tolist(), manifest.ids
    wanted = evaluate(x, labels, ids=ids, search=Search(cameras=cameras))
    assert found.metrics == wanted.metrics
    assert found.metrics != evaluate_manifest(x, seen).metrics
    roles = seen.with_column("role", pa.array(["query", "gallery"] * 12))
    assert evaluate_manifest(x, roles, exclude="camera").protocol == "query-gallery"
    assert evaluate_manifest(x, roles, protocol="leave-one-out").protocol == "leave-one-out"
    with pytest.raises(CrossbatchError, match=r"a column of the manifest. Got 'camra'"):
        evaluate_manifest(x, seen, exclude="camra")
    with pytest.raises(CrossbatchError, match=r"values in column `role`. Got none"):
        evaluate_manifest(x, seen, exclude="role")
    with pytest.raises(CrossbatchError, match=r"roles of the split. Got no roles"):
        evaluate_manifest(x, seen, protocol="query-gallery")
    with pytest.raises(CrossbatchError, match=r"a protocol. Got 'loo'"):
        evaluate_manifest(x, seen, protocol="loo")


def test_trials(manifest, tmp_path):
    x = embeddings(manifest, seed=0, noise=1.5)
    tried = with_trials(manifest)
    found = evaluate_trials(x, tried, ks=(1, 5))
    assert found.names == ("trial_0", "trial_1", "trial_2")
    assert found.seeds == (7, 8, 9)
    each = [
        evaluate_manifest(x, tried.with_column("role", tried.column(name)), ks=(1, 5))
        for name in found.names
    ]
    for name, value in found.metrics().items():
        values = [result.metrics[name] for result in each]
        assert value == pytest.approx(np.mean(values))
        assert found.deviations()[name] == pytest.approx(np.std(values, ddof=1))
    pooled = found.pooled()
    assert pooled.metrics == found.metrics()
    some = int(pooled.query_ids[0])
    scores = [r.per_query["mAP"][r.query_ids == some] for r in each]
    assert pooled.per_query["mAP"][0] == pytest.approx(np.concatenate(scores).mean())
    assert pooled.search == ("mean over 3 trials",)
    write_evaluation(tmp_path, describe(found, split="test", manifest="m", manifest_digest="d"))
    again = read_evaluation(tmp_path)
    assert [trial["seed"] for trial in again.trials] == [7, 8, 9]
    assert again.trials[1]["metrics"] == each[1].metrics
    assert again.result.metrics == found.metrics()
    with pytest.raises(CrossbatchError, match=r"columns trial_0, trial_1 .* of roles. Got id"):
        evaluate_trials(x, manifest)


def test_per_class_and_macro(tmp_path, manifest):
    scores = np.array([1.0, 0, 1, 1, 0, 0.5])
    found = per_class(np.array(list("aababb")), {"s": scores})
    assert found.labels.tolist() == ["a", "b"]
    assert found.queries.tolist() == [3, 3]
    assert found.scores["s"].tolist() == pytest.approx([2 / 3, 0.5])
    assert found.macro()["s"] == pytest.approx((2 / 3 + 0.5) / 2)
    rows = np.r_[0:4, 4:6, 8:12]
    x = embeddings(manifest, seed=0, noise=1.5)[rows]
    result = evaluate(x, manifest.labels[rows], ids=manifest.ids[rows])
    described = describe(result, split="test", manifest="m", manifest_digest="d")
    write_evaluation(tmp_path, described)
    text = (tmp_path / "evaluation" / "per_class.csv").read_text(encoding="utf-8")
    lines = list(csv.reader(text.splitlines()))
    assert lines[0] == ["label", "queries", *result.metrics]
    assert [line[1] for line in lines[1:]] == ["4", "2", "4"]
    column = [float(line[2]) for line in lines[1:]]
    assert np.mean(column) == pytest.approx(described.macro["R@1"])
    assert read_evaluation(tmp_path).macro == described.macro
    assert described.macro["mAP"] != result.metrics["mAP"]


def test_a_cutoff_beyond_the_gallery_is_named():
    found = evaluate(torch.eye(4), list("aabb"), ks=(1, 2, 3), metrics=["nDCG@4"])
    assert found.idle == ("R@3", "nDCG@4")
    assert found.metrics["R@3"] == 1


@pytest.fixture
def run(tmp_path, manifest):
    path = tmp_path / "t.parquet"
    cameras = pa.array(["k", "l"] * 12)
    with_trials(manifest).with_column("camera", cameras).write(path)
    run = write_run(tmp_path / "run", path, evaluated=False)
    config = EncoderConfig(trunk="test_resnet.r160_in1k", weights="none", image_size=32, dim=8)
    Encoder(config).save(run / "encoder")
    return run


def test_command_with_everything(run, capsys):
    line = "--workers 0 --metrics R@1 nDCG@5 MRR CMC@100 --exclude-camera camera --expand 2"
    more = "--augment 2 --alpha 0 --rerank 4 2 0.5 --per-class 2 --protocol leave-one-out"
    assert main([str(run), *line.split(), *more.split()]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for told in (
        "With images of the query's class and camera ignored",
        "With database augmentation (2 nearest, α = 0)",
        "With query expansion (2 nearest, α = 0)",
        "With k-reciprocal re-ranking (k₁ = 4, k₂ = 2, λ = 0.5)",
        "CMC@100 reach the whole gallery: 1 by definition",
        "over classes",
        "class queries R@1",
    ):
        assert told in out
    found = read_evaluation(run)
    assert list(found.result.metrics) == ["R@1", "nDCG@5", "MRR", "CMC@100"]
    assert len(found.result.search) == 4


def test_command_with_trials(run, capsys):
    assert main([str(run), "--workers", "0", "--trials", "--metrics", "CMC@1", "CMC@5"]) == 0
    out = capsys.readouterr().out
    assert "mean over 3 trials" in out
    assert "trial_2, seed 9: CMC@1" in out
    assert len(read_evaluation(run).trials) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--expand -1", r"`--expand` ≥ 0. Got -1"),
        ("--rerank 0 1 0.3", r"`k1` ≥ 1"),
        ("--metrics R@0", r"a metric by its name. Got 'R@0'"),
        ("--expand 3 --alpha -1", r"`alpha` ≥ 0"),
        ("--trials --protocol leave-one-out", r"Got --trials with --protocol leave-one-out"),
    ],
)
def test_command_refuses(line, message, tmp_path):
    with pytest.raises(CrossbatchError, match=message):
        main([str(tmp_path / "no run"), *line.split()])

"""Classification: its loss, what it holds out, what it saves, and what it refuses."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb
from crossbatch.cli.train import parse
from crossbatch.data import Manifest, hold_out_images
from crossbatch.models import Classifier, Encoder
from crossbatch.training import Trainee, resume, steps, train
from crossbatch.training.batch import Classes
from tests import blobs


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Six classes of ten images, two of each in the split test."""
    path = tmp_path_factory.mktemp("data") / "blobs.parquet"
    whole = Manifest.read(blobs.manifest(path, classes=6, images=10, test=0))
    hold_out_images(whole, split="test", fraction=0.2, seed=0).write(path)
    return path


def config(manifest, mode="head", **changes):
    changes = {"task": "classification", "sampler.batch": 12, **changes}
    flags = blobs.options(mode, **changes)
    kept = [i for i in range(0, len(flags), 2) if not flags[i].startswith("--memory")]
    kept = [text for i in kept for text in flags[i : i + 2]]
    extra = [f"--{k}={v}" for k, v in changes.items() if k.startswith("memory")]
    return parse([str(manifest), "--out", "unused", *kept, *extra])[1]


def trainee_of(manifest, mode="head", **changes):
    return Trainee(config(manifest, mode, **changes), Manifest.read(manifest))


def slow_loss(logits, codes, weights, smoothing, partner, share):
    """The definition, one image at a time."""
    p = torch.softmax(logits.double(), dim=1)

    def h(y, row):
        return (1 - smoothing) * -p[row, y].log() + smoothing * -p[row].log().mean()

    above = below = 0.0
    for i in range(len(codes)):
        j = partner[i]
        above += share * weights[i] * h(codes[i], i) + (1 - share) * weights[j] * h(codes[j], i)
        below += share * weights[i] + (1 - share) * weights[j]
    return above / below


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_mean(manifest, mixup, smoothing):
    changes = {"classification.mixup": mixup, "classification.label-smoothing": smoothing}
    task = trainee_of(manifest, **changes).task
    g = torch.Generator().manual_seed(0)
    x, codes = torch.rand(9, 4, generator=g), torch.randint(6, (9,), generator=g)
    weights = torch.rand(9, generator=g)
    batch = Classes(np.arange(9), codes, codes, weights)
    mixed, batch = task.vary(x, batch, step=3)
    partner, share = torch.arange(9), 1.0
    if mixup:
        partner, share = batch.mixed.partner, batch.mixed.share
        assert 0 < share < 1
        assert not torch.equal(task.vary(x, batch, step=4)[0], mixed)
    torch.testing.assert_close(mixed, share * x + (1 - share) * x[partner])
    assert torch.equal(task.vary(x, batch, step=3)[0], mixed)
    logits = torch.randn(9, 6, generator=g)
    expected = slow_loss(logits, codes, weights, smoothing, partner, share)
    assert task.loss(logits, batch).value.item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("mode", ["head", "fine_tune"])
def test_it_learns_and_what_it_saves_reloads(manifest, tmp_path, mode):
    changes = {"optimizer.lr": 2e-2 if mode == "head" else 5e-3, "iterations": 60}
    run = train(config(manifest, mode, **changes), tmp_path / "run", quiet=True)
    rows = list(run.rows("validation.jsonl"))
    assert {"top-1", "top-5", "cross_entropy"} <= set(rows[-1])
    best = [row for row in rows if row["best"]][-1]
    assert best["top-1"] == max(row["top-1"] for row in rows)
    assert best["top-1"] > 0.6 > 1 / 6
    model = Classifier.load(run.encoder)
    whole = Manifest.read(manifest)
    assert model.classes == whole.classes
    trainee = Trainee(run.read_config(), whole)
    assert len(trainee.validation.rows) == 6  # a tenth of eight, rounded, of each class
    assert set(trainee.validation.codes.tolist()) == set(range(6))
    assert not set(trainee.validation.ids.tolist()) & set(trainee.training.ids.tolist())
    trainee.task.network(trainee.encoder).load_state_dict(
        (model if mode == "fine_tune" else model.encoder.head).state_dict()
    )
    held_out = trainee.validation
    found = trainee.task.measure(trainee.embed(held_out.rows), held_out)
    assert found["top-1"] == pytest.approx(best["top-1"])
    plain = Encoder.load(run.encoder)
    x = torch.rand(2, 3, 32, 32)
    model.eval(), plain.eval()
    torch.testing.assert_close(F.normalize(model(x), dim=1), plain(x))


def test_the_moving_average_is_what_is_saved(manifest, tmp_path):
    made = config(manifest, ema=0.9, iterations=12, **{"validation.every": 100})
    trainee = Trainee(made, Manifest.read(manifest))
    first = [p.clone() for p in trainee.network.parameters()]
    slow = first
    for t, _ in enumerate(steps(trainee)):
        m = min(0.9, (1 + t) / (10 + t))
        now = [p.detach() for p in trainee.network.parameters()]
        slow = [m * a + (1 - m) * b for a, b in zip(slow, now, strict=True)]
    trainee.save(tmp_path / "encoder")
    saved = list(Encoder.load(tmp_path / "encoder").head.parameters())
    for mine, other, last in zip(saved, slow, trainee.network.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(mine, last)
    rows = trainee.validation.rows
    said = trainee.embed(rows)
    trainee.average = None
    assert not torch.allclose(said, trainee.embed(rows))


def test_a_retrieval_run_has_a_moving_average_too(manifest, tmp_path):
    flags = blobs.options("fine_tune", iterations=3, ema=0.5, memory=0)
    run = train(parse([str(manifest), "--out", "o", *flags])[1], tmp_path / "run", quiet=True)
    state = run.load()
    saved = Encoder.load(run.encoder).state_dict()
    for name, value in state["average"].items():
        assert torch.equal(saved[name.removeprefix("network.")], value)
    assert not torch.equal(saved["head.layers.0.weight"], state["network"]["head.layers.0.weight"])


def test_a_plan_balances_classes(tmp_path):
    path = blobs.with_subsets(tmp_path / "b.parquet", [0, 0, 1], classes=4, images=9, test=0)
    whole = Manifest.read(path)
    keep = (whole.codes > 0) | (np.arange(len(whole)) < 2)  # class 0 has two images
    whole.select(keep).write(path)
    changes = {"plan": "two_stages", "validation.fraction": 0, "iterations": 6}
    trainee = trainee_of(path, **changes)
    trainee.enter()
    batches = trainee.batches()
    seen = np.concatenate([next(batches)[1].codes.numpy() for _ in range(4)])
    assert np.bincount(seen).tolist() == [12] * 4
    trainee.step = 3
    trainee.enter()
    _, batch = next(trainee.batches())
    assert trainee.course.subsets[batch.rows].tolist() == [0] * 6 + [1] * 6
    assert batch.weights.tolist() == [1.0] * 6 + [0.5] * 6
    assert [r.stage for r in steps(trainee)] == [2] * 3


def test_images_are_ranked_by_what_the_network_sees(manifest):
    for mode, width in (("head", 6), ("fine_tune", 512)):
        trainee = trainee_of(manifest, mode)
        features = trainee.embed(trainee.training.rows[:5], trainee.task.features)
        assert features.shape == (5, trainee.encoder.width if mode == "fine_tune" else width)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory.capacity": 24}, r"no options of the memory.*--task retrieval"),
        ({"memory.kind": "per_image"}, r"no options of the memory"),
        ({"probe": 3}, r"no probe, with `task` classification"),
        ({"weighting": "multi_similarity"}, r"no weighting of pairs"),
        ({"classification.label-smoothing": 1.0}, r"`label_smoothing` in \[0, 1\)"),
        ({"classification.rand-augment": 2}, r"no `rand_augment` with `mode` head"),
        ({"ema": 1.0}, r"`ema` in \[0, 1\)"),
        ({"sampler.batch": -1}, r"`sampler.batch`"),
        ({"task": "retrieval"}, r"no options of classification with `task` retrieval"),
    ],
)
def test_what_is_left_unused_is_refused(manifest, changes, message):
    with pytest.raises(xb.CrossbatchError, match=message):
        config(manifest, **changes)


def test_data_that_does_not_fit_is_named(manifest, tmp_path):
    other = blobs.manifest(tmp_path / "b.parquet", classes=4, test=2)
    whole = Manifest.read(other)
    splits = np.where(whole.column("split") == "test", "validation", "train")
    whole.with_column("split", splits).write(other)
    with pytest.raises(
        xb.CrossbatchError, match=r"validation images of the training.*12 of others"
    ):
        trainee_of(other)
    with pytest.raises(xb.CrossbatchError, match=r"a `batch` of 1 to 42 images"):
        trainee_of(manifest, **{"sampler.batch": 99})
    one = blobs.manifest(tmp_path / "c.parquet", classes=1, test=0)
    with pytest.raises(xb.CrossbatchError, match="two"):
        trainee_of(one)
    trainee = trainee_of(manifest)
    with torch.no_grad():
        next(trainee.network.parameters()).fill_(torch.nan)
    with pytest.raises(xb.CrossbatchError, match=r"Step 1: .*finite logits"):
        next(steps(trainee))


def test_rand_augment_is_part_of_the_transform(manifest):
    plain, varied = (
        trainee_of(manifest, "fine_tune", **{"classification.rand-augment": n}) for n in (0, 2)
    )
    twin = trainee_of(manifest, "fine_tune", **{"classification.rand-augment": 2})
    first, again, other = (next(t.batches())[0] for t in (varied, twin, plain))
    assert torch.equal(first, again)
    assert first.shape == other.shape
    assert not torch.equal(first, other)


def test_a_run_goes_on_after_its_end(manifest, tmp_path):
    run = train(config(manifest, iterations=6, ema=0.5), tmp_path / "run", quiet=True)
    log = (run.path / "log.jsonl").read_text()
    assert resume(run.path, quiet=True).path == run.path
    assert (run.path / "log.jsonl").read_text() == log
    assert json.loads(log.splitlines()[0])["loss_batch"] is None

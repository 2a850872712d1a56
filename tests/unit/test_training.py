"""A run: its steps, its folder, and what stops it."""

import copy
import json
import math

import pytest
import torch
from accelerate.state import AcceleratorState

import crossbatch as xb
from crossbatch.cli.train import parse
from crossbatch.data import Manifest
from crossbatch.training import RunFolder, Trainee, resume, steps, train
from crossbatch.training.probe import Probe
from tests import blobs


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return blobs.manifest(tmp_path_factory.mktemp("data") / "blobs.parquet")


def config(manifest, **changes):
    return parse([str(manifest), "--out", "unused", *blobs.options(**changes)])[1]


def test_the_memory_starts_after_its_warm_up_and_fills(manifest):
    changes = {"memory.momentum": 0.0, "memory.proportion": 0.0}
    trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
    reports = list(steps(trainee))
    assert [r.step for r in reports] == list(range(1, 31))
    assert [r.memory_size for r in reports][:9] == [0] * 5 + [8, 16, 24, 24]
    assert all(r.loss_memory is None for r in reports[:5])
    assert all(r.loss == pytest.approx(r.loss_batch + r.loss_memory) for r in reports[5:])
    assert sum(r.loss_batch for r in reports[-5:]) < sum(r.loss_batch for r in reports[:5])


@pytest.fixture
def other_precision():
    """accelerate keeps one precision for a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("other_precision")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_chunks_take_the_same_steps(manifest, precision):
    """The head has no statistics of a batch, so chunks of three differ by rounding alone."""
    ends = []
    for chunk in (0, 3):
        changes = {"sampler.chunk": chunk, "precision": precision, "iterations": 8}
        trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
        reports = list(steps(trainee))
        ends.append((trainee.state_dict(), [r.loss for r in reports]))
    (whole, losses), (chunked, found) = ends
    close = {"rtol": 1e-3, "atol": 1e-4} if precision == "fp32" else {"rtol": 0.2, "atol": 0.05}
    assert found == pytest.approx(losses, rel=close["rtol"])
    for part in ("network", "memory"):
        for name, value in whole[part].items():
            torch.testing.assert_close(chunked[part][name], value, **close)


def test_chunks_count_once(manifest):
    """Running statistics and the draws of dropout: as of two chunks, and as often."""
    changes = {"mode": "fine_tune", "sampler.chunk": 4, "encoder.dropout": 0.3, "iterations": 2}
    trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
    twin = Trainee(config(manifest, **changes), Manifest.read(manifest))
    norms = [m for m in twin.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = torch.get_rng_state()
    next(steps(trainee))
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    inputs, _ = next(twin.batches())
    twin.network.train()
    for c in range(2):
        twin.network(inputs[c::2])
    assert norms
    assert all(int(norm.num_batches_tracked) == 2 for norm in norms)
    for (name, mine), other in zip(
        trainee.network.named_buffers(), twin.network.buffers(), strict=True
    ):
        assert torch.equal(mine, other), name
    assert torch.equal(after, torch.get_rng_state())


def test_validation_classes_are_training_classes_that_training_does_not_see(manifest):
    whole = Manifest.read(manifest)
    trainee = Trainee(config(manifest), whole)
    splits = whole.column("split")
    labels = whole.labels
    held_out = set(labels[trainee.validation.rows])
    trained = set(labels[trainee.training.rows])
    test = set(labels[splits == "test"])
    assert held_out
    assert trained
    assert not held_out & trained
    assert not (held_out | trained) & test


def test_too_few_classes_are_counted_beside_those_held_out(manifest):
    whole = Manifest.read(manifest)
    with pytest.raises(xb.CrossbatchError, match=r"6 classes of .*2 more classes are held out"):
        Trainee(config(manifest, **{"sampler.classes": 8}), whole)
    changes = {"sampler.classes": 9, "validation.fraction": 0}
    with pytest.raises(xb.CrossbatchError, match=r"8 classes of [^.]*\. [^.]*\.$"):
        Trainee(config(manifest, **changes), whole)


def test_the_learning_rate_rises_then_falls_to_zero(manifest):
    changes = {"optimizer.warmup": 4, "optimizer.lr": 1.0}
    trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
    rates = []
    for trainee.step in range(31):
        rates.append(trainee.learning_rate())
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[30] == pytest.approx(0, abs=1e-12)


def test_a_run_folder_is_whole(manifest, tmp_path):
    run = train(config(manifest), tmp_path / "run", quiet=True)
    names = {p.name for p in run.path.iterdir()}
    assert names >= {"run.json", "config.yaml", "environment.json", "log.jsonl"}
    assert names >= {"validation.jsonl", "checkpoint.pt", "encoder", "tensorboard"}
    assert not [n for n in names if "part" in n]
    log = list(run.rows("log.jsonl"))
    assert len(log) == 30
    assert log[-1]["active_negatives_memory"] >= 0
    assert run.read_config() == config(manifest)
    best = [row for row in run.rows("validation.jsonl") if row["best"]]
    assert best[-1]["MAP@R"] == max(row["MAP@R"] for row in run.rows("validation.jsonl"))


def test_without_validation_the_last_encoder_is_kept(manifest, tmp_path):
    changes = {"validation.fraction": 0, "iterations": 4}
    run = train(config(manifest, **changes), tmp_path / "run", quiet=True)
    assert (run.encoder / "model.safetensors").exists()
    assert not list(run.rows("validation.jsonl"))


def test_a_folder_in_use_is_refused(manifest, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(xb.CrossbatchError, match=r"new or empty folder.*--resume"):
        train(config(manifest), tmp_path, quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_another_version_and_another_manifest_are_refused(manifest, tmp_path):
    with pytest.raises(xb.CrossbatchError, match="a run folder at"):
        RunFolder.open(tmp_path / "nothing")
    mine = blobs.manifest(tmp_path / "mine.parquet", classes=8, test=2)
    run = train(config(mine, iterations=3), tmp_path / "run", quiet=True)
    blobs.manifest(tmp_path / "mine.parquet", classes=9, test=2)
    with pytest.raises(xb.CrossbatchError, match="with other content"):
        resume(run.path)
    about = run.about()
    (run.path / "run.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(xb.CrossbatchError, match=r"run format 2.*Got 99"):
        RunFolder.open(run.path)


def test_a_damaged_checkpoint_is_refused(manifest, tmp_path):
    run = train(config(manifest, iterations=3), tmp_path / "run", quiet=True)
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:100])
    with pytest.raises(xb.CrossbatchError, match=r"a checkpoint at.*was altered"):
        run.load()


def test_a_full_disk_leaves_the_old_checkpoint(manifest, tmp_path, monkeypatch):
    run = train(config(manifest, iterations=3), tmp_path / "run", quiet=True)
    before = run.checkpoint.read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(xb.CrossbatchError, match=r"No space left.*Nothing was changed"):
        run.save({"step": 1})
    assert run.checkpoint.read_bytes() == before
    assert not list(run.path.glob("*part*"))


def test_embeddings_that_are_not_finite_stop_the_run(manifest):
    trainee = Trainee(config(manifest), Manifest.read(manifest))
    with torch.no_grad():
        next(iter(trainee.network.parameters())).fill_(torch.nan)
    with pytest.raises(xb.CrossbatchError, match=r"Step 1: .*finite"):
        next(steps(trainee))


def test_one_class_only(tmp_path):
    alone = blobs.manifest(tmp_path / "one.parquet", classes=1, test=0)
    with pytest.raises(xb.CrossbatchError, match="classes"):
        Trainee(config(alone), Manifest.read(alone))


def test_no_training_rows(tmp_path):
    tested = blobs.manifest(tmp_path / "t.parquet", classes=3, test=3)
    with pytest.raises(xb.CrossbatchError, match="class"):
        Trainee(config(tested), Manifest.read(tested))


def test_a_row_per_image_holds_the_newest_embedding_of_each(manifest):
    changes = {"memory.kind": "per_image", "memory": -1, "memory.dtype": "bfloat16"}
    trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
    reports = list(steps(trainee))
    held = trainee.memory.contents()
    assert held.embeddings.dtype == torch.bfloat16
    assert reports[-1].memory_size == len(held.ids) == len(held.ids.unique())
    assert set(held.ids.tolist()) <= set(trainee.training.ids.tolist())
    assert len(held.ids) > 0.9 * len(trainee.training.ids)
    assert reports[-1].drift is not None


def test_a_row_per_image_needs_room_for_all(manifest):
    changes = {"memory.kind": "per_image", "memory": 24}
    with pytest.raises(xb.CrossbatchError, match=r"≥ \d+, the training images.*Got 24.*-1 makes"):
        Trainee(config(manifest, **changes), Manifest.read(manifest))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_momentum_keys_follow_the_network_and_fill_the_memory(manifest, schedule):
    first_m, dropped = 0.8, {"mode": "fine_tune", "encoder.dropout": 0.0}
    changes = {**dropped, "memory.momentum": first_m, "iterations": 9, "optimizer.lr": 1e-3}
    changes["memory.momentum_schedule"] = schedule
    trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
    first = {name: p.clone() for name, p in trainee.network.named_parameters()}
    expected, seen, before = dict(first), [], {}
    batches = trainee.batches()
    trainee.batches = lambda: (seen.append(batch) or batch for batch in batches)
    for report in steps(trainee):
        if report.step > 5:
            twin = copy.deepcopy(trainee.keys.network)
            twin.load_state_dict(before)
            with torch.no_grad():
                rows = trainee.memory.contents().embeddings[-8:]
                torch.testing.assert_close(rows, twin(seen[-1][0]))
                now = copy.deepcopy(trainee.network)(seen[-1][0])
                assert not torch.allclose(rows, now, atol=1e-3)
        part = (report.step - 1) / 9 if schedule == "cosine" else 0.0
        m = 1 - (1 - first_m) * (1 + math.cos(math.pi * part)) / 2
        for name, p in trainee.network.named_parameters():
            expected[name] = m * expected[name] + (1 - m) * p.detach()
        keys = trainee.keys.network
        for name, p in keys.named_parameters():
            torch.testing.assert_close(p, expected[name], rtol=1e-4, atol=1e-6)
            assert not p.requires_grad
        buffers = dict(trainee.network.named_buffers())
        assert any("running_mean" in name for name in buffers)
        assert all(torch.equal(b, buffers[name]) for name, b in keys.named_buffers())
        before = {name: value.clone() for name, value in keys.state_dict().items()}


def test_without_momentum_there_is_no_second_network(manifest):
    for changes in ({"memory.momentum": 0.0}, {"memory": 0}):
        trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
        assert trainee.keys is None
        assert trainee.state_dict()["keys"] is None


@pytest.mark.parametrize("momentum", [1.0, -0.1])
def test_momentum_out_of_range_is_named(manifest, momentum):
    with pytest.raises(xb.CrossbatchError, match=r"`memory.momentum` in \[0, 1\)"):
        config(manifest, **{"memory.momentum": momentum})


def test_the_warm_up_ends_when_stored_rows_stop_moving(manifest):
    starts = {}
    for rate in (1e-9, 1e-2):
        changes = {"optimizer.lr": rate, "encoder.dropout": 0.0, "memory.start": 1000}
        changes |= {"memory.start_drift": 0.1, "iterations": 60, "memory.momentum": 0.0}
        trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
        reports = list(steps(trainee))
        starts[rate] = next(r.step for r in reports if r.loss_memory is not None)
        assert all(r.loss_memory is not None for r in reports[starts[rate] - 1 :])
        moved = [r.drift for r in reports[: starts[rate]] if r.drift is not None]
        assert sum(moved[-20:]) / 20 < 0.2  # of all ages; those of the older half are below 0.1
        assert rate < 1e-3 or max(moved) > 1.0
    assert 20 < starts[1e-9] < 30 < starts[1e-2]
    assert len(trainee.memory) == 24


@pytest.mark.parametrize(("fill", "size"), [("empty", 8), ("warm_up", 24), ("pass", 24)])
def test_the_memory_begins_with_what_it_is_filled_with(manifest, fill, size):
    changes = {"memory.fill": fill, "iterations": 6, "memory.momentum": 0.0}
    trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
    reports = list(steps(trainee))
    assert [r.loss_memory is None for r in reports] == [True] * 5 + [False]
    assert reports[-1].memory_size == size
    if fill == "pass":
        held = trainee.memory.contents()
        assert len(held.ids[:-8].unique()) == len(held.ids) - 8  # different images, then a batch


def test_a_pass_fills_with_the_embeddings_of_the_keys(manifest):
    trainee = Trainee(config(manifest, memory=10), Manifest.read(manifest))
    trainee.fill()
    held = trainee.memory.contents()
    rows = [trainee.training.ids.tolist().index(i) for i in held.ids.tolist()]
    expected = trainee.embed(trainee.training.rows[rows])  # the keys are a fresh copy
    torch.testing.assert_close(held.embeddings, expected)
    assert held.labels.tolist() == trainee.training.codes[rows].tolist()
    assert trainee.network.training


@pytest.mark.parametrize("how", ["batch", "adaptive"])
def test_rows_are_normalised_before_the_loss(manifest, how):
    losses = {}
    for normalise in ("none", how):
        changes = {"memory.normalise": normalise, "iterations": 12}
        trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
        losses[normalise] = [r.loss_memory for r in steps(trainee)]
    assert losses["none"][:5] == losses[how][:5]
    assert losses["none"][6] != losses[how][6]
    state = trainee.state_dict()["normalisation"]
    assert (state["uncertainty"] < 1) == (how == "adaptive")


def test_the_memory_keeps_its_proportion_of_the_gradient(manifest):
    """The weight follows the size of the memory: the loss's part of it stays alike."""
    ends = []
    for weight in (1.0, 100.0):
        changes = {"memory.weight": weight, "memory.proportion": 0.5, "iterations": 9}
        trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
        ends.append([r.loss for r in steps(trainee)])
    assert ends[0] == ends[1]


def test_what_is_not_believed_is_neither_trained_on_nor_stored(manifest):
    changes = {"memory.noise": 0.4, "memory": 500, "iterations": 25}
    trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
    reports = list(steps(trainee))
    assert [r.kept for r in reports[:6]] == [8] * 6  # warming up, then an empty memory
    kept = [r.kept for r in reports[6:]]
    assert all(1 <= k <= 8 for k in kept)
    assert 2 < sum(kept) / len(kept) < 7
    assert [r.memory_size for r in reports[5:]] == [8 + sum(kept[:n]) for n in range(20)]


def test_keys_see_the_whole_batch_where_one_image_is_kept(manifest):
    """Batch normalisation has no moments of one image."""
    changes = {"memory.noise": 0.99, "memory": 500, "iterations": 15}
    trainee = Trainee(config(manifest, mode="fine_tune", **changes), Manifest.read(manifest))
    assert 1 in [r.kept for r in steps(trainee)]


def test_an_age_limit_follows_the_drift(manifest):
    ends = {}
    for bound in (0.0, 0.05, 1.9):
        changes = {"memory.drift_limit": bound, "memory.momentum": 0.0, "optimizer.lr": 1e-2}
        changes |= {"iterations": 40}
        trainee = Trainee(config(manifest, **changes), Manifest.read(manifest))
        ends[bound] = list(steps(trainee))
    assert all(r.age_limit is None for r in ends[0.0])
    moved = min((r for r in ends[0.05] if r.age_limit is not None), key=lambda r: r.age_limit)
    assert moved.age_limit < 2  # of the three batches that the memory holds
    wide = ends[1.9][moved.step - 1]
    assert wide.age_limit >= 3
    assert wide.loss_memory == ends[0.0][moved.step - 1].loss_memory
    assert min(r.loss_memory for r in ends[0.05][5:20]) < min(
        r.loss_memory for r in ends[0.0][5:20]
    )


@pytest.mark.parametrize("bound", [2.0, -0.1])
def test_a_drift_limit_out_of_range_is_named(manifest, bound):
    with pytest.raises(xb.CrossbatchError, match=r"`memory.drift_limit` in \[0, 2\)"):
        config(manifest, **{"memory.drift_limit": bound})


def test_a_sharded_memory_stays_beside_the_network(manifest):
    changes = {"memory.kind": "sharded", "memory.device": "cpu"}
    with pytest.raises(xb.CrossbatchError, match=r"`memory.device` network"):
        Trainee(config(manifest, **changes), Manifest.read(manifest))


@pytest.mark.parametrize("wrong", ["memory.proportion", "memory.start_drift"])
def test_settings_below_zero_are_named(manifest, wrong):
    with pytest.raises(xb.CrossbatchError, match=r"`memory.proportion` ≥ 0 and"):
        config(manifest, **{wrong: -0.1})


def test_a_probe_measures_drift_at_fixed_ages(manifest, tmp_path):
    run = train(config(manifest, probe=5, iterations=130), tmp_path / "run", quiet=True)
    rows = list(run.rows("drift.jsonl"))
    assert [row["step"] for row in rows] == list(range(10, 131, 10))
    assert ["drift_10" in row for row in rows] == [False] + [True] * 12
    assert ["drift_100" in row for row in rows] == [False] * 10 + [True] * 3

    trainee = Trainee(config(manifest, probe=5, iterations=130), Manifest.read(manifest))
    probe = Probe(trainee, 5)
    seen = []
    for report in steps(trainee):
        if report.step in (10, 20):
            seen.append(trainee.embed(probe._rows))
        if report.step == 20:
            break
    d2 = (seen[1] - seen[0]).square().sum(dim=1).mean().item()
    assert rows[1]["drift_10"] == pytest.approx(d2)
    assert d2 > 0

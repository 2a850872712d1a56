"""Training in stages: what batches are made of, what images count, ranking anew."""

import json
from itertools import islice

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb
from crossbatch import Plan, Stage
from crossbatch.cli.train import parse
from crossbatch.data import Manifest
from crossbatch.training import Trainee, steps, train
from crossbatch.training.batch import weighted
from tests import blobs


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Eight training classes of 6: 3 clean, 2 noisy, 1 highly noisy."""
    folder = tmp_path_factory.mktemp("data")
    return blobs.with_subsets(folder / "blobs.parquet", [0, 0, 0, 1, 1, 2])


def config(manifest, plan, **changes):
    changes = {"plan": repr(plan), "validation.fraction": 0, "memory": 0, **changes}
    return parse([str(manifest), "--out", "unused", *blobs.options(**changes)])[1]


def trainee_of(manifest, plan, **changes):
    ranker = changes.pop("ranker", None)
    made = config(manifest, plan, **changes)
    return Trainee(made, Manifest.read(manifest), ranker=ranker)


def batches(trainee, count):
    """The subsets of the images of some batches, from where the trainee stands."""
    trainee.enter()
    column = trainee.task.manifest.column("subset")[trainee.training.rows]
    return [column[batch.rows].tolist() for _, batch in islice(trainee.batches(), count)]


def test_the_stages_of_the_paper(manifest):
    trainee = trainee_of(manifest, Plan.curriculumnet(highly_noisy=1.0), iterations=9)
    reports = list(steps(trainee))
    assert [r.stage for r in reports] == [1] * 3 + [2] * 3 + [3] * 3
    trainee = trainee_of(manifest, Plan.curriculumnet(highly_noisy=1.0), iterations=9)
    wanted = [[0] * 8, [0] * 4 + [1] * 4, [0] * 4 + [1] * 2 + [2] * 2]
    for stage, subsets in enumerate(wanted):
        trainee.step = 3 * stage
        assert batches(trainee, 4) == [subsets] * 4
        weights = trainee.course.weights()
        seen = set() if weights is None else {*weights.tolist()}
        assert seen == (set() if stage == 0 else {1.0, 0.5})


def test_all_at_once_needs_no_ranking(tmp_path):
    plain = blobs.manifest(tmp_path / "plain.parquet")
    trainee = trainee_of(plain, Plan((Stage(epochs=2.0), Stage(iterations=1))))
    assert trainee.config.iterations == 2 * 48 // 8 + 1
    assert len(list(steps(trainee))) == 13


def test_a_stage_has_its_learning_rate(manifest):
    plan = Plan((Stage(iterations=3), Stage(iterations=3, lr=0.1)))
    rates = [r.learning_rate for r in steps(trainee_of(manifest, plan))]
    plain = [r.learning_rate for r in steps(trainee_of(manifest, None, iterations=6))]
    assert rates == pytest.approx([*plain[:3], *(0.1 * rate for rate in plain[3:])])


def test_small_and_empty_subsets_leave_their_places_to_cleaner_ones(tmp_path):
    few = blobs.with_subsets(tmp_path / "few.parquet", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2])
    shares = Stage(subsets=(0, 1, 2), shares=(0.25, 0.25, 0.5))
    trainee = trainee_of(few, Plan((shares,)))
    assert batches(trainee, 3) == [[0] * 4 + [2] * 4] * 3
    assert trainee.course.describe()["images"] == [44, 0, 4]
    assert trainee.course.describe()["batch"] == [4, 0, 4]


def test_a_fraction_of_a_subset_is_used(manifest):
    stage = Stage(subsets=(0, 1), shares=(0.5, 0.5), fractions=(1.0, 0.5))
    trainee = trainee_of(manifest, Plan((stage, stage)), iterations=40)
    used = []
    for first in (0, 20):
        trainee.step = first
        trainee.enter()
        seen = {row for _, batch in islice(trainee.batches(), 60) for row in batch.rows.tolist()}
        noisy = [r for r in seen if trainee.course.subsets[r] == 1]
        used.append(noisy)
        assert len(noisy) == 8
        assert len(seen) == 24 + 8
    assert used[0] != used[1]


def test_ranks_share_the_stream_of_a_stage(manifest):
    course = trainee_of(manifest, Plan.two_stages(), iterations=8).course
    course.stage = 1
    whole = [rows.tolist() for rows in islice(course.sampler(rank=0), 12)]
    course._world = 3
    ranks = [list(islice(course.sampler(rank=rank), 4)) for rank in range(3)]
    assert [rows.tolist() for step in zip(*ranks, strict=True) for rows in step] == whole


@pytest.mark.parametrize("weighting", [xb.Contrastive(), xb.SupCon(), xb.HardestTriplet()])
def test_a_weight_scales_what_an_image_sends_to_the_network(weighting):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=g, dtype=torch.float64)
    labels, w = torch.arange(12) % 4, torch.rand(12, generator=g, dtype=torch.float64)
    sent = []
    for weights in (None, w):
        z = F.normalize(x, dim=1).requires_grad_()
        loss = xb.PairLoss(weighting)(weighted(z, weights), labels)
        loss.backward()
        sent.append((loss.item(), z.grad))
    assert sent[0][0] == sent[1][0]
    torch.testing.assert_close(sent[1][1], w[:, None] * sent[0][1])


@pytest.mark.parametrize("chunk", [0, 3])
def test_weights_of_a_stage_are_those_of_the_definition(manifest, chunk):
    """z' = w z + (1 - w) sg(z), written out, gives the gradient of the step."""
    gradients = []
    for noisy in (0.0, 1.0):
        plan = Plan((Stage(subsets=(0, 1), shares=(0.5, 0.5), weights=(1.0, noisy)),))
        trainee, twin = (
            trainee_of(manifest, plan, **{"sampler.chunk": c, "iterations": 1}) for c in (chunk, 0)
        )
        next(steps(trainee))
        twin.enter()
        inputs, batch = next(twin.batches())
        z = twin.network(inputs)
        w = torch.tensor([1.0] * 4 + [noisy] * 4)[:, None]
        z = w * z + (1 - w) * z.detach()
        xb.pair_loss(z, batch.codes, weighting=twin.config.weighting).value.backward()
        for mine, other in zip(
            trainee.network.parameters(), twin.network.parameters(), strict=True
        ):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
        gradients.append(next(trainee.network.parameters()).grad)
    assert not torch.allclose(*gradients, atol=1e-3)


class ByDistance:
    """The half of a class nearer to its mean is clean."""

    def __init__(self):
        self.fits = []

    def fit(self, features, codes):
        self.fits.append(features)
        self.subset_ = np.zeros(len(codes), np.int32)
        for code in np.unique(codes):
            rows = np.flatnonzero(codes == code)
            far = np.linalg.norm(features[rows] - features[rows].mean(0), axis=1)
            self.subset_[rows[np.argsort(far)[len(rows) // 2 :]]] = 1
        return self


def test_images_are_ranked_anew_between_stages(tmp_path):
    plain = blobs.manifest(tmp_path / "plain.parquet")
    stages = (Stage(subsets=(0,), rerank=True), Stage(subsets=(0, 1), weights=(1, 0.5)))
    plan = Plan((*stages, Stage(subsets=(1,), rerank=True)))
    ranker = ByDistance()
    made = config(plain, plan, iterations=9)
    run = train(made, tmp_path / "run", quiet=True, ranker=ranker)
    assert len(ranker.fits) == 2
    assert not np.allclose(ranker.fits[0], ranker.fits[1])
    np.testing.assert_allclose(np.linalg.norm(ranker.fits[0], axis=1), 1, rtol=1e-5)
    told = [json.loads(line) for line in (run.path / "stages.jsonl").read_text().splitlines()]
    assert [row["step"] for row in told] == [1, 4, 7]
    assert [row["images"] for row in told] == [[24], [48], [24]]
    assert [row["reranked"] for row in told] == [True, False, True]
    assert sorted(p.name for p in (run.path / "stages").iterdir()) == ["1.parquet", "3.parquet"]
    last = pq.read_table(run.path / "stages" / "3.parquet")
    assert last["subset"].to_pylist() == ranker.subset_.tolist()
    whole = Manifest.read(plain)
    assert last["id"].to_pylist() == whole.ids[whole.column("split") == "train"].tolist()


def test_what_is_wrong_is_named(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("crossbatch.training.trainee.default_ranker", lambda: None)
    plain = blobs.manifest(tmp_path / "plain.parquet")
    for path, plan, message in (
        (plain, Plan.clean_only(), r"a column `subset` in the manifest.*crossbatch rank"),
        (
            manifest,
            Plan((Stage(subsets=(0, 7)), Stage(subsets=(7,)))),
            r"Stage 2, of subsets 7: .*Got 0",
        ),
        (manifest, Plan((Stage(rerank=True),)), r"a ranker for a plan with `rerank`"),
        (manifest, Plan((Stage(epochs=1.0, rerank=True, subsets=(0,)),)), r"ranker"),
    ):
        with pytest.raises(xb.CrossbatchError, match=message):
            trainee_of(path, plan)
    holes = Manifest.read(manifest)
    column = holes.column("subset").tolist()
    column[0] = None
    holes.with_column("subset", column).write(tmp_path / "holes.parquet")
    with pytest.raises(
        xb.CrossbatchError, match=r"a `subset` for every training.*none in 1 of 48"
    ):
        trainee_of(tmp_path / "holes.parquet", Plan.clean_only())
    plan = Plan((Stage(epochs=1.0, rerank=True, subsets=(0,)),))
    with pytest.raises(xb.CrossbatchError, match="whose images are not known yet"):
        trainee_of(manifest, plan, ranker=ByDistance())
    with pytest.raises(xb.CrossbatchError, match=r"Stage 1, of subsets 0: .* = 18 images for a"):
        trainee_of(manifest, Plan.clean_only(), **{"sampler.classes": 9})


def test_stages_of_other_lengths_are_not_resumed(manifest):
    plan = Plan((Stage(epochs=1.0), Stage(iterations=3)))
    trainee = trainee_of(manifest, plan)
    state = trainee.state_dict()
    state["course"]["lengths"][0] += 1
    with pytest.raises(xb.CrossbatchError, match=r"stages of \[7, 3\] iterations.*as many ranks"):
        trainee.load_state_dict(state)

"""Weight curves by hand, against the engine, as a table, as a picture, and from the command."""

import re
from xml.etree import ElementTree

import numpy as np
import pyarrow.feather as feather
import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb
from crossbatch.cli.study import main
from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.models import Encoder, EncoderConfig
from crossbatch.studies import (
    Sample,
    default_weightings,
    draw_samples,
    inline,
    pair_weights,
    read_table,
    sample_run,
    synthetic_samples,
    to_table,
    weight_curves,
    write_picture,
    write_table,
)
from crossbatch.studies.curves import HARDEST
from crossbatch.training import RunFolder, SamplerConfig, TrainConfig, load_split
from tests.tables import WEIGHTINGS
from tests.unit.run_folders import write_manifest

FOUR = torch.arange(4)
SIMILARITIES = torch.tensor([[0.95, 0.65, 0.45, -0.35]], dtype=torch.float64)


def sample(similarities=SIMILARITIES, labels=(1, 2, 2, 2), in_batch=(True, True, False, False)):
    """One anchor of label 1: by default one positive of the batch, negatives of both kinds."""
    return Sample(
        torch.as_tensor(similarities),
        torch.tensor([1]),
        torch.tensor([-1]),
        torch.tensor(labels),
        torch.arange(len(labels)),
        torch.tensor(in_batch),
    )


@pytest.fixture(scope="module")
def embedded():
    """Embeddings that cluster, labels, and a sample drawn from them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(6)
    centres = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    noise = torch.randn(48, 5, generator=generator, dtype=torch.float64)
    z = F.normalize(centres[labels] + 0.7 * noise, dim=1)
    return z, labels, draw_samples(z, labels, classes=4, instances=3, batches=1)[0]


def test_contrastive_by_hand():
    (found,) = weight_curves([xb.Contrastive(0.5)], [sample()], bins=20)
    np.testing.assert_allclose(found.similarity, np.arange(-0.95, 1, 0.1))
    negative, positive = found.negative, found.positive
    above = (found.similarity > 0.5).astype(float)
    for curve in (negative.median, negative.low, negative.high):
        np.testing.assert_array_equal(curve, above)
    np.testing.assert_array_equal(positive.median, np.ones(20))
    # A positive at 0.95; negatives at 0.65 (batch), 0.45, -0.35 (memory), of which one weighs.
    assert np.flatnonzero(negative.pairs).tolist() == [6, 14, 16]
    assert negative.mass_batch[16] == negative.mass == 1
    assert negative.mass_memory.sum() == negative.memory_share == 0
    assert (negative.active, negative.active_share, negative.hardest) == (1, 1 / 3, 1)
    assert positive.pairs.sum() == positive.mass_batch.sum() == 1


def test_mass_is_split_into_batch_and_memory():
    ramp = xb.from_functions(positive=lambda s: 0.5 - s, negative=lambda s: s)
    (found,) = weight_curves({"ramp": ramp}, [sample()])
    assert found.name == "ramp"
    assert found.negative.mass_batch.sum() == pytest.approx(0.65)
    assert found.negative.mass_memory.sum() == pytest.approx(0.45 + 0.35)  # |w|
    assert found.negative.memory_share == pytest.approx(0.8 / 1.45)
    assert found.negative.hardest == pytest.approx(0.65 / 1.45)
    assert found.positive.mass == pytest.approx(0.45)
    assert found.positive.median.min() < 0  # signed weights stay signed


def test_nothing_weighs():
    (found,) = weight_curves([xb.Contrastive(1.0)], [sample(labels=(2, 2, 2, 2))])
    assert found.negative.mass == found.negative.active_share == 0
    assert np.isnan([found.negative.hardest, found.negative.memory_share]).all()
    assert np.isnan(found.positive.active_share)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_are_those_of_the_engine(name, embedded):
    """Σ w S, the numbers of active pairs, and the gradient that the weights make."""
    z, labels, drawn = embedded
    weighting = WEIGHTINGS[name]
    anchors = z[drawn.ids].clone().requires_grad_()
    references = xb.Batch(z[drawn.reference_ids], drawn.reference_labels, drawn.reference_ids)
    result = xb.pair_loss(
        anchors, labels[drawn.ids], weighting=weighting, references=references, ids=drawn.ids
    )
    weights = pair_weights(weighting, drawn)
    for side, total in (("positive", "pull"), ("negative", "push")):
        sums = (weights[side] * drawn.similarities).sum(dim=1)
        torch.testing.assert_close(sums, result.statistics[total])
        torch.testing.assert_close(
            (weights[side] != 0).sum(dim=1), getattr(result, f"active_{side}s")
        )
    result.value.backward()
    difference = weights["negative"] - weights["positive"]
    gradient = difference @ references.embeddings / len(anchors)
    torch.testing.assert_close(anchors.grad, gradient)
    (found,) = weight_curves([weighting], [drawn])
    for side in weights:
        curve = getattr(found, side)
        assert curve.mass == pytest.approx(float(weights[side].abs().sum()))
        assert curve.active == int((weights[side] != 0).sum())
        assert curve.pairs.sum() == int(drawn.pairs(side).sum())


@pytest.mark.parametrize("side", ["positive", "negative"])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_curve_is_the_weight_of_one_more_pair(name, side, embedded):
    drawn = embedded[2]
    weighting = WEIGHTINGS[name]
    row = Sample(drawn.similarities[:1], drawn.labels[:1], drawn.ids[:1], *_references(drawn))
    (found,) = weight_curves([weighting], [row], bins=10)
    label = int(drawn.labels[0]) if side == "positive" else 99
    for s, weight in zip(found.similarity, getattr(found, side).median, strict=True):
        more = Sample(
            torch.cat([row.similarities, torch.full((1, 1), s, dtype=torch.float64)], dim=1),
            row.labels,
            row.ids,
            torch.cat([row.reference_labels, torch.tensor([label])]),
            torch.cat([row.reference_ids, torch.tensor([-7])]),
            torch.cat([row.in_batch, torch.tensor([False])]),
        )
        assert weight == pytest.approx(float(pair_weights(weighting, more)[side][0, -1]))


def _references(drawn):
    return drawn.reference_labels, drawn.reference_ids, drawn.in_batch


def test_the_hardest_pair_is_met_exactly():
    """A weight on one single pair is found again: no rounding stands between."""
    samples = synthetic_samples(batches=2)
    (found,) = weight_curves([xb.HardestTriplet(2.0)], samples)
    anchors = sum(len(one.labels) for one in samples)
    assert found.negative.mass == found.negative.active == anchors
    assert found.positive.mass == found.positive.active == anchors
    assert found.negative.pairs.sum() * HARDEST > anchors
    assert found.negative.hardest == 1


def test_samples_are_what_training_meets(embedded):
    z, labels, _ = embedded
    drawn = draw_samples(z, labels, classes=4, instances=3, batches=2, memory=20, seed=3)
    again = draw_samples(z, labels.numpy(), classes=4, instances=3, batches=2, memory=20, seed=3)
    for one, other in zip(drawn, again, strict=True):
        assert one.similarities.shape == (12, 32)
        assert torch.equal(one.similarities, other.similarities)
        assert one.in_batch.tolist() == [True] * 12 + [False] * 20
        assert one.reference_ids.unique().numel() == 32
        assert torch.equal(one.reference_labels, labels[one.reference_ids])
        assert int((one.pairs("positive") & one.in_batch).sum()) == 12 * 2  # without itself
    assert not torch.equal(drawn[0].ids, drawn[1].ids)


def test_synthetic_samples_overlap():
    one = synthetic_samples(batches=1, memory=500)[0]
    assert one.similarities.shape == (64, 564)
    positives, negatives = (one.similarities[one.pairs(s)] for s in ("positive", "negative"))
    assert positives.mean() > 0.5 > 0.1 > negatives.mean().abs()
    assert negatives.max() > positives.min()


def test_default_weightings_are_all_that_are_exported():
    import crossbatch.weighting

    exported = {
        name
        for name in crossbatch.weighting.__all__
        if isinstance(kind := getattr(crossbatch.weighting, name), type)
        and issubclass(kind, xb.PairWeighting)
        and kind is not xb.PairWeighting
    }
    assert {type(weighting).__name__ for weighting in default_weightings()} <= exported
    assert {"Contrastive", "MultiSimilarity"} <= exported


@pytest.fixture(scope="module")
def curves():
    signed = xb.from_functions(positive=lambda s: 0.3 - s, negative=lambda s: (s > 2).float())
    weightings = {"Contrastive(margin=0.5)": xb.Contrastive(), "<signed> & odd": signed}
    return weight_curves(weightings, synthetic_samples(batches=1, memory=200), bins=50)


def test_the_table_reads_back(curves, tmp_path):
    write_table(curves, tmp_path / "a" / "w.feather")
    table = feather.read_table(str(tmp_path / "a" / "w.feather"))
    assert table.column_names == [
        "weighting",
        "side",
        "similarity",
        "weight_median",
        "weight_low",
        "weight_high",
        "pairs",
        "mass_batch",
        "mass_memory",
    ]
    assert len(table) == 2 * 2 * 50
    for one, other in zip(curves, read_table(tmp_path / "a" / "w.feather"), strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.similarity, other.similarity)
        for side in ("positive", "negative"):
            for field, value in vars(getattr(one, side)).items():
                np.testing.assert_array_equal(value, getattr(getattr(other, side), field))


def test_no_table_is_refused(curves, tmp_path):
    path = tmp_path / "w.feather"
    with pytest.raises(FormatError, match=r"weight curves at .*Run `crossbatch study weights`"):
        read_table(path)
    feather.write_feather(to_table(curves).replace_schema_metadata(None), str(path))
    with pytest.raises(FormatError, match="weight curves at"):
        read_table(path)
    other = to_table(curves).replace_schema_metadata({"crossbatch": '{"format": 9}'})
    feather.write_feather(other, str(path))
    with pytest.raises(FormatError, match=r"format 1 .*Got 9"):
        read_table(path)


def test_pictures(curves, tmp_path):
    for kind in ("svg", "png", "pdf"):
        write_picture(curves, tmp_path / f"w.{kind}")
    text = (tmp_path / "w.svg").read_text()
    ElementTree.fromstring(text)
    for said in ("Contrastive", "margin=0.5", "similarity", "&lt;signed&gt; &amp; odd"):
        assert said in text
    assert "max |w⁺| =" in text
    assert "max w⁻ = 0" in text
    with pytest.raises(CrossbatchError, match=r"ends in \.svg.*w\.jpg"):
        write_picture(curves, tmp_path / "w.jpg")
    with pytest.raises(CrossbatchError, match="curves to draw"):
        write_picture([], tmp_path / "none.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.pdf", "w.png", "w.svg"]


def test_a_picture_within_a_page(curves):
    text = inline(curves[:1], name="contrastive")
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert "#000000" not in text
    assert "\n\n" not in text  # Markdown would end the element there
    assert all(name.startswith("contrastive-") for name in re.findall(r'\bid="([^"]*)"', text))
    for used in re.findall(r'(?:url\(#|href="#)([^)"]*)', text):
        assert f'id="{used}"' in text
    assert text == inline(curves[:1], name="contrastive")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weight_curves([], [sample()]), r"weightings, samples.*0 weightings, 1 samples"),
        (lambda: weight_curves([xb.Contrastive()], []), r"1 weightings, 0 samples"),
        (lambda: weight_curves([xb.Contrastive()], [sample()], bins=1), r"bins=1"),
        (lambda: weight_curves(["contrastive"], [sample()]), r"'contrastive'.*from_functions"),
        (
            lambda: weight_curves([xb.from_functions(lambda s: s / 0, abs)], [sample()]),
            r"finite positive weights of Assigned.*Bound",
        ),
        (lambda: sample(torch.tensor([[0.1, float("nan")]]), (1, 2), (True,) * 2), r"NaN"),
        (lambda: sample(in_batch=(True, False)), r"`in_batch`, 4 booleans.*\(2,\)"),
        (lambda: sample(labels=(1, 2)), r"`reference_labels` of shape \(4,\).*\(2,\)"),
        (lambda: draw_samples(torch.eye(4), FOUR, batches=0), r"`batches` ≥ 1.*batches=0"),
        (lambda: draw_samples(torch.eye(4), FOUR, memory=-1), r"`memory` ≥ 0.*memory=-1"),
        (lambda: draw_samples(torch.eye(4), FOUR), r"16 × 4 = 64 images.*4 classes"),
        (lambda: draw_samples(torch.eye(4), FOUR[:3]), r"`labels` of shape \(4,\)"),
    ],
)
def test_messages(call, message):
    with pytest.raises(CrossbatchError, match=message):
        call()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose manifest was named relative to another working directory."""
    write_manifest(tmp_path / "m.parquet")
    monkeypatch.chdir(tmp_path)
    small = EncoderConfig(trunk="test_resnet.r160_in1k", weights="none", image_size=32, dim=8)
    config = TrainConfig(
        "m.parquet", mode="head", encoder=small, sampler=SamplerConfig(4, 2), workers=0
    )
    run = RunFolder.create(tmp_path / "run", config, digest="")
    Encoder(small).save(run.encoder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return run


def test_a_run_gives_samples(run):
    samples = sample_run(run.path, split="test", batches=3, memory=10)
    assert [one.similarities.shape for one in samples] == [(8, 18)] * 3
    with pytest.raises(CrossbatchError, match=r"images in split `train`.*The manifest has: test"):
        sample_run(run.path)


def test_features_are_found_from_any_working_directory(run):
    features = load_split(run, "test").features
    assert features is not None
    assert len(features) == 32


def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "out"
    chosen = ("--weightings", "contrastive", "MultiSimilarity(epsilon=None)")
    flags = ("--split", "test", "--batches", "2", "--out", str(out))
    assert main(["weights", str(run.path), *flags, *chosen]) == 0
    said = capsys.readouterr().out
    assert "16 anchors in 2 batches, each beside 32 rows" in said
    assert re.search(r"Contrastive\(margin=0.5\)( +[\d.]+ %){3}", said)
    assert sorted(p.name for p in out.iterdir()) == [
        "weights.feather",
        "weights.png",
        "weights.svg",
    ]
    names = [one.name for one in read_table(out / "weights.feather")]
    assert names == [repr(xb.Contrastive()), repr(xb.MultiSimilarity(epsilon=None))]


def test_the_command_without_a_run(tmp_path, capsys):
    flags = ["--weightings", "contrastive", "--batches", "1", "--memory", "100"]
    assert main(["weights", "--out", str(tmp_path), *flags]) == 0
    assert "64 anchors in 1 batches, each beside 164 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["weight"], r"a study.*'weight'.*Did you mean `weights`"),
        (["weights", "--out", "o", "--weightings", "contrastve"], r"Did you mean `Contrastive`"),
        (["weights", "nothing", "--out", "o"], r"a run folder at nothing"),
    ],
)
def test_what_the_command_refuses(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrossbatchError, match=message):
        main(arguments)
    assert not list(tmp_path.iterdir())


def test_the_command_tells_its_studies(capsys):
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert capsys.readouterr().out.count("usage: crossbatch study weights") == 2

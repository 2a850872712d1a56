"""What `evaluate` accepts and refuses, its files, and the command."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from crossbatch.cli.evaluate import main
from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.evaluation import (
    Gallery,
    Search,
    describe,
    embed_manifest,
    evaluate,
    evaluate_manifest,
    read_evaluation,
    write_evaluation,
)
from crossbatch.evaluation.inputs import Rows, as_tiles
from crossbatch.features import extract
from crossbatch.models import Encoder, EncoderConfig
from tests.unit.run_folders import embeddings, write_manifest, write_run

LABELS = ["a", "a", "b", "b"]
X = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])


@pytest.fixture
def encoder():
    config = EncoderConfig(trunk="test_resnet.r160_in1k", weights="none", image_size=32, dim=8)
    return Encoder(config)


@pytest.fixture
def manifest(tmp_path):
    return Manifest.read(write_manifest(tmp_path / "m.parquet", classes=3))


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        tuple(LABELS),
        np.array(LABELS),
        np.array(LABELS, dtype=object),
        [0, 0, -1, -1],
        np.array([7, 7, 0, 0], np.uint8),
        torch.tensor([5, 5, -3, -3]),
        [True, True, False, False],
    ],
)
def test_labels_of_every_kind(labels):
    assert evaluate(X, labels).metrics["MAP@R"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], LABELS), r"shape \(rows, dim\) in the queries. Got \(2,\)"),
        ((X.long(), LABELS), r"floating .*the queries. Got torch.int64"),
        ((X * torch.tensor([1, torch.nan]), LABELS), r"NaN or infinity in 4 rows"),
        ((X * torch.tensor([[1.0], [1], [0], [1]]), LABELS), r"zeros in 1 rows, the first: \[2\]"),
        ((X[:0], []), r"at least one row in the queries. Got 0"),
        ((X, LABELS[:3]), r"4 labels, .* Got shape \(3,\)"),
        ((X, ["a", "a", 1, 1]), r"all integers or all strings.* Got .*object"),
        ((X, ["a", "a", None, "b"]), r"all integers or all strings.* Got .*object"),
        ((X, [0.0, 0.0, 1.0, 1.0]), r"Got .*float64. Give one label"),
        ((X, ["a"] * 4), r"at least two classes. Got 4 images of one class, a"),
        ((X, list("abcd")), r"4 queries, and for none of them another image of its label"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(CrossbatchError, match=message):
        evaluate(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": [0, 1, 1, 2]}, r"ids that are unique in the queries. Got repeated: \[1\]"),
        ({"ids": [0, 1]}, r"4 integer ids.* Got shape \(2,\)"),
        ({"ids": np.zeros(4)}, r"4 integer ids.* of float64"),
        ({"ks": (), "metrics": ()}, r"Got ks=\(\), metrics=\(\)"),
        ({"metrics": ["MAP"]}, r"a metric by its name. Got 'MAP'. Did you mean `MAP@R`"),
        ({"metrics": ["nDCG@0"]}, r"a metric by its name. Got 'nDCG@0'"),
        ({"metrics": ["R@1"]}, r"different cutoffs and metrics. Got \['R@1'\]"),
        ({"search": Search(cameras=[1, 2])}, r"4 cameras, one for each row .* Got 2"),
        (
            {"search": Search(cameras=[1] * 4), "gallery": Gallery(X[:3], LABELS[:3])},
            r"3 cameras, one for each row of the gallery. Got none",
        ),
        ({"ks": (1, 1)}, r"different cutoffs"),
        ({"ks": (0, 1)}, r"each at least 1"),
        ({"neighbours": -1}, r"neighbours=-1"),
        ({"gallery": Gallery(X[:, :1], LABELS)}, r"a gallery of width 2, .* Got 1"),
        ({"gallery": Gallery(X, [0, 0, 1, 1])}, r"same kind as the queries', <U1. Got int64"),
    ],
)
def test_messages_of_options(options, message):
    with pytest.raises(CrossbatchError, match=message):
        evaluate(X, LABELS, **options)


def test_sides_on_two_devices_are_refused():
    queries = Rows(X, np.array(LABELS), None)
    gallery = Rows(X.to("meta"), np.array(LABELS), None)
    with pytest.raises(CrossbatchError, match=r"a gallery on cpu, as the queries\. Got meta"):
        as_tiles(queries, gallery)


def test_an_id_with_two_labels_is_refused():
    gallery = Gallery(X, ["b", "a", "b", "b"], [0, 11, 12, 13])
    with pytest.raises(CrossbatchError, match=r"one label for each id.* for ids \[0\]"):
        evaluate(X, LABELS, ids=[0, 1, 2, 3], gallery=gallery)


def test_a_copy_leaves_only_where_ids_are_known():
    """Query 0 is in the gallery too. Its other image is far, so only its copy is a hit."""
    gallery = torch.stack([X[0], -X[0], X[3]])
    labels = ["a", "a", "b"]
    blind = evaluate(X[:1], ["a"], gallery=Gallery(gallery, labels), ks=(1,), neighbours=3)
    assert blind.metrics["R@1"] == 1
    assert blind.neighbours.tolist() == [[0, 2, 1]]
    seeing = evaluate(
        X[:1], ["a"], ids=[9], gallery=Gallery(gallery, labels, [9, 4, 5]), ks=(1,), neighbours=3
    )
    assert seeing.metrics["R@1"] == 0
    assert seeing.neighbours.tolist() == [[5, 4, -1]]
    assert seeing.matches.tolist() == [[False, True, False]]
    assert seeing.similarities[0, 2] == -np.inf


def test_surrounding_precision_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(300, 64, generator=generator), np.arange(300) % 60
    wanted = evaluate(x, labels)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            found = evaluate(x.requires_grad_(), labels)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)
    for name, scores in wanted.per_query.items():
        np.testing.assert_array_equal(found.per_query[name], scores)


def test_roles(manifest):
    x = embeddings(manifest, seed=0, noise=0.1)
    assert evaluate_manifest(x, manifest).protocol == "leave-one-out"
    roles = ["query", "gallery", "gallery", None] * 3
    found = evaluate_manifest(x, manifest.with_column("role", pa.array(roles)), ks=(1,))
    assert found.protocol == "query-gallery"
    assert found.query_ids.tolist() == manifest.ids[[0, 3, 4, 7, 8, 11]].tolist()
    assert found.gallery == 9
    assert not np.isin(manifest.ids[[0, 4, 8]], found.neighbours).any()
    for row, own in zip(found.neighbours, found.query_ids, strict=True):
        assert own not in row
    queries_only = manifest.with_column("role", pa.array(["query"] * 12))
    with pytest.raises(CrossbatchError, match="Got 12 queries, 0 in the gallery"):
        evaluate_manifest(x, queries_only)
    with pytest.raises(CrossbatchError, match=r"one embedding per row .* Got 11 and 12 rows"):
        evaluate_manifest(x[:-1], manifest)


def test_files_come_back(manifest, tmp_path):
    x = embeddings(manifest, seed=0, noise=1.0)
    result = evaluate(x[:-3], manifest.labels[:-3], ids=manifest.ids[:-3], neighbours=5)
    assert result.skipped.tolist() == [manifest.ids[-4]]
    write_evaluation(tmp_path, describe(result, split="test", manifest="m", manifest_digest="d"))
    found = read_evaluation(tmp_path)
    assert (found.split, found.manifest, found.manifest_digest) == ("test", "m", "d")
    for name in ("query_ids", "labels", "neighbours", "similarities", "matches", "skipped"):
        wanted = np.asarray(getattr(result, name))
        np.testing.assert_array_equal(getattr(found.result, name), wanted.astype(wanted.dtype))
    assert found.result.metrics == result.metrics
    assert found.intervals["R@1"][0] <= result.metrics["R@1"] <= found.intervals["R@1"][1]
    for name, scores in result.per_query.items():
        np.testing.assert_array_equal(found.result.per_query[name], scores)
    stored = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert stored["skipped"] == {"count": 1, "ids": result.skipped.tolist()}


def test_no_neighbours_come_back_too(manifest, tmp_path):
    result = evaluate(embeddings(manifest, seed=0, noise=1.0), manifest.labels)
    write_evaluation(tmp_path, describe(result, split="test", manifest="m", manifest_digest="d"))
    assert read_evaluation(tmp_path).result.neighbours.shape == (12, 0)


def test_damaged_files_are_refused(tmp_path):
    folder = write_run(tmp_path / "run", write_manifest(tmp_path / "m.parquet")) / "evaluation"
    whole = (folder / "metrics.json").read_text()
    for text, message in (
        ("{", "an evaluation in"),
        ("[]", "an evaluation in"),
        (whole.replace('"format": 1', '"format": 2'), r"evaluation format 1 .* Got 2"),
        (whole.replace('"mAP"', '"AP"'), "do not belong together"),
    ):
        (folder / "metrics.json").write_text(text)
        with pytest.raises(FormatError, match=message):
            read_evaluation(folder.parent)
    (folder / "metrics.json").write_text(whole)
    (folder / "per_query.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match=r"an evaluation in .* Run `crossbatch evaluate"):
        read_evaluation(folder.parent)


def test_embedding_a_manifest(encoder, manifest, tmp_path):
    encoder.train()
    found = embed_manifest(encoder, manifest, batch_size=5)
    assert encoder.training
    assert found.shape == (12, 8)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(12))
    turned = manifest.select(np.arange(12)[::-1])
    torch.testing.assert_close(embed_manifest(encoder, turned), found.flip(0), atol=1e-5, rtol=0)

    features = torch.rand(12, encoder.width)
    batches = [(manifest.ids[::-1].copy(), features)]
    table = extract(lambda x: x, batches, tmp_path / "t", rows=12, width=encoder.width, digest="d")
    cached = embed_manifest(encoder, manifest, batch_size=5, features=table)
    torch.testing.assert_close(cached, encoder.eval().embed_features(features.flip(0)))


def test_embedding_names_what_is_wrong(encoder, manifest):
    with pytest.raises(CrossbatchError, match=r"a device that is there\. Got 'nowhere'"):
        embed_manifest(encoder, manifest, device="nowhere")
    torch.nn.init.constant_(encoder.head.layers[0].weight, torch.nan)
    with pytest.raises(CrossbatchError, match=rf"12 images, ids \[{manifest.ids[0]}, "):
        embed_manifest(encoder, manifest)


def test_command(encoder, tmp_path, capsys):
    path = write_manifest(tmp_path / "m.parquet", classes=3)
    run = write_run(tmp_path / "run", path, evaluated=False)
    encoder.save(run / "encoder")
    assert main([str(run), "--workers", "0", "--batch-size", "7"]) == 0
    out = capsys.readouterr().out
    assert "leave-one-out, split test: 12 queries of 3 classes, 12 images searched" in out
    assert "MAP@R" in out
    found = read_evaluation(run)
    assert found.result.neighbours.shape == (12, 5)
    assert f"{100 * found.result.metrics['mAP']:.2f}" in out
    assert found.manifest == str(path)
    other = write_manifest(tmp_path / "o.parquet", classes=2, roles=["query", "gallery"] * 4)
    assert main([str(run), "--manifest", str(other), "--workers", "0"]) == 0
    assert "query-gallery, split test: 4 queries of 2 classes" in capsys.readouterr().out


def test_command_refuses(tmp_path):
    run = write_run(tmp_path / "run", write_manifest(tmp_path / "m.parquet"), evaluated=False)
    with pytest.raises(FormatError, match="a run folder at"):
        main([str(tmp_path / "nothing")])
    with pytest.raises(CrossbatchError, match=r"images in split `train`.* The manifest has: test"):
        main([str(run), "--split", "train"])
    with pytest.raises(FormatError, match="configuration of an encoder"):
        main([str(run)])
    with pytest.raises(CrossbatchError, match=r"`--batch-size` ≥ 1.* Got 0 and 2"):
        main([str(run), "--batch-size", "0"])

"""Killed at any step and resumed equals never stopped, bit for bit, whatever the memory."""

import pytest

from tests import blobs
from tests.kills import KINDS, crossbatch, differences, kill_after, state

PARTS = {
    "ring": "/memory/enqueued_rows",
    "per_image": "/memory/slots",
    "momentum": "/keys/network.trunk.",
    "int8": "/memory/scales",
    "normalised": "/normalisation/mean",
    "chunks": "/memory/enqueued_rows",
}


@pytest.mark.parametrize(
    ("kind", "mode", "iterations", "kills"),
    [
        ("ring", "head", 200, (27, 71)),
        ("per_image", "head", 120, (47,)),
        ("int8", "head", 120, (33,)),
        ("normalised", "head", 120, (14,)),
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

"""The config goes to YAML and comes back; what is misspelt is named."""

from dataclasses import replace

import pytest

from crossbatch import CrossbatchError, MultiSimilarity
from crossbatch.cli.train import parse
from crossbatch.training import TrainConfig, parse_weighting, read_config, write_config
from tests.tables import WEIGHTINGS


def test_round_trip_through_yaml(tmp_path):
    config = TrainConfig("a.parquet", weighting=MultiSimilarity(epsilon=None), seed=3)
    write_config(config, tmp_path / "c.yaml")
    assert read_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize("name", [n for n in WEIGHTINGS if n != "assigned"])
def test_a_weighting_prints_as_code_that_reads_back(name):
    assert parse_weighting(repr(WEIGHTINGS[name])) == WEIGHTINGS[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("manifest: a\nmemry: {}", r"`memry`.*Did you mean `memory`"),
        ("manifest: a\nmemory: {capcity: 3}", r"key of memory.*Did you mean `capacity`"),
        ("manifest: a\nmemory: {capacity: many}", r"`memory.capacity` of type int.*'many'"),
        ("manifest: a\niterations: true", r"`iterations` of type int.*True"),
        ("manifest: a\nmode: heads", r"known value of `mode`.*Did you mean `head`"),
        ("manifest: a\nweighting: Contrastve()", r"Did you mean `Contrastive`"),
        ("manifest: a\nweighting: Contrastive(margn=1)", r"`margn`.*Did you mean `margin`"),
        ("manifest: a\nweighting: __import__('os')", r"name of a weighting"),
        ("manifest: a\nweighting: 3 +", r"weighting as code"),
        ("manifest: a\nweighting: Ramp(0.5)", r"weighting as code"),
        ("manifest: a\nweighting: TopK(Contrastive, 3)", r"weighting as code"),
        ("manifest: a\nweighting: Sides(Contrastive())", r"parameters of Sides.*pull, push"),
        ("manifest: a\nweighting: Sides(1, 2)", r"weightings"),
        ("manifest: a\nweighting: Contrastive('x')", r"Give numbers"),
        ("manifest: a\niterations: 0", r"`iterations` ≥ 1. Got 0"),
        ("manifest: a\nmemory: {noise: 0.2}", r"a memory with `memory.noise`.*--memory -1"),
        ("manifest: a\nmemory: {capacity: 9, sub_centres: 2}", r"`memory.noise` with `memory.sub"),
        ("manifest: a\nmemory: {capacity: 9, noise: 20}", r"`memory.noise` in \[0, 1\).*Got 20"),
        ("manifest: a\nsampler: {chunk: -1}", r"`sampler.chunk` ≥ 0 and.*Got -1"),
        ("manifest: a\nvalidation: {fraction: 1}", r"`validation.fraction` in \[0, 1\)"),
        ("memory: {}", r"YAML mapping with `manifest`"),
        (": :", r"YAML config at"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(CrossbatchError, match=message):
        read_config(tmp_path / "c.yaml")


def test_numbers_that_yaml_reads_as_text(tmp_path):
    (tmp_path / "c.yaml").write_text("manifest: a\noptimizer: {lr: 1e-4}")
    assert read_config(tmp_path / "c.yaml").optimizer.lr == 1e-4


def test_flags_over_a_file(tmp_path):
    config = replace(TrainConfig("a.parquet"), seed=5)
    write_config(config, tmp_path / "c.yaml")
    flags = ["--config", str(tmp_path / "c.yaml"), "--out", "r", "--memory", "50", "--weighting"]
    out, parsed = parse([*flags, "multi_similarity"])
    assert str(out) == "r"
    assert parsed.seed == 5
    assert parsed.memory.capacity == 50
    assert parsed.weighting == MultiSimilarity()
    with pytest.raises(SystemExit) as stop:
        parse([*flags, "contrastive", "--memory.capacty", "3"])
    assert stop.value.code == 2

"""Encoders: what they compute, what they save, whose weights they take."""

import errno
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from crossbatch._torchvision import import_torchvision
from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.models import Encoder, EncoderConfig, GeM, Standardise, head
from crossbatch.models.encoder import _as_map
from crossbatch.models.pooling import make_pooling
from crossbatch.models.weights import match_tensors

import_torchvision()

import timm  # noqa: E402

SMALL = EncoderConfig(trunk="test_efficientnet", weights="none", image_size=32, dim=7)
WIDTH = 256

CONFIGS = [
    SMALL,
    replace(SMALL, pooling="max", head="mlp"),
    replace(SMALL, pooling="gem", standardise=True, dropout=0.5),
    replace(SMALL, trunk="test_vit", head="mlp", standardise=True),
]


def images(rows=3, size=32):
    return torch.randn(rows, 3, size, size)


def trained(config):
    """An encoder in which no number is the one it was built with."""
    encoder = Encoder(config)
    if config.standardise:
        encoder.head.fit(torch.randn(10, encoder.width) * 3 + 1)
    optimiser = torch.optim.SGD(encoder.parameters(), 0.1)
    encoder.head(encoder.features(images())).square().sum().backward()
    optimiser.step()
    return encoder


# What is computed


@pytest.mark.parametrize("config", CONFIGS)
def test_embeddings_are_on_the_sphere_and_compose(config):
    encoder = Encoder(config).eval()
    x = images()
    z, features = encoder(x), encoder.features(x)
    assert features.shape == (3, encoder.width)
    assert z.shape == (3, 7)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(z, encoder.embed_features(features), rtol=0, atol=0)
    h = encoder.head(features)
    torch.testing.assert_close(z, h / h.norm(dim=1, keepdim=True))


def test_embeddings_have_float32_norms_under_low_precision():
    encoder = Encoder(SMALL).eval()
    with torch.autocast("cpu", torch.bfloat16):
        z = encoder(images())
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))


def test_mean_and_std_are_the_trunks():
    assert Encoder(SMALL).mean == (0.485, 0.456, 0.406)
    assert Encoder(replace(SMALL, trunk="test_resnet")).std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["avg", "max", "gem"])
def test_pooling_is_the_naive_one(name):
    maps = torch.randn(2, 3, 4, 5)
    reduce = {
        "avg": lambda x: sum(x) / len(x),
        "max": max,
        "gem": lambda x: (sum(max(v, 1e-6) ** 3 for v in x) / len(x)) ** (1 / 3),
    }[name]
    naive = [[reduce(maps[i, c].flatten().tolist()) for c in range(3)] for i in range(2)]
    torch.testing.assert_close(make_pooling(name)(maps), torch.tensor(naive))


def test_gem_goes_from_mean_to_maximum_and_learns_its_exponent():
    maps = torch.rand(2, 3, 4, 4) + 0.1
    torch.testing.assert_close(GeM(p=1)(maps), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(GeM(p=200)(maps), maps.amax(dim=(2, 3)), rtol=0.03, atol=0)
    pool = GeM()
    pool(maps).sum().backward()
    assert pool.p.grad > 0
    assert GeM()(maps.bfloat16()).dtype == torch.float32


def test_transformers_are_pooled_over_their_positions_as_timm_does_it():
    encoder = Encoder(replace(SMALL, trunk="test_vit")).eval()
    x = images()
    tokens = encoder.trunk.forward_features(x)
    assert encoder.trunk.num_prefix_tokens == 1
    theirs = timm.layers.global_pool_nlc(tokens, "avg", num_prefix_tokens=1)
    torch.testing.assert_close(encoder.features(x), theirs)
    encoder.pool = make_pooling("max")
    theirs = timm.layers.global_pool_nlc(tokens, "max", num_prefix_tokens=1)
    torch.testing.assert_close(encoder.features(x), theirs)


def test_transformers_take_the_configured_image_size():
    config = replace(SMALL, trunk="vit_tiny_patch16_224", image_size=32)
    assert Encoder(config).features(images(2, 32)).shape == (2, 192)


def test_maps_with_channels_last_are_turned():
    features = torch.randn(2, 4, 5, 3)
    turned = _as_map(SimpleNamespace(output_fmt="NHWC"), features)
    assert turned.shape == (2, 3, 4, 5)
    assert turned[1, 2, 3, 4] == features[1, 3, 4, 2]
    assert _as_map(SimpleNamespace(), features) is features


@pytest.mark.parametrize(("features", "got"), [(torch.zeros(2, 3), "(2, 3)"), ([1], "list")])
def test_a_trunk_without_positions_is_refused(features, got):
    with pytest.raises(CrossbatchError, match=r"tokens .B, N, C.*Got .*Choose another") as error:
        _as_map(SimpleNamespace(), features)
    assert got in str(error.value)


def test_dropout_drops_only_while_training():
    encoder = Encoder(replace(SMALL, dropout=0.5)).eval()
    features = torch.randn(4, WIDTH)
    assert torch.equal(encoder.head(features), encoder.head(features))
    encoder.train()
    assert not torch.equal(encoder.head(features), encoder.head(features))


# Standardisation


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_statistics_are_used_and_left_alone_in_training(frozen):
    encoder, x = trained(replace(SMALL, frozen_norm=frozen)).train(), images(6)
    before = {name: buffer.clone() for name, buffer in encoder.trunk.named_buffers()}
    alone, among = encoder.features(x[:2]), encoder.features(x)[:2]
    moved = {n for n, buffer in encoder.trunk.named_buffers() if not buffer.equal(before[n])}
    assert torch.allclose(alone, among, atol=1e-5) == frozen
    assert any("running_mean" in name for name in moved) != frozen
    assert encoder.training


@pytest.mark.parametrize("kind", ["tensor", "array", "memmap"])
def test_standardisation_is_numpys_in_any_blocks(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(head, "_BLOCK", 4)
    features = (np.random.default_rng(0).normal(size=(11, 5)) * 3 + 100).astype(np.float32)
    features[:, 2] = 0.1  # a constant
    np.save(tmp_path / "f.npy", features)
    given = {
        "tensor": torch.from_numpy(features),
        "array": features,
        "memmap": np.load(tmp_path / "f.npy", mmap_mode="r"),
    }[kind]
    layer = Standardise(5)
    torch.testing.assert_close(layer(torch.from_numpy(features)), torch.from_numpy(features))
    layer.fit(given)
    std = features.astype(np.float64).std(axis=0)
    std[2] = 1
    expected = (features - features.astype(np.float64).mean(axis=0)) / std
    torch.testing.assert_close(
        layer(torch.from_numpy(features)), torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("shape", [(10, 4), (1, 5), (10,)])
def test_standardisation_refuses_other_shapes(shape):
    with pytest.raises(CrossbatchError, match=r"shape \(2 or more, 5\).*Got \(1.*all training im"):
        Standardise(5).fit(torch.zeros(shape))


def test_standardisation_refuses_features_that_are_not_finite():
    features = torch.randn(4, 5)
    features[2, 3] = torch.nan
    layer = Standardise(5)
    with pytest.raises(CrossbatchError, match=r"finite features to standardise by.*Got NaN"):
        layer.fit(features)
    assert torch.equal(layer.std, torch.ones(5))


def test_a_head_without_standardisation_cannot_be_fitted():
    with pytest.raises(CrossbatchError, match=r"head that standardises.*Got standardise=False"):
        Encoder(SMALL).head.fit(torch.randn(4, WIDTH))


# Saving and loading


@pytest.mark.parametrize("config", CONFIGS)
def test_a_saved_encoder_is_the_same_to_the_bit(config, tmp_path):
    encoder = trained(config)
    encoder.save(tmp_path / "e")
    loaded = Encoder.load(tmp_path / "e")
    assert loaded.config == config
    theirs = loaded.state_dict()
    assert encoder.state_dict().keys() == theirs.keys()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    x = images()
    assert torch.equal(encoder.eval()(x), loaded.eval()(x))
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_loading_never_fetches(tmp_path, monkeypatch):
    encoder = Encoder(SMALL)
    encoder.config = replace(SMALL, weights="timm")
    encoder.save(tmp_path / "e")
    monkeypatch.setattr(
        timm.models._builder, "load_pretrained", lambda *_, **__: pytest.fail("fetched")
    )
    assert Encoder.load(tmp_path / "e").config.weights == "timm"


def test_tensors_that_share_memory_are_saved(tmp_path):
    encoder = Encoder(replace(SMALL, head="mlp"))
    encoder.head.layers[1].bias = encoder.head.layers[1].weight
    encoder.save(tmp_path / "e")
    loaded = Encoder.load(tmp_path / "e")
    assert torch.equal(loaded.head.layers[1].bias, encoder.head.layers[1].weight)


def test_a_full_disk_leaves_the_old_encoder(tmp_path, monkeypatch):
    old = Encoder(SMALL)
    old.save(tmp_path / "e")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full_disk)
        with pytest.raises(CrossbatchError, match=r"No space left"):
            Encoder(SMALL).save(tmp_path / "e")
    assert [p.name for p in tmp_path.iterdir()] == ["e"]
    kept = Encoder.load(tmp_path / "e").state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in old.state_dict().items())


def full_disk(path, data):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def saved(tmp_path):
    """A saved encoder, and a way to change its configuration on disk."""
    folder = tmp_path / "saved"
    Encoder(SMALL).save(folder)

    def change(**settings):
        file = folder / "config.json"
        stored = json.loads(file.read_text()) | settings
        kept = {name: value for name, value in stored.items() if value is not None}
        file.write_text(json.dumps(kept))
        return folder

    return change


def test_loading_from_nowhere(tmp_path):
    with pytest.raises(
        FormatError, match=r"configuration of an encoder at .*No such file.*Name th"
    ):
        Encoder.load(tmp_path / "none")


@pytest.mark.parametrize(("text", "got"), [("{", "Expecting property"), ("[]", "a JSON list")])
def test_loading_what_is_no_configuration(saved, text, got):
    folder = saved()
    (folder / "config.json").write_text(text)
    with pytest.raises(FormatError, match=f"configuration of an encoder.*Got {got}"):
        Encoder.load(folder)


def test_loading_another_version(saved):
    with pytest.raises(
        FormatError, match=r"encoder of format 1. Got format 2. Use the crossbatch"
    ):
        Encoder.load(saved(format=2))


def test_loading_an_unknown_setting_names_the_nearest(saved):
    with pytest.raises(FormatError, match=r"Got 'pooling_'. Did you mean `pooling`?"):
        Encoder.load(saved(pooling_="avg"))


def test_loading_without_a_setting(saved):
    with pytest.raises(FormatError, match=r"Got none for dim, head. Save the encoder again."):
        Encoder.load(saved(dim=None, head=None))


def test_loading_tensors_of_another_configuration(saved):
    with pytest.raises(FormatError, match=r"json speaks of .*weight: \(8, 256\) wanted, \(7, 2"):
        Encoder.load(saved(dim=8))
    with pytest.raises(FormatError, match=r"Got head.standardise.mean is missing; head.*std"):
        Encoder.load(saved(dim=7, standardise=True))
    with pytest.raises(FormatError, match=r"1.running_mean is missing; and 5 more. Save the enc"):
        Encoder.load(saved(standardise=False, head="mlp"))


def test_loading_tensors_left_over(tmp_path, saved):
    folder = saved(standardise=False)
    Encoder(replace(SMALL, standardise=True)).save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(FormatError, match=r"Got head.standardise.mean is left over; head.*std is"):
        Encoder.load(folder)


def test_loading_half_a_file(saved):
    file = saved() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(FormatError, match=r"tensors that .*Got .*Save the encoder again"):
        Encoder.load(file.parent)
    file.unlink()
    with pytest.raises(FormatError, match=r"Got No such file"):
        Encoder.load(file.parent)


# Configuration


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pooling": "average"}, "`pooling` of an encoder, one of avg, max, gem. Got 'average'"),
        ({"head": "linaer"}, "Got 'linaer'. Did you mean `linear`?"),
        ({"dim": 0}, "`dim` of an encoder. Got 0. Give a whole number"),
        ({"dim": True}, "`dim` of an encoder. Got True"),
        ({"image_size": 1.5}, "`image_size` of an encoder. Got 1.5"),
        ({"dropout": 1.0}, r"`dropout` of an encoder in \[0, 1\). Got 1.0"),
    ],
)
def test_a_configuration_out_of_range(setting, message):
    with pytest.raises(CrossbatchError, match=message):
        EncoderConfig(**setting)


def test_a_configuration_needs_no_torch():
    code = (
        "import sys; from crossbatch.models import EncoderConfig; EncoderConfig();"
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_trunk_names_close_ones():
    with pytest.raises(CrossbatchError, match=r"Got 'resnet5'. Close names: .*resnet50"):
        Encoder(EncoderConfig(trunk="resnet5", weights="none"))
    with pytest.raises(CrossbatchError, match=r"Got '§'. See `timm.list_models\(\)`"):
        Encoder(EncoderConfig(trunk="§"))
    with pytest.raises(CrossbatchError, match=r"Got 'resnet18.zz'.*`resnet18`.*resnet18.a1_in1k"):
        Encoder(EncoderConfig(trunk="resnet18.zz"))


# Weights


def test_pretrained_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", offline)
    message = "timm to bring .* `test_resnet`. Got ConnectionError: no route.*give a local file"
    with pytest.raises(CrossbatchError, match=message):
        Encoder(replace(SMALL, trunk="test_resnet", weights="timm"))


def weights_file(path, rename=lambda place, name: name, drop=()):
    """The weights of another instance of the small trunk, with a classifier, as a file."""
    state = timm.create_model(SMALL.trunk, num_classes=5).state_dict()
    kept = {
        rename(place, name): tensor.clone()
        for place, (name, tensor) in enumerate(state.items())
        if not name.endswith(tuple(drop))
    }
    (save_file if path.suffix == ".safetensors" else torch.save)(kept, path)
    return state


def same_trunk(encoder, state):
    ours = encoder.trunk.state_dict()
    return all(torch.equal(ours[name], state[name]) for name in ours)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_are_matched_by_name(tmp_path, name):
    state = weights_file(tmp_path / name)
    assert not same_trunk(Encoder(SMALL), state)
    assert same_trunk(Encoder(replace(SMALL, weights=str(tmp_path / name))), state)


def test_weights_are_matched_by_name_in_any_order(tmp_path):
    state = weights_file(tmp_path / "w.pth")
    torch.save(dict(reversed(state.items())), tmp_path / "w.pth")
    assert same_trunk(Encoder(replace(SMALL, weights=str(tmp_path / "w.pth"))), state)


@pytest.mark.parametrize("drop", [(), ("num_batches_tracked",), ("classifier.bias",)])
def test_weights_of_other_names_are_matched_in_order(tmp_path, drop):
    path = tmp_path / "w.pth"
    state = weights_file(path, rename=lambda place, name: f"layer{place}", drop=drop)
    stored = {f"{name}_": tensor for name, tensor in torch.load(path).items()}
    torch.save({"state_dict": stored}, path)  # as a trainer's checkpoint has it
    assert same_trunk(Encoder(replace(SMALL, weights=str(path))), state)


def test_matching_is_by_name_or_in_order():
    ours = {"a": torch.zeros(2), "b": torch.zeros(3)}
    theirs = {"x": torch.ones(2), "y": torch.ones(3), "z": torch.ones(4)}
    matched = match_tensors(ours, theirs, where="f")
    assert matched["a"] is theirs["x"]
    assert matched["b"] is theirs["y"]
    turned = {"b": torch.ones(3), "a": torch.ones(2)}
    assert match_tensors(ours, turned, where="f")["a"] is turned["a"]


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"a": (2,), "b": (4,)}, r"b: \(3,\) wanted, \(4,\) found"),
        ({"a": (2,), "c": (2,)}, "b is missing"),
        ({"x": (2,), "y": (4,)}, r"b and y: \(3,\) wanted, \(4,\) found"),
        ({"x": (2,)}, "b is missing"),
        ({"x": (2,), "y": (3,), "p": (1,), "q": (1,), "r": (1,)}, "p is left over; q is"),
    ],
)
def test_weights_that_do_not_fit_are_named(theirs, message):
    ours = {"a": torch.zeros(2), "b": torch.zeros(3), "d": torch.zeros(())}
    theirs = {name: torch.zeros(shape) for name, shape in theirs.items()} | {"d": torch.zeros(())}
    if "x" in theirs:
        ours, theirs = dict(list(ours.items())[:2]), {k: v for k, v in theirs.items() if k != "d"}
    with pytest.raises(FormatError, match=f"weights in f that fit.*{message}.*Name the trunk"):
        match_tensors(ours, theirs, where="f")


def test_only_a_few_tensors_are_named(tmp_path):
    weights_file(tmp_path / "w.pth")
    config = replace(SMALL, trunk="test_resnet", weights=str(tmp_path / "w.pth"))
    with pytest.raises(FormatError, match=r"; and [0-9]+ more. Name the trunk"):
        Encoder(config)


def test_weights_that_are_no_file(tmp_path):
    with pytest.raises(
        FormatError, match=r"Got no file. Give a .safetensors or .pth file. `timm`"
    ):
        Encoder(replace(SMALL, weights=str(tmp_path)))
    torn, empty = tmp_path / "torn.pth", tmp_path / "empty.pth"
    torn.write_bytes(b"\x80")
    with pytest.raises(FormatError, match=r"a file of weights at .*torn.pth. Got [A-Z].*Error"):
        Encoder(replace(SMALL, weights=str(torn)))
    torch.save({"epoch": 3}, empty)
    with pytest.raises(FormatError, match=r"Got no tensors in it. Give a"):
        Encoder(replace(SMALL, weights=str(empty)))


def test_the_digest_of_features_changes_with_trunk_and_pooling_alone(tmp_path):
    encoder = Encoder(replace(SMALL, pooling="gem"))
    encoder.save(tmp_path / "e")
    first = encoder.features_digest()
    assert Encoder.load(tmp_path / "e").features_digest() == first
    with torch.no_grad():
        encoder.head.layers[0].weight.add_(1)
        assert encoder.features_digest() == first
        encoder.pool.p.add_(1)
        second = encoder.features_digest()
        next(encoder.trunk.parameters()).flatten()[0].add_(1)
    assert len({first, second, encoder.features_digest()}) == 3


def test_an_old_encoder_put_aside_by_a_crash_is_found(tmp_path):
    Encoder(SMALL).save(tmp_path / "e")
    (tmp_path / "e").rename(tmp_path / ".e.old")
    assert Encoder.load(tmp_path / "e").config == SMALL
    assert load_file(tmp_path / "e" / "model.safetensors")

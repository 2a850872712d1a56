"""A model for others: its folder and card, the Hub, a process without our extras, ONNX."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml

from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.models import Encoder, EncoderConfig, ModelCard, onnx
from crossbatch.models.onnx import export_onnx
from crossbatch.training import model_card
from tests.unit.run_folders import write_manifest, write_run

SMALL = EncoderConfig(trunk="test_efficientnet", weights="none", image_size=32, dim=7)

ABSENT = """
import sys
absent = ('accelerate', 'tensorboard', 'tyro', 'pyarrow', 'matplotlib', 'jinja2', 'lancedb',
          'onnx', 'onnxruntime', 'onnxscript')
sys.modules.update(dict.fromkeys(absent))
import numpy, crossbatch as xb
encoder = xb.Encoder.from_pretrained(sys.argv[1])
pictures = numpy.random.default_rng(0).random((3, 3, 40, 30), numpy.float32)
import torch; torch.set_num_threads(1)
numpy.save(sys.argv[2], encoder.encode(torch.from_numpy(pictures)))
encoder.save_pretrained(sys.argv[3])
"""


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(replace(SMALL, standardise=True))


def front(folder):
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


def test_a_fresh_process_without_the_extras_of_training_embeds_the_same(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "model")
    arguments = [str(tmp_path / name) for name in ("model", "z.npy", "again")]
    run = [sys.executable, "-W", "ignore", "-c", ABSENT, *arguments]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pictures = np.random.default_rng(0).random((3, 3, 40, 30), np.float32)
    np.testing.assert_array_equal(
        np.load(tmp_path / "z.npy"), encoder.encode(torch.from_numpy(pictures))
    )
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")]
    assert same[0] == same[1]


def test_saving_leaves_other_files_and_tells_no_path(encoder, tmp_path):
    (tmp_path / ".git").mkdir()
    encoder.config = replace(encoder.config, weights="/home/someone/trunk.pth")
    encoder.save_pretrained(tmp_path)
    assert (tmp_path / ".git").is_dir()
    assert "someone" not in (tmp_path / "config.json").read_text() + front(tmp_path)[1]
    assert Encoder.from_pretrained(tmp_path).digest() == encoder.digest()


def test_a_card_without_a_run_says_that_nothing_was_measured(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "m")
    head, text = front(tmp_path / "m")
    assert head["library_name"] == "crossbatch"
    assert head["pipeline_tag"] == "image-feature-extraction"
    assert "model-index" not in head
    assert "Nothing was measured." in text
    assert "| dim | 7 |" in text


def test_a_card_says_what_the_run_measured(encoder, tmp_path):
    notes = {"sets": [{"title": "Noto", "license": {"title": "Apache 2.0", "url": "http://a"}}]}
    manifest = write_manifest(tmp_path / "m.parquet", notes=notes)
    run = write_run(tmp_path / "run", manifest, memory=8)
    encoder.save_pretrained(tmp_path / "o", card=model_card(run, name="o", licence="apache-2.0"))
    head, text = front(tmp_path / "o")
    assert head["license"] == "apache-2.0"
    scores = head["model-index"][0]["results"][0]["metrics"]
    assert {score["type"] for score in scores} >= {"recall_at_1", "map_at_r"}
    assert "32 queries of 8 classes" in text
    assert "Licence of a part: Noto: Apache 2.0, http://a" in text
    assert "wang2020xbm" in text
    assert "hadsell2006contrastive" in text
    assert str(tmp_path) not in text


def test_a_run_that_was_not_evaluated_has_a_card(tmp_path):
    manifest = write_manifest(tmp_path / "m.parquet")
    run = write_run(tmp_path / "run", manifest, evaluated=False)
    manifest.unlink()
    card = model_card(run)
    assert card.name == "run"
    assert not card.metrics
    assert len(card.data) == 1
    with pytest.raises(FormatError, match="a run folder at"):
        model_card(tmp_path / "nothing")


# Where an encoder is found


def test_a_run_folder_leads_to_its_encoder(encoder, tmp_path):
    run = write_run(tmp_path / "run", write_manifest(tmp_path / "m.parquet"), evaluated=False)
    encoder.save(run / "encoder")
    assert Encoder.from_pretrained(run).digest() == encoder.digest()


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "/no/where"])
def test_a_place_without_an_encoder(source):
    with pytest.raises(FormatError, match=r"an encoder at .*no folder.*owner/model"):
        Encoder.from_pretrained(source)


def test_a_folder_without_an_encoder(tmp_path):
    with pytest.raises(FormatError, match="configuration of an encoder"):
        Encoder.from_pretrained(tmp_path)


class Hub:
    """What stands in for the Hub: a folder on this disk."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def download(self, repo, *, revision, allow_patterns):
        self.asked.append((repo, revision, allow_patterns))
        if not (self.folder / repo).exists():
            raise OSError("401 Client Error.\nRepository not found")
        return str(self.folder / repo)

    def HfApi(self, token):
        assert token is None

        def create(repo, *, private, exist_ok):
            assert exist_ok
            if repo.startswith("refused"):
                raise OSError("403 Forbidden")
            (self.folder / repo).mkdir(parents=True)

        def upload(*, repo_id, folder_path, commit_message):
            for file in Path(folder_path).iterdir():
                (self.folder / repo_id / file.name).write_bytes(file.read_bytes())
            return f"https://hub/{repo_id}/commit/1"

        return SimpleNamespace(create_repo=create, upload_folder=upload)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.download)
    monkeypatch.setattr(huggingface_hub, "HfApi", hub.HfApi)
    return hub


def test_to_the_hub_and_back(encoder, hub):
    assert encoder.push_to_hub("me/shoes") == "https://hub/me/shoes/commit/1"
    assert 'from_pretrained("me/shoes")' in front(hub.folder / "me" / "shoes")[1]
    back = Encoder.from_pretrained("me/shoes", revision="main")
    assert back.digest() == encoder.digest()
    assert hub.asked == [("me/shoes", "main", ["config.json", "model.safetensors"])]


def test_the_hub_refuses(encoder, hub):
    with pytest.raises(FormatError, match=r"me/none. Got no folder, and .*401 Client Error\. C"):
        Encoder.from_pretrained("me/none")
    with pytest.raises(CrossbatchError, match=r"take refused/x. Got OSError: 403.*hf auth login"):
        encoder.push_to_hub("refused/x")


def test_a_card_is_a_value():
    assert ModelCard("a") == ModelCard("a")


# ONNX


@pytest.fixture(scope="module")
def graph(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "x.onnx"
    return path, export_onnx(encoder.train(), path)


def test_onnxruntime_says_what_torch_says_for_any_batch(encoder, graph):
    import onnxruntime

    path, parity = graph
    assert 0 < parity.difference < 1e-5
    assert encoder.training
    session = onnxruntime.InferenceSession(str(path))
    images = torch.randn(4, 3, 32, 32)
    found = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        expected = encoder.eval()(images).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert about["image_size"] == "32"
    assert about["digest"] == encoder.digest()


def test_a_graph_that_differs_is_not_written(encoder, graph, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "_graph", lambda _: graph[0].read_bytes())
    with pytest.raises(CrossbatchError, match=r"onnxruntime within -1 of torch. Got a difference"):
        export_onnx(encoder, tmp_path / "x.onnx", tolerance=-1)
    assert not list(tmp_path.iterdir())

"""Pictures in any form to embeddings: as evaluation sees them, in order, bad ones named."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from crossbatch.data import Manifest
from crossbatch.data.importers import from_pictures, from_source
from crossbatch.errors import CrossbatchError
from crossbatch.evaluation import embed_manifest
from crossbatch.evaluation.table import write_embeddings
from crossbatch.models import Encoder, EncoderConfig

SMALL = EncoderConfig(trunk="test_efficientnet", weights="none", image_size=32, dim=7)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(SMALL).train()


def pixels(seed=0, size=(40, 30)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)


def png(seed=0):
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def files(tmp_path):
    for seed in range(9):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    return sorted(tmp_path.glob("*.png"))


def test_they_are_what_evaluation_sees(encoder, files):
    manifest = Manifest(pa.table({"path": [str(f) for f in files], "label": ["x"] * 9}))
    expected = embed_manifest(encoder, manifest, batch_size=9).numpy()
    found = encoder.encode(files, batch_size=9)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert encoder.training


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (2, 3), (4, 1), (100, 2)])
def test_order_does_not_depend_on_batches_or_workers(encoder, files, batch_size, workers):
    found = encoder.encode(iter(files), batch_size=batch_size, workers=workers)
    np.testing.assert_allclose(found, encoder.encode(files), atol=1e-6)
    assert np.ptp(found, axis=0).max() > 1e-3  # nine pictures, not one nine times


def test_every_form_of_a_picture_is_the_same_picture(encoder, files):
    array = torch.from_numpy(pixels(3)).permute(2, 0, 1)
    forms = [files[3], str(files[3]), png(3), Image.fromarray(pixels(3)), array, array / 255]
    found = encoder.encode(forms)
    for row in found[1:]:
        np.testing.assert_allclose(row, found[0], atol=1e-6)


def test_one_picture_gives_a_vector(encoder, files):
    assert encoder.encode(files[0]).shape == (7,)
    assert encoder.encode(torch.rand(3, 9, 9)).shape == (7,)
    assert encoder.encode(torch.rand(2, 3, 9, 9)).shape == (2, 7)
    assert encoder.encode([]).shape == (0, 7)
    tensor = encoder.encode(files[:2], as_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    torch.testing.assert_close(tensor.norm(dim=1), torch.ones(2))


def test_a_bar_can_be_shown(encoder, files, capsys):
    encoder.encode(files, progress=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("nowhere.png", r"can be read. Got nowhere.png: .*No such file.*skip_bad"),
        (b"no image", r"Got picture 1: cannot identify image file\. Mend"),
        (torch.rand(4, 5), r"shape \(3, H, W\). Got \(4, 5\)"),
        (torch.randn(3, 5, 5) * 3, "floating pixels from 0 to 1"),
        (torch.ones(3, 5, 5, dtype=torch.int64), "uint8 or floats. Got torch.int64"),
    ],
)
def test_a_bad_picture_is_named_or_skipped(encoder, files, picture, message):
    with pytest.raises(CrossbatchError, match=message):
        encoder.encode([files[0], picture, files[1]])
    found = encoder.encode([files[0], picture, files[1]], skip_bad=True, batch_size=2)
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False]
    np.testing.assert_allclose(found[[0, 2]], encoder.encode(files[:2]), atol=1e-6)


def test_an_embedding_that_is_not_finite_is_a_bad_picture(files):
    encoder = Encoder(SMALL)
    torch.nn.init.constant_(encoder.head.layers[0].bias, torch.nan)
    with pytest.raises(CrossbatchError, match=r"0.png: its embedding is not finite"):
        encoder.encode(files)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": 0}])
def test_numbers_below_one(encoder, files, wrong):
    with pytest.raises(CrossbatchError, match="`batch_size` and `workers` ≥ 1"):
        encoder.encode(files, **wrong)


# Digests


def test_the_digest_is_of_what_an_embedding_depends_on(encoder):
    same = Encoder(SMALL)
    same.load_state_dict(encoder.state_dict())
    assert same.digest() == encoder.digest()
    same.config = replace(SMALL, weights="elsewhere", dropout=0.5)
    assert same.digest() == encoder.digest()
    same.config = replace(SMALL, crop=1.0)
    assert same.digest() != encoder.digest()
    same.config = SMALL
    with torch.no_grad():
        same.head.layers[0].bias[0] += 1
    assert same.digest() != encoder.digest()


# Files of embeddings


def test_a_folder_of_any_depth_is_listed(tmp_path):
    for name in ("b.png", "cat/a.png", "cat/deep/c.PNG", ".hidden.png", "cat/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    manifest = from_pictures(tmp_path).manifest
    assert manifest.column("path").tolist() == ["b.png", "cat/a.png", "cat/deep/c.PNG"]
    assert manifest.labels.tolist() == ["", "cat", "cat"]
    (tmp_path / "none").mkdir()
    with pytest.raises(CrossbatchError, match=r"one image in .*none. Files count that end in"):
        from_source(tmp_path / "none")
    with pytest.raises(CrossbatchError, match=r"a folder at .*nothing"):
        from_pictures(tmp_path / "nowhere")


def test_embeddings_as_parquet_and_as_a_matrix(encoder, files, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"bad")
    manifest = from_pictures(tmp_path).manifest
    problems = write_embeddings(encoder, manifest, tmp_path / "x.parquet", batch_size=4)
    assert [problem.path for problem in problems] == ["bad.png"]
    table = pq.read_table(tmp_path / "x.parquet")
    found = np.stack(table["embedding"].to_numpy())
    np.testing.assert_allclose(found, encoder.encode(files), atol=1e-6)
    assert table["path"].to_pylist() == [file.name for file in files]
    assert encoder.digest() in table.schema.metadata[b"crossbatch_embeddings"].decode()
    write_embeddings(encoder, manifest, tmp_path / "y.npy", batch_size=4)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), found)
    assert pq.read_table(tmp_path / "y.parquet")["path"].to_pylist() == table["path"].to_pylist()


def test_what_cannot_become_a_file_of_embeddings(encoder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"bad")
    manifest = from_pictures(tmp_path).manifest
    with pytest.raises(CrossbatchError, match=r"ending in .parquet or .npy. Got .*x.csv"):
        write_embeddings(encoder, manifest, tmp_path / "x.csv")
    with pytest.raises(CrossbatchError, match=r"one image that can be read. Got none of 1.*bad"):
        write_embeddings(encoder, manifest, tmp_path / "x.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]

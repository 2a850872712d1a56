"""How a memory stores its rows: what each dtype keeps, and how far off it may be."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import crossbatch as xb
import crossbatch.codes
from crossbatch.engine.pair_loss import Tiling

KINDS = [xb.CrossBatchMemory, xb.PerImageMemory]
DTYPES = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def fill(kind, dtype, z, batch=7):
    memory, ids = kind(len(z), z.shape[1], dtype=dtype), torch.arange(len(z))
    for rows in ids.split(batch):
        memory.enqueue(z[rows], rows // 4, rows)
    return memory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_floating_memory_rounds_to_its_dtype_and_no_further(kind, dtype):
    z = F.normalize(torch.randn(50, 16), dim=1)
    memory = fill(kind, dtype, z)
    assert memory.embeddings.dtype == dtype
    assert torch.equal(memory.contents().embeddings, z.to(dtype))
    assert all(tile.embeddings.dtype == dtype for tile in memory.tiles(9))
    error = (memory.contents().embeddings.float() - z).abs()
    assert bool((error <= DTYPES[dtype] * z.abs()).all())
    assert bool((memory.drift(z, torch.arange(50)).squared <= DTYPES[dtype] ** 2).all())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dim=st.integers(1, 40),
    size=st.sampled_from([1.0, 1e-3, 1e4]),
    kind=st.sampled_from(KINDS),
)
def test_int8_is_off_by_no_more_than_it_says(seed, dim, size, kind):
    g = torch.Generator().manual_seed(seed)
    z = size * F.normalize(torch.randn(20, dim, generator=g), dim=1)
    z[3] = 0
    memory = fill(kind, torch.int8, z)
    assert memory.embeddings.dtype == torch.int8
    bound = z.abs().amax(dim=1) * dim**0.5 / 254 * 1.0001
    held = memory.contents()
    assert held.embeddings.dtype == torch.float32
    assert bool(((held.embeddings - z).norm(dim=1) <= bound).all())
    a = F.normalize(torch.randn(30, dim, generator=g), dim=1)
    assert bool(((a @ held.embeddings.T - a @ z.T).abs() <= bound + 1e-6 * size).all())
    tiles = torch.cat([tile.embeddings for tile in memory.tiles(6)])
    assert torch.equal(tiles, held.embeddings)
    found = memory.drift(z, torch.arange(20))
    assert found.squared.tolist() == pytest.approx(
        (held.embeddings - z).square().sum(dim=1).tolist(), rel=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["dense", "sparse", "screened"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("halves", [True, False])
def test_the_loss_is_that_of_what_is_read_back(monkeypatch, kind, path, dtype, halves):
    """int8 rows, and bfloat16, are their own codes: these select what the read rows select."""
    monkeypatch.setattr(crossbatch.codes, "rounds", lambda: halves)
    z = F.normalize(torch.randn(600, 16), dim=1)
    memory = fill(kind, dtype, z, batch=64)
    a, labels, ids = z[:12].clone().requires_grad_(), torch.arange(12) // 4, torch.arange(12)
    held = memory.contents()
    rows = xb.Batch(held.embeddings.float(), *held[1:3])
    values = []
    for references in (memory, rows):
        a.grad = None
        tiling = Tiling(rows=64, path=path if references is memory else "dense")
        result = xb.pair_loss(
            a, labels, weighting=xb.Contrastive(0.5), references=references, ids=ids, tiling=tiling
        )
        result.value.backward()
        values.append((result.value.item(), result.active_negatives, a.grad.clone()))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-5)
    assert torch.equal(values[0][1], values[1][1])
    assert int(values[0][1].sum()) > 0
    assert int(result.positives.sum()) == 12 * 3
    torch.testing.assert_close(values[0][2], values[1][2])


@pytest.mark.parametrize("kind", KINDS)
def test_codes_of_int8_rows_are_the_rows_and_stay_in_step(kind):
    z = F.normalize(torch.randn(40, 8), dim=1)
    memory, ids = fill(kind, torch.int8, z), torch.arange(5)
    memory.encode()
    memory.enqueue(-2 * z[:5], ids, ids)
    for tile in memory.tiles(11):
        read = tile.codes.values * tile.codes.scale[:, None]
        assert torch.equal(read, tile.embeddings)
        torch.testing.assert_close(tile.codes.norm, tile.embeddings.norm(dim=1))
    memory.scales.mul_(2)
    assert next(memory.tiles(11)).codes is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8])
def test_a_stored_memory_comes_back_bit_for_bit(kind, dtype):
    z = F.normalize(torch.randn(30, 8), dim=1)
    memory = fill(kind, dtype, z)
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    other = kind(30, 8, dtype=dtype)
    other.load_state_dict(torch.load(file, weights_only=True))
    for found in (other, copy.deepcopy(memory)):
        assert all(map(torch.equal, found.contents()[:3], memory.contents()[:3]))
        assert torch.equal(found.ages(), memory.ages())


def test_int8_takes_a_quarter():
    parts = xb.CrossBatchMemory(10, 128, dtype=torch.int8).state_dict()
    stored = sum(parts[name].nbytes for name in ("embeddings", "scales"))
    assert stored == 10 * (128 + 4)


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_an_int8_memory_rounds_its_scales_alone(kind):
    z = F.normalize(torch.randn(30, 8), dim=1)
    memory = fill(kind, torch.int8, z).half()
    memory.enqueue(z[:3], torch.arange(3), torch.arange(3))
    assert memory.embeddings.dtype == torch.int8
    assert float((memory.contents().embeddings.norm(dim=1) - 1).abs().max()) < 0.02

"""Eight-bit codes: the bound is a bound, and exact similarities are the same two ways."""

import threading

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import crossbatch as xb
from crossbatch import codes as module
from crossbatch.codes import ROUNDING, encode, round_off, similarities
from crossbatch.engine.scratch import Scratch
from crossbatch.engine.screen import Screen


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dim=st.integers(1, 70),
    spread=st.sampled_from([1e-6, 1.0, 30.0]),
)
def test_no_similarity_exceeds_its_bound(seed, dim, spread):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(9, dim, generator=g) * torch.rand(9, 1, generator=g) * spread
    r = torch.randn(40, dim, generator=g) ** 3 * spread
    r[3] = 0
    x, codes = encode(a, shared_scale=True), encode(r)
    product = x.values.double() @ codes.values.double().T
    reach = (x.norm + x.residual).amax()
    error = reach * codes.residual + (x.residual.amax() + ROUNDING * reach) * codes.norm
    bound = product * x.scale[:, None].double() * codes.scale + error
    assert (a.double() @ r.double().T <= bound).all()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dim=st.integers(1, 70),
    spread=st.sampled_from([1e-18, 1e-6, 1.0, 30.0]),
    rank=st.integers(-1, 40),
    each=st.booleans(),
    halves=st.booleans(),
)
def test_whatever_passes_is_marked(seed, dim, spread, rank, each, halves):
    """Beside bounds that stand at similarities, of any sign, for all anchors or for each."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(9, dim, generator=g) * torch.rand(9, 1, generator=g) * spread
    r = torch.randn(40, dim, generator=g) ** 3 * spread
    r[3], x[5] = 0, 0
    sim = r.double() @ x.double().T
    order = sim.sort(dim=0).values
    bound = torch.full((9,), torch.inf) if rank == 40 else order[rank].float()
    bound = -bound if rank == -1 else bound
    limit = bound if each else float(bound[4])
    codes = round_off(r) if halves else encode(r)
    marked = Screen(x, limit, Scratch()).mark(codes, 7)
    passing = sim > (bound.double() if each else limit)
    assert marked[passing].all()


def test_what_is_far_below_the_bound_is_not_marked():
    x, r = (F.normalize(torch.randn(n, 64), dim=1) for n in (20, 500))
    sim = r @ x.T
    for bound in (0.2, -0.1):
        near = (sim > bound - 0.03).sum()
        for codes in (round_off(r), encode(r)):
            marked = Screen(x, bound, Scratch()).mark(codes, 100)
            assert (sim > bound).sum() <= marked.sum() <= near


def test_rounded_rows_are_off_by_what_they_say():
    r = torch.randn(20_000, 9)
    codes = round_off(r)
    torch.testing.assert_close(codes.residual, (r - codes.values).norm(dim=1))
    torch.testing.assert_close(codes.norm, r.norm(dim=1))
    assert 0 < codes.residual.max() < 2**-8 * codes.norm.max()
    again = round_off(codes.values)
    assert again.values.data_ptr() == codes.values.data_ptr()
    assert not again.residual.any()
    part = codes.rows(slice(3, 9))
    assert torch.equal(part.values, codes.values[3:9])


def test_codes_are_as_near_as_eight_bits_allow():
    r = torch.randn(50, 64)
    codes = encode(r)
    assert codes.values.abs().amax() == 127
    near = codes.values * codes.scale[:, None]
    assert (near - r).abs().amax() <= codes.scale.amax() / 2 + 1e-6
    torch.testing.assert_close(codes.residual, (near - r).norm(dim=1))
    torch.testing.assert_close(codes.norm, r.norm(dim=1))


def test_many_rows_are_encoded_in_parts():
    r = torch.randn(20_000, 3)
    for whole, part in zip(encode(r), encode(r[17_000:]), strict=True):
        assert torch.equal(whole[17_000:], part)


def test_numbers_beyond_a_given_scale_are_cut_and_counted():
    r = torch.tensor([[3.0, 0.4, -0.4]]).expand(20_000, 3)
    codes = encode(r, scale=1 / 127)
    assert codes.values.unique(dim=0).tolist() == [[127, 51, -51]]
    off = r - codes.values * codes.scale[:, None]
    torch.testing.assert_close(codes.residual, off.norm(dim=1))
    assert codes.residual.min() > 2


def test_single_similarities_are_taken_alike_two_ways():
    x, r = torch.randn(6, 33), torch.randn(50, 33)
    column, anchor = np.nonzero(np.random.default_rng(0).random((50, 6)) < 0.2)
    wanted = (x @ r.T)[anchor, column]
    torch.testing.assert_close(module._gathered(r, x, (column, anchor)), wanted)
    room = torch.full((len(anchor),), torch.nan)
    torch.testing.assert_close(similarities(r, x, (column, anchor), room=room), wanted)
    assert similarities(r, x, (column[:0], anchor[:0]), room=room[:0]).shape == (0,)


def test_the_room_of_a_sweep_outlives_it():
    x, r = torch.randn(6, 33), torch.randn(50, 33)
    labels = torch.arange(56) % 28

    def loss() -> torch.Tensor:
        references = xb.Batch(r, labels[6:], torch.arange(6, 56))
        return xb.PairLoss(xb.Contrastive())(
            x, labels[:6], ids=torch.arange(6), references=references
        )

    def run() -> None:
        with torch.inference_mode():
            found.append(loss())  # what is made here may not be written to outside
        found.extend([loss(), loss()])

    found: list[torch.Tensor] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [loss()] * 3

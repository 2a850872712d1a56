"""What C does is what torch does: functions beside slow twins, and the loss with and without.

Those of matrix units are skipped where the processor has none, all where there is no compiler.
"""

import itertools
import subprocess

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import crossbatch as xb
from crossbatch import _compiled, _native
from crossbatch.codes import ROUNDING, encode
from crossbatch.engine import Tiling
from crossbatch.engine.screen import twice_rounded
from tests.tables import WEIGHTINGS

pytestmark = pytest.mark.skipif(_native._library() is None, reason="no compiler here")
matrix_units = pytest.mark.skipif(
    _native._library() is None or not _native.has_matrix_units(64),
    reason="no matrix units here, or no compiler",
)
SUMS = (_native.coded_sum, _native.many_sum)
THREADS = pytest.mark.parametrize("threads", [1, 2])


@pytest.fixture(autouse=True)
def many_threads(request, monkeypatch):
    """Work is shared out however little it is."""
    for name in ("_PRODUCTS", "_SUMMED", "_LOOKED_UP"):
        monkeypatch.setattr(_native, name, 1)
    before = torch.get_num_threads()
    case = getattr(request.node, "callspec", None)
    torch.set_num_threads(case.params.get("threads", 1) if case else 1)
    yield
    torch.set_num_threads(before)


def rows(count: int, dim: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def prepared(r: torch.Tensor, x: torch.Tensor, bound):
    """Anchors and references for codes of eight bits, and for halves of many."""
    codes, eight, halves = encode(r), _native.eight_bits(x, bound), _native.halves(x, bound)
    reach = eight.reach + eight.residual
    some = _native.Screened(r, *codes, reach, eight.residual + ROUNDING * reach)
    many = _native.Screened(r, *codes, reach, twice_rounded(halves, ROUNDING))
    return (eight, some), (halves, many)


def same(found: _native.Above, sim: torch.Tensor, bound) -> None:
    """Pairs and similarities are those above the bound, but for pairs at it."""
    table = torch.full_like(sim, -torch.inf)
    table[found.row, found.anchor] = found.sim
    assert len(found.row) == (table > -torch.inf).sum()  # none twice
    sure = (sim - bound).abs() > 1e-5
    assert torch.equal((table > -torch.inf)[sure], (sim > bound)[sure])
    shown = table > -torch.inf
    torch.testing.assert_close(table[shown], sim[shown], atol=1e-6, rtol=1e-5)


@matrix_units
@THREADS
@pytest.mark.parametrize("anchors", [1, 31, 32, 70])
@pytest.mark.parametrize("count", [1, 31, 33, 128, 1000])
@pytest.mark.parametrize("dim", [64, 192])
def test_matrix_units_find_what_a_product_finds(count, anchors, dim, threads):
    bound = torch.linspace(-0.3, 0.3, anchors)
    r, x = rows(count, dim, 1), rows(anchors, dim, 2)
    few, many = prepared(r, x, bound)
    for hidden in (torch.arange(0), torch.arange(0, count, 3), torch.arange(count)):
        sim = r @ x.T
        sim[hidden] = -torch.inf
        same(_native.coded_above(*few, hidden), sim, bound)
        weights = (sim > bound).float()
        sure = (sim - bound).abs().amin(dim=0) > 1e-5  # anchors without a pair at the bound
        for take, both in zip(SUMS, (few, many), strict=True):
            total, number = take(*both, hidden)
            assert torch.equal(number[sure], weights.sum(dim=0)[sure])
            torch.testing.assert_close(total[sure], (weights.T @ r)[sure], atol=1e-4, rtol=1e-4)


@matrix_units
@pytest.mark.parametrize("bound", [-torch.inf, torch.inf, -2.0, 2.0])
def test_all_pairs_or_none_whatever_the_room(bound):
    r, x = rows(3000, 64, 1), rows(33, 64, 2)  # 99,000 pairs, room for 12,288
    few, many = prepared(r, x, bound)
    found = _native.coded_above(*few, torch.tensor([0, 2999]))
    sim = r @ x.T
    sim[[0, 2999]] = -torch.inf
    assert len(found.row) == (2998 * 33 if bound < 0 else 0)
    for take, both in zip(SUMS, (few, many), strict=True):
        total, number = take(*both, torch.tensor([0, 2999]))
        expected = r[1:-1].sum(dim=0) * (bound < 0)
        assert torch.equal(number, torch.full((33,), 2998.0 * (bound < 0)))
        torch.testing.assert_close(total, expected.expand(33, 64), atol=1e-3, rtol=1e-4)
    if bound < 0:
        torch.testing.assert_close(found.sim, sim[found.row, found.anchor], atol=1e-6, rtol=1e-5)
        assert len(set(zip(found.row.tolist(), found.anchor.tolist(), strict=True))) == 2998 * 33


@matrix_units
def test_a_pair_just_above_the_bound_is_found_whatever_its_codes_say():
    """All similarities are .5 but for some units in the last place; the bound is each of them."""
    r, x = rows(4096, 64, 3), rows(1, 64, 4)
    r, r[:, 0] = r.clone(), 0.0
    x[0, 0] = 1.0
    short = 0.5 - (r @ x.T)[:, 0]
    r[:, 0] = short
    sim = torch.empty(4096)
    found = _native.coded_above(*prepared(r, x, -9.0)[0], torch.arange(0))
    sim[found.row] = found.sim
    assert len(sim.unique()) > 3
    for bound in sim.unique()[:-1].tolist():
        (few, many), nothing = prepared(r, x, bound), torch.arange(0)
        found = _native.coded_above(*few, nothing)
        assert torch.equal(found.row, (sim > bound).nonzero().flatten())
        for take, both in zip(SUMS, (few, many), strict=True):
            total, number = take(*both, nothing)
            assert number == (sim > bound).sum()
            torch.testing.assert_close(total[0], r[sim > bound].sum(dim=0), atol=1e-4, rtol=1e-4)


@matrix_units
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_one_row_is_its_own_sum_to_the_last_bit(scale):
    """However matrix units cut it up."""
    r, x = rows(300, 128, 3), rows(40, 128, 4)
    sim = r @ x.T
    best, second = sim.topk(2, dim=0).values
    r, bound = scale * r, scale * (best + second) / 2
    few, many = prepared(r, x, bound)
    nothing = torch.arange(0)
    for take, both in zip(SUMS, (few, many), strict=True):
        total, number = take(*both, nothing)
        assert torch.equal(total, r[sim.argmax(dim=0)])
        assert torch.equal(number, torch.ones(40))


@THREADS
@pytest.mark.parametrize("dim", [1, 15, 16, 33, 100])
def test_listed_pairs_and_sums(dim, threads):
    r, x, bound = rows(200, dim, 1), rows(20, dim, 2), torch.linspace(-0.5, 0.5, 20)
    row, anchor = (torch.rand(200, 20, generator=torch.Generator().manual_seed(5)) < 0.3).nonzero(
        as_tuple=True
    )
    sim = r @ x.T
    listed = torch.full_like(sim, -torch.inf)
    listed[row, anchor] = sim[row, anchor]
    same(_native.listed_above((row, anchor), r, x, bound), listed, bound)
    same(_native.listed_above((row, anchor), r, x, 0.1), listed, 0.1)
    weights = torch.randn(len(row), generator=torch.Generator().manual_seed(6))
    table = torch.zeros(200, 20)
    table[row, anchor] = weights
    total = _native.sum_rows((row, anchor), weights, r, 20)
    torch.testing.assert_close(total, table.T @ r, atol=1e-5, rtol=1e-5)


@THREADS
@pytest.mark.parametrize("count", [0, 1])
def test_few_or_no_pairs(count, threads):
    r, x = rows(3, 8, 1), rows(2, 8, 2)
    pair = torch.ones(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    assert len(_native.listed_above(pair, r, x, -2.0).row) == count
    total = _native.sum_rows(pair, torch.full((count,), 2.0), r, 2)
    assert torch.equal(total, torch.stack([2 * count * r[1], torch.zeros(8)]))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_label_that_occurs_is_never_missed(data):
    numbers = st.integers(-(2**63), 2**63 - 1)
    few = data.draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5))
    known = st.sampled_from([number for pair in few for number in pair])
    many = data.draw(st.lists(st.tuples(known | numbers, known | numbers), max_size=50))
    labels, ids = (torch.tensor([pair[k] for pair in many], dtype=torch.int64) for k in (0, 1))
    few_labels, few_ids = (torch.tensor([pair[k] for pair in few]) for k in (0, 1))
    found = _native.occurring((labels, few_labels), (ids, few_ids))
    occurs = torch.isin(labels, few_labels) | torch.isin(ids, few_ids)
    assert set(occurs.nonzero().flatten().tolist()) <= set(found.tolist())
    assert torch.equal(found, found.unique())


def test_few_others_are_looked_at():
    many, few = torch.arange(100_000), torch.arange(0, 6400, 100)
    found = _native.occurring((many, few), (many + 1_000_000, few + 1_000_000))
    assert len(found) < 200


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
@pytest.mark.parametrize("halves", [True, False])
def test_the_loss_is_the_same_without_a_compiler(monkeypatch, name, halves):
    weighting = WEIGHTINGS[name]
    monkeypatch.setattr("crossbatch.codes.rounds", lambda: halves)
    memory = xb.CrossBatchMemory(5000, 64)
    labels = torch.arange(5000) // 5
    memory.enqueue(
        F.normalize(rows(5000, 64, 1) + 0.4 * rows(1, 64, 9)), labels, torch.arange(5000)
    )
    memory.encode()
    x = F.normalize(rows(40, 64, 2) + 0.4 * rows(1, 64, 9))
    some, ids = torch.arange(40) // 4, torch.arange(40) + 10_000

    def found(path):
        tiling = Tiling(path=path, rows=64)
        return xb.pair_loss(
            x, some, weighting=weighting, references=memory, ids=ids, tiling=tiling
        )

    for path in ("screened", "sparse"):
        mine = found(path)
        with monkeypatch.context() as without:
            without.setattr(_native, "_library", lambda: None)
            theirs = found(path)
        torch.testing.assert_close(mine.value, theirs.value, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mine.gradient, theirs.gradient, atol=1e-5, rtol=1e-4)
        assert torch.equal(mine.active_negatives, theirs.active_negatives)
        assert torch.equal(mine.negatives, theirs.negatives)


def test_without_a_compiler_nothing_is_at_hand(monkeypatch):
    def fails(*arguments, **options):
        raise subprocess.CalledProcessError(1, "cc")

    def full(**options):
        raise FileNotFoundError("No usable temporary directory found")

    for broken in (
        ("shutil.which", lambda name: None),
        ("subprocess.run", fails),
        ("tempfile.TemporaryDirectory", full),
    ):
        with monkeypatch.context() as without:
            without.setattr(*broken)
            assert _native._library.__wrapped__() is None


def test_the_second_choice_of_flags_is_plain_c(monkeypatch):
    """As on a processor that the compiler cannot name."""
    monkeypatch.setattr(_compiled, "_NATIVE", (("-march=nonsense",), ()))
    library = _native._library.__wrapped__()
    assert library is not None
    assert not library.has_matrix_units()
    monkeypatch.setattr(_native, "_library", lambda: library)
    r, x = rows(50, 40, 1), rows(7, 40, 2)
    pairs = tuple(torch.tensor(list(itertools.product(range(50), range(7)))).T.contiguous())
    same(_native.listed_above(pairs, r, x, 0.1), r @ x.T, 0.1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_defaults_of_torch_do_not_matter(dtype):
    r, x = rows(500, 64, 1), rows(40, 64, 2)
    memory = xb.CrossBatchMemory(500, 64, dtype=torch.float32)
    memory.enqueue(r, torch.arange(500), torch.arange(500))
    memory.encode()
    for weighting in (xb.Contrastive(0.2), xb.MultiSimilarity()):
        found = []
        for default in (torch.float32, dtype):
            torch.set_default_dtype(default)
            try:
                found.append(
                    xb.pair_loss(
                        x, torch.arange(40), weighting=weighting, references=memory,
                        ids=torch.arange(1000, 1040), tiling=Tiling(path="screened"),
                    ).gradient
                )  # fmt: skip
            finally:
                torch.set_default_dtype(torch.float32)
        torch.testing.assert_close(found[1], found[0])


def test_weights_that_are_not_contiguous_are_summed_right():
    r, x = rows(500, 64, 1), rows(40, 64, 2)
    memory = xb.CrossBatchMemory(500, 64)
    memory.enqueue(r, torch.arange(500), torch.arange(500))
    memory.encode()

    class Flat(xb.Contrastive):
        negative_line = None

        def negative(self, sim, stats):
            listed = sim.dim() == 1  # those above the bound
            return torch.ones(()).expand(len(sim)) if listed else super().negative(sim, stats)

    some, ids = torch.arange(40), torch.arange(1000, 1040)
    gradients = [
        xb.pair_loss(
            x, some, weighting=w, references=memory, ids=ids, tiling=Tiling(path="screened")
        ).gradient
        for w in (Flat(0.2), xb.Contrastive(0.2))
    ]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@matrix_units
@pytest.mark.parametrize(("anchors", "scale"), [(1.0, 1e-22), (1e-22, 1.0), (0.0, 1e20)])
def test_squares_that_vanish_or_overflow_lose_no_pair(anchors, scale):
    r, x = scale * rows(300, 64, 1), anchors * rows(32, 64, 2)
    bound = 0.0 if anchors else -0.1
    sim = r @ x.T
    for take, both in zip(SUMS, prepared(r, x, bound), strict=True):
        number = take(*both, torch.arange(0))[1]
        assert torch.equal(number, (sim > bound).sum(dim=0).float())

"""A loss that is recorded and played is the loss; the recording is acted by calling again."""

import copy
import gc
import weakref

import pytest
import torch

import crossbatch as xb
from crossbatch import _recorded
from crossbatch.engine import graphs
from tests.generators import problem
from tests.tables import REDUCTIONS, WEIGHTINGS


class Stage:
    """Stands in for a CUDA graph: what is played writes to where the recording wrote."""

    def __init__(self):
        self.recorded = self.played = 0

    def record(self, function):
        found = function()
        self.recorded += 1

        def play():
            self.played += 1
            for name, value in function().items():
                found[name].copy_(value)

        return found, play


@pytest.fixture
def stage(monkeypatch):
    made = Stage()
    monkeypatch.setattr(_recorded, "possible", lambda x: True)
    monkeypatch.setattr(_recorded, "record", made.record)
    monkeypatch.setattr(graphs, "_OWN", _recorded.Recorders())
    return made


def batches(count, **sizes):
    return [problem(seed, anchors=5, references=90, **sizes) for seed in range(count)]


def memory_of(p, capacity=90):
    memory = xb.CrossBatchMemory(capacity, p.r.shape[1], dtype=p.r.dtype)
    memory.enqueue(p.r, p.ref_labels, p.ref_ids)
    return memory


def told(w, p, references, reduction="sum_per_anchor", enqueue=False):
    x = p.a.clone().requires_grad_()
    if enqueue:
        references.enqueue(p.a, p.labels, p.ids)
    result = xb.pair_loss(
        x, p.labels, ids=p.ids, weighting=w, references=references, reduction=reduction
    )
    result.value.backward()
    return vars(result) | {"value": result.value.detach(), "grad": x.grad}


@pytest.mark.parametrize("w", WEIGHTINGS.values(), ids=WEIGHTINGS.keys())
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("own", [False, True])
def test_what_is_played_is_the_loss(stage, w, reduction, own):
    several = batches(7, classes=60)
    played, plain = memory_of(several[0]), memory_of(several[0])
    for step, p in enumerate(several):
        if not own:
            played.enqueue(p.a, p.labels, p.ids)
            plain.enqueue(p.a, p.labels, p.ids)
        found = told(w, p, None if own else played, reduction)
        rows = plain.contents()
        everything = (p.a, p.labels, p.ids) if own else rows[:3]
        x = p.a.clone().requires_grad_()
        references = xb.Batch(x, p.labels, p.ids) if own else xb.Batch(*everything)
        result = xb.pair_loss(
            x, p.labels, ids=p.ids, weighting=w, references=references, reduction=reduction
        )
        result.value.backward()
        near = {"rtol": 1e-9, "atol": 1e-11}
        torch.testing.assert_close(found["grad"], x.grad, **near)
        torch.testing.assert_close(found["value"], result.value.detach(), **near)
        assert found.keys() - {"grad"} == vars(result).keys()
        assert found["statistics"].keys() == result.statistics.keys()
        whole = (result.positives > 0) & (result.negatives > 0)  # others' may be anything
        for name, value in result.statistics.items():
            torch.testing.assert_close(found["statistics"][name][whole], value[whole], **near)
        torch.testing.assert_close(found["scales"], result.scales, **near)
        counts = {name for name, value in found.items() if name.endswith("tives")}
        assert len(counts) == 4
        for name in counts | {"active_anchors"}:
            assert torch.equal(found[name], getattr(result, name)), name
            assert found[name].dtype == getattr(result, name).dtype
        assert stage.played == (max(step - 2, 0) if graphs.is_value(w) else 0)


def test_results_stay_when_the_next_is_played(stage):
    several = batches(6, classes=60)
    memory = memory_of(several[0])
    results = [told(xb.SupCon(), p, memory) for p in several]
    kept = [{k: v.clone() for k, v in r.items() if isinstance(v, torch.Tensor)} for r in results]
    told(xb.SupCon(), several[2], memory)
    assert stage.played == 4
    for result, before in zip(results, kept, strict=True):
        for name, value in before.items():
            assert torch.equal(result[name], value)
    assert len({float(r["value"]) for r in results}) == len(results)


def test_where_the_room_is_short_nothing_is_lost(stage):
    """A batch of other classes than before meets many more rows of the memory."""
    p = batches(1, classes=60)[0]
    p.ref_labels[:] = torch.arange(90) % 45 + 100
    p.ref_labels[:40] = 7
    p.r = torch.cat([p.r] * 20)  # 1,800 rows, 800 of them of class 7
    p.ref_labels = torch.cat([p.ref_labels] * 20)
    p.ref_ids = torch.arange(len(p.r)) + 1000
    p.ref_labels[p.ref_labels == 7] = torch.where(torch.arange(800) < 300, 7, 500)
    memory = memory_of(p, len(p.r))
    w = xb.Contrastive(0.3)
    for _ in range(4):
        told(w, p, memory)
    assert (stage.recorded, stage.played) == (1, 1)
    p.labels[:] = 7
    expected = told(w, p, xb.Batch(p.r, p.ref_labels, p.ref_ids))
    found = told(w, p, memory)
    assert stage.played == 2
    torch.testing.assert_close(found["grad"], expected["grad"])
    assert torch.equal(found["positives"], expected["positives"])
    assert stage.recorded == 2  # with more room
    torch.testing.assert_close(told(w, p, memory)["grad"], expected["grad"])
    assert stage.played == 3


def test_a_memory_that_fills_moves_or_is_loaded_is_recorded_anew(stage):
    p = batches(1, classes=60)[0]
    memory, w = memory_of(p, capacity=200), xb.Contrastive()
    for _ in range(5):
        told(w, p, memory, enqueue=True)  # five rows more each time
    assert stage.recorded == 0
    for _ in range(4):
        told(w, p, memory)
    assert (stage.recorded, stage.played) == (1, 2)
    moved = memory_of(p, capacity=200)
    moved.load_state_dict(memory.state_dict())
    memory.embeddings = memory.embeddings.clone()
    told(w, p, memory)
    assert stage.played == 2
    memory.embeddings.neg_()
    x = -memory.contents().embeddings[0]
    assert torch.equal(x, moved.contents().embeddings[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int8])
def test_drift_that_is_played_is_the_drift(stage, monkeypatch, dtype):
    monkeypatch.setattr(xb.CrossBatchMemory, "_compares", lambda self, rows: self.recorded)
    several = batches(12)
    played, plain = (xb.CrossBatchMemory(90, several[0].r.shape[1], dtype=dtype) for _ in "12")
    played.recorded, plain.recorded = True, False
    for step, p in enumerate(several):
        ids = torch.where(torch.arange(5) < step % 6, p.ids, torch.randint(1000, 1090, (5,)))
        found, expected = played.drift(p.a, ids), plain.drift(p.a, ids)
        assert torch.equal(found.ages, expected.ages)
        assert torch.equal(found.squared, expected.squared)
        for memory in (played, plain):
            memory.enqueue(p.r[:30], p.ref_labels[:30], torch.arange(1000 + step, 1030 + step))
            memory.enqueue(p.a, p.labels, p.ids)
    assert stage.played >= 4
    kept = copy.deepcopy(played)
    assert not kept._recorders
    before = stage.played
    kept.births += 1  # one batch younger than they are
    p = several[0]
    told = [memory.drift(p.a, p.ids).ages for memory in (kept, played)]
    assert stage.played == before + 1
    assert torch.equal(told[0], told[1] - 1)


def test_whatever_a_recording_tells_lives_as_long(stage, monkeypatch):
    """A graph writes to the place that it was recorded with, whether or not anybody reads it."""
    rooms = []

    class Watched(_recorded.Room):
        def tell(self, count):
            if self._told is not None:
                rooms.append(weakref.ref(self))
            super().tell(count)

    monkeypatch.setattr(graphs, "Room", Watched)
    monkeypatch.setattr(_recorded, "record", lambda f: (f(), int))  # as a graph, keeps no f
    monkeypatch.setattr(_recorded.Room, "clear", lambda self: None)
    p = batches(1, classes=60)[0]
    memory = memory_of(p)
    for _ in range(4):
        told(xb.Contrastive(), p, memory)
        told(xb.Contrastive(), p, None)
    gc.collect()
    assert rooms
    assert all(room() is not None for room in rooms)


def test_recordings_end_with_their_memory(stage, monkeypatch):
    monkeypatch.setattr(_recorded, "record", lambda f: (f(), int))  # as a graph, keeps no f
    monkeypatch.setattr(_recorded.Room, "clear", lambda self: None)
    p = batches(1, classes=60)[0]
    memory = memory_of(p)
    for _ in range(4):
        told(xb.SupCon(), p, memory)
    recorder = next(iter(graphs._BESIDE[memory].values()))
    assert recorder._recording is not None
    gone = weakref.ref(memory), weakref.ref(recorder)
    del memory, recorder
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_what_cannot_be_recorded_is_taken_step_by_step(stage, monkeypatch):
    tried = []

    def refuse(function):
        tried.append(function)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(_recorded, "record", refuse)
    p = batches(1, classes=60)[0]
    memory = memory_of(p)
    values = {float(told(xb.Contrastive(), p, memory)["value"]) for _ in range(6)}
    assert len(values) == 1
    assert len(tried) == 1


def test_functions_and_strangers_are_not_recorded(stage):
    class Mine(xb.Contrastive):
        pass

    p = batches(1, classes=60)[0]
    for w in (xb.from_functions(torch.relu, torch.relu), Mine()):
        for _ in range(5):
            told(w, p, memory_of(p))
    assert stage.recorded == 0
    assert graphs.is_value(xb.Sides(xb.Contrastive(), xb.NTXent()))


def test_other_weightings_and_reductions_have_recordings_of_their_own(stage):
    p = batches(1, classes=60)[0]
    memory = memory_of(p)
    kinds = [(xb.Contrastive(m), r) for m in (0.2, 0.4) for r in REDUCTIONS]
    values = [[float(told(w, p, memory, r)["value"]) for w, r in kinds] for _ in range(5)]
    assert stage.recorded == len(kinds)
    assert all(v == pytest.approx(values[0]) for v in values)
    assert len(set(values[0])) == len(kinds)

"""Losses that are recorded on a CUDA device are those of the CPU in float64, batch after batch."""

import pytest
import torch

import crossbatch as xb
from crossbatch.engine import graphs
from tests.generators import problem
from tests.tables import SINGULAR_AT_ONE, WEIGHTINGS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZES = {"anchors": 33, "references": 900, "dim": 48, "classes": 300}


def loss(w, memory, p, device, dtype):
    x = p.a.to(device, dtype, copy=True).requires_grad_()
    labels, ids = p.labels.to(device), p.ids.to(device)
    drift = memory.drift(x, ids)
    memory.enqueue(x, labels, ids)
    batch = xb.pair_loss(x, labels, ids=ids, weighting=w)
    beside = xb.pair_loss(x, labels, ids=ids, weighting=w, references=memory)
    (batch.value + beside.value).backward()
    return [
        *(v.detach().cpu().double() for v in (batch.value, beside.value, x.grad, drift.squared)),
        *(n.cpu() for n in (beside.positives, beside.negatives, drift.ages)),
    ]


@pytest.mark.parametrize("w", WEIGHTINGS.values(), ids=WEIGHTINGS.keys())
def test_every_batch_is_the_cpus(w):
    twin = type(w) not in SINGULAR_AT_ONE
    several = [problem(seed, twin=twin, **SIZES) for seed in range(8)]
    memories = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        memory = xb.CrossBatchMemory(900, 48, dtype=dtype).to(device)
        p = several[0]
        memory.enqueue(p.r.to(device, dtype), p.ref_labels.to(device), p.ref_ids.to(device))
        memories.append((memory, device, dtype))
    graphs._OWN.clear()
    for p in several:
        expected, found = (loss(w, *where[:1], p, *where[1:]) for where in memories)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    memory = memories[1][0]
    assert [r._recording is not None for r in memory._recorders.values()] == [True]
    recorders = [*graphs._BESIDE.get(memory, {}).values(), *graphs._OWN.values()]
    assert [r._recording is not None for r in recorders] == [True, True] * graphs.is_value(w)


def test_what_is_taken_in_inference_is_not_in_the_way_of_training():
    p = problem(0, **SIZES)
    graphs._OWN.clear()
    x, labels = p.a.to("cuda", torch.float32), p.labels.to("cuda")
    with torch.inference_mode():
        values = [float(xb.pair_loss(x, labels, weighting=xb.SupCon()).value) for _ in range(5)]
    for _ in range(5):
        z = x.clone().requires_grad_()
        result = xb.pair_loss(z, labels, weighting=xb.SupCon())
        result.value.backward()
        values.append(float(result.value.detach()))
    assert values == pytest.approx([values[0]] * 10)
    assert [r._recording is not None for r in graphs._OWN.values()] == [True]

"""On a CUDA device every path gives what the CPU gives in float64."""

import pytest
import torch

import crossbatch as xb
from crossbatch.engine import Tiling
from tests.generators import problem
from tests.tables import SINGULAR_AT_ONE, WEIGHTINGS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def gradient(w, p, device, dtype, **tiling):
    memory = xb.CrossBatchMemory(len(p.r), p.r.shape[1], dtype=dtype).to(device)
    memory.enqueue(p.r.to(device, dtype), p.ref_labels.to(device), p.ref_ids.to(device))
    a = p.a.to(device, dtype, copy=True).requires_grad_()
    result = xb.pair_loss(
        a,
        p.labels.to(device),
        weighting=w,
        references=memory,
        ids=p.ids.to(device),
        tiling=Tiling(**tiling),
    )
    result.value.backward()
    return result.value.detach().cpu().double(), a.grad.cpu().double()


@pytest.mark.parametrize("w", WEIGHTINGS.values(), ids=WEIGHTINGS.keys())
@pytest.mark.parametrize("path", ["dense", "sparse", None])
def test_cuda_is_the_cpu(w, path):
    twin = type(w) not in SINGULAR_AT_ONE
    p = problem(3, anchors=33, references=900, dim=48, classes=300, twin=twin)
    value, expected = gradient(w, p, "cpu", torch.float64)
    found, slope = gradient(w, p, "cuda", torch.float32, path=path, rows=256)
    torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-4)


def test_the_kernel_is_chosen_on_cuda():
    from crossbatch.engine.pairs import Anchors
    from crossbatch.engine.sweep import sweep

    p = problem(3, anchors=33, references=900, dim=48, classes=300, dtype=torch.float32)
    anchors = Anchors.of(p.a.cuda(), p.labels.cuda(), p.ids.cuda())
    references = xb.Batch(p.r.cuda(), p.ref_labels.cuda(), p.ref_ids.cuda())
    assert set(sweep(anchors, references, xb.SupCon(), rows=256).paths) == {"fused"}
    assert set(sweep(anchors, references, xb.Contrastive(), rows=256).paths) == {"fused"}


@pytest.mark.parametrize("name", ["contrastive", "multi-similarity", "supcon", "fastap"])
def test_a_memory_may_stay_on_the_cpu(name):
    p = problem(3, anchors=33, references=900, dim=48, classes=300, dtype=torch.float32)
    found = []
    for device in ("cpu", "cuda"):
        memory = xb.CrossBatchMemory(len(p.r), p.r.shape[1]).to(device)
        memory.enqueue(p.r.cuda(), p.ref_labels.cuda(), p.ref_ids.cuda())
        a = p.a.cuda().requires_grad_()
        loss = xb.PairLoss(WEIGHTINGS[name])
        loss(a, p.labels.cuda(), ids=p.ids.cuda(), references=memory).backward()
        found.append(a.grad)
    torch.testing.assert_close(*found)

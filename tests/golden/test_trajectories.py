"""Fifty steps of each weighting, with and without a memory, against committed losses.

A refactor must reproduce them; a change of numerics must rewrite them (run this file as a script)
and say so under *Numerics* in the changelog.
"""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb
from crossbatch.engine import memory_objective
from tests.tables import REDUCTIONS, WEIGHTINGS

FILE = Path(__file__).parent / "trajectories.json"
CASES = [(w, r, m) for w in WEIGHTINGS for r in REDUCTIONS[:2] for m in ("alone", "memory")]


def trajectory(weighting, reduction, memory):
    """A linear map learns 20 noisy classes; float64, so that the platform does not matter."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 16, generator=g, dtype=torch.float64)
    weight = (torch.randn(16, 8, generator=g, dtype=torch.float64) / 4).requires_grad_()
    ring = xb.CrossBatchMemory(64, 8, dtype=torch.float64)
    losses = []
    for step in range(50):
        labels = torch.randperm(20, generator=g)[:4].repeat_interleave(3)
        x = centres[labels] + torch.randn(12, 16, generator=g, dtype=torch.float64)
        z, ids = F.normalize(x @ weight, dim=1), torch.arange(step * 12, step * 12 + 12)
        use = None
        if memory == "memory" and step >= 5:
            ring.enqueue(z, labels, ids)
            use = ring
        loss = memory_objective(
            z, labels, ids, weighting=WEIGHTINGS[weighting], memory=use, reduction=reduction
        ).value
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= 0.05 * gradient
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("case", CASES, ids=" / ".join)
def test_trajectory(case):
    expected = json.loads(FILE.read_text())[" / ".join(case)]
    assert trajectory(*case) == pytest.approx(expected, rel=1e-6, abs=1e-9)


if __name__ == "__main__":
    table = {" / ".join(case): trajectory(*case) for case in CASES}
    rows = (f"{json.dumps(k)}: {json.dumps([round(x, 9) for x in v])}" for k, v in table.items())
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")

"""The README's Python runs as it is written."""

import re
from pathlib import Path

import torch
import torch.nn.functional as F

import crossbatch as xb

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_drop_in_loop():
    encoder = torch.nn.Linear(12, 512)
    before = encoder.weight.detach().clone()
    loader = [
        (torch.randn(8, 12), torch.arange(8) // 2, torch.arange(8) + 8 * b) for b in range(4)
    ]
    names = {
        "device": "cpu",
        "loader": loader,
        "encoder": encoder,
        "optimizer": torch.optim.SGD(encoder.parameters(), lr=0.1),
    }
    exec(BLOCKS[0], names)
    assert len(names["memory"]) == 32
    assert torch.isfinite(names["loss"].value)
    assert not torch.equal(encoder.weight, before)


def test_the_weighting_of_ones_own():
    names = {"xb": xb}
    exec(BLOCKS[1], names)
    z = F.normalize(torch.randn(6, 4), dim=1)
    assert torch.isfinite(xb.PairLoss(names["mine"])(z, torch.arange(6) // 2))

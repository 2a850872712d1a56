"""On a CUDA device both passes draw alike, and a stopwatch reads the stream."""

import pytest
import torch
from torch import nn

import crossbatch as xb

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_dropout_on_the_device_is_replayed():
    net = nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.5), nn.Linear(12, 4)).cuda().double()
    x = torch.randn(10, 6, dtype=torch.float64, device="cuda")
    state = torch.cuda.get_rng_state()
    torch.cat([net(x[c::3]) for c in range(3)]).square().sum().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    after = torch.cuda.get_rng_state()
    torch.cuda.set_rng_state(state)
    xb.chunked_backward(net, x, lambda z: z.square().sum(), rows=4)
    torch.testing.assert_close([p.grad for p in net.parameters()], expected)
    assert torch.equal(torch.cuda.get_rng_state(), after)


def test_a_stopwatch_waits_for_the_device():
    from crossbatch.training.stopwatch import Stopwatch

    watch = Stopwatch(torch.device("cuda"))
    with watch.part("step"), watch.part("sleep"):
        torch.cuda._sleep(100_000_000)  # cycles
    assert watch.seconds("step") >= watch.seconds("sleep") > 0.01

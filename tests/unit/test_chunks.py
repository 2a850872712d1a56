"""Two passes over chunks give the gradient of the whole batch, and hold the graph of one chunk."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import crossbatch as xb

ROWS = [1, 3, 4, 9, 10, 64]  # of ten: one by one, uneven, even, all but one, all, more


class Normal(nn.Module):
    def forward(self, x):
        return F.normalize(x, dim=1)


def network(*inner):
    return nn.Sequential(nn.Linear(6, 12), *inner, nn.ReLU(), nn.Linear(12, 4), Normal()).double()


def batch(size=10):
    return torch.randn(size, 6, dtype=torch.float64), torch.arange(size) // 2


def loss_of(labels, memory=None):
    def loss(z):
        ids = torch.arange(len(z))
        if memory is not None:
            memory.enqueue(z, labels, ids)
        return xb.memory_objective(
            z, labels, ids, weighting=xb.MultiSimilarity(), memory=memory
        ).value

    return loss


def gradients(net):
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    return found


def in_one_graph(net, x, loss, rows):
    """The slow twin: embeddings of the same chunks, all with their graphs."""
    count = -(-len(x) // rows)
    parts = [net(x[c::count]) for c in range(count)]
    place = torch.cat([torch.arange(len(x))[c::count] for c in range(count)])
    value = loss(torch.cat(parts)[place.argsort()])
    value.backward()
    return value


@pytest.mark.parametrize("rows", ROWS)
def test_the_gradient_is_that_of_the_batch_at_once(rows):
    net, (x, labels) = network(), batch()
    loss = loss_of(labels)
    one = loss(net(x))
    one.backward()
    expected = gradients(net)
    value = xb.chunked_backward(net, x, loss, rows=rows)
    torch.testing.assert_close(value, one.detach())
    torch.testing.assert_close(gradients(net), expected)
    assert not value.requires_grad


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("inner", [nn.Dropout(0.5), nn.BatchNorm1d(12, momentum=0.3)])
def test_draws_and_statistics_are_those_of_one_graph(rows, inner):
    if rows == 1 and isinstance(inner, nn.BatchNorm1d):
        inner = nn.BatchNorm1d(12).eval()  # one row has no variance
    net, (x, labels) = network(inner), batch()
    start = [b.clone() for b in net.buffers()]

    def loss(z):
        return loss_of(labels)(F.normalize(z + 0.1 * torch.randn_like(z)))

    torch.manual_seed(3)
    one = in_one_graph(net, x, loss, rows)
    expected, after = gradients(net), torch.get_rng_state()
    buffers = [b.clone() for b in net.buffers()]
    for buffer, old in zip(net.buffers(), start, strict=True):
        buffer.copy_(old)
    torch.manual_seed(3)
    value = xb.chunked_backward(net, x, loss, rows=rows)
    torch.testing.assert_close(value, one.detach())
    torch.testing.assert_close(gradients(net), expected)
    assert torch.equal(torch.get_rng_state(), after)
    for buffer, wanted in zip(net.buffers(), buffers, strict=True):
        assert torch.equal(buffer, wanted)


def test_a_buffer_that_the_forward_reads_stands_alike_in_both_passes():
    """Power iteration advances with every forward in training mode, and the weights follow it."""
    net, (x, labels) = (
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))),
        batch(),
    )
    net = net.double()
    loss, state = loss_of(labels), {k: v.clone() for k, v in net.state_dict().items()}
    in_one_graph(net, x, lambda z: loss(F.normalize(z, dim=1)), 3)
    expected = gradients(net)
    net.load_state_dict(state)
    xb.chunked_backward(net, x, lambda z: loss(F.normalize(z, dim=1)), rows=3)
    torch.testing.assert_close(gradients(net), expected)


def test_a_memory_receives_the_batch_once():
    net, (x, labels) = network(), batch()
    memories = [xb.CrossBatchMemory(16, 4, dtype=torch.float64) for _ in range(2)]
    for _ in range(3):
        loss_of(labels, memories[0])(net(x)).backward()
        expected = gradients(net)
        xb.chunked_backward(net, x, loss_of(labels, memories[1]), rows=4)
        torch.testing.assert_close(gradients(net), expected)
        assert torch.equal(memories[0].contents().ids, memories[1].contents().ids)
        torch.testing.assert_close(
            memories[0].contents().embeddings, memories[1].contents().embeddings
        )


def test_the_loss_has_parameters_and_gradients_add_up():
    net, (x, labels) = network(), batch()
    proxies = xb.Proxies(5, 4).double()

    def loss(z):
        ids = torch.arange(len(z))
        return xb.PairLoss(xb.NTXent(0.2))(z, labels, ids=ids, references=proxies())

    loss(net(x)).backward()
    expected = [2 * g for g in gradients(net)]
    twice = 2 * proxies.weight.grad
    proxies.zero_grad()
    for _ in range(2):
        xb.chunked_backward(net, x, loss, rows=4)
    torch.testing.assert_close(gradients(net), expected)
    torch.testing.assert_close(proxies.weight.grad, twice)


def test_under_autocast_the_weights_receive_a_gradient():
    """Autocast keeps the weights that it cast, and those of the first pass know no gradient."""
    net, (x, labels) = network().float(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        in_one_graph(net, x.float(), loss_of(labels), 4)
    expected = gradients(net)
    with torch.autocast("cpu", torch.bfloat16):
        xb.chunked_backward(net, x.float(), loss_of(labels), rows=4)
    torch.testing.assert_close(gradients(net), expected, rtol=0.05, atol=2e-3)


class Box:
    def __init__(self, tensor):
        self.tensor = tensor.detach()


class Saved:
    """Bytes that graphs hold, now and at most."""

    def __init__(self):
        self.now = self.peak = 0

    def pack(self, tensor):
        box = Box(tensor)
        self.now += tensor.nbytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(box, self._free, tensor.nbytes)
        return box

    def _free(self, size):
        self.now -= size

    def measure(self, call):
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda box: box.tensor):
            call()
        return self.peak


def test_the_activations_of_one_chunk_are_held():
    deep = [layer for _ in range(8) for layer in (nn.Linear(12, 12, bias=False), nn.Tanh())]
    net, (x, labels) = network(*deep), batch(64)
    loss = loss_of(labels)
    whole = Saved().measure(lambda: loss(net(x)).backward())
    chunk = Saved().measure(lambda: xb.chunked_backward(net, x, loss, rows=8))
    assert chunk < whole / 4


@pytest.mark.parametrize(
    ("rows", "size", "loss", "message"),
    [
        (0, 4, torch.sum, r"`rows` ≥ 1.*rows=0"),
        (2, 0, torch.sum, r"at least one input.*0 inputs"),
        (2, 4, lambda z: torch.ones((), requires_grad=True) * 1, "a loss of the embeddings"),
    ],
)
def test_what_is_wrong_is_named(rows, size, loss, message):
    with pytest.raises(xb.CrossbatchError, match=message):
        xb.chunked_backward(network(), batch(size)[0], loss, rows=rows)


def test_a_network_that_mixes_rows_is_refused():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(dim=0, keepdim=True)

    with pytest.raises(xb.CrossbatchError, match=r"one embedding for each input.*Got 1 for 2"):
        xb.chunked_backward(Mean(), batch(4)[0], torch.sum, rows=2)

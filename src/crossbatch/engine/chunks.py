r"""The gradient of a batch that is larger than the device holds: in two passes, and exact.

A loss of embeddings depends on the network through z = f(x; θ) alone. With the batch in chunks c,

    g = ∂L/∂z,     ∂L/∂θ = Σ_c (∂z_c/∂θ)ᵀ g_c.

The first pass embeds chunk by chunk and keeps no graph; the loss of all embeddings gives g; the
second pass embeds each chunk again and back-propagates its rows of g. One chunk's activations are
held at a time, for the price of one forward pass more.

*Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup* (Gao, Zhang, Han, Callan,
RepL4NLP 2021); so is *Recall@k Surrogate Loss with Large Batches and Similarity Mixup* (Patel,
Tolias, Matas, CVPR 2022) trained.

Both passes must say the same of a chunk. So its second pass draws from the generators as they
stood at its first, and what the first pass wrote to buffers is undone before the second.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from crossbatch._shapes import Float, Shaped
from crossbatch.errors import CrossbatchError, expected


def chunked_backward(
    network: nn.Module,
    inputs: Shaped[Tensor, "B ..."],
    loss: Callable[[Tensor], Tensor],
    *,
    rows: int,
) -> Float[Tensor, ""]:
    """``loss(network(inputs)).backward()`` with the activations of ``rows`` inputs at a time.

    Adds the gradient to ``.grad`` of the network's parameters, and of the loss's own. For a
    network that maps each input on its own, the gradient is that of the whole batch up to
    rounding; dropout draws the same values in both passes (torch's generators on the CPU and on
    CUDA are replayed, Python's and numpy's are not).

    BatchNorm in training mode sees a chunk instead of the batch: the gradient is that of a
    network whose statistics are those of each chunk, and running statistics advance once per
    chunk. The n chunks are of almost equal size, and chunk c holds rows c, c + n, c + 2n, ...: of
    a batch that comes class by class, each has images of as many classes as it can.

    Under ``DistributedDataParallel`` gradients are exchanged once, with the last chunk. Autocast
    works around the call or within the network.

    Args:
        network: Maps (rows, ...) to embeddings (rows, D). Its forward runs twice on every chunk.
        inputs: The batch, shape (B, ...).
        loss: Takes the embeddings of the whole batch, shape (B, D), to a scalar; called once,
            between the passes. Enqueue into a memory here.
        rows: Inputs in a chunk at most; with B or more there is one chunk and one pass.

    Returns:
        The loss's value, detached.

    Raises:
        CrossbatchError: ``rows`` is below 1, the batch is empty, the network does not give one
            row for each input, or the loss does not depend on the embeddings.

    Cost: two forward passes and one backward pass; beyond one chunk's activations 2 · B · D
    numbers and a copy of the network's buffers.

    >>> import crossbatch as xb
    >>> encoder, loss_fn = nn.Linear(8, 4), xb.PairLoss(xb.Contrastive())
    >>> images, labels = torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 2, 2])
    >>> def loss(z):
    ...     return loss_fn(nn.functional.normalize(z), labels)
    >>> value = xb.chunked_backward(encoder, images, loss, rows=2)
    >>> encoder.weight.grad.shape
    torch.Size([4, 8])
    """
    chunks = _chunks(inputs, rows)
    if len(chunks) == 1:
        value = loss(network(inputs))
        torch.autograd.backward(value)
        return value.detach()
    ranks = network if isinstance(network, DistributedDataParallel) else None
    inner = network if ranks is None else cast(nn.Module, ranks.module)  # pyright: ignore
    embeddings, generators = _embed(inner, chunks)
    value = loss(embeddings.requires_grad_())
    torch.autograd.backward(value)
    gradient = embeddings.grad
    if gradient is None:
        raise CrossbatchError(
            expected(
                "a loss of the embeddings in chunked_backward",
                "one without a gradient with respect to them",
                "Compute it from the tensor that it is called with, not detached.",
            )
        )
    for c, (chunk, state) in enumerate(zip(chunks, generators, strict=True)):
        local = ranks.no_sync() if ranks and c + 1 < len(chunks) else contextlib.nullcontext()
        with state.replayed(), local:
            torch.autograd.backward(network(chunk), gradient[c :: len(chunks)])
    return value.detach()


def _chunks(inputs: Tensor, rows: int) -> list[Tensor]:
    if rows < 1 or not len(inputs):
        raise CrossbatchError(
            expected(
                "`rows` ≥ 1 and at least one input in chunked_backward",
                f"rows={rows} and {len(inputs)} inputs",
                "Give as many rows as the device holds, and skip empty batches.",
            )
        )
    count = -(-len(inputs) // rows)
    return [inputs[c::count] for c in range(count)]


def _embed(network: nn.Module, chunks: Sequence[Tensor]) -> tuple[Tensor, "list[_Generators]"]:
    """Embeddings of the batch without a graph, and the generators before each chunk."""
    tensors = (chunks[0], *network.parameters())
    devices = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    parts: list[Tensor] = []
    generators: list[_Generators] = []
    with torch.no_grad(), _unwritten(network):
        for chunk in chunks:
            generators.append(_Generators(devices))
            parts.append(network(chunk))
            if len(parts[-1]) != len(chunk):
                raise CrossbatchError(
                    expected(
                        "one embedding for each input in chunked_backward",
                        f"{len(parts[-1])} for {len(chunk)}",
                        "Give a network that maps (rows, ...) to (rows, dim).",
                    )
                )
    torch.clear_autocast_cache()  # before pytorch #165068 it keeps weights cast without a graph
    embeddings = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
    for c, part in enumerate(parts):
        embeddings[c :: len(parts)] = part
    return embeddings, generators


class _Generators:
    """The states of torch's generators: on the CPU, and on some CUDA devices."""

    def __init__(self, devices: Sequence[int]) -> None:
        self._devices = devices
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(device) for device in devices]

    @contextlib.contextmanager
    def replayed(self) -> Generator[None]:
        """Draw again what was drawn from here on; afterwards go on as if nothing was drawn."""
        now = _Generators(self._devices)
        self._set()
        try:
            yield
        finally:
            now._set()

    def _set(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in zip(self._devices, self._cuda, strict=True):
            torch.cuda.set_rng_state(state, device)


@contextlib.contextmanager
def _unwritten(network: nn.Module) -> Generator[None]:
    """Undo what happens to the buffers of a network."""
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(kept[name])

"""What a batch holds at once, and chunk by chunk: peak memory and time of a forward and backward.

    python -m benchmarks.gradient_caching [--trunk resnet18] [--size 64] [--batch 256]
                                          [--chunks 0 64 32 16] [--threads 1]

A timm trunk with random weights, embeddings of 128 dimensions, contrastive loss. *Saved* is what
the graphs hold for the backward pass, at most; *extra* is the rise of the process's peak over what
it held before the step. Seconds are the faster of two steps after a first.
"""

import argparse
import platform
import time
import weakref
from collections.abc import Iterable

import torch
from torch import Tensor, nn

import crossbatch as xb
from benchmarks.memory_loss import peak_extra_mb
from crossbatch.models import Encoder, EncoderConfig


class Saved:
    """Bytes that graphs hold beside what is there anyway, each storage once: now, and at most."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        self.there = {tensor.untyped_storage().data_ptr() for tensor in there}
        self.held: dict[int, list[int]] = {}
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> "Box":
        """Note a tensor that a graph saves."""
        storage = tensor.untyped_storage()
        key, box = storage.data_ptr(), Box(tensor)
        if key in self.there:
            return box
        if key not in self.held:
            self.held[key] = [0, storage.nbytes()]
            self.now += storage.nbytes()
        self.held[key][0] += 1
        self.peak = max(self.peak, self.now)
        weakref.finalize(box, self._free, key)
        return box

    def _free(self, key: int) -> None:
        self.held[key][0] -= 1
        if not self.held[key][0]:
            self.now -= self.held.pop(key)[1]


class Box:
    """A saved tensor, to see when its graph lets it go."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trunk", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 64, 32, 16])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = EncoderConfig(
        trunk=arguments.trunk, weights="none", image_size=arguments.size, dim=128
    )
    network = Encoder(config)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    labels = torch.arange(arguments.batch) // 4
    print(f"{arguments.trunk}, {arguments.size} px, batch {arguments.batch}, ", end="")
    print(f"{arguments.threads} thread(s), torch {torch.__version__}, {platform.machine()}\n")
    print("| chunk | saved MB | extra MB | seconds |\n|---|---|---|---|")
    for chunk in arguments.chunks:
        row = measure(network, images, labels, chunk or arguments.batch)
        print(f"| {chunk or 'none'} | {row[0]:.0f} | {row[1]:.0f} | {row[2]:.2f} |", flush=True)


def measure(
    network: nn.Module, images: Tensor, labels: Tensor, rows: int
) -> tuple[float, float, float]:
    loss_fn = xb.PairLoss(xb.Contrastive())

    def step() -> None:
        network.zero_grad()
        xb.chunked_backward(network, images, lambda z: loss_fn(z, labels), rows=rows)

    step()
    extra = peak_extra_mb(step)
    saved, seconds = Saved([images, *network.parameters()]), []
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda box: box.tensor):
        step()
    for _ in range(2):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return saved.peak / 1e6, extra, min(seconds)


if __name__ == "__main__":
    main()

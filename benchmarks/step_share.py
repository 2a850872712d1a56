"""The memory's share of a training step, on the device where the network is trained.

    python -m benchmarks.step_share [--device cuda] [--steps 10] [--repeats 25]

ResNet-50 at 224 px from random weights, batch 64 of four images a class, contrastive loss, AdamW,
memory 55,000 × 128, full from the start; images wait on the device. Steps with the batch's loss
alone, with the memory (drift, enqueue, both losses), with proportion 1, and with momentum keys
take turns in blocks, and train one network in turns. Each share is what the median block takes
longer than the first one's; beside it that of the memory's own part, loss and backward to the
embeddings, when nothing else is done.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import crossbatch as xb
from benchmarks.memory_loss import Case, machine, make, wait
from crossbatch.models import Encoder, EncoderConfig

WAYS = ("batch alone", "memory", "proportion 1", "keys")


class Training:
    """A network, and a way to take its loss."""

    def __init__(self, way: str, case: Case, network: torch.nn.Module, *, half: bool) -> None:
        self.network = network
        self.keys = xb.MomentumKeys(self.network) if way == "keys" else None
        self.memory = None
        if way != "batch alone":
            self.memory = xb.CrossBatchMemory(*case.rows.shape).to(case.rows.device)
            self.memory.enqueue(case.rows, case.labels, case.ids)
        self.weight = xb.Proportion(1.0) if way in ("proportion 1", "keys") else 1.0
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.case, self.half, self.turn = case, half, 0

    def step(self, images: Tensor) -> None:
        """Forward, loss, backward, and a step of the optimizer."""
        _, labels, ids = self.case.batches[self.turn % len(self.case.batches)]
        self.turn += 1
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half):
            z = F.normalize(self.network(images).float(), dim=1)
            stored = z if self.keys is None else F.normalize(self.keys(images).float(), dim=1)
        loss = self.loss(z, stored, labels, ids)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.keys is not None:
            self.keys.follow(self.network)

    def loss(self, z: Tensor, stored: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        """That of a batch, and beside the memory where there is one."""
        if self.memory is not None:
            self.memory.drift(z, ids)
            self.memory.enqueue(stored, labels, ids)
        return xb.memory_objective(
            z, labels, ids, weighting=xb.Contrastive(), memory=self.memory,
            memory_weight=self.weight,
        ).value  # fmt: skip

    def step_of_the_loss(self) -> None:
        """Loss and backward alone, from embeddings that are there."""
        z, labels, ids = self.case.batches[self.turn % len(self.case.batches)]
        self.turn += 1
        x = z.clone().requires_grad_()
        self.loss(x, x, labels, ids).backward()


def milliseconds(
    ways: dict[str, Callable[[], None]], case: Case, *, steps: int, repeats: int
) -> dict[str, float]:
    """Of each way's median block, in turns; the first block warms up."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, step in ways.items():
            wait(case)
            start = time.perf_counter()
            for _ in range(steps):
                step()
            wait(case)
            if turn:
                times[way].append((time.perf_counter() - start) / steps * 1e3)
    return {way: statistics.median(found) for way, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rows", type=int, default=55_000)
    parser.add_argument("--steps", type=int, default=10, help="in a block")
    parser.add_argument("--repeats", type=int, default=25, help="blocks of each way")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    case = make(options.batch, 128, options.rows, 0.005).to(options.device)
    images = torch.randn(options.batch, 3, 224, 224, device=options.device)
    images = images.contiguous(memory_format=torch.channels_last)
    print(machine(options.threads, options.device))
    print(f"ResNet-50, 224 px, batch {options.batch}, {options.rows:,} × 128")
    print("| network in | loss | ms a step | share | the loss alone |")
    print("|---|---|---|---|---|")
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("resnet50", weights="none", image_size=224, dim=128))
    network = encoder.to(images.device, memory_format=torch.channels_last).train()
    turns = {"steps": options.steps, "repeats": options.repeats}
    for half in (False, True):
        trainings = {way: Training(way, case, network, half=half) for way in WAYS}
        whole = {way: partial(training.step, images) for way, training in trainings.items()}
        alone = {way: training.step_of_the_loss for way, training in trainings.items()}
        whole_ms, alone_ms = (milliseconds(kind, case, **turns) for kind in (whole, alone))
        for way, ms in whole_ms.items():
            share = 1 - whole_ms["batch alone"] / ms
            kind = "bfloat16" if half else "float32"
            print(f"| {kind} | {way} | {ms:.2f} | {share:.1%} | {alone_ms[way]:.2f} |", flush=True)


if __name__ == "__main__":
    main()

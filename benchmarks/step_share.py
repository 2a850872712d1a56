"""The memory's share of a training step, on the device where the network is trained.

    python -m benchmarks.step_share [--device cuda] [--steps 20] [--repeats 5]

ResNet-50 at 224 px from random weights, batch 64 of four images a class, contrastive loss, AdamW,
memory 55,000 × 128, full from the start; images wait on the device. Steps with the batch's loss
alone, with the memory (drift, enqueue, both losses), with proportion 1, and with momentum keys
take turns in blocks. Each share is what the block takes longer than the first one's.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

import crossbatch as xb
from benchmarks.memory_loss import Case, machine, make, wait
from crossbatch.models import Encoder, EncoderConfig

WAYS = ("batch alone", "memory", "proportion 1", "keys")


class Training:
    """One network, and a way to take its loss."""

    def __init__(self, way: str, case: Case, *, half: bool) -> None:
        torch.manual_seed(0)
        device, dim = case.rows.device, case.rows.shape[1]
        encoder = Encoder(EncoderConfig("resnet50", weights="none", image_size=224, dim=dim))
        self.network = encoder.to(device, memory_format=torch.channels_last).train()
        self.keys = xb.MomentumKeys(self.network) if way == "keys" else None
        self.memory = None
        if way != "batch alone":
            self.memory = xb.CrossBatchMemory(*case.rows.shape).to(device)
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
        if self.memory is not None:
            self.memory.drift(z, ids)
            self.memory.enqueue(stored, labels, ids)
        loss = xb.memory_objective(
            z, labels, ids, weighting=xb.Contrastive(), memory=self.memory,
            memory_weight=self.weight,
        )  # fmt: skip
        self.optimizer.zero_grad()
        loss.value.backward()
        self.optimizer.step()
        if self.keys is not None:
            self.keys.follow(self.network)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rows", type=int, default=55_000)
    parser.add_argument("--steps", type=int, default=20, help="in a block")
    parser.add_argument("--repeats", type=int, default=5, help="blocks of each way")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    case = make(options.batch, 128, options.rows, 0.005).to(options.device)
    images = torch.randn(options.batch, 3, 224, 224, device=options.device)
    images = images.contiguous(memory_format=torch.channels_last)
    print(f"{machine(options)}; ResNet-50, 224 px, batch {options.batch}, {options.rows:,} × 128")
    print("| network in | loss | ms a step | share |")
    print("|---|---|---|---|")
    for half in (False, True):
        trainings = {way: Training(way, case, half=half) for way in WAYS}
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(options.repeats + 1):  # the first warms up
            for way, training in trainings.items():
                wait(case)
                start = time.perf_counter()
                for _ in range(options.steps):
                    training.step(images)
                wait(case)
                if turn:
                    times[way].append((time.perf_counter() - start) / options.steps)
        ms = {way: statistics.median(found) * 1e3 for way, found in times.items()}
        for way, found in ms.items():
            share = 1 - ms["batch alone"] / found
            kind = "bfloat16" if half else "float32"
            print(f"| {kind} | {way} | {found:.2f} | {share:.1%} |", flush=True)


if __name__ == "__main__":
    main()

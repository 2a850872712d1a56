"""The loss of a batch against a memory, forward and backward, beside its peers.

    python -m benchmarks.memory_loss [--threads 1] [--repeats 7] [--quick] [--device cuda]

Contrastive loss, λ = .5, float32, in one process, the contenders taking turns. Two regimes:
*early*, 30 % of the negatives above the margin, and *trained*, 0.5 %. The yardstick is one bare
product X Mᵀ into a buffer that exists already. Extra memory is the rise of the peak of the
process, or of the device, over what was held before the step. Every step brings other images, as
in a training: a memory that is given one batch again and again fills with copies of it.

Peers: pytorch-metric-learning's CrossBatchMemory (a step of its own: enqueue, pairs, loss), and
dense torch: similarities, masks, autograd.
"""

import argparse
import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import crossbatch as xb

MARGIN = 0.5
REGIMES = {"early": 0.30, "trained": 0.005}
SIZES = (8_192, 55_000, 200_000)
BATCHES = 20
Step = Callable[[], Tensor]


class Case(NamedTuple):
    """Batches of (embeddings, labels, ids), and the rows of a memory."""

    batches: list[tuple[Tensor, Tensor, Tensor]]
    rows: Tensor
    labels: Tensor
    ids: Tensor

    def to(self, device: str) -> "Case":
        """On a device."""
        batches = [tuple(x.to(device) for x in batch) for batch in self.batches]
        return Case(batches, *(x.to(device) for x in self[1:]))  # pyright: ignore


def make(batch: int, dim: int, rows: int, active: float) -> Case:
    """A memory of classes of five and batches of its classes, `active` of the pairs above λ."""
    g = torch.Generator().manual_seed(0)
    classes, each = rows // 5, batch // 4
    centres, common = torch.randn(classes, dim, generator=g), torch.randn(dim, generator=g)
    centres = torch.cat([centres.repeat_interleave(5, dim=0), centres[: rows % 5]])
    noise = 0.8 * centres + 0.6 * torch.randn(rows, dim, generator=g)
    low, high = 0.0, 10.0
    for _ in range(30):
        mid = (low + high) / 2
        x = F.normalize(noise[::5][:4000] + mid * common, dim=1)
        share = (x[:64] @ x[64:].T > MARGIN).float().mean()
        low, high = (mid, high) if share < active else (low, mid)
    memory = F.normalize(noise + low * common, dim=1)
    labels = torch.arange(rows) // 5 % classes
    batches = []
    for pick in torch.randperm(classes, generator=g)[: BATCHES * each].split(each):
        index = (pick[:, None] * 5 + torch.arange(4)).flatten()
        fresh = memory[index] + 0.2 / dim**0.5 * torch.randn(len(index), dim, generator=g)
        batches.append((F.normalize(fresh, dim=1), labels[index], index))
    return Case(batches, memory, labels, torch.arange(rows))


def ours(case: Case, weighting: xb.PairWeighting | None = None) -> Step:
    """Enqueue, loss and gradient."""
    memory = xb.CrossBatchMemory(*case.rows.shape).to(case.rows.device)
    memory.enqueue(case.rows, case.labels, case.ids)
    loss_fn = xb.PairLoss(weighting or xb.Contrastive(MARGIN))
    batches = cycle(case.batches)

    def step() -> Tensor:
        z, labels, ids = next(batches)
        x = z.clone().requires_grad_()
        memory.enqueue(x, labels, ids)
        loss_fn(x, labels, ids=ids, references=memory).backward()
        return x

    return step


def dense(case: Case) -> Step:
    """Similarities and masks of all pairs, autograd; nothing is enqueued."""
    batches = cycle(case.batches)

    def step() -> Tensor:
        z, labels, ids = next(batches)
        x = z.clone().requires_grad_()
        sim = x @ case.rows.T
        same, own = labels[:, None] == case.labels, ids[:, None] == case.ids
        positive, negative = same & ~own, ~same & ~own & (sim > MARGIN)
        ((1 - sim)[positive].sum() + sim[negative].sum()).div(len(x)).backward()
        return x

    return step


def product(case: Case) -> Step:
    """The yardstick."""
    batches = cycle(case.batches)
    out = case.rows.new_empty(len(case.batches[0][0]), len(case.rows))
    return lambda: torch.mm(next(batches)[0], case.rows.T, out=out)


def pml_memory(case: Case, loss: Any, miner: Any = None) -> Step:
    """A step of pytorch-metric-learning's memory with one of its losses."""
    from pytorch_metric_learning import losses

    rows, dim = case.rows.shape
    memory = losses.CrossBatchMemory(loss, dim, memory_size=rows, miner=miner)
    memory = memory.to(case.rows.device)
    memory.add_to_memory(case.rows, case.labels, rows)
    batches = cycle(case.batches)

    def step() -> Tensor:
        z, labels, _ = next(batches)
        x = z.clone().requires_grad_()
        memory(x, labels).backward()
        return x

    return step


def pml(case: Case) -> Step:
    """The same loss by pytorch-metric-learning."""
    from pytorch_metric_learning import distances, losses, reducers

    loss = losses.ContrastiveLoss(
        pos_margin=1, neg_margin=MARGIN, distance=distances.CosineSimilarity(),
        reducer=reducers.SumReducer(),
    )  # fmt: skip
    return pml_memory(case, loss)


CONTENDERS = {"product": product, "crossbatch": ours, "pml": pml, "dense torch": dense}


def peak_extra_mb(step: Callable[[], object]) -> float:
    """The rise of the peak of resident memory during one step (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1024


def peak_extra_mb_of_device(step: Callable[[], object]) -> float:
    """The rise of the peak of what is allocated on a CUDA device during one step."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def measure(
    case: Case, repeats: int, contenders: dict[str, Callable[[Case], Step]]
) -> dict[str, tuple[float, float]]:
    """Median milliseconds and extra megabytes of each contender, taking turns."""
    steps = {name: build(case) for name, build in contenders.items()}
    for step in steps.values():  # room that is kept, codes of the memory among it, is not a peak
        step()
        step()
    peak = peak_extra_mb_of_device if case.rows.is_cuda else peak_extra_mb
    extra = {name: peak(step) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            wait(case)
            start = time.perf_counter()
            step()
            wait(case)
            times[name].append(time.perf_counter() - start)
    return {name: (statistics.median(times[name]) * 1e3, extra[name]) for name in steps}


def wait(case: Case) -> None:
    """Until the device of a case is done."""
    if case.rows.is_cuda:
        torch.cuda.synchronize()


def machine(threads: int, device: str = "cpu") -> str:
    """What the figures are of."""
    if device == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name()}"
    about = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in about if line.startswith("model name"))
    name = next(names, platform.machine())
    return f"torch {torch.__version__}, {name}, {threads} thread(s)"


def check(case: Case) -> None:
    """Ours and dense torch mean the same loss: but for a pair at the margin gradients agree."""
    z, labels, ids = case.batches[0]
    mine, plain = z.clone().requires_grad_(), dense(case)().grad
    loss_fn = xb.PairLoss(xb.Contrastive(MARGIN))
    rows = xb.Batch(case.rows, case.labels, case.ids)
    loss_fn(mine, labels, ids=ids, references=rows).backward()
    assert mine.grad is not None
    assert plain is not None
    assert (mine.grad - plain).norm() < 1e-2 * plain.norm()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each contender")
    parser.add_argument("--quick", action="store_true", help="only B=64, D=128, M=55,000")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.threads, options.device))
    print("| B | D | M | regime | ms | ÷ product | pml ÷ | dense ÷ | MB | pml MB | dense MB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for batch in (64,) if options.quick else (64, 256):
        for dim in (128,) if options.quick else (128, 512):
            for rows in (55_000,) if options.quick else SIZES:
                for regime, active in REGIMES.items():
                    case = make(batch, dim, rows, active).to(options.device)
                    check(case)
                    r = measure(case, options.repeats, CONTENDERS)
                    ms, mb = r["crossbatch"]
                    print(
                        f"| {batch} | {dim} | {rows:,} | {regime} | {ms:.1f} "
                        f"| {ms / r['product'][0]:.2f} | {r['pml'][0] / ms:.1f} "
                        f"| {r['dense torch'][0] / ms:.1f} | {mb:.0f} | {r['pml'][1]:.0f} "
                        f"| {r['dense torch'][1]:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()

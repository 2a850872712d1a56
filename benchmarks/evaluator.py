"""The evaluator beside its peers: ratios of time, peak memory, and whether the numbers agree.

    python -m benchmarks.evaluator [--rows 60000] [--dim 128] [--threads 1] [--repeats 2]
                                   [--classes products|half|thousands] [--queries N]
                                   [--only product recall ...]

Images search among each other (or the first N of them in all), in classes of 2 to 12 as in
Stanford Online Products; ``half`` puts half of them into one class, ``thousands`` makes classes of
1,000. All contenders take turns in one process; times are processor time, the best of the repeats,
as others may use the machine. Bare is the product of all pairs, tile by tile into one buffer. PML
is AccuracyCalculator(k=1000) of pytorch-metric-learning, searching with faiss; faiss is a flat
index, k = 1000, the search alone. Memory is the peak beside what stood before.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.memory_loss import machine
from crossbatch.evaluation import Gallery, RetrievalResult, evaluate

KS = (1, 10, 100, 1000)
ROWS, WIDTH = 240, 2040


def make(rows: int, dim: int, kind: str) -> tuple[Tensor, np.ndarray]:
    """Classes around centres, about as hard as a trained embedding finds unseen classes."""
    rng = np.random.default_rng(0)
    if kind == "thousands":
        labels = np.arange(rows) // 1000
    else:
        sizes = rng.choice(
            np.arange(2, 13), rows, p=np.array([21, 13, 13, 12, 11, 10, 7, 5, 3, 2, 3]) / 100
        )
        labels = np.repeat(np.arange(rows), sizes)[:rows]
        if kind == "half":
            labels[: rows // 2] = labels.max() + 1
    labels = rng.permutation(labels)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(int(labels.max()) + 1, dim, generator=generator)
    x = centres[torch.from_numpy(labels)]
    x += 1.35 * (dim / 128) ** 0.25 * torch.randn(rows, dim, generator=generator)
    return torch.nn.functional.normalize(x, dim=1), labels


def product(queries: Tensor, gallery: Tensor) -> None:
    """Every similarity, once, and nothing done with it."""
    buffer = torch.empty(ROWS * WIDTH)
    for top in range(0, len(queries), ROWS):
        some = queries[top : top + ROWS]
        for left in range(0, len(gallery), WIDTH):
            part = gallery[left : left + WIDTH]
            tile = buffer[: len(some) * len(part)].view(len(some), len(part))
            torch.mm(some, part.T, out=tile)


def contenders(x: Tensor, labels: np.ndarray, queries: int) -> dict[str, Callable[[], object]]:
    """What is timed; each returns what it found."""
    asked, gallery, ids = x[:queries], None, np.arange(len(x))
    if queries < len(x):
        gallery = Gallery(x, labels, ids)

    def ours(*metrics: str) -> RetrievalResult:
        return evaluate(
            asked, labels[:queries], ids=ids[:queries], gallery=gallery, ks=KS, metrics=metrics
        )

    def pml() -> dict[str, float]:
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

        names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
        calculator = AccuracyCalculator(include=names, k=1000, device=torch.device("cpu"))
        return calculator.get_accuracy(x, torch.from_numpy(labels))

    def flat() -> None:
        import faiss

        index = faiss.IndexFlatIP(x.shape[1])
        index.add(x.numpy())
        index.search(asked.numpy(), 1000)

    return {
        "product": lambda: product(asked, x),
        "recall": ours,
        "recall, MAP@R": lambda: ours("R-precision", "MAP@R"),
        "all with mAP, nDCG": lambda: ours("R-precision", "MAP@R", "mAP", "nDCG"),
        "PML": pml,
        "faiss": flat,
    }


def peak() -> int:
    """Of this process's memory since the last reset, in bytes; Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def measured(run: Callable[[], object]) -> tuple[float, float, object]:
    """Seconds, megabytes beside what stood before, and what was found."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    start = time.process_time()
    found = run()
    return time.process_time() - start, (peak() - before) / 1e6, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="of torch and faiss")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--classes", choices=["products", "half", "thousands"], default="products")
    parser.add_argument("--queries", type=int, help="how many of the images ask; all by default")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the contenders")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x, labels = make(options.rows, options.dim, options.classes)
    queries = min(options.queries or options.rows, options.rows)
    runs = contenders(x, labels, queries)
    chosen = options.only or list(runs)
    if unknown := set(chosen) - set(runs):
        parser.error(f"--only: no {', '.join(sorted(unknown))}; there are {'; '.join(runs)}")
    print(machine(options.threads))
    print(
        f"{queries:,} queries in {len(x):,} × {options.dim}, {len(np.unique(labels)):,} classes "
        f"({options.classes}), best of {options.repeats}"
    )
    best: dict[str, tuple[float, float, object]] = {}
    for _ in range(options.repeats):
        for name in chosen:
            found = measured(runs[name])
            print(f"{name}: {found[0]:.2f} s", file=sys.stderr, flush=True)
            if name not in best or found[0] < best[name][0]:
                best[name] = found
    bare = best["product"][0] if "product" in best else float("nan")
    print("| | s | × bare | MB beside | |")
    print("|---|---|---|---|---|")
    for name, (seconds, megabytes, found) in best.items():
        told = ""
        if isinstance(found, RetrievalResult):
            told = ", ".join(f"{k} {100 * v:.3f}" for k, v in found.metrics.items())
        elif isinstance(found, dict):
            told = ", ".join(f"{k} {100 * v:.3f}" for k, v in found.items())
        print(f"| {name} | {seconds:.2f} | {seconds / bare:.2f} | {megabytes:,.0f} | {told} |")


if __name__ == "__main__":
    main()

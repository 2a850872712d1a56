"""Time and memory of the density ranker beside the released algorithm written for Python 3.

    python -m benchmarks.ranker compare [--classes 10] [--images 2500] [--dim 1024] [--jobs 1]
    python -m benchmarks.ranker alone --classes 1000 --images 2400 --dim 1024 --jobs 2
    python -m benchmarks.ranker alone --classes 1 --images 100000 --dim 256 --jobs 2

The released algorithm, from its description: everything in float32; per class scikit-learn's PCA
to 256 with the solver that it chooses itself, which at such sizes is the randomised one, without a
seed; the whole matrix of distances, all n² of them sorted, neighbours counted row by row,
scikit-learn's k-means on the densities. δ is an option of it that is off; the ranker always finds
it. Its loops over all labels for every class are left out, in its favour.

``compare`` takes turns in one process and prints the least processor and wall time of each, and
labels that differ from the ranker's and between the first and the last run of the same. ``alone``
ranks features that are mapped from a file and prints the peak of anonymous memory, which that file
is no part of.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

import crossbatch as xb


def features(classes: int, images: int, dim: int, file: Path) -> np.ndarray:
    """Classes of a dense kernel, a looser part and strays, with a spectrum that falls."""
    draw = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (classes * images, dim)}
    spectrum = (np.arange(1, dim + 1) ** -0.5).astype(np.float32) * 8
    spread = np.repeat(
        [0.4, 1.0, 2.0], [images // 2, images - images // 2 - images // 5, images // 5]
    )
    with file.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for _ in range(classes):
            x = draw.standard_normal((images, dim), np.float32) * spread[:, None].astype(
                np.float32
            )
            out.write(np.ascontiguousarray((x + draw.standard_normal(dim, np.float32)) * spectrum))
    return np.load(file, mmap_mode="r")


def released(x: np.ndarray, solver: str, *, delta: bool) -> np.ndarray:
    x = x.astype(np.float32)
    if x.shape[1] > 256:
        x = PCA(256, svd_solver=solver).fit_transform(x)
    norms = np.einsum("ij,ij->i", x, x)
    distances = np.sqrt(np.abs(norms[:, None] + norms - 2 * (x @ x.T)))
    cutoff = np.sort(distances, axis=None)[int(distances.size * 0.6)]
    density = np.array([np.count_nonzero(row < cutoff) - 1 for row in distances])
    if delta:
        rising = np.argsort(density)
        for at, i in enumerate(rising[:-1], 1):
            distances[i, rising[at:]].min()
    clusters = KMeans(3).fit(density[:, None].astype(np.float32)).labels_
    least = sorted((density[clusters == c].min() for c in range(3)), reverse=True)
    return np.searchsorted(-np.array(least), -density)


@contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """The greatest anonymous memory of this process, in GB, above what it had before."""

    def now() -> float:
        text = Path("/proc/self/status").read_text()
        return int(text.split("RssAnon:")[1].split()[0]) / 1e6

    before, top, stop = now(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal top
        while not stop.wait(0.005):
            top = max(top, now())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: top - before
    finally:
        stop.set()
        thread.join()


def compare(x: np.ndarray, y: np.ndarray, jobs: int, repeats: int) -> None:
    ours = xb.DensityRanker(n_jobs=jobs)
    plain = xb.DensityRanker(n_jobs=jobs, pca=None)
    rows = [np.flatnonzero(y == c) for c in range(y.max() + 1)]

    def old(solver: str, *, delta: bool = False) -> np.ndarray:
        return np.concatenate([released(x[r], solver, delta=delta) for r in rows])

    ways: dict[str, Callable[[], np.ndarray]] = {
        "released": lambda: old("auto"),
        "released, with δ": lambda: old("auto", delta=True),
        "released, exact PCA": lambda: old("full"),
        "released, exact PCA, with δ": lambda: old("full", delta=True),
        "DensityRanker()": lambda: ours.fit(x, y).subset_,
        "DensityRanker(pca=None)": lambda: plain.fit(x, y).subset_,
    }
    used, taken = (dict.fromkeys(ways, float("inf")) for _ in range(2))
    found: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            of_clock, of_cores = time.perf_counter(), time.process_time()
            found[name].append(way())
            used[name] = min(used[name], time.process_time() - of_cores)
            taken[name] = min(taken[name], time.perf_counter() - of_clock)
    best = found["DensityRanker()"][0]
    print("| | CPU s | × | s | × | labels that differ from DensityRanker() | from run to run |")
    print("|---|---|---|---|---|---|---|")
    for name, labels in found.items():
        cells = [name]
        for times in (used, taken):
            cells += [f"{times[name]:.2f}", f"{times[name] / times['DensityRanker()']:.1f}"]
        differ = (int((labels[0] != other).sum()) for other in (best, labels[-1]))
        print("|", " | ".join([*cells, *map(str, differ)]), "|")


def alone(x: np.ndarray, y: np.ndarray, jobs: int) -> None:
    print("| | seconds | CPU seconds | peak GB |\n|---|---|---|---|")
    for pca in ("per_class", None):
        if pca and x.shape[1] <= 256:
            continue
        with peak() as top:
            start, used = time.perf_counter(), time.process_time()
            ranker = xb.DensityRanker(n_jobs=jobs, pca=pca).fit(x, y)
            seconds, used = time.perf_counter() - start, time.process_time() - used
        print(f"| {ranker} | {seconds:.1f} | {used:.1f} | {top():.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("compare", "alone"))
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--jobs", type=int, default=1, help="threads of either side")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.jobs)
    shape = f"{options.classes} × {options.images} × {options.dim}"
    print(f"{shape}, torch {torch.__version__}, {options.jobs} thread(s)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        x = features(options.classes, options.images, options.dim, Path(folder) / "x.npy")
        y = np.repeat(np.arange(options.classes), options.images)
        if options.table == "compare":
            with threadpool_limits(options.jobs):
                compare(x, y, options.jobs, options.repeats)
        else:
            alone(x, y, options.jobs)


if __name__ == "__main__":
    main()

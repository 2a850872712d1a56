"""Time and memory of the density ranker beside the released algorithm written for Python 3.

    python -m benchmarks.ranker compare [--classes 10] [--images 2500] [--dim 1024] [--jobs 1]
    python -m benchmarks.ranker alone --classes 1000 --images 2400 --dim 1024 --jobs 2
    python -m benchmarks.ranker alone --classes 1 --images 100000 --dim 256 --jobs 2

The released algorithm, from its description: per class PCA to 256 by scikit-learn, the whole
matrix of Euclidean distances (scikit-learn), all n² of them sorted, neighbours counted row by row,
scikit-learn's k-means on the densities. It finds no δ; the ranker always does. ``compare`` takes
turns in one process and prints the least processor time of each; ``alone`` ranks features that
are mapped from a file and prints the peak of anonymous memory, which that file is no part of.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

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


def released(x: np.ndarray, solver: str) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import euclidean_distances

    if x.shape[1] > 256:
        x = PCA(256, svd_solver=solver, random_state=0).fit_transform(x)
    distances = euclidean_distances(x)
    cutoff = np.sort(distances, axis=None)[int(distances.size * 0.6)]
    density = np.array([np.count_nonzero(row < cutoff) - 1 for row in distances])
    clusters = KMeans(3, n_init=10, random_state=0).fit(density[:, None].astype(float)).labels_
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

    def old(solver: str) -> np.ndarray:
        return np.concatenate([released(np.asarray(x[r]), solver) for r in rows])

    def old_double() -> np.ndarray:
        return np.concatenate([released(x[r].astype(np.float64), "full") for r in rows])

    ways: dict[str, Callable[[], Any]] = {
        "released, PCA exact, float64": old_double,
        "released, PCA exact, float32": lambda: old("full"),
        "released, PCA randomised, float32": lambda: old("auto"),
        "DensityRanker()": lambda: ours.fit(x, y).subset_,
        "DensityRanker(pca=None)": lambda: plain.fit(x, y).subset_,
    }
    times, found = dict.fromkeys(ways, float("inf")), {}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            found[name] = way()
            times[name] = min(times[name], time.process_time() - start)
    best = found["DensityRanker()"]
    print("| | CPU seconds | × | labels that differ from DensityRanker() |\n|---|---|---|---|")
    for name, seconds in times.items():
        differ = int((found[name] != best).sum())
        print(f"| {name} | {seconds:.2f} | {seconds / times['DensityRanker()']:.1f} | {differ} |")


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
    parser.add_argument("--jobs", type=int, default=1, help="threads of the ranker and of torch")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.jobs)
    shape = f"{options.classes} × {options.images} × {options.dim}"
    print(f"{shape}, torch {torch.__version__}, {options.jobs} thread(s)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        x = features(options.classes, options.images, options.dim, Path(folder) / "x.npy")
        y = np.repeat(np.arange(options.classes), options.images)
        if options.table == "compare":
            compare(x, y, options.jobs, options.repeats)
        else:
            alone(x, y, options.jobs)


if __name__ == "__main__":
    main()

"""How quickly a gallery is searched and made, beside faiss and the encoder alone.

    python -m benchmarks.search [--threads 1] [--repeats 50] [--rows 100000] [--large 1000000]
                                [--images 512]

Vectors are clustered: N / 100 directions at random, each with 100 rows about it, noise of length
`--noise` (0.7: rows of a cluster have a cosine of about 0.67), and queries drawn alike. Exact
searches of ours and of faiss (IndexFlatIP) take turns in one process; ANN and exact do so too.
The table of the large gallery is written directly, its inverted file is built and measured as
`crossbatch index` does it. Indexing takes turns with `encode` over the same files and encoder,
into indices that are made before: making one copies the encoder.
Run on one core: taskset -c 0.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import lancedb
import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from crossbatch.data.importers import from_pictures
from crossbatch.models import Encoder, EncoderConfig
from crossbatch.search import GalleryIndex, _ann
from crossbatch.search.nearest import nearest

K = 10


def clustered(rows: int, dim: int, noise: float, queries: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, rows // 100), dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    which = rng.integers(0, len(centres), rows + queries)
    x = centres[which]
    x += noise / dim**0.5 * rng.standard_normal(x.shape, dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x[:rows], x[rows:]


def alternate(calls: dict[str, Callable[[int], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each call, the calls taking turns; the first two turns do not count."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call(turn)
            if turn > 1:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return taken


def show(name: str, taken: list[float]) -> None:
    print(f"| {name} | {min(taken):.2f} | {statistics.median(taken):.2f} |", flush=True)


def exact(rows: int, noise: float, repeats: int) -> None:
    vectors, queries = clustered(rows, 128, noise, repeats + 2)
    flat = faiss.IndexFlatIP(128)
    flat.add(vectors)
    taken = alternate(
        {
            "exact": lambda i: nearest(vectors, queries[i : i + 1], K),
            "faiss flat": lambda i: flat.search(queries[i : i + 1], K),
        },
        repeats,
    )
    print(f"\none query in {rows:,} × 128\n\n| | best, ms | median, ms |\n|---|---|---|")
    for name, times in taken.items():
        show(name, times)
    theirs = flat.search(queries, K)[1]
    ours = nearest(vectors, queries, K).rows
    print(f"\nthe same rows as faiss: {100 * (ours == theirs).mean():.2f} %")


def approximate(rows: int, noise: float, repeats: int) -> None:
    vectors, queries = clustered(rows, 128, noise, 300)
    with tempfile.TemporaryDirectory() as folder:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 128)
        data = pa.table({"id": np.arange(rows), "vector": lists})
        table = lancedb.connect(folder).create_table("items", data)
        start = time.perf_counter()
        _ann.build(table, rows)
        built = time.perf_counter() - start
        ann = _ann.measure(table, np.arange(rows), vectors)
        print(f"\none query in {rows:,} × 128, {ann}, built in {built:.0f} s")
        truth = nearest(vectors, queries, K).rows
        hits = 0
        for query, wanted in zip(queries, truth, strict=True):
            found = _ann.search(table, query, K, probes=ann.probes)["id"].to_pylist()
            hits += len(set(found) & set(wanted.tolist()))
        print(f"recall@{K} of {len(queries)} fresh queries: {100 * hits / truth.size:.2f} %")
        taken = alternate(
            {
                "exact": lambda i: nearest(vectors, queries[i : i + 1], K),
                "ANN": lambda i: _ann.search(table, queries[i], K, probes=ann.probes),
            },
            repeats,
        )
    print("\n| | best, ms | median, ms |\n|---|---|---|")
    for name, times in taken.items():
        show(name, times)


def indexing(images: int, repeats: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(trunk="resnet18", weights="none", image_size=160)).eval()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        for i in range(images):
            coarse = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
            picture.save(folder / f"{i:05}.jpg", quality=90)
        manifest = from_pictures(folder).manifest
        files = [folder / path for path in manifest.column("path")]

        empty = [
            GalleryIndex.create(Path(name) / f"{i}.index", encoder) for i in range(repeats + 2)
        ]
        for made in empty:
            made.__dict__["encoder"] = encoder  # loaded: a copy of it takes as long as it is large

        taken = alternate(
            {
                "encode": lambda _: encoder.encode(files, workers=2),
                "index": lambda i: empty[i].add(manifest, batch_size=32, workers=2),
            },
            repeats,
        )
    print(f"\n{images} JPEG files of 640 × 480, resnet18 at 160\n")
    print("| | best, ms | median, ms |\n|---|---|---|")
    for which, times in taken.items():
        show(which, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch, BLAS and faiss")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--rows", type=int, default=100_000, help="0 leaves this part out")
    parser.add_argument("--large", type=int, default=1_000_000, help="0 leaves this part out")
    parser.add_argument("--images", type=int, default=512, help="0 leaves this part out")
    parser.add_argument("--noise", type=float, default=0.7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    print(f"torch {torch.__version__}, faiss {faiss.__version__}, lancedb {lancedb.__version__}")
    if options.rows:
        exact(options.rows, options.noise, options.repeats)
    if options.images:
        indexing(options.images, 3)
    if options.large:
        approximate(options.large, options.noise, options.repeats)


if __name__ == "__main__":
    main()

"""A server under load: many clients at once for a minute; errors, latency, and its memory.

    python -m benchmarks.serving INDEX [--clients 50] [--seconds 60] [--warm 15] [--threads 1]

The server is a process of its own. Each client asks again as soon as it is answered: three times
by picture (32 of the index's own, as WebP of 224 pixels), then by item, then for a small picture.
Clients share this machine's processors with the server, so latency is what waiting in line costs
there, not what one search takes; that is measured first, with one client. Some seconds of the same
load go before, whose answers do not count. Memory is the resident set of the server, read each
second.
"""

import argparse
import asyncio
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from crossbatch.models.encoding import plain_transform
from crossbatch.search import GalleryIndex, thumbnail
from crossbatch.serving.embedder import BATCH

PICTURES = 32


def start(index: Path, threads: int) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "crossbatch.cli.main", "serve", str(index), "--port", "0"]
    command += ["--threads", str(threads)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    said = server.stdout.readline()
    found = re.search(r"http://\S+/", said)
    if found is None:
        raise SystemExit(f"the server did not start: {said}")
    return server, found[0]


def resident(process: int) -> float:
    """MiB."""
    text = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) / 1024


async def ask(client: httpx.AsyncClient, turn: int, pictures: list[bytes], ids: list[int]) -> int:
    which = turn % len(pictures)
    if turn % 5 < 3:
        answer = await client.post("search", files={"image": ("x.webp", pictures[which])})
    elif turn % 5 == 3:
        answer = await client.post("search", files={"item": (None, str(ids[which]))})
    else:
        answer = await client.get(f"items/{ids[which]}/image")
    return answer.status_code


async def load(
    address: str, process: int, options: argparse.Namespace, pictures: list[bytes], ids: list[int]
) -> None:
    took: dict[str, list[float]] = {"search": [], "image": []}
    statuses: Counter[object] = Counter()
    memory: list[float] = []
    limits = httpx.Limits(max_connections=options.clients)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
        alone: list[float] = []
        for turn in range(0, 5 * 40, 5):
            begun = time.perf_counter()
            await ask(client, turn, pictures, ids)
            alone.append(time.perf_counter() - begun)
        start = time.perf_counter() + options.warm
        end = start + options.seconds

        async def one(number: int) -> None:
            turn = number * 7
            while time.perf_counter() < end:
                begun = time.perf_counter()
                try:
                    status: object = await ask(client, turn, pictures, ids)
                except httpx.HTTPError as error:
                    status = type(error).__name__
                if begun >= start:
                    statuses[status] += 1
                    kind = "image" if turn % 5 == 4 else "search"
                    took[kind].append(time.perf_counter() - begun)
                turn += 1

        async def watch() -> None:
            await asyncio.sleep(options.warm)
            while time.perf_counter() < end:
                memory.append(resident(process))
                await asyncio.sleep(1)

        await asyncio.gather(watch(), *[one(number) for number in range(options.clients)])
    many = sum(map(len, took.values()))
    print(f"one client: a search by picture takes {1e3 * statistics.median(alone):.0f} ms")
    print(f"{options.clients} clients, {options.seconds} s: {many:,} answers, {dict(statuses)}")
    print(f"{many / options.seconds:.0f} answers a second")
    for kind, seconds in took.items():
        p50, p99 = np.percentile(seconds, [50, 99])
        worst = max(seconds)
        print(f"{kind}: p50 {1e3 * p50:.0f} ms, p99 {1e3 * p99:.0f} ms, most {1e3 * worst:.0f} ms")
    quarters = [f"{np.mean(part):.0f}" for part in np.array_split(memory, 4)]
    print(f"resident MiB, means of the quarters: {', '.join(quarters)}; most {max(memory):.0f}")


def batching(index: GalleryIndex) -> None:
    """What embedding pictures together saves, alternately in one process."""
    transform = plain_transform(index.encoder)
    side = index.encoder.config.image_size
    noise = np.random.default_rng(0).integers(0, 255, (BATCH, side, side, 3)).astype(np.uint8)
    pictures = torch.stack([transform(Image.fromarray(pixels)) for pixels in noise])
    encoder, took = index.encoder.eval(), {1: [], BATCH: []}
    with torch.inference_mode():
        for _ in range(7):
            for size, seconds in took.items():
                begun = time.perf_counter()
                for part in pictures.split(size):
                    encoder(part)
                seconds.append(time.perf_counter() - begun)
    one, several = min(took[1]), min(took[BATCH])
    print(
        f"embedding {BATCH} pictures: {1e3 * one:.0f} ms one by one, {1e3 * several:.0f} together"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--warm", type=int, default=15, help="seconds that go before")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in the server")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    index = GalleryIndex.open(options.index)
    print(f"torch {torch.__version__}, {platform.machine()}, {len(index):,} items × {index.dim}")
    batching(index)
    server, address = start(options.index, options.threads)
    try:
        ids = httpx.get(f"{address}health").json()["examples"]
        ids = (ids * PICTURES)[:PICTURES]
        pictures = [thumbnail(index.image(number), 224) for number in ids]
        asyncio.run(load(address, server.pid, options, pictures, ids))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()

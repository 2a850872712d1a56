"""Kill ``crossbatch index`` or ``index add`` over and over; look at what stands after each kill.

    python -m tests.end_to_end.many_index_kills --command index|add [--times 20] [--seed 0]

Before each start the folder gets more pictures, as many as some blocks. Of four kills one falls
anywhere, so also into the making of the index, two come shortly after a block was committed, and
one after the last block, while files are joined and the approximate index is built. After each:
every item that was there before is there still, whole blocks came to it, each item's embedding is
that of its image, each image can be read, and the approximate index, if there is one, answers.
Exits with 1 if not.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from crossbatch.models import Encoder, EncoderConfig
from crossbatch.search import GalleryIndex
from tests import blobs

SMALL = EncoderConfig(trunk="test_efficientnet", weights="none", image_size=32, dim=8)
BLOCK, PORTION = 8, 4  # pictures that are committed together; blocks that come between two kills

WRITER = """
import sys
import torch
torch.set_num_threads(1)
from crossbatch.search import _intake
_intake.BLOCK = int(sys.argv.pop(1))
from crossbatch.cli.main import main
main()
"""
ANN_FROM = 64  # items: few, so that building the approximate index is killed, too


@dataclass
class Growing:
    """A folder of pictures and the index that it shall become.

    Attributes:
        command: ``index``, which makes the index, or ``add``, into one that is there.
        pictures: In the folder.
    """

    photos: Path
    encoder: Path
    index: Path
    block: int
    command: str
    pictures: int = 0

    @classmethod
    def make(cls, work, *, pictures, block, command="index"):
        places = (work / name for name in ("photos", "encoder", "x.index"))
        growing = cls(*places, block, command)
        growing.photos.mkdir()
        torch.manual_seed(0)
        Encoder(SMALL).save(growing.encoder)
        growing.more(pictures)
        if command == "add":
            GalleryIndex.create(growing.index, Encoder.load(growing.encoder))
        return growing

    def more(self, pictures):
        """Put further pictures into the folder."""
        rng = np.random.default_rng(self.pictures)
        for i in range(self.pictures, self.pictures + pictures):
            blobs.picture(rng, rng.uniform(0, 1, 3)).save(self.photos / f"{i:04}.png")
        self.pictures += pictures

    def start(self):
        places = [self.encoder, self.photos, "--out", self.index]
        if self.command == "add":
            places = ["add", self.index, self.photos]
        program = [sys.executable, "-W", "ignore", "-c", WRITER, self.block, "index", *places]
        command = [*map(str, program), "--ann-from", str(ANN_FROM)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def finish(self):
        """Let one go to its end."""
        assert self.start().wait() == 0
        assert check(self, self.pictures) == self.pictures

    def version(self):
        """The version that counts, without opening anything."""
        try:
            return json.loads((self.index / "index.json").read_text())["version"]
        except FileNotFoundError:
            return 0

    def wait_for(self, commits, process):
        """Until the process has committed so many times, or is done."""
        before = self.version()
        while self.version() < before + commits and process.poll() is None:
            time.sleep(0.001)


def check(growing, before):
    """How many items there are; every one of them whole, none lost, no half block."""
    if not growing.index.exists():
        assert before == 0
        return 0
    index = GalleryIndex.open(growing.index)
    many, total = len(index), growing.pictures
    assert many >= before, f"{before} were committed, {many} are left"
    assert many == total or many % growing.block == 0, f"{many} items: half a block"
    if not many:
        return 0
    query = np.ones(SMALL.dim)
    hits = index.search(query, model=index.model, k=total + 1, exact=True)[0]
    names = sorted(hit.item.path for hit in hits)
    assert names == [f"{i:04}.png" for i in range(many)]
    vectors = np.stack([index.embedding(hit.item.id) for hit in hits])
    images = [index.image(hit.item.id) for hit in hits]
    np.testing.assert_allclose(vectors, index.encoder.encode(images), atol=1e-5)
    if index.ann is not None:
        found = index.search(query, model=index.model, k=3)[0]
        assert len(found) == 3
        assert {hit.item.path for hit in found} <= set(names)
    return many


def kill(growing, process, held, *, kind, rng):
    """Send SIGKILL at a moment of one kind; whether the process was at work still."""
    if kind == 0:
        time.sleep(rng.uniform(1.5, 6))
    else:
        blocks = (growing.pictures - held) // growing.block
        growing.wait_for(blocks if kind == 3 else 1, process)
        time.sleep(rng.uniform(0, 1.5 if kind == 3 else 0.1))
    process.kill()
    return process.wait() != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", choices=("index", "add"), default="index")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, started, held = random.Random(options.seed), time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        growing = Growing.make(Path(folder), pictures=0, block=BLOCK, command=options.command)
        trail = []
        for turn in range(options.times):
            growing.more(PORTION * BLOCK)
            at_work = kill(growing, growing.start(), held, kind=turn % 4, rng=rng)
            held = check(growing, held)
            ann = "ANN" if growing.index.exists() and GalleryIndex.open(growing.index).ann else ""
            trail.append(f"{held}{ann}" + ("" if at_work else " (was done)"))
        growing.finish()
    took = time.perf_counter() - started
    print(f"{options.command} killed {options.times} times, items after each: {trail}")
    print(f"whole each time, {growing.pictures} at the end ({took:.0f} s)")


if __name__ == "__main__":
    main()

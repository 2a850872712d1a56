"""Kill the indexing of a folder over and over, and look at what stands after each kill.

    python -m tests.end_to_end.many_index_kills --times 20 [--seed 0]

Each kill comes a random while after the first item that the process committed, or after random
milliseconds from its start, so that it also falls into the making of the index. After each: every
item that was there before is there still, whole blocks came to it, each item's embedding is that
of its image, and each image can be read. Exits with 1 if not.
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

from crossbatch.data.importers import from_pictures
from crossbatch.models import Encoder, EncoderConfig
from crossbatch.search import GalleryIndex
from tests import blobs

SMALL = EncoderConfig(trunk="test_efficientnet", weights="none", image_size=32, dim=8)

WRITER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from crossbatch.data.importers import from_pictures
from crossbatch.models import Encoder
from crossbatch.search import GalleryIndex, _intake
_intake.BLOCK = int(sys.argv[4])
place = Path(sys.argv[1])
index = (
    GalleryIndex.open(place)
    if (place / "index.json").exists()
    else GalleryIndex.create(place, Encoder.load(sys.argv[3]))
)
index.add(from_pictures(Path(sys.argv[2])).manifest)
"""


@dataclass
class Growing:
    """A folder of pictures and the index that it shall become."""

    photos: Path
    encoder: Path
    index: Path
    block: int

    @classmethod
    def make(cls, work, *, pictures, block):
        rng = np.random.default_rng(0)
        growing = cls(work / "photos", work / "encoder", work / "x.index", block)
        growing.photos.mkdir()
        for i in range(pictures):
            blobs.picture(rng, rng.uniform(0, 1, 3)).save(growing.photos / f"{i:04}.png")
        torch.manual_seed(0)
        Encoder(SMALL).save(growing.encoder)
        return growing

    def start(self):
        places = map(str, (self.index, self.photos, self.encoder, self.block))
        return subprocess.Popen([sys.executable, "-W", "ignore", "-c", WRITER, *places])

    def version(self):
        """The version that counts, without opening anything."""
        try:
            return json.loads((self.index / "index.json").read_text())["version"]
        except FileNotFoundError:
            return 0

    def wait_for(self, items, process):
        """Until the process has committed something; `items` is a hint for who reads on."""
        before = self.version()
        while self.version() <= before and process.poll() is None:
            time.sleep(0.001)
        return items


def check(growing, before):
    """How many items there are; every one of them whole, none lost, no half block."""
    if not growing.index.exists():
        assert before == 0
        return 0
    index = GalleryIndex.open(growing.index)
    many, total = len(index), sum(1 for _ in growing.photos.iterdir())
    assert many >= before, f"{before} were committed, {many} are left"
    assert many == total or many % growing.block == 0, f"{many} items: half a block"
    if not many:
        return 0
    hits = index.search(np.ones(SMALL.dim), model=index.model, k=total + 1)[0]
    names = sorted(hit.item.path for hit in hits)
    assert names == [f"{i:04}.png" for i in range(many)]
    vectors = np.stack([index.embedding(hit.item.id) for hit in hits])
    images = [index.image(hit.item.id) for hit in hits]
    np.testing.assert_allclose(vectors, index.encoder.encode(images), atol=1e-5)
    return many


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, started, held = random.Random(options.seed), time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        growing = Growing.make(Path(folder), pictures=60 * options.times, block=8)
        trail = []
        for kill in range(options.times):
            process = growing.start()
            if kill % 4 == 3:
                time.sleep(rng.uniform(1.5, 4))
            else:
                growing.wait_for(held, process)
                time.sleep(rng.uniform(0, 0.15))
            process.kill()
            status = process.wait()
            held = check(growing, held)
            trail.append(held if status else f"{held} (was done)")
        index = GalleryIndex.open(growing.index)
        index.add(from_pictures(growing.photos).manifest)
        total = check(growing, held)
    took = time.perf_counter() - started
    print(f"killed {options.times} times, items after each: {trail}")
    print(f"whole each time, {total} at the end ({took:.0f} s)")


if __name__ == "__main__":
    main()

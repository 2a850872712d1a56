"""A manifest of millions of rows: seconds and peak memory of each thing that is done with it.

    python -m benchmarks.manifest_scale [--rows 2500000] [--folders 20000] [--at FOLDER]

As many empty files as rows are made in a temporary folder, and a manifest of them in the manner
of WebVision: a thousand classes, a path of 28 letters. Each row of the table is a process of its
own. *Columns* are the bytes of the manifest in Arrow; *peak* is the highest resident size less
that of a process which has imported the same modules and done nothing.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from crossbatch.data import Manifest, hold_out, validate

PIECE = 2**16  # rows


def nothing(path: Path) -> None:
    del path


def read(path: Path) -> None:
    Manifest.read(path)


def validated(path: Path) -> None:
    manifest = Manifest.read(path)
    checked = validate(manifest, decode=False)
    assert len(checked.manifest) == len(manifest)
    assert not checked.problems, checked.problems[:3]


def written(path: Path) -> None:
    Manifest.read(path).write(path.with_name("again.parquet"))


def trained_on(path: Path) -> None:
    """What a training asks of its manifest before the first batch."""
    manifest = Manifest.read(path)
    manifest.digest()
    held = hold_out(manifest, split="validation", fraction=0.1, seed=0)
    rows = np.flatnonzero(held.column("split") == "train")
    assert len(held.codes[rows]) == len(held.ids[rows]) > 0


STEPS = {
    "nothing": nothing,
    "read": read,
    "write": written,
    "validate": validated,
    "train": trained_on,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_500_000)
    parser.add_argument("--folders", type=int, default=20_000)
    parser.add_argument("--at", type=Path, help="keep the files there, and use those that are")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        started = time.perf_counter()
        STEPS[arguments.step](arguments.at / "rows.parquet")
        seconds = time.perf_counter() - started
        print(seconds, peak_mb())
    elif arguments.at:
        measure(arguments.at, arguments.rows, arguments.folders)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), arguments.rows, arguments.folders)


def peak_mb() -> float:
    """The highest resident size of this process (Linux); `getrusage` would tell the parent's."""
    return (
        int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024 / 1e6
    )


def measure(place: Path, rows: int, folders: int) -> None:
    path = place / "rows.parquet"
    if not path.exists():
        make(place, rows, folders)
    columns = Manifest.read(path).table.nbytes / 1e6
    print(
        f"{rows:,} rows in {folders:,} folders: file {path.stat().st_size / 1e6:.0f} MB, ", end=""
    )
    print(f"columns {columns:.0f} MB\n")
    print("| step | seconds | peak MB | peak / columns |\n|---|---|---|---|")
    base = 0.0
    for step in STEPS:
        command = [
            sys.executable,
            "-m",
            "benchmarks.manifest_scale",
            "--at",
            place,
            "--step",
            step,
        ]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, peak = map(float, out.split())
        base = base or peak
        above = peak - base
        print(f"| {step} | {seconds:.1f} | {above:.0f} | {above / columns:.1f} |", flush=True)


def make(place: Path, rows: int, folders: int) -> None:
    """The files, and a manifest of them."""
    each = -(-rows // folders)
    for folder in range(folders):
        (place / f"google/q{folder:05}").mkdir(parents=True, exist_ok=True)
    paths = [f"google/q{row // each:05}/{row:09}.jpg" for row in range(rows)]
    for path in paths:
        os.close(os.open(place / path, os.O_CREAT))
    labels = [f"n{row // each * 1000 // folders:08}" for row in range(rows)]
    table = pa.table({"path": paths, "label": labels, "source": ["google"] * rows})
    Manifest(table, place).write(place / "rows.parquet")


if __name__ == "__main__":
    main()

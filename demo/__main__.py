"""``make demo``: the same emoji by different designers, learnt without and with a memory.

Half of the emoji are for training, the others, never seen, for testing. The trunk is frozen; a
head is trained on its features, three seeds a row. Every row of the table is a run folder under
``runs/demo``, whose ``config.yaml`` says what it was.
"""

import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from crossbatch.data import Manifest
from crossbatch.evaluation import evaluate
from crossbatch.models import Encoder
from crossbatch.report import write_report
from crossbatch.training.material import feature_table
from demo.emoji import make_manifest
from demo.rows import OUT, ROWS, SEEDS, WITH, WITHOUT, config, run


def untrained(manifest: Path) -> dict[str, float]:
    """The trunk's features themselves, which no training has touched."""
    settings = replace(config(manifest, WITHOUT, 0), workers=2)
    whole = Manifest.read(manifest)
    table = feature_table(Encoder(settings.encoder), whole, settings)
    test = whole.split("test")
    return evaluate(np.array(table.array[table.rows(test.ids)]), test.codes).metrics


def main() -> None:
    """Data, runs, table, ``summary.json``."""
    console, started = Console(), time.perf_counter()
    manifest = OUT / "emoji.parquet"
    if not manifest.exists():
        console.print("Rendering emoji of ten icon sets …")
        make_manifest(manifest, cache=OUT / "icons")
    console.print("Extracting features of the frozen trunk …")
    base = untrained(manifest)
    console.print(f"Training {len(ROWS)} rows × {len(SEEDS)} seeds on two processes …")
    jobs = [(manifest, row, seed) for row in ROWS for seed in SEEDS]
    scores: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as processes:
        for row, metrics in processes.map(run, jobs):
            scores[row].append(metrics)
            console.print(f"  {row}: R@1 {100 * metrics['R@1']:.1f}")
    summary = summarise(base, scores)
    (OUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    page = OUT / "report.html"
    write_report([OUT / f"{row}-seed{seed}" for row in (WITHOUT, WITH) for seed in SEEDS], page)
    console.print(table_of(base, scores))
    console.print(
        f"{time.perf_counter() - started:.0f} s; page {page}, figures {OUT / 'summary.json'}"
    )


def summarise(
    base: dict[str, float], scores: dict[str, list[dict[str, float]]]
) -> dict[str, object]:
    """The figures in percent, one per seed."""

    def values(row: str, name: str) -> list[float]:
        return [round(100 * m[name], 3) for m in scores[row]]

    names = ("R@1", "MAP@R")
    best = max(
        (row for row, (_, memory) in ROWS.items() if not memory),
        key=lambda row: statistics.mean(values(row, "R@1")),
    )
    return {
        **{n: {"without": values(WITHOUT, n), "with": values(WITH, n)} for n in names},
        "untrained": {n: round(100 * base[n], 3) for n in names},
        "best_without": {"name": best, **{n: values(best, n) for n in names}},
        "rows": {row: {n: values(row, n) for n in names} for row in ROWS},
    }


def table_of(base: dict[str, float], scores: dict[str, list[dict[str, float]]]) -> Table:
    """Mean and deviation over the seeds, in percent."""
    table = Table("", "R@1", "MAP@R", title="unseen emoji, batch of 8 classes × 2")
    table.add_row("untrained features", f"{100 * base['R@1']:.1f}", f"{100 * base['MAP@R']:.1f}")
    for row, found in scores.items():
        cells = []
        for name in ("R@1", "MAP@R"):
            values = [100 * m[name] for m in found]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        table.add_row(row, *cells)
    return table


if __name__ == "__main__":
    main()

"""Which memory helps, and which hurts: ``python -m experiments.memory TABLE DATA [--seeds 0 1]``.

Each run is a line of ``runs/experiments/memory.jsonl``; what stands there is not run again.
``--show`` prints all tables of what has been run.
"""

import argparse
import json
import statistics
from collections import defaultdict
from dataclasses import asdict, replace

import torch

import crossbatch as xb
from experiments.data import CACHE, Data, load
from experiments.loop import Budget, Setting, run

FILE = CACHE / "memory.jsonl"
BUDGETS = {
    "glyphs": Budget(),
    "emoji": Budget(),
    "tuned": Budget(iterations=300, rate=3e-4),
    "tiny": Budget(4, 4),
    "head": Budget(iterations=3000, rate=3e-4),
}
KEYS = 0.99
DEFAULT = Setting(weight=xb.Proportion(1.0), momentum=KEYS)
KINDS = {
    "no memory": Setting(capacity=0),
    "paper": Setting(),
    "keys, weight 1": Setting(momentum=KEYS),
    "keys, m = 0.5": Setting(momentum=0.5),
    "keys, m = 0.9": Setting(momentum=0.9),
    "keys, m = 0.97": Setting(momentum=0.97),
    "keys, m = 0.999": Setting(momentum=0.999),
    "XBN": Setting(normalise="batch"),
    "XBN, adaptive": Setting(normalise="adaptive"),
    "keys, from the first step": Setting(momentum=KEYS, start=0),
    "one row per image": Setting(kind="per_image"),
    "one row per image, keys": Setting(kind="per_image", momentum=KEYS),
    "mean over active pairs": Setting(reduction="mean_over_active_pairs"),
    "keys, proportion 1 (default)": DEFAULT,
    "default, momentum rises to 1": replace(DEFAULT, rising=True),
    "paper, age limit at d² = 1": Setting(drift_limit=1.0),
    "default, age limit at d² = 1": replace(DEFAULT, drift_limit=1.0),
    "default, times 1 − d²/2": replace(DEFAULT, trusting=True),
    "proportion 0.3": Setting(weight=xb.Proportion(0.3)),
    "proportion 0.3, keys": Setting(weight=xb.Proportion(0.3), momentum=KEYS),
    "memory alone": Setting(objective="memory_alone"),
    "memory alone, keys": Setting(objective="memory_alone", momentum=KEYS),
}
STORAGE = {
    dtype: Setting(momentum=KEYS, dtype=dtype)
    for dtype in ("float32", "float16", "bfloat16", "int8")
}
LOSSES = {
    f"{name}, {how}": Setting(capacity=capacity, momentum=momentum, weighting=weighting)
    for name, weighting in {
        "multi-similarity": xb.MultiSimilarity(),
        "SupCon": xb.SupCon(0.1),
        "triplet": xb.HardestTriplet(0.1),
    }.items()
    for how, capacity, momentum in (
        ("no memory", 0, 0.0),
        ("paper", -1, 0.0),
        ("keys, weight 1", -1, KEYS),
    )
}


def rows(table: str, name: str, data: Data) -> dict[str, tuple[Setting, Budget]]:
    """The rows of a table for a data set."""
    budget, images = BUDGETS[name], int(data.training.sum())
    fixed = {"kinds": KINDS, "losses": LOSSES, "storage": STORAGE}
    if table in fixed:
        return {row: (setting, budget) for row, setting in fixed[table].items()}
    if table == "small":  # four classes in a batch: negatives are scarce
        few = Budget(4, 4, budget.iterations, budget.rate)
        chosen = (
            "no memory",
            "paper",
            "keys, m = 0.9",
            "keys, m = 0.97",
            "keys, weight 1",
            "keys, proportion 1 (default)",
        )
        return {f"4 × 4, {row}": (KINDS[row], few) for row in chosen}
    if table == "ratio":
        shares = (0.0, 0.01, 0.1, 0.5, 1.0)
        return {
            f"{share:.0%} of the training images, default": (
                replace(DEFAULT, capacity=round(share * images)),
                budget,
            )
            for share in shares
        }
    if table == "batch":
        sizes = {p * 2: Budget(p, 2, budget.iterations, budget.rate) for p in (8, 16, 32, 64, 128)}
        fitted = {
            f"batch 256, no memory, rate {rate:g}": (
                KINDS["no memory"],
                Budget(128, 2, 1000, rate),
            )
            for rate in (3e-4, 3e-3)
        }
        return fitted | {
            f"batch {size}, {how}": (KINDS[how], with_size)
            for size, with_size in sizes.items()
            for how in ("no memory", "keys, weight 1", "keys, proportion 1 (default)")
        }
    if table == "long":  # trained until the network itself is good
        return {
            f"1,500 steps, {row}": (KINDS[row], replace(budget, iterations=1500))
            for row in (
                "no memory",
                "keys, proportion 1 (default)",
                "default, times 1 − d²/2",
                "keys, weight 1",
                "paper",
            )
        }
    if table == "slow":  # a third of the rate, for pretrained weights
        return {
            f"1,000 steps at 1e-4, {row}": (
                KINDS[row],
                replace(budget, iterations=1000, rate=1e-4),
            )
            for row in ("no memory", "paper", "keys, weight 1", "keys, proportion 1 (default)")
        }
    if table == "time":
        seconds = {"glyphs": 25.0, "emoji": 25.0, "tuned": 100.0, "head": 25.0}[name]
        timed = Budget(budget.classes, budget.instances, 0, budget.rate, seconds)
        chosen = ("no memory", "paper", "keys, proportion 1 (default)")
        return {f"{seconds:.0f} s, {row}": (KINDS[row], timed) for row in chosen}
    more = ("small", "ratio", "batch", "long", "slow", "time")
    raise SystemExit(f"tables: {', '.join((*fixed, *more))}")


def read() -> list[dict[str, object]]:
    """All runs so far."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def show() -> None:
    """Mean ± deviation over the seeds, as Markdown."""
    found: dict[str, dict[str, dict[str, list[dict[str, float]]]]] = {}
    for line in read():
        of_table = found.setdefault(str(line["table"]), {})
        of_row = of_table.setdefault(str(line["row"]), defaultdict(list))
        of_row[str(line["data"])].append(line["scores"])  # pyright: ignore
    for table, of_table in found.items():
        names = sorted({name for of_row in of_table.values() for name in of_row})
        print(f"\n{table}\n\n| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        for row, of_row in of_table.items():
            print(f"| {row} | {' | '.join(cell(of_row.get(name, [])) for name in names)} |")


def cell(scores: list[dict[str, float]]) -> str:
    """Mean ± deviation of R@1 and MAP@R."""
    if not scores:
        return ""
    parts = []
    for metric in ("R@1", "MAP@R"):
        values = [s[metric] for s in scores]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        parts.append(f"{statistics.mean(values):.1f}{spread}")
    return " / ".join(parts)


def main() -> None:
    """Run the rows of a table that were not run yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?")
    parser.add_argument("data", nargs="?", choices=BUDGETS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", help="rows by name")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if options.show:
        show()
        return
    torch.set_num_threads(1)
    data = load(options.data)
    for seed in options.seeds:
        for row, (setting, budget) in rows(options.table, options.data, data).items():
            key = {"table": options.table, "data": options.data, "row": row, "seed": seed}
            known = any(all(line[k] == v for k, v in key.items()) for line in read())
            if known or (options.only and row not in options.only):
                continue
            scores = run(data, setting, budget, seed)
            print(f"{options.data}: {row}, seed {seed}: {scores}", flush=True)
            line = {**key, "scores": scores, "budget": asdict(budget), "setting": repr(setting)}
            with FILE.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

"""Embeddings from noisy labels: ``python -m experiments.noisy [--data head] [--seeds 3]``.

Plain training, the curriculum, PRISM, and both, where a share of the labels is wrong: replaced by
another class's at random, or as they come (``icons``). Scores are on clean, unseen classes, but
for ``icons``, whose test names are as noisy as those for training. The curriculum's subsets are
those of the density ranker, by the features of the frozen trunk or by the embeddings of a network
that was trained plainly. Each run is a line of ``runs/experiments/noisy.jsonl``.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch

import crossbatch as xb
from crossbatch.curriculum import Plan, judge, symmetric
from crossbatch.curriculum.plan import allot
from crossbatch.data import MixedSampler, PKSampler
from experiments.data import CACHE, Data, load
from experiments.loop import Batches, Budget, Setting, codes_of, embed, scores, train
from experiments.memory import BUDGETS, DEFAULT, cell

FILE = CACHE / "noisy.jsonl"
RATES = {"head": (0.0, 0.2, 0.5), "emoji": (0.0, 0.2, 0.5), "icons": (0.0,)}
THOUGHT = 0.2  # of the labels of icons are wrong, for PRISM
ROWS = ("no memory", "memory", "PRISM", "curriculum", "curriculum, PRISM")


def curriculum(codes: np.ndarray, subsets: np.ndarray, budget: Budget, seed: int) -> Batches:
    """Batches of the paper's three stages, of equal length."""
    plan = Plan.curriculumnet()
    weights = torch.ones(len(codes))
    for stage, length in zip(plan.stages, plan.lengths(budget.iterations), strict=True):
        parts = [np.flatnonzero(subsets == k) for k in stage.subsets]
        for k, rows in zip(stage.subsets, parts, strict=True):
            weights[rows] = stage.weight(k)
        sizes = [np.unique(codes[rows], return_counts=True)[1] for rows in parts]
        rooms = [int(np.minimum(n, budget.instances).sum()) // budget.instances for n in sizes]
        shares = stage.shares or (1.0,)
        units = allot(shares, rooms, budget.classes)
        drawn = [
            (
                rows,
                PKSampler(codes[rows], classes=n, instances=budget.instances, seed=seed, least=1),
            )
            for rows, n in zip(parts, units, strict=True)
            if n
        ]
        sampler = MixedSampler(drawn)
        for _ in range(length):
            rows = next(sampler)
            yield rows, weights[torch.from_numpy(rows)]


def one(data: Data, name: str, row: str, rate: float, seed: int) -> dict[str, float]:
    """A run: scores, and how much of what was ranked clean is."""
    budget, codes = BUDGETS.get(name, Budget()), codes_of(data)
    right = np.ones(len(codes), bool)
    if rate:
        noise = symmetric(codes, rate, seed=seed)
        codes, right = noise.labels, ~noise.wrong
        labels = data.labels.copy()
        labels[data.training] = np.unique(data.labels[data.training])[codes]
        data = replace(data, labels=labels)
    memory = Setting() if name == "head" else DEFAULT  # a frozen trunk needs no keys
    setting = Setting(capacity=0) if row == "no memory" else memory
    told: dict[str, float] = {}
    batches = None
    if "PRISM" in row:
        setting = replace(setting, prism=rate or THOUGHT)
    if "curriculum" in row:
        features = data.inputs[data.training]
        if features.dim() > 2:
            first, _ = train(data, Setting(capacity=0), budget, seed=seed)
            features = embed(first, data, np.flatnonzero(data.training))
        subsets = xb.DensityRanker().fit(features.numpy(), codes).subset_
        found = judge(subsets, right)
        told = {"clean share": float((subsets == 0).mean()), "purity": float(found.precision[0])}
        batches = curriculum(codes, subsets, budget, seed)
    network, spent = train(data, setting, budget, seed=seed, batches=batches)
    return {**scores(network, data), **told, **spent}


def show() -> None:
    """Mean ± deviation over the seeds, as Markdown: R@1 / MAP@R."""
    found: dict[tuple[str, float], dict[str, list[dict[str, float]]]] = {}
    for line in map(json.loads, FILE.read_text().splitlines()):
        of_data = found.setdefault((line["data"], line["rate"]), defaultdict(list))
        of_data[line["row"]].append(line["scores"])
    columns = sorted(found)
    print("| | " + " | ".join(f"{name}, {rate:.0%}" for name, rate in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for row in ROWS:
        print(f"| {row} | " + " | ".join(cell(found[c].get(row, [])) for c in columns) + " |")


def main() -> None:
    """Run what was not run yet, or show all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(RATES), choices=RATES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if options.show:
        show()
        return
    torch.set_num_threads(1)
    FILE.touch()
    for name in options.data:
        data = load(name)
        for seed in range(options.seeds):
            for rate in RATES[name]:
                for row in ROWS:
                    key = {"data": name, "rate": rate, "row": row, "seed": seed}
                    lines = map(json.loads, FILE.read_text().splitlines())
                    if any(all(line[k] == v for k, v in key.items()) for line in lines):
                        continue
                    line = {**key, "scores": one(data, name, row, rate, seed)}
                    print(line, flush=True)
                    with FILE.open("a") as file:
                        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

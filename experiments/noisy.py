"""Embeddings from noisy labels: ``python -m experiments.noisy [--data head] [--seeds 3]``.

Plain training, the curriculum, PRISM, and both, where a share of the labels is wrong: replaced by
another class's at random, or as they come (``icons``). Scores are on clean, unseen classes, but
for ``icons``, whose test names are as noisy as those for training. The curriculum's subsets are
those of the density ranker, by the features of the frozen trunk or by the embeddings of the
network of the row "no memory". Each run is a line of ``runs/experiments/noisy.jsonl``.
"""

import argparse
import functools
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

import crossbatch as xb
from crossbatch.curriculum import Plan, judge, symmetric
from crossbatch.curriculum.plan import allot
from crossbatch.data import MixedSampler, PKSampler
from experiments.data import CACHE, Data, load
from experiments.loop import Batches, Budget, Setting, codes_of, embed, scores, train
from experiments.memory import BUDGETS, DEFAULT, cell

FILE = CACHE / "noisy.jsonl"
RATES = {"head": (0.0, 0.2, 0.5), "emoji": (0.0, 0.2, 0.5), "icons": (0.0,)}
THOUGHT = 0.2  # of the labels are wrong, for PRISM, where none was made wrong
PLAIN = Setting(capacity=0)
TOLD = ("clean share", "purity", "kept", "kept right", "kept wrong", "seconds")


@dataclass(frozen=True)
class Row:
    """What a row has: a memory, PRISM with some options, a curriculum by some ranker."""

    memory: bool = True
    prism: dict[str, Any] | None = None
    ranker: xb.DensityRanker | None = None


ROWS = {
    "no memory": Row(memory=False),
    "memory": Row(),
    "PRISM": Row(prism={}),
    "curriculum": Row(ranker=xb.DensityRanker()),
    "curriculum, PRISM": Row(prism={}, ranker=xb.DensityRanker()),
}


def curriculum(codes: np.ndarray, subsets: np.ndarray, budget: Budget, seed: int) -> Batches:
    """Batches of the paper's three stages, of equal length."""
    plan, draw = Plan.curriculumnet(), np.random.default_rng(seed)
    weights = torch.ones(len(codes))
    for stage, length in zip(plan.stages, plan.lengths(budget.iterations), strict=True):
        parts = [np.flatnonzero(subsets == k) for k in stage.subsets]
        for k, rows in zip(stage.subsets, parts, strict=True):
            weights[rows] = stage.weight(k)
        for place, share in enumerate(stage.fractions):
            parts[place] = draw.permutation(parts[place])[: math.ceil(share * len(parts[place]))]
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


@functools.cache
def loaded(name: str) -> Data:
    """A data set with the true labels."""
    return load(name)


def noisy(name: str, rate: float, seed: int) -> tuple[Data, np.ndarray | None]:
    """A data set with wrong labels; which of those for training are right, if that is known."""
    data = loaded(name)
    if not rate:
        return data, None
    noise = symmetric(codes_of(data), rate, seed=seed)
    labels = data.labels.copy()
    labels[data.training] = np.unique(data.labels[data.training])[noise.labels]
    return replace(data, labels=labels), ~noise.wrong


@functools.lru_cache(1)
def plain(name: str, rate: float, seed: int) -> tuple[nn.Module, dict[str, float]]:
    """A network that was trained without a memory."""
    return train(noisy(name, rate, seed)[0], PLAIN, BUDGETS.get(name, Budget()), seed=seed)


def features(name: str, rate: float, seed: int) -> np.ndarray:
    """What the training images are ranked by."""
    data = loaded(name)
    if data.inputs.dim() == 2:
        return data.inputs[data.training].numpy()
    return embed(plain(name, rate, seed)[0], data, np.flatnonzero(data.training)).numpy()


def one(name: str, row: Row, rate: float, seed: int) -> dict[str, float]:
    """A run: scores, and what is known of the labels that the ranker and PRISM believe."""
    data, right = noisy(name, rate, seed)
    if not row.memory and row.ranker is None:
        network, told = plain(name, rate, seed)
        return {**scores(network, data), **told}
    budget, codes = BUDGETS.get(name, Budget()), codes_of(data)
    memory = Setting() if name == "head" else DEFAULT  # a frozen trunk needs no keys
    setting = memory if row.memory else PLAIN
    if row.prism is not None:
        setting = replace(setting, prism={"noise": rate or THOUGHT, **row.prism})
    told: dict[str, float] = {}
    batches = None
    if row.ranker is not None:
        subsets = row.ranker.fit(features(name, rate, seed), codes).subset_
        told["clean share"] = round(100 * float((subsets == 0).mean()), 1)
        if right is not None:
            told["purity"] = round(100 * float(judge(subsets, right).precision[0]), 1)
        batches = curriculum(codes, subsets, budget, seed)
    network, spent = train(data, setting, budget, seed=seed, batches=batches, right=right)
    return {**scores(network, data), **told, **spent}


def read() -> list[dict[str, Any]]:
    """All runs so far."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def show() -> None:
    """Mean ± deviation of R@1 / MAP@R over the seeds, then means of what else is told."""
    found: dict[str, dict[str, dict[float, list[dict[str, float]]]]] = {}
    for line in read():
        of_row = found.setdefault(line["data"], {}).setdefault(line["row"], defaultdict(list))
        of_row[line["rate"]].append(line["scores"])
    for name, of_data in found.items():
        columns = [f"{rate:.0%}" for rate in RATES[name]]
        print(f"\n| {name} | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for row in sorted(of_data, key=list(ROWS).index):
            print(f"| {row} | " + " | ".join(cell(of_data[row][r]) for r in RATES[name]) + " |")
        print(f"\n| {name} | wrong | " + " | ".join(TOLD) + " |\n|---|---|" + "---|" * len(TOLD))
        for row in sorted(of_data, key=list(ROWS).index):
            for rate, runs in sorted(of_data[row].items()):
                print(f"| {row} | {rate:.0%} | " + " | ".join(_means(runs)) + " |")


def _means(runs: list[dict[str, float]]) -> Iterator[str]:
    for name in TOLD:
        values = [run[name] for run in runs if name in run]
        yield f"{np.mean(values):.1f}" if values else ""


def main() -> None:
    """Run what was not run yet, or show all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(RATES), choices=RATES)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after them")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if options.show:
        show()
        return
    torch.set_num_threads(1)
    CACHE.mkdir(parents=True, exist_ok=True)
    known = [(line["data"], line["rate"], line["row"], line["seed"]) for line in read()]
    keys = [
        (name, rate, row, seed)
        for seed in range(options.seeds)
        for name in options.data
        for rate in RATES[name]
        for row in options.rows
        if (name, rate, row, seed) not in known
    ]
    began = time.monotonic()
    for name, rate, row, seed in keys:
        if time.monotonic() - began > 60 * options.minutes:
            break
        found = one(name, ROWS[row], rate, seed)
        line = {"data": name, "rate": rate, "row": row, "seed": seed, "scores": found}
        print(line, flush=True)
        with FILE.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

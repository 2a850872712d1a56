"""What a curriculum gains, and when it loses: ``python -m experiments.curriculum TABLE DATA``.

Classification under wrong labels by models A to D of CurriculumNet and their variants: the
package's own plans, batches, weights and loss, on image tensors in memory. Ranked are the
features of model A, trained on all of the images; every other model begins anew from the same
weights and takes as many steps. Nothing is picked along the way: the last network counts.

``symmetric``    20,000 images of Fashion-MNIST, 40 % of their labels wrong
``asymmetric``   35 % of each class called the next class
``similar``      35 % of each class called one that looks like it
``overtrained``  as ``symmetric``, until the network knows the wrong labels by heart
``icons``        800 names in 42 open icon sets, as noisy as they come; a fifth of the sets tests

Fashion-MNIST is tested on its 10,000 test images with right labels; the test names of ``icons``
are as noisy as those for training. Each run is a line of ``runs/experiments/curriculum.jsonl``;
what stands there is not run again. ``--show`` prints all tables.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

import crossbatch as xb
from crossbatch.curriculum import Plan, Stage, judge, trust
from crossbatch.data import Manifest
from crossbatch.training import TrainConfig
from crossbatch.training.batch import Classes
from crossbatch.training.config import SamplerConfig, ValidationConfig
from crossbatch.training.course import Course
from crossbatch.training.tasks.classification import Classification
from experiments import ranking
from experiments.data import CACHE, small_network
from experiments.data import icons as icon_data
from experiments.loop import _shaken as shaken

FILE, FEATURES = CACHE / "curriculum.jsonl", CACHE / "curriculum"
RATE = 3e-3


@dataclass(frozen=True)
class Budget:
    """What is the same for all rows of a data set."""

    iterations: int = 800
    batch: int = 128
    shaken: bool = False


BUDGETS = {
    "symmetric": Budget(),
    "asymmetric": Budget(),
    "similar": Budget(),
    "overtrained": Budget(4000),
    "icons": Budget(1500, shaken=True),
}


@dataclass(frozen=True)
class Row:
    """What is compared: a plan, and who says which images are clean."""

    plan: Plan
    ranker: xb.DensityRanker = field(default_factory=xb.DensityRanker)
    split: Literal["ranked", "random", "true"] = "ranked"


B, C, D = Plan.clean_only(), Plan.two_stages(), Plan.curriculumnet()
CONTRAST = xb.DensityRanker(contrast=True)
ANEW = Plan((D.stages[0], *(replace(stage, rerank=True) for stage in D.stages[1:])))
BEGIN = "A, all at once"
TABLES = {
    "models": {
        BEGIN: Row(Plan.all_at_once()),
        "B, clean alone": Row(B),
        "C, two stages": Row(C),
        "D, three stages": Row(D),
    },
    "controls": {
        "D, random split": Row(D, split="random"),
        "B, contrast": Row(B, CONTRAST),
        "D, contrast": Row(D, CONTRAST),
        "D, ranked anew": Row(ANEW),
        "D, contrast, ranked anew": Row(ANEW, CONTRAST),
        "B, right labels": Row(B, split="true"),
    },
    "share": {
        f"D, {share:.0%} of the highly noisy": Row(Plan.curriculumnet(highly_noisy=share))
        for share in (0.25, 0.75, 1.0)
    },
    "cuts": {f"D, {how}": Row(D, xb.DensityRanker(subsets=how)) for how in ("centre", "quantile")},
    "cutoff": {
        f"D, cutoff at {quantile:.0%}": Row(D, xb.DensityRanker(quantile=quantile))
        for quantile in (0.5, 0.7)
    },
    "weights": {
        "D, weights 1": Row(Plan(tuple(replace(stage, weights=()) for stage in D.stages))),
        "clean and half-weighted noisy, at once": Row(Plan((Stage((0, 1), weights=(1.0, 0.5)),))),
    },
}


@dataclass(frozen=True)
class Images:
    """Pictures (N, 1, S, S) and class codes for training, which of these are right, the test."""

    inputs: Tensor
    codes: np.ndarray
    right: np.ndarray | None
    test: tuple[Tensor, np.ndarray]
    trunk: Callable[[], nn.Module]
    width: int


def load(name: str, seed: int) -> Images:
    """A data set with its noise."""
    if name == "icons":
        data, origin = icon_data(), np.load(CACHE / "icons.npz")["origin"]
        held = origin % 5 == 0
        trunk = lambda: nn.Sequential(small_network(1, 128), nn.ReLU())  # noqa: E731
        test = data.inputs[held], data.labels[held]
        return Images(data.inputs[~held], data.labels[~held], None, test, trunk, 128)
    inputs, true = ranking.load(20_000)
    noise = ranking.make_noise("symmetric" if name == "overtrained" else name, true, seed)
    test = ranking.load(10_000, "test")
    trunk = partial(ranking.make_trunk, 16)
    return Images(inputs, noise.labels, ~noise.wrong, test, trunk, 128)


def train(
    images: Images, row: Row, subsets: np.ndarray, *, budget: Budget, seed: int
) -> tuple[nn.Sequential, np.ndarray]:
    """The last network, and the last subsets."""
    course, task = lay_out(images.codes, row.plan, subsets, budget=budget, seed=seed)
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    head = nn.Linear(images.width, len(task.classes))
    network = nn.Sequential(images.trunk(), head).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    codes, sampler, weights = torch.from_numpy(task.codes), None, None
    for step in range(course.iterations):
        if sampler is None or course.stage != course.at(step):
            course.stage = course.at(step)
            if course.now.rerank:
                z = apply(network[0], images.inputs).numpy()
                course.subsets = row.ranker.fit(z, images.codes).subset_
            sampler, weights = course.sampler(rank=0), course.weights()
        for group in optimizer.param_groups:
            done = math.pi * step / course.iterations
            group["lr"] = RATE * course.now.lr * 0.5 * (1 + math.cos(done))
        rows = torch.from_numpy(next(sampler))
        x = images.inputs[rows]
        x = shaken(x, g) if budget.shaken else x
        of_batch = None if weights is None else weights[rows]
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network.train()(x.to(memory_format=torch.channels_last))
        loss = task.loss(outputs, Classes(rows.numpy(), rows, codes[rows], of_batch)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network, course.subsets


def lay_out(
    codes: np.ndarray, plan: Plan, subsets: np.ndarray, *, budget: Budget, seed: int
) -> tuple[Course, Classification]:
    """The course and the task of ``crossbatch train --task classification --plan ...``."""
    names = [f"{code:05}" for code in codes.tolist()]  # sorted as the codes are
    columns = {"path": names, "label": names, "subset": subsets}
    manifest = Manifest(pa.table(columns))
    config = TrainConfig(
        manifest="",
        task="classification",
        plan=plan,
        sampler=SamplerConfig(batch=budget.batch),
        validation=ValidationConfig(fraction=0),
        iterations=budget.iterations,
        seed=seed,
    )
    task = Classification(config, manifest)
    rows = np.arange(len(codes))
    training = Classes(rows, torch.from_numpy(rows), torch.from_numpy(task.codes))
    return Course(config, task, manifest, training=training, world=1), task


@torch.no_grad()
def apply(network: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs in evaluation mode, in float32."""
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        parts = [network(x.to(memory_format=torch.channels_last)) for x in inputs.split(500)]
    return torch.cat(parts).float()


def one(name: str, row: Row, seed: int) -> dict[str, Any]:
    """A run: top-1 in percent; of subsets their share of the images and of right labels."""
    images, budget, began = load(name, seed), BUDGETS[name], time.process_time()
    file = FEATURES / f"{name}-{seed}.npz"
    none = np.zeros(len(images.codes), np.int64)
    if not row.plan.ranked:
        network, _ = train(images, row, none, budget=budget, seed=seed)
        np.savez(file, features=apply(network[0], images.inputs).numpy())
        return {**accuracy(network, images), "seconds": time.process_time() - began}
    if not file.exists():
        raise SystemExit(f"Run the table `models` of {name}, seed {seed}, first: it is ranked.")
    subsets, told = none, {}
    if row.split == "true":
        assert images.right is not None, "Nobody knows which names of icons are right."
        subsets = (~images.right).astype(np.int64)
    elif not row.plan.stages[0].rerank:
        z = np.load(file)["features"]
        subsets = row.ranker.fit(z, images.codes).subset_
        if not row.ranker.contrast:
            told = {"trust": trust(z, images.codes, subsets).value}
    if row.split == "random":
        subsets = shuffled(subsets, images.codes, seed)
    network, last = train(images, row, subsets, budget=budget, seed=seed)
    sizes = np.bincount(last) / len(last)
    told = {**told, "sizes": [round(100 * s, 1) for s in sizes.tolist()]}
    if images.right is not None:
        told["purity"] = [round(100 * p, 1) for p in judge(last, images.right).precision.tolist()]
    return {**accuracy(network, images), **told, "seconds": time.process_time() - began}


def shuffled(subsets: np.ndarray, codes: np.ndarray, seed: int) -> np.ndarray:
    """Subsets of the same sizes in each class, by lot."""
    found, draw = subsets.copy(), np.random.default_rng(seed)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        found[rows] = draw.permutation(subsets[rows])
    return found


def accuracy(network: nn.Module, images: Images) -> dict[str, float]:
    """Of the test images, in percent."""
    inputs, codes = images.test
    hits = apply(network, inputs).argmax(dim=1).numpy() == codes
    return {"top-1": round(100 * float(hits.mean()), 3)}


def read() -> list[dict[str, Any]]:
    """All runs so far."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def show() -> None:
    """As Markdown: top-1 and, by seed, its difference from model A; how right the subsets are."""
    lines = read()
    found = {(x["data"], x["row"], x["seed"]): x["scores"] for x in lines}
    for table in TABLES:
        of_table = [x for x in lines if x["table"] == table]
        names = [name for name in BUDGETS if any(x["data"] == name for x in of_table)]
        for title, cell in (("top-1", gain), ("share of right labels", purity)):
            print(f"\n{table}: {title}\n\n| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
            for row in TABLES[table]:
                cells = (cell(found, name, row) for name in names)
                print(f"| {row} | {' | '.join(cells)} |")


Found = dict[tuple[str, str, int], dict[str, Any]]


def gain(found: Found, name: str, row: str) -> str:
    """Mean ± deviation, and of the difference from model A with the same seed."""
    top = {s: x["top-1"] for (n, r, s), x in found.items() if (n, r) == (name, row)}
    more = [x - found[name, BEGIN, s]["top-1"] for s, x in top.items() if row != BEGIN]
    return spread(list(top.values()), "") + (f" ({spread(more, '+')})" if more else "")


def purity(found: Found, name: str, row: str) -> str:
    """Right labels in percent of each subset, and of all images the part that it is."""
    told = [scores for (n, r, _), scores in found.items() if (n, r) == (name, row)]
    parts = [[t[key] for t in told if key in t] for key in ("purity", "sizes")]
    shown = [
        " / ".join(f"{statistics.mean(x):.0f}" for x in zip(*of, strict=False)) for of in parts
    ]
    return f"{shown[0]} ({shown[1]})" if shown[1] else ""


def spread(values: list[float], sign: str) -> str:
    """Mean ± deviation."""
    if not values:
        return ""
    rest = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{rest}"


def main() -> None:
    """Run the rows of a table that were not run yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?", choices=TABLES)
    parser.add_argument("data", nargs="?", choices=BUDGETS)
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--only", nargs="*", help="rows by name")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if options.show:
        show()
        return
    torch.set_num_threads(1)
    FEATURES.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name, row in TABLES[options.table].items():
            key = {"table": options.table, "data": options.data, "row": name, "seed": seed}
            known = any(all(line[k] == v for k, v in key.items()) for line in read())
            if known or (options.only and name not in options.only):
                continue
            scores = one(options.data, row, seed)
            print(f"{options.data}: {name}, seed {seed}: {scores}", flush=True)
            line = {**key, "scores": scores, "budget": asdict(BUDGETS[options.data])}
            with FILE.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

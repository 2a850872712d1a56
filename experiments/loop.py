"""One training and its scores on unseen classes: the loop of the README, with settings.

The image tensors are in memory and augmented as tensors, so that a step is the network's and the
loss's time. AdamW with a cosine to zero; nothing is picked along the way: the last network counts.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import crossbatch as xb
from crossbatch.data import PKSampler
from crossbatch.evaluation import evaluate
from crossbatch.memory import Drift
from crossbatch.training.batch import weighted
from experiments.data import Data

_ROWS = 256
SHAKE = 0.15  # of scale, radians of rotation, half widths of shift


@dataclass(frozen=True)
class Setting:
    """What is compared. A capacity of -1 is one row for every training image."""

    capacity: int = -1
    kind: str = "ring"
    dtype: str = "float32"
    momentum: float = 0.0
    rising: bool = False
    weight: float | xb.Proportion = 1.0
    normalise: str = "none"
    objective: str = "batch_and_memory"
    reduction: str = "sum_per_anchor"
    weighting: xb.PairWeighting = field(default_factory=xb.Contrastive)
    start: int = 100
    drift_limit: float = 0.0
    trusting: bool = False
    """Whether the proportion is times 1 − d²/2, what a row's similarity with its image is now."""
    prism: dict[str, Any] | None = None
    """What :class:`crossbatch.Prism` is made with."""


@dataclass(frozen=True)
class Budget:
    """What is the same for all settings of a data set."""

    classes: int = 8
    instances: int = 2
    iterations: int = 1000
    rate: float = 1e-3
    seconds: float | None = None
    """Stop at this much time of the processor instead; the cosine then follows the clock."""


Batches = Iterator[tuple[np.ndarray, Tensor | None]]
"""Rows among the training images, and the weights of their loss."""


def run(data: Data, setting: Setting, budget: Budget, seed: int) -> dict[str, float]:
    """Train once; R@1, MAP@R, seconds, and the mean drift of the last hundred steps."""
    network, told = train(data, setting, budget, seed=seed)
    return {**scores(network, data), **told}


def codes_of(data: Data) -> np.ndarray:
    """The class of each training image, from 0."""
    return np.unique(data.labels[data.training], return_inverse=True)[1]


def train(
    data: Data,
    setting: Setting,
    budget: Budget,
    *,
    seed: int,
    batches: Batches | None = None,
    right: np.ndarray | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """The last network, and what the training took.

    Where PRISM judges labels the share that it keeps is told, too, and where it is known which are
    right, those of right and of wrong ones.
    """
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    training = np.flatnonzero(data.training)
    codes = codes_of(data)
    network = data.network().train()
    keys = xb.MomentumKeys(network, setting.momentum) if setting.momentum else None
    settings = {"lr": budget.rate, "weight_decay": 0.01, "fused": True}
    optimizer = torch.optim.AdamW(network.parameters(), **settings)
    if batches is None:
        size = {"classes": budget.classes, "instances": budget.instances}
        batches = ((rows, None) for rows in PKSampler(codes, **size, seed=seed))
    memory: xb.CrossBatchMemory | xb.PerImageMemory | None = None
    match: xb.CrossBatchNormalisation | None = None
    limit = xb.AgeLimit(setting.drift_limit) if setting.drift_limit else None
    prism = None if setting.prism is None else xb.Prism(**setting.prism)
    trust = 1.0
    judged: list[tuple[np.ndarray, np.ndarray]] = []
    drifts, began, done, step = [], time.process_time(), 0.0, 0
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = budget.rate * 0.5 * (1 + math.cos(math.pi * done))
        rows, weights = next(batches)
        inputs = _shaken(data.inputs[training[rows]], g)
        z = weighted(F.normalize(network(inputs), dim=1), weights)
        labels, ids = torch.from_numpy(codes[rows]).long(), torch.from_numpy(rows).long()
        if prism is not None and memory is not None:
            keep = prism(z, labels, ids=ids, references=memory).keep
            judged.append((rows, keep.numpy()))
            z, labels, ids, inputs = z[keep], labels[keep], ids[keep], inputs[keep]
        references = None
        if setting.capacity and step >= setting.start:
            if memory is None:
                memory = _memory(setting, z.shape[1], len(training))
                match = _match(setting, z.shape[1])
            if len(memory):
                drift = memory.drift(z, ids)
                drifts.append(drift.squared)
                trust += 0.05 * (_similarity(drift, otherwise=trust) - trust)
                if limit is not None and len(drift.ages):
                    moved, age = drift.squared.mean().item(), drift.ages.float().mean().item()
                    limit.see(moved, age, len(drift.ages))
            memory.enqueue(z if keys is None else F.normalize(keys(inputs), dim=1), labels, ids)
            references = xb.younger(memory, None if limit is None else limit.age)
            references = references if match is None else match(references, z)
        loss = xb.memory_objective(
            z,
            labels,
            ids,
            weighting=setting.weighting,
            memory=references,
            objective=setting.objective,  # pyright: ignore[reportArgumentType]
            memory_weight=_trusted(setting, trust),
            reduction=setting.reduction,  # pyright: ignore[reportArgumentType]
        ).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if keys is not None:
            keys.follow(network, done=done if setting.rising else 0.0)
        step += 1
        spent = time.process_time() - began
        done = step / budget.iterations if budget.seconds is None else spent / budget.seconds
    seconds = time.process_time() - began
    last = torch.cat(drifts[-100:]) if drifts else torch.empty(0)
    drift = round(float(last.mean()), 3) if len(last) else math.nan
    told = {"seconds": round(seconds, 1), "steps": step, "drift": drift}
    return network, told | _kept(judged, right)


def _similarity(drift: Drift, *, otherwise: float) -> float:
    """Of stored rows with their images now, on average."""
    return 1 - drift.squared.mean().item() / 2 if len(drift.ages) else otherwise


def _trusted(setting: Setting, trust: float) -> float | xb.Proportion:
    if not setting.trusting or not isinstance(setting.weight, xb.Proportion):
        return setting.weight
    return replace(setting.weight, of_batch=setting.weight.of_batch * max(trust, 1e-3))


def _kept(
    judged: list[tuple[np.ndarray, np.ndarray]], right: np.ndarray | None
) -> dict[str, float]:
    """Of right and of wrong labels the share that was kept, in percent."""
    if not judged:
        return {}
    rows, keep = (np.concatenate(part) for part in zip(*judged, strict=True))
    told = {"kept": keep}
    if right is not None:
        told |= {"kept right": keep[right[rows]], "kept wrong": keep[~right[rows]]}
    return {name: round(100 * float(part.mean()), 1) for name, part in told.items() if len(part)}


def _memory(setting: Setting, dim: int, images: int) -> xb.CrossBatchMemory | xb.PerImageMemory:
    kind = xb.PerImageMemory if setting.kind == "per_image" else xb.CrossBatchMemory
    capacity = images if setting.capacity < 0 else setting.capacity
    return kind(capacity, dim, dtype=getattr(torch, setting.dtype))


def _match(setting: Setting, dim: int) -> xb.CrossBatchNormalisation | None:
    if setting.normalise == "none":
        return None
    noise = 0.01 if setting.normalise == "adaptive" else None
    return xb.CrossBatchNormalisation(dim, noise=noise)


def _shaken(x: Tensor, g: torch.Generator) -> Tensor:
    """Pictures scaled, turned and shifted a little; features as they are."""
    if x.dim() == 2:
        return x
    scale, angle, shift = (SHAKE * (2 * torch.rand(len(x), n, generator=g) - 1) for n in (1, 1, 2))
    scale = 1 + scale
    first = torch.cat([scale * angle.cos(), -scale * angle.sin(), shift[:, :1]], dim=1)
    second = torch.cat([scale * angle.sin(), scale * angle.cos(), shift[:, 1:]], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def embed(network: nn.Module, data: Data, rows: np.ndarray) -> Tensor:
    """Embeddings of some images as they are."""
    network.eval()
    parts = np.array_split(rows, -(-len(rows) // _ROWS))
    return torch.cat([F.normalize(network(data.inputs[part]), dim=1) for part in parts])


def scores(network: nn.Module, data: Data) -> dict[str, float]:
    """Of all images that are not for training, in percent."""
    rows = np.flatnonzero(~data.training)
    z = embed(network, data, rows)
    found = evaluate(z, torch.from_numpy(data.labels[rows]).long(), ks=(1,)).metrics
    return {name: round(100 * found[name], 3) for name in ("R@1", "MAP@R")}

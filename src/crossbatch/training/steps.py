r"""Training as a generator: one report per optimizer step, and no callbacks.

    z_t = f(x_t; θ_t)
    while warming up:  L_t = L(z_t, z_t)
    then:  memory ← enqueue(f(x_t; θ'_t))                (before the loss, as in the paper)
           L_t = L(z_t, z_t) + w · L(z_t, memory)        (or the memory's loss alone)
    θ_{t+1} ← AdamW(θ_t, ∂L_t/∂θ),   η_t = η · cosine(t)
    θ'_{t+1} = m θ'_t + (1 − m) θ_{t+1}

Whoever drives the generator logs, validates and saves between two steps, in plain sight. All
state is in a :class:`Trainee`; saved and loaded, it goes on bit for bit (on a CPU).

With several ranks each takes its share of the batches, and every memory receives all of them, or
one memory is spread over the ranks: anchors are local, references are global, the gradient is
averaged.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from crossbatch.engine import (
    ObjectiveResult,
    Proportion,
    chunked_backward,
    combined,
    pair_loss,
)
from crossbatch.errors import CrossbatchError, TrainingError
from crossbatch.memory import Drift, younger
from crossbatch.training.batch import Classes, weighted
from crossbatch.training.stopwatch import Stopwatch
from crossbatch.training.trainee import Trainee


class StepReport(NamedTuple):
    """What one step did. Losses are of the batch before the step; counts are of pairs.

    ``drift`` is the mean d² of the batch's images since their rows were stored, ``drift_age`` how
    many batches ago that was on average; None while the memory holds none of them.
    ``age_limit`` is the age up to which rows take part, None where all do. ``kept`` is how many
    images of the batch had labels that were believed.
    ``stage`` is the stage of the plan, from 1; None without a plan.
    ``step_seconds`` is the time of the step, waiting for its batch included; ``memory_share`` the
    part of it that went to momentum keys, enqueuing and the loss beside the memory, None without.
    """

    step: int
    loss: float
    loss_batch: float | None
    loss_memory: float | None
    active_positives_batch: int
    active_negatives_batch: int
    active_positives_memory: int
    active_negatives_memory: int
    memory_size: int
    drift: float | None
    drift_age: float | None
    age_limit: int | None
    kept: int | None
    stage: int | None
    learning_rate: float
    step_seconds: float
    memory_share: float | None


def steps(trainee: Trainee) -> Iterator[StepReport]:
    """Train, one step per item, from where the trainee stands to the end of its run.

    Raises:
        TrainingError: An embedding is not finite any more.
    """
    config = trainee.config
    trainee.network.train()
    batches = trainee.batches()
    while trainee.step < config.iterations:
        if trainee.enter():
            batches = trainee.batches()
        watch = Stopwatch(trainee.accelerator.device)
        with watch.part("step"):
            inputs, batch = next(batches)
            rate = trainee.learning_rate()
            for group in trainee.optimizer.param_groups:
                group["lr"] = rate
            trainee.optimizer.zero_grad()
            try:
                result, drift = _backward(trainee, inputs, batch, watch)
            except CrossbatchError as error:
                raise TrainingError(f"Step {trainee.step + 1}: {error}") from error
            trainee.optimizer.step()
            trainee.follow()
        trainee.step += 1
        yield _report(trainee, result, drift, rate, watch)


def _backward(
    trainee: Trainee, inputs: Tensor, batch: Classes, watch: Stopwatch
) -> tuple[ObjectiveResult, Drift | None]:
    """The losses of a batch; their gradient is left in the parameters."""
    taken: list[tuple[ObjectiveResult, Drift | None]] = []

    def loss(embeddings: Tensor) -> Tensor:
        drift = _drift(trainee, embeddings, batch)
        result = _objective(trainee, inputs, embeddings, batch, watch)
        taken.append((result, drift))
        return result.value

    if trainee.config.sampler.chunk:
        chunked_backward(trainee.network, inputs, loss, rows=trainee.config.sampler.chunk)
    else:
        trainee.accelerator.backward(loss(trainee.network(inputs)))
    return taken[0]


def _drift(trainee: Trainee, embeddings: Tensor, batch: Classes) -> Drift | None:
    """That of the batch's images; the warm-up looks at it, too."""
    memory, warm_up = trainee.memory, trainee.warm_up
    if memory is None or not len(memory):
        return None
    drift = memory.drift(embeddings, batch.ids.to(embeddings.device))
    if warm_up.watches:
        batch_rows = len(embeddings) * trainee.ranks.world
        oldest = min(trainee.step, memory.capacity // batch_rows)
        old = drift.squared[drift.ages * 2 >= oldest]
        told = torch.stack([old.sum(), old.new_tensor(len(old))]).to(embeddings.device)
        trainee.ranks.add(told)  # ranks start together
        warm_up.see(float(told[0]), int(told[1]))
    if trainee.age_limit is not None:
        sums = [drift.squared.sum(), drift.ages.sum(), drift.squared.new_tensor(len(drift.ages))]
        told = torch.stack([x.double() for x in sums]).to(embeddings.device)
        trainee.ranks.add(told)  # ranks see the same rows
        squared, age, count = told.tolist()
        trainee.age_limit.see(squared / max(count, 1), age / max(count, 1), round(count))
    return drift


def _objective(
    trainee: Trainee, inputs: Tensor, embeddings: Tensor, batch: Classes, watch: Stopwatch
) -> ObjectiveResult:
    if (own := trainee.task.loss(embeddings, batch)) is not None:
        return own
    config, memory, keep = trainee.config.memory, trainee.memory, None
    if trainee.prism is not None and memory is not None and trainee.started and len(memory):
        codes, ids = (x.to(embeddings.device) for x in (batch.codes, batch.ids))
        keep = trainee.prism(embeddings, codes, ids=ids, references=memory).keep
        embeddings, batch = embeddings[keep], batch.only(keep)
    device, embeddings = embeddings.device, weighted(embeddings, batch.weights)
    take = partial(
        pair_loss,
        embeddings.float(),
        batch.codes.to(device),
        ids=batch.ids.to(device),
        weighting=trainee.config.weighting.at(trainee.step),
        reduction=trainee.config.reduction,
    )
    if memory is None or not trainee.started:
        if memory is not None and (config.fill == "warm_up" or config.start_drift):
            trainee.store(inputs, embeddings, batch)
        return combined(take(), None)
    if not trainee.warm_up.begun:
        _begin(trainee)
    alone = None if config.objective == "memory_alone" else take()
    with watch.part("memory"):
        trainee.store(inputs, embeddings, batch, keep=keep)
        age = None if trainee.age_limit is None else trainee.age_limit.age
        references = younger(memory, age)
        if trainee.normalisation is not None:
            references = trainee.normalisation(references, embeddings.float())
        weight = config.weight
        if config.proportion and alone is not None:
            weight = Proportion(config.proportion, otherwise=config.weight)
        return combined(alone, take(references=references), memory_weight=weight)


def _begin(trainee: Trainee) -> None:
    """What the memory holds when it starts: nothing, the batches of the warm-up, or a pass."""
    assert trainee.memory is not None
    fill = trainee.config.memory.fill
    if fill == "pass":
        trainee.fill()
    elif fill == "empty":
        trainee.memory.clear()
    trainee.warm_up.begun = True


def _report(
    trainee: Trainee,
    result: ObjectiveResult,
    drift: Drift | None,
    rate: float,
    watch: Stopwatch,
) -> StepReport:
    batch, memory = result.batch, result.memory
    held = drift is not None and len(drift.ages) > 0
    anchors = None if trainee.prism is None else batch or memory
    return StepReport(
        step=trainee.step,
        loss=result.value.item(),
        loss_batch=None if batch is None else batch.value.item(),
        loss_memory=None if memory is None else memory.value.item(),
        active_positives_batch=0 if batch is None else int(batch.active_positives.sum()),
        active_negatives_batch=0 if batch is None else int(batch.active_negatives.sum()),
        active_positives_memory=0 if memory is None else int(memory.active_positives.sum()),
        active_negatives_memory=0 if memory is None else int(memory.active_negatives.sum()),
        memory_size=0 if trainee.memory is None else len(trainee.memory),
        drift=drift.squared.mean().item() if drift is not None and held else None,
        drift_age=drift.ages.float().mean().item() if drift is not None and held else None,
        age_limit=None if trainee.age_limit is None else trainee.age_limit.age,
        kept=None if anchors is None else len(anchors.active_positives),
        stage=trainee.stage,
        learning_rate=rate,
        step_seconds=watch.seconds("step"),
        memory_share=None if memory is None else watch.seconds("memory") / watch.seconds("step"),
    )

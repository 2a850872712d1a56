r"""What the memory costs: foretold before a run, measured along it.

    bytes         M rows, and their codes once the engine asks for them
    comparisons   B · M in a step, on each rank
    share         t_m / (t_m + t_rest),   t_m: enqueue a batch, and take its loss beside the memory

Bytes and comparisons follow from the config. t_m is foretold by timing it on this machine beside
random unit vectors, two samples of them where M is large. Of real embeddings more pairs pass the
bound of a weighting, and cost more. t_rest is not foretold: it is the median of the first steps
after the first one. So the share is told after these, and measured after all. The measured t_m has
the forward pass of momentum keys in it, too; the foretold one has not.
"""

import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbatch.engine import pair_loss
from crossbatch.memory import CrossBatchMemory
from crossbatch.training.memories import Memory
from crossbatch.training.steps import StepReport
from crossbatch.training.trainee import Trainee

FIRST = 5  # steps after the first one whose time foretells that of all
_PRODUCTS, _ROWS = 1 << 30, 1 << 16  # B · M · D and M of the sample at most
_ENOUGH = 0.15  # seconds of losses; three are taken at least


@dataclass(frozen=True)
class Prediction:
    """Of a memory that is full: rows M, width D, batch B, bytes, bytes of codes, seconds t_m.

    Momentum keys, where there are some, take a forward pass that t_m leaves out.
    """

    rows: int
    dim: int
    batch: int
    bytes: int
    codes: int
    seconds: float
    keys: bool = False

    def __str__(self) -> str:
        codes = f" and codes of {_size(self.codes)}" if self.codes else ""
        return (
            f"Memory: {self.rows:,} rows of {self.dim} in {_size(self.bytes)}{codes}; "
            f"{self.batch:,} × {self.rows:,} = {self.batch * self.rows:,} comparisons in a step, "
            f"about {_time(self.seconds)} (timed beside random unit vectors)."
        )


def predict(trainee: Trainee) -> Prediction | None:
    """What the memory of a training will cost; None without one.

    Draws from a generator of its own and leaves no trace in the training.

    Cost: below a second on one core.
    """
    config, memory = trainee.config, trainee.memory
    if memory is None:
        return None
    batch = config.sampler.classes * config.sampler.instances
    rows = max(8, min(memory.capacity, _ROWS, _PRODUCTS // (batch * memory.dim)))
    seconds, codes = _sample(trainee, batch, rows)
    if rows < memory.capacity:  # a line through two sizes: not everything grows with the rows
        slope = (seconds - _sample(trainee, batch, rows // 8)[0]) / (rows - rows // 8)
        seconds += max(slope, 0.0) * (memory.capacity - rows)
    return Prediction(
        rows=memory.capacity,
        dim=memory.dim,
        batch=batch,
        bytes=memory.nbytes,
        codes=round(codes * memory.capacity / rows),
        seconds=seconds,
        keys=trainee.keys is not None,
    )


def _sample(trainee: Trainee, batch: int, rows: int) -> tuple[float, int]:
    """Seconds to enqueue and to take the loss beside so many rows, and bytes of their codes."""
    config, memory = trainee.config, trainee.memory
    assert memory is not None
    g = torch.Generator().manual_seed(0)
    device, labels = trainee.accelerator.device, trainee.training.codes

    def draw(count: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
        vectors = F.normalize(torch.randn(count, memory.dim, generator=g), dim=1)
        chosen = labels[torch.randint(len(labels), (count,), generator=g)]
        ids = torch.arange(first, first + count)
        return vectors.to(device), chosen.to(device), ids.to(device)

    sample = CrossBatchMemory(rows, memory.dim, dtype=memory.dtype).to(trainee.memory_device)
    plain = sample.nbytes
    sample.enqueue(*draw(rows, 0))
    z, codes, ids = draw(batch, rows)
    weighting = config.weighting.at(config.memory.start)
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < _ENOUGH:
        began = time.perf_counter()
        sample.enqueue(z, codes, ids)
        value = pair_loss(
            z, codes, weighting=weighting, references=sample, ids=ids, reduction=config.reduction
        ).value
        value.item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:]), sample.nbytes - plain  # the first makes codes, kernels


class Account:
    """The time of the steps, and the memory's part in it, added up.

    Args:
        prediction: Of the memory.
    """

    def __init__(self, prediction: Prediction) -> None:
        self._prediction = prediction
        self._first: list[float] = []
        self._steps = 0
        self._seconds = self._memory = 0.0

    def add(self, report: StepReport) -> str | None:
        """Add a step. After the first few, one line: the share that the memory will have."""
        beside = report.step_seconds * (report.memory_share or 0.0)
        if report.memory_share is not None:
            self._steps += 1
            self._seconds += report.step_seconds
            self._memory += beside
        if len(self._first) > FIRST:
            return None
        self._first.append(report.step_seconds - beside)
        if len(self._first) <= FIRST:
            return None
        rest, mine = statistics.median(self._first[1:]), self._prediction.seconds
        keys = ", and the forward pass of its keys" if self._prediction.keys else ""
        return (
            f"Memory: about {_share(mine / (mine + rest))} of a step once it is full "
            f"({_time(mine)} beside {_time(rest)}){keys}."
        )

    def measured(self, memory: Memory) -> str:
        """One line: the bytes, and the share over all steps with the memory."""
        if not self._steps:
            return f"Memory: {_size(memory.nbytes)}; no step used it."
        mine, all_ = self._memory / self._steps, self._seconds / self._steps
        return (
            f"Memory: {_size(memory.nbytes)}, {_share(mine / all_)} of a step "
            f"({_time(mine)} beside {_time(all_ - mine)}, measured over {self._steps:,} steps)."
        )


def _share(x: float) -> str:
    return f"{_two(100 * x)} %"


def _time(seconds: float) -> str:
    return f"{_two(1000 * seconds)} ms" if seconds < 0.995 else f"{_two(seconds)} s"


def _two(x: float) -> str:
    """Two digits: more are not known."""
    return f"{float(f'{x:.2g}'):,g}"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"

"""What a memory's storage costs and loses: bytes, time of a step, error of a similarity.

    python -m benchmarks.memory_storage [--threads 1] [--repeats 15] [--batch 64] [--dim 128]
                                        [--rows 55000]

Contrastive loss, λ = .5, forward and backward with its enqueue, on the data of
benchmarks/memory_loss.py in its trained regime. Steps of all storages take turns in one process;
times are medians of processor time, which others on the machine disturb least. The error is the
greatest of |⟨a, r̂⟩ − ⟨a, r⟩| over the batch and all rows, and beside it what the storage promises
for these rows. Bytes of a row are those of its embedding, and with its codes, which the engine
asks for on a CPU. The memory is all that it holds: rows, labels, ids, births and codes. The peak
is the rise of resident memory during a step, beyond that (Linux).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor

import crossbatch as xb
from benchmarks.memory_loss import MARGIN, Case, machine, make, peak_extra_mb

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
KINDS = (xb.CrossBatchMemory, xb.PerImageMemory)
Memory = xb.CrossBatchMemory | xb.PerImageMemory


def filled(kind: type[Memory], dtype: torch.dtype, case: Case) -> Memory:
    memory = kind(*case.rows.shape, dtype=dtype)
    memory.enqueue(case.rows, case.labels, case.ids)
    return memory


def stepper(memory: Memory, case: Case) -> Callable[[], None]:
    loss_fn = xb.PairLoss(xb.Contrastive(MARGIN))
    batches = cycle(case.batches)

    def step() -> None:
        z, labels, ids = next(batches)
        x = z.clone().requires_grad_()
        memory.enqueue(x, labels, ids)
        loss_fn(x, labels, ids=ids, references=memory).backward()

    return step


def row_bytes(memory: Memory) -> tuple[int, int]:
    """Of an embedding, and with its codes."""
    parts = memory.state_dict()
    stored = sum(parts[name].nbytes for name in ("embeddings", "scales") if name in parts)
    memory.encode()
    codes = next(memory.tiles(memory.capacity)).codes
    assert codes is not None
    own = {part.data_ptr() for part in parts.values()}
    beside = sum(part.nbytes for part in codes if part.data_ptr() not in own)
    return stored // memory.capacity, (stored + beside) // memory.capacity


def error(memory: Memory, case: Case) -> float:
    z = case.batches[0][0].double()
    held = memory.contents()
    place = held.ids.argsort()
    read = held.embeddings[place].double()
    return float((z @ (read - case.rows.double()).T).abs().max())


def promised(dtype: torch.dtype, m: Tensor) -> float:
    if dtype == torch.int8:
        return float(m.abs().max()) * m.shape[1] ** 0.5 / 254
    return torch.finfo(dtype).eps / 2 if dtype != torch.float32 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--repeats", type=int, default=15, help="steps of each storage")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rows", type=int, default=55_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case = make(options.batch, options.dim, options.rows, 0.005)
    print(machine(options.threads))
    print(f"B={options.batch}, D={options.dim}, M={options.rows:,}")
    print(
        "| memory | dtype | bytes of a row | with codes | memory, MB | peak of a step, MB ", end=""
    )
    print("| CPU ms | greatest error | promised |")
    print("|---|---|---|---|---|---|---|---|---|")
    memories = {(kind, dtype): filled(kind, dtype, case) for kind in KINDS for dtype in DTYPES}
    errors = {key: error(memory, case) for key, memory in memories.items()}
    sizes = {key: row_bytes(memory) for key, memory in memories.items()}
    steps = {key: stepper(memory, case) for key, memory in memories.items()}
    times: dict[tuple[type[Memory], torch.dtype], list[float]] = {key: [] for key in steps}
    for step in steps.values():  # room that is kept is not a peak
        step()
    peaks = {key: peak_extra_mb(step) for key, step in steps.items()}
    for turn in range(options.repeats + 2):
        for key, step in steps.items():
            start = time.process_time()
            step()
            if turn > 1:
                times[key].append(time.process_time() - start)
    for (kind, dtype), taken in times.items():
        stored, coded = sizes[kind, dtype]
        print(
            f"| {kind.__name__} | {str(dtype).removeprefix('torch.')} | {stored} | {coded} "
            f"| {memories[kind, dtype].nbytes / 1e6:.1f} | {peaks[kind, dtype]:.1f} "
            f"| {statistics.median(taken) * 1e3:.1f} | {errors[kind, dtype]:.1e} "
            f"| {promised(dtype, case.rows):.1e} |"
        )


if __name__ == "__main__":
    main()

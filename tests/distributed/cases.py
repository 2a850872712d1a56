"""Small trainings with a memory: one process plays all ranks, or the ranks themselves do.

Ranks are on the CPU and speak through gloo, or by ``DEVICE=cuda`` on the GPU, through NCCL.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

import crossbatch as xb
from crossbatch.collective import Ranks
from crossbatch.engine import Tiling
from tests.tables import REDUCTIONS, WEIGHTINGS

STEPS, CAPACITY, DIM = 3, 167, 4  # neither 2 nor 3 ranks divide the capacity; it wraps
IMAGES = 250  # more than there are
FOUR = ("contrastive", "multi-similarity", "supcon", "hardest triplet")
SMOOTH = (*FOUR[:3], "ntxent")  # none that counts ties, which rounding of the moments breaks
KINDS = ("replicated", "sharded", "per image")
RINGS = KINDS[:2]
FURTHER = ("fastap", "top 2 of ntxent", "ranked list", "balanced", "mixed", "sides of triplets")
"""Other monoids, more stages, statistics for the report."""
SUB_CENTRES = (1, 3)
DEVICE = os.environ.get("DEVICE", "cpu")
UNEVEN, EVEN, FILL = (5, 8, 2), (6, 6, 6), (60, 90, 30)


@dataclass(frozen=True)
class Case:
    kind: str
    weighting: str
    reduction: str = "sum_per_anchor"
    sizes: tuple[int, ...] = UNEVEN
    path: str | None = None
    age: int | None = None
    noise: float | None = 0.0  # of the moments that rows take; 0 leaves them as they are

    def __str__(self):
        even = "even" if self.sizes == EVEN else "uneven"
        how = f"{self.path}, {self.age}, {self.noise}"
        return f"{self.kind}, {self.weighting}, {self.reduction}, {even}, {how}"


CASES = [
    *(Case(kind, w, r) for kind in KINDS for w in FOUR for r in REDUCTIONS),
    *(Case(kind, w, sizes=EVEN) for kind in KINDS for w in FOUR),
    *(Case("sharded", w) for w in FURTHER),
    *(Case(kind, w, age=1) for kind in KINDS for w in ("contrastive", "supcon")),
    *(Case(kind, w, noise=n) for kind in KINDS for w in SMOOTH for n in (None, 0.1)),
    *(Case("sharded", w, path=p) for w in FOUR for p in ("dense", "sparse", "screened")),
]
SOME = [Case(kind, w) for kind in KINDS for w in FOUR]


def batch(step, rank, size):
    """Classes cluster; images come round again, on whichever rank."""
    g = torch.Generator().manual_seed(10 * step + rank)
    centres = torch.randn(5, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    ids = torch.randint(0, 20, (size,), generator=g)
    ids[1] = ids[0]  # one image twice, on two ranks of a memory
    labels = ids % 5
    x = centres[labels] + 0.5 * torch.randn(size, 6, generator=g, dtype=torch.float64)
    return [column.to(DEVICE) for column in (x, labels - 2, ids)]


def filling(rank):
    """Rows of other classes: most of the memory are plain negatives, as in a real one."""
    g = torch.Generator().manual_seed(50 + rank)
    x = F.normalize(torch.randn(FILL[rank], DIM, generator=g, dtype=torch.float64), dim=1)
    place = torch.arange(len(x))
    return [column.to(DEVICE) for column in (x, 100 + place % 9, 1000 * (rank + 1) + place)]


def one_memory(parts):
    """One memory on one process, of the batches of all ranks."""
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def gathered(parts):
    """What a replicated memory receives."""
    return Ranks.here().gather(*parts[0])[0]


def alone(parts):
    """What a sharded memory receives."""
    return parts[0]


def made(kind):
    """What one process keeps, or a rank that does not share."""
    one = kind is xb.PerImageMemory
    return kind(IMAGES if one else CAPACITY, DIM, dtype=torch.float64).to(DEVICE)


def one_kind(case):
    """The memory of one process for a case."""
    return xb.PerImageMemory if case.kind == "per image" else xb.CrossBatchMemory


def references(case, memory, match, parts):
    """What the loss sees of a memory."""
    young = xb.younger(memory, case.age)
    if case.noise == 0.0:
        return young
    return match(young, torch.cat([z for z, _, _ in parts]))


def training(case, played, receive, kind=xb.CrossBatchMemory):
    """What ranks see; ``played`` are those of this process.

    Between steps the network moves, by the average that DDP takes, so rows grow stale.
    """
    torch.manual_seed(1)
    network = torch.nn.Linear(6, DIM, bias=False, dtype=torch.float64).to(DEVICE)
    memory = made(kind)
    match = xb.CrossBatchNormalisation(DIM, noise=case.noise or None).double().to(DEVICE)
    memory.enqueue(*receive([filling(rank) for rank in played]))
    seen = []
    for step in range(STEPS):
        batches = [batch(step, rank, case.sizes[rank]) for rank in played]
        parts = [(F.normalize(network(x), dim=1), y, i) for x, y, i in batches]
        drifts = [memory.drift(z, i) for z, _, i in parts] if step else []
        memory.enqueue(*receive([(z.detach(), y, i) for z, y, i in parts]))
        shown = references(case, memory, match, parts)
        results = [
            xb.pair_loss(
                *part[:2],
                ids=part[2],
                weighting=WEIGHTINGS[case.weighting],
                references=shown,
                reduction=case.reduction,
                tiling=Tiling(rows=4, path=case.path) if case.path else Tiling(),
            )
            for part in parts
        ]
        network.zero_grad()
        (sum(result.value for result in results) / len(played)).backward()
        if dist.is_initialized():
            dist.all_reduce(network.weight.grad)
            network.weight.grad /= dist.get_world_size()
        seen.append(
            {
                "ranks": [vars(result) | {"value": result.value.detach()} for result in results],
                "drifts": [tuple(drift) for drift in drifts],
                "gradient": network.weight.grad.clone(),
                "size": len(memory),
            }
        )
        with torch.no_grad():
            network.weight -= 0.1 * network.weight.grad
    contents = [*memory.contents()[:3], memory.ages()]
    state = dict(memory.state_dict()) if case.sizes == EVEN else {}
    return {"steps": seen, "contents": contents, "state": state}


def believed(sub_centres, played, receive, kind=xb.CrossBatchMemory):
    """What PRISM says of batches that come round again, of which the kept rows are enqueued."""
    memory = made(kind)
    memory.enqueue(*receive([filling(rank) for rank in played]))
    prism = xb.Prism(0.3, window=3, temperature=0.3, sub_centres=sub_centres).to(DEVICE)
    seen = []
    for step in range(6):
        drawn = [batch(step % 4, rank, UNEVEN[rank]) for rank in played]
        parts = [(F.normalize(x[:, :DIM], dim=1), y, i) for x, y, i in drawn]
        z, labels, ids = one_memory(parts)
        found = prism(z, labels, ids=ids, references=memory)
        sizes = [len(y) for _, y, _ in parts]
        keep = found.keep.split(sizes)
        for kept, sure in zip(keep, found.probability.split(sizes), strict=True):
            if not kept.any():  # a rank keeps one at least
                kept[sure.argmax()] = True
        memory.enqueue(
            *receive([[c[k] for c in part] for part, k in zip(parts, keep, strict=True)])
        )
        seen.append(tuple(found))
    return seen, memory.contents()[:3], dict(prism.state_dict())


def resumed(state, kind, receive, played):
    """The memory of any number of ranks goes on with one more batch of each."""
    memory = made(kind)
    memory.load_state_dict(state)
    before = [*memory.contents()[:3], memory.ages()]
    parts = [(F.normalize(x[:, :DIM]), y, i) for x, y, i in (batch(9, r, 3 + r) for r in played)]
    memory.enqueue(*receive(parts))
    return before, [*memory.contents()[:3], memory.ages()]


def main(states, out, cases="all"):
    """On a rank: all cases or some, and every state that is there, loaded here."""
    torch.set_num_threads(1)
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
    rank = dist.get_rank()
    ways = {
        "replicated": ([rank], gathered, xb.CrossBatchMemory),
        "sharded": ([rank], alone, xb.ShardedMemory),
        "per image": ([rank], gathered, xb.PerImageMemory),
    }
    chosen = CASES if cases == "all" else SOME
    seen = {str(case): training(case, *ways[case.kind]) for case in chosen}
    loaded = {
        (name, kind): resumed(state, ways[kind][2], ways[kind][1], [rank])
        for name, state in torch.load(states, weights_only=True).items()
        for kind in (RINGS if name != "images" else ["per image"])
    }
    judged = {(kind, s): believed(s, *ways[kind]) for kind in RINGS for s in SUB_CENTRES}
    small = xb.ShardedMemory(CAPACITY, DIM)
    share = len(small.part.embeddings)
    found = {"cases": seen, "loaded": loaded, "believed": judged, "share": share}
    torch.save(found, Path(out) / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Losses beside a memory, forward and backward: each weighting against the same loss of PML.

    python -m benchmarks.weightings [--threads 1] [--repeats 7] [--batch 64] [--dim 128]
                                    [--rows 55000] [--device cuda]

The memory of benchmarks/memory_loss.py in its trained regime; figures are medians of interleaved
steps in one process.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import crossbatch as xb
from benchmarks.memory_loss import (
    Case,
    Step,
    machine,
    make,
    measure,
    ours,
    pml_memory,
    product,
)

_FEW = 4096  # rows up to which the peer may hold positives × negatives


def peers(few: bool) -> dict[str, tuple[xb.PairWeighting, Callable[[], tuple[Any, Any]] | None]]:
    """Weightings, and the peer's loss and miner; without ``few`` rows, those that fit 16 GB."""
    from pytorch_metric_learning import distances, losses, miners

    cosine = distances.CosineSimilarity()
    return {
        "contrastive": (
            xb.Contrastive(),
            lambda: (losses.ContrastiveLoss(1, 0.5, distance=cosine), None),
        ),
        "multi-similarity, mining": (
            xb.MultiSimilarity(2.0, 50.0),
            lambda: (losses.MultiSimilarityLoss(2, 50, 0.5), miners.MultiSimilarityMiner(0.1)),
        ),
        "multi-similarity": (
            xb.MultiSimilarity(2.0, 50.0, epsilon=None),
            lambda: (losses.MultiSimilarityLoss(2, 50, 0.5), None),
        ),
        "supcon": (xb.SupCon(), lambda: (losses.SupConLoss(0.1), None)),
        "nt-xent": (xb.NTXent(), (lambda: (losses.NTXentLoss(0.1), None)) if few else None),
        "hardest triplet": (
            xb.HardestTriplet(),
            lambda: (
                losses.TripletMarginLoss(0.1, distance=cosine),
                miners.BatchHardMiner(distance=cosine),
            ),
        ),
        "circle": (xb.Circle(), lambda: (losses.CircleLoss(0.4, 80), None)),
        "lifted structure": (
            xb.LiftedStructure(),
            lambda: (
                losses.GeneralizedLiftedStructureLoss(-1, 0, distance=cosine),
                None,
            ),
        ),
        "nca": (xb.NCA(), lambda: (losses.NCALoss(10, distance=cosine), None)),
        "tuplet margin": (
            xb.TupletMargin(),
            (lambda: (losses.TupletMarginLoss(5.73, 64), None)) if few else None,
        ),
        "margin": (xb.Margin(), None),
        "ranked list": (xb.RankedList(), None),
        "binomial deviance": (xb.BinomialDeviance(), None),
        "decoupled": (xb.DecoupledContrastive(), None),
        "fastap": (xb.FastAP(), None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each contender")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rows", type=int, default=55_000)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case = make(options.batch, options.dim, options.rows, 0.005).to(options.device)
    print(machine(options.threads, options.device))
    print(f"B={options.batch}, D={options.dim}, M={options.rows:,}, trained regime")
    print("| weighting | ms | ÷ product | pml ÷ | MB | pml MB |")
    print("|---|---|---|---|---|---|")
    for name, (weighting, peer) in peers(options.rows <= _FEW).items():
        contenders: dict[str, Callable[[Case], Step]] = {
            "product": product,
            "ours": partial(ours, weighting=weighting),
        }
        if peer is not None:
            loss, miner = peer()
            contenders["pml"] = partial(pml_memory, loss=loss, miner=miner)
        found = measure(case, options.repeats, contenders)
        ms, mb = found["ours"]
        if peer is not None:
            beside = f"| {found['pml'][0] / ms:.1f} | {mb:.0f} | {found['pml'][1]:.0f} |"
        else:
            beside = f"| – | {mb:.0f} | – |"
        print(f"| {name} | {ms:.1f} | {ms / found['product'][0]:.2f} {beside}", flush=True)


if __name__ == "__main__":
    main()

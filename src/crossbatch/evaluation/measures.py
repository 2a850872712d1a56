"""Metrics by their names, and how deep into the ranking each has to look.

The names are the papers': ``R@K`` for a number K, ``CMC@K`` (the same number under the name that
re-identification gives it), ``MRR``, ``R-precision``, ``MAP@R``, ``mAP``, ``nDCG`` over the whole
ranking, ``nDCG@K`` over its first K places.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from crossbatch import metrics
from crossbatch.errors import CrossbatchError, expected, nearest
from crossbatch.evaluation.retrieval import Depth

DEFAULT = ("R-precision", "MAP@R", "mAP")
_PLAIN: dict[str, tuple[Depth, Callable[[Tensor], Tensor]]] = {
    "MRR": (Depth.FIRST, metrics.reciprocal_rank),
    "R-precision": (Depth.WITHIN, metrics.r_precision),
    "MAP@R": (Depth.WITHIN, metrics.map_at_r),
    "mAP": (Depth.ALL, metrics.average_precision),
    "nDCG": (Depth.ALL, metrics.ndcg),
}
_CUT = re.compile(r"(R|CMC|nDCG)@(\d+)")


class Measure(NamedTuple):
    """A metric of the ranks of some queries.

    Attributes:
        name: As it was asked for.
        depth: Which ranks it reads.
        score: From ranks (q, R) to scores (q,), NaN for queries without relevant images.
        cutoff: K, where the name has one.
    """

    name: str
    depth: Depth
    score: Callable[[Tensor], Tensor]
    cutoff: int | None = None


def measures(ks: Sequence[int], names: Sequence[str]) -> list[Measure]:
    """The metrics R@K for all ``ks``, and those of ``names``.

    Raises:
        CrossbatchError: None at all, a cutoff below 1, an unknown name, or one that stands twice.
    """
    if any(k < 1 for k in ks) or not (ks or names):
        remedy = "The usual cutoffs are (1, 10, 100, 1000)."
        got = f"ks={tuple(ks)}, metrics={tuple(names)}"
        wanted = "different cutoffs `ks`, each at least 1, or names of `metrics`"
        raise CrossbatchError(expected(wanted, got, remedy))
    wanted = [*(f"R@{k}" for k in ks), *names]
    twice = sorted({name for name in wanted if wanted.count(name) > 1})
    if twice:
        remedy = "Name each metric once."
        raise CrossbatchError(expected("different cutoffs and metrics", twice, remedy))
    return [_measure(name) for name in wanted]


def _measure(name: str) -> Measure:
    if name in _PLAIN:
        return Measure(name, *_PLAIN[name])
    cut = _CUT.fullmatch(name)
    if cut is None or int(cut[2]) < 1:
        hint = nearest(name, [*_PLAIN, "R@1", "CMC@1", "nDCG@10"])
        raise CrossbatchError(expected("a metric by its name", repr(name), hint))
    k = int(cut[2])
    if cut[1] == "nDCG":
        return Measure(name, Depth.ALL, partial(metrics.ndcg, k=k), k)
    return Measure(name, Depth.FIRST, partial(metrics.recall_at_k, k=k), k)

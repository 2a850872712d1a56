"""Which loss of pytorch-metric-learning (PML) is which weighting: a table and its reader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

from crossbatch.errors import CrossbatchError, expected
from crossbatch.weighting import (
    NCA,
    Circle,
    Contrastive,
    FastAP,
    HardestTriplet,
    LiftedStructure,
    MultiSimilarity,
    NTXent,
    PairWeighting,
    SupCon,
    TupletMargin,
)

BESIDE_REFERENCES = (
    "AngularLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SupConLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
)
"""Losses of PML that take references; one of anyone's own needs no entry."""


@dataclass(frozen=True)
class _Distance:
    """A distance of PML between rows of unit norm: the classes that compute it, and its power."""

    code: str
    classes: tuple[str, ...]
    power: float = 1

    def fits(self, distance: Any) -> bool:
        """Whether PML's distance object is this one."""
        settings = (distance.normalize_embeddings, distance.p, distance.power)
        return type(distance).__name__ in self.classes and settings == (True, 2, self.power)


_COSINE = _Distance("CosineSimilarity()", ("CosineSimilarity", "DotProductSimilarity"))


@dataclass(frozen=True)
class _Line:
    """How one loss of PML reads as a weighting.

    Args:
        make: The weighting, or a function that returns it. Integers arrive as floats.
        arguments: PML's attribute for each argument; those of the miner begin with ``miner.``.
        reducers: Those that a reduction of crossbatch equals, up to a constant factor.
        fixed: PML's attributes that must have the one value that the weighting stands for.
        distance: Of the loss and of the miner.
    """

    make: Callable[..., PairWeighting]
    arguments: Mapping[str, str]
    reducers: tuple[str, ...]
    fixed: Mapping[str, object] = field(default_factory=dict[str, object])
    distance: _Distance = _COSINE


_SQUARED = _Distance("LpDistance(normalize_embeddings=True, p=2, power=2)", ("LpDistance",), 2.0)


def _nca(scale: float) -> NCA:
    return NCA(1 / scale)


def _lifted(pos_margin: float, neg_margin: float) -> LiftedStructure:
    return LiftedStructure(pos_margin - neg_margin)


def _fastap(num_bins: float) -> FastAP:
    return FastAP(int(num_bins) + 1)


_MULTI_SIMILARITY = {"alpha": "alpha", "beta": "beta", "base": "base"}

_TABLE: Mapping[tuple[str, str | None], _Line] = {
    ("ContrastiveLoss", None): _Line(
        Contrastive,
        {"margin": "neg_margin"},
        reducers=("AvgNonZeroReducer", "SumReducer"),
        fixed={"pos_margin": 1},
    ),
    ("MultiSimilarityLoss", None): _Line(
        partial(MultiSimilarity, epsilon=None),
        _MULTI_SIMILARITY,
        reducers=("MeanReducer", "SumReducer"),
    ),
    ("MultiSimilarityLoss", "MultiSimilarityMiner"): _Line(
        MultiSimilarity,
        _MULTI_SIMILARITY | {"epsilon": "miner.epsilon"},
        reducers=("MeanReducer", "SumReducer"),
    ),
    ("TripletMarginLoss", "BatchHardMiner"): _Line(
        HardestTriplet,
        {"margin": "margin"},
        reducers=("AvgNonZeroReducer", "SumReducer"),
        fixed={
            "swap": False,
            "smooth_loss": False,
            "miner.allowed_pos_range": None,
            "miner.allowed_neg_range": None,
        },
    ),
    ("NTXentLoss", None): _Line(NTXent, {"temperature": "temperature"}, reducers=("MeanReducer",)),
    ("SupConLoss", None): _Line(
        SupCon, {"temperature": "temperature"}, reducers=("AvgNonZeroReducer", "MeanReducer")
    ),
    ("CircleLoss", None): _Line(
        Circle, {"margin": "m", "scale": "gamma"}, reducers=("AvgNonZeroReducer", "SumReducer")
    ),
    ("NCALoss", None): _Line(
        _nca, {"scale": "softmax_scale"}, reducers=("MeanReducer", "SumReducer")
    ),
    ("GeneralizedLiftedStructureLoss", None): _Line(
        _lifted,
        {"pos_margin": "pos_margin", "neg_margin": "neg_margin"},
        reducers=("MeanReducer", "SumReducer"),
    ),
    ("TupletMarginLoss", None): _Line(
        TupletMargin, {"slack": "margin", "scale": "scale"}, reducers=("MeanReducer",)
    ),
    ("FastAPLoss", None): _Line(
        _fastap, {"num_bins": "num_bins"}, reducers=("MeanReducer",), distance=_SQUARED
    ),
}


def weighting(loss: Any, *, miner: Any = None) -> PairWeighting:
    """The weighting whose loss PML's loss is, so that the engine can stream it.

    A weighting says nothing of the reduction; choose the one that PML's reducer is:

    - ContrastiveLoss: ``mean_over_active_pairs`` is AvgNonZeroReducer, its default;
      ``sum_per_anchor`` is SumReducer divided by the number of anchors.
    - MultiSimilarityLoss, with MultiSimilarityMiner or none: ``sum_per_anchor`` is MeanReducer,
      its default.
    - TripletMarginLoss with BatchHardMiner: ``mean_over_active_pairs`` is AvgNonZeroReducer, its
      default; ``sum_per_anchor`` is SumReducer divided by the number of anchors.

    - All others: ``mean_over_anchors`` is PML's default. NTXentLoss and TupletMarginLoss average
      over positive pairs, ours over anchors: the same where anchors have equally many positives.

    Gradients are equal then. Values are, too, but for ContrastiveLoss: an active negative counts
    S here, as in the paper, and S − margin in PML. So ours is larger by the margin in the mean,
    and by margin · active negatives / anchors in the sum.

    Edges that differ: MultiSimilarityLoss without a miner counts an anchor that lacks positives
    or negatives, which the paper and ours leave out; a miner sees an anchor's own copy before it
    is removed, which matters where there is no other positive; of equally hard pairs
    BatchHardMiner takes the first, and ours shares the weight; a positive at a similarity of 1
    has no loss, and AvgNonZeroReducer does not count it.

    Args:
        loss: A loss of PML with ``distance=CosineSimilarity()``.
        miner: The miner of PML that stands before it, with the same distance.

    Returns:
        A weighting with the settings of the loss. Embeddings must be normalised, as in PML's
        distance; :class:`CrossBatchMemory` of this module does so.

    Raises:
        CrossbatchError: There is no weighting for the loss, or one of its settings means
            something else: another distance, reducer, regulariser or option.
    """
    for thing in (loss, miner):
        if thing is not None and not of_pml(thing):
            raise _refusal(
                "an object of pytorch-metric-learning",
                f"{type(thing).__module__}.{type(thing).__name__}",
                "Weightings of crossbatch are passed as they are.",
            )
    name = type(loss).__name__
    line = _TABLE.get((name, None if miner is None else type(miner).__name__))
    if line is None:
        known = [loss + (f" with {miner}" if miner else "") for loss, miner in _TABLE]
        got = f"{name} with {'no miner' if miner is None else type(miner).__name__}"
        remedy = "Leave the loss as it is: CrossBatchMemory lists its pairs as PML does."
        raise _refusal(f"one of {', '.join(known)}", got, remedy)
    for owner in (loss, miner):
        if owner is not None and not line.distance.fits(owner.distance):
            raise _refusal(
                f"distance={line.distance.code} of {type(owner).__name__}",
                _shown(owner.distance),
                f"Pass distance={line.distance.code}; margins are similarities then.",
            )
    _check_settings(loss, miner, line)
    return line.make(
        **{ours: _read(loss, miner, theirs) for ours, theirs in line.arguments.items()}
    )


def of_pml(thing: object) -> bool:
    """Whether PML itself defines the class: one derived from it may mean something else."""
    return type(thing).__module__.partition(".")[0] == "pytorch_metric_learning"


def _check_settings(loss: Any, miner: Any, line: _Line) -> None:
    name = type(loss).__name__
    for attribute, value in ({"embedding_regularizer": None} | dict(line.fixed)).items():
        found = _read(loss, miner, attribute)
        if found != value:
            remedy = f"Set it to {value}, or leave the loss as it is."
            raise _refusal(f"{attribute}={value} of {name}", found, remedy)
    for reducer in getattr(loss.reducer, "reducers", {"": loss.reducer}).values():
        known = of_pml(reducer) and type(reducer).__name__ in line.reducers
        if not known or getattr(reducer, "high", None) is not None:
            remedy = "The reduction is chosen by PairLoss(weighting, reduction=...)."
            raise _refusal(f"{' or '.join(line.reducers)} of {name}", _shown(reducer), remedy)


def _read(loss: Any, miner: Any, attribute: str) -> Any:
    """An attribute of the loss, or of the miner where it begins with ``miner.``."""
    owner, _, of_miner = attribute.partition("miner.")
    found = attrgetter(of_miner)(miner) if of_miner else attrgetter(owner)(loss)
    return float(found) if type(found) is int else found


def _shown(module: Any) -> str:
    settings = ("normalize_embeddings", "p", "power", "low", "high")
    own = [f"{name}={getattr(module, name)}" for name in settings if hasattr(module, name)]
    return f"{type(module).__name__}({', '.join(own)})"


def _refusal(what: str, got: object, remedy: str) -> CrossbatchError:
    return CrossbatchError(expected(f"{what} in compat.pml.weighting", got, remedy))

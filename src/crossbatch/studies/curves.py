r"""Weight curves: what a weighting makes of easy and hard pairs, of the batch and of the memory.

A weight depends on the similarity of its pair and on statistics of all pairs of its anchor. It
becomes a curve once the anchor's surroundings are given:

    w_i(s) = w(s; m_i ⊕ s),

the weight that one more pair of similarity s would get beside anchor i, its own part in the
statistics m_i included. Over the anchors the study takes the median and the band that holds four
fifths of them.

The *mass* of a side is Σ |w_ij| over the real pairs. It says where the gradient comes from: a
weight that is small, on pairs that are many, can outweigh a large one.

The engine takes the statistics. For it anchor i is the unit vector e_i and reference j the column
S_·j, so that it meets exactly the similarities of the sample; the one more pair is one more
coordinate, s in the anchor and 1 in one more reference.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from crossbatch._shapes import Float
from crossbatch.engine import PairLossResult, pair_loss
from crossbatch.errors import CrossbatchError, expected
from crossbatch.references import Batch
from crossbatch.studies.sample import Sample
from crossbatch.training import known_weightings
from crossbatch.weighting import PairWeighting
from crossbatch.weighting.statistics import Side

SIDES: tuple[Side, Side] = ("positive", "negative")
HARDEST = 0.01
_BAND = (0.1, 0.5, 0.9)

Weightings = Sequence[PairWeighting] | Mapping[str, PairWeighting]
"""To study; a mapping gives them names, otherwise their code is their name."""

Watch = Callable[[Iterable[tuple[str, PairWeighting]]], Iterable[tuple[str, PairWeighting]]]
"""Passes weightings on and may show how far they are."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One side of a weighting over G bins of similarity.

    Attributes:
        median: Over the anchors, of the weight of one more pair in the middle of the bin, (G,).
        low: Its 10th percentile, (G,).
        high: Its 90th percentile, (G,).
        pairs: How many real pairs are in the bin, (G,).
        mass_batch: Σ |w| of those with a row of the batch, (G,).
        mass_memory: Σ |w| of those with an older row, (G,).
        active: How many pairs have a weight other than zero.
        hardest: The share of the mass that lies on the hardest hundredth of the pairs: positives
            of least, negatives of greatest similarity. NaN where there is no mass.
    """

    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    pairs: np.ndarray
    mass_batch: np.ndarray
    mass_memory: np.ndarray
    active: int
    hardest: float

    @property
    def mass(self) -> float:
        """Σ |w|."""
        return float(self.mass_batch.sum() + self.mass_memory.sum())

    @property
    def memory_share(self) -> float:
        """The share of the mass that comes from the memory; NaN where there is no mass."""
        return float(self.mass_memory.sum() / self.mass) if self.mass else np.nan

    @property
    def active_share(self) -> float:
        """The share of the pairs whose weight is not zero; NaN where there are no pairs."""
        return self.active / int(self.pairs.sum()) if self.pairs.any() else np.nan


@dataclass(frozen=True, eq=False)
class WeightCurves:
    """A weighting seen in samples.

    Attributes:
        name: Of the weighting, as a rule its code.
        similarity: The middles of the bins, (G,), equally spaced in [-1, 1].
        positive: w⁺.
        negative: w⁻.
    """

    name: str
    similarity: np.ndarray
    positive: Curve
    negative: Curve


def weight_curves(
    weightings: Weightings, samples: Sequence[Sample], *, bins: int = 100, watch: Watch = iter
) -> list[WeightCurves]:
    """Look at weightings in samples.

    Args:
        weightings: Any, also those of :func:`crossbatch.from_functions`.
        samples: From :func:`draw_samples`, :func:`sample_run` or :func:`synthetic_samples`.
        bins: G ≥ 2.
        watch: Wrapped around the weightings, such as a progress bar.

    Raises:
        CrossbatchError: Nothing to look at, or a weight that is not finite.

    Cost: per weighting and sample the engine with B·G anchors, twice; a second or so for 64
    anchors beside 2,000 references.

    >>> from crossbatch import Contrastive
    >>> from crossbatch.studies import synthetic_samples
    >>> (curves,) = weight_curves([Contrastive(0.5)], synthetic_samples(batches=1), bins=8)
    >>> curves.similarity.tolist()
    [-0.875, -0.625, -0.375, -0.125, 0.125, 0.375, 0.625, 0.875]
    >>> curves.negative.median.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    named = dict(
        weightings.items()
        if isinstance(weightings, Mapping)
        else [(repr(w), w) for w in weightings]
    )
    if not named or not samples or bins < 2:
        got = f"{len(named)} weightings, {len(samples)} samples, bins={bins}"
        remedy = "Give for example [Contrastive()] and synthetic_samples()."
        raise CrossbatchError(
            expected("weightings, samples and at least two `bins` in weight_curves", got, remedy)
        )
    for name, weighting in named.items():
        if not isinstance(weighting, PairWeighting):  # pyright: ignore[reportUnnecessaryIsInstance]
            remedy = "Lift two plain functions with crossbatch.from_functions."
            raise CrossbatchError(expected("weightings in weight_curves", repr(name), remedy))
    edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    found: list[WeightCurves] = []
    for name, weighting in watch(named.items()):
        sides = {side: _Side(bins) for side in SIDES}
        for sample in samples:
            for side, weights in pair_weights(weighting, sample).items():
                sides[side].add(sample, weights, sample.pairs(side), hard_first=side == "negative")
                sides[side].curves.append(_one_more(weighting, sample, side, middles))
        positive, negative = (sides[side].finish() for side in SIDES)
        found.append(WeightCurves(name, middles.numpy(), positive, negative))
    return found


def default_weightings() -> list[PairWeighting]:
    """Every weighting that :mod:`crossbatch.weighting` exports and that needs no argument."""
    return [kind() for kind in known_weightings().values() if _needs_no_argument(kind)]


def _needs_no_argument(kind: type[PairWeighting]) -> bool:
    parameters = inspect.signature(kind).parameters.values()
    return all(parameter.default is not parameter.empty for parameter in parameters)


def pair_weights(weighting: PairWeighting, sample: Sample) -> dict[Side, Float[Tensor, "B M"]]:
    """Both weights of every pair of a sample; zero where there is no pair of that side."""
    sim = sample.similarities.double()
    references = Batch(sim.T.contiguous(), sample.reference_labels, sample.reference_ids)
    anchors = torch.eye(len(sim), dtype=sim.dtype)
    result = pair_loss(
        anchors, sample.labels, weighting=weighting, references=references, ids=sample.ids
    )
    return {side: _weights(weighting, side, sim, result, sample.pairs(side)) for side in SIDES}


def _one_more(
    weighting: PairWeighting, sample: Sample, side: Side, middles: Tensor
) -> Float[Tensor, "B G"]:
    """The weight of one more pair of each similarity beside each anchor."""
    new_label = int(min(sample.labels.min(), sample.reference_labels.min())) - 1
    new_id = int(min(sample.ids.min(), sample.reference_ids.min())) - 1
    curves = sample.similarities.new_empty(len(sample.labels), len(middles)).double()
    for label in sample.labels.unique():  # one more reference can have one label
        rows = (sample.labels == label).nonzero().flatten()
        sim = sample.similarities[rows].double()
        anchors = torch.eye(len(rows) + 1, dtype=sim.dtype)[:-1]
        anchors = anchors.repeat_interleave(len(middles), dim=0)
        anchors[:, -1] = middles.repeat(len(rows))
        columns = torch.cat([sim.T, sim.new_zeros(sim.shape[1], 1)], dim=1)
        more = torch.eye(len(rows) + 1, dtype=sim.dtype)[-1:]
        last = label if side == "positive" else label.new_tensor(new_label)
        result = pair_loss(
            anchors,
            label.repeat(len(anchors)),
            weighting=weighting,
            references=Batch(
                torch.cat([columns, more]),
                torch.cat([sample.reference_labels, last[None].to(sample.reference_labels)]),
                torch.cat([sample.reference_ids, sample.reference_ids.new_tensor([new_id])]),
            ),
            ids=sample.ids[rows].repeat_interleave(len(middles)),
        )
        all_pairs = torch.ones(len(anchors), 1, dtype=torch.bool)
        weights = _weights(weighting, side, anchors[:, -1:].clone(), result, all_pairs)
        curves[rows] = weights.view(len(rows), len(middles))
    return curves


def _weights(
    weighting: PairWeighting, side: Side, sim: Tensor, result: PairLossResult, pairs: Tensor
) -> Tensor:
    """One weight function as the engine applies it: on pairs of its side, beside statistics."""
    counts = ("positives", "negatives", "active_positives", "active_negatives")
    stats = result.statistics | {name: getattr(result, name) for name in counts}
    columns = {name: value[:, None].to(sim.dtype) for name, value in stats.items()}
    function = weighting.positive if side == "positive" else weighting.negative
    weights = function(sim.clone(), columns)
    if weighting.needs_both:
        pairs = pairs & ((result.positives > 0) & (result.negatives > 0))[:, None]
    weights = torch.where(pairs, weights, 0.0)
    if not bool(torch.isfinite(weights).all()):
        remedy = "Bound the exponent, or the similarities that it is given."
        raise CrossbatchError(expected(f"finite {side} weights of {weighting!r}", weights, remedy))
    return weights


@dataclass
class _Side:
    """Sums over samples."""

    bins: int
    curves: list[Tensor] = field(default_factory=list[Tensor])
    hardness: list[Tensor] = field(default_factory=list[Tensor])
    masses: list[Tensor] = field(default_factory=list[Tensor])
    older: list[Tensor] = field(default_factory=list[Tensor])
    places: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, sample: Sample, weights: Tensor, pairs: Tensor, *, hard_first: bool) -> None:
        """Take the pairs of a side of a sample."""
        sim = sample.similarities.double()[pairs]
        self.hardness.append(sim if hard_first else -sim)
        self.places.append(((sim + 1) / 2 * self.bins).long().clamp(0, self.bins - 1))
        self.masses.append(weights[pairs].abs())
        self.older.append((~sample.in_batch).expand_as(pairs)[pairs])

    def finish(self) -> Curve:
        low, median, high = np.quantile(torch.cat(self.curves).numpy(), _BAND, axis=0)
        places, masses, older = (torch.cat(p) for p in (self.places, self.masses, self.older))
        hardest = torch.cat(self.hardness).topk(int(np.ceil(HARDEST * len(masses)))).indices
        total = float(masses.sum())

        def histogram(weights: Tensor) -> np.ndarray:
            return torch.bincount(places, weights, minlength=self.bins).numpy()

        return Curve(
            median=median,
            low=low,
            high=high,
            pairs=torch.bincount(places, minlength=self.bins).numpy(),
            mass_batch=histogram(masses * ~older),
            mass_memory=histogram(masses * older),
            active=int((masses != 0).sum()),
            hardest=float(masses[hardest].sum()) / total if total else np.nan,
        )

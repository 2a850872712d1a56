r"""The loop: once over the tiles per stage of statistics, once more for the gradient.

    for stage in stages:  m_i ← m_i ⊕ fold(tile)                    (statistics, B × k)
    last sweep:           G⁻ ← G⁻ + W⁻ R,   G⁺ ← G⁺ + W⁺ R          (gradient, B × D)

A block of similarities is as large as half a cache, never B × M. Where the weighting knows a bound
below which w⁻ vanishes, the last sweep looks for the columns that pass it and goes on with those
alone (*sparse*); while many pass it takes whole tiles (*dense*). Both give the same numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from crossbatch._shapes import Bool, Float
from crossbatch.engine.compare import Anchors, Comparison, compare
from crossbatch.references import References, Tile
from crossbatch.weighting import PairWeighting, Statistic
from crossbatch.weighting.statistics import Stats

Path = Literal["dense", "sparse"]

_BLOCK_BYTES = {"cpu": 512 * 1024, "cuda": 64 * 1024 * 1024}
_BLOCKS = 8  # blocks of similarities in a tile
_SPARSE_BELOW = 0.5  # share of columns that pass the bound; above it gathering costs more
_PROBE_EVERY = 8  # blocks between two looks at that share while the path is dense


@dataclass
class Folded:
    """What the sweeps leave behind: B × k statistics and B × D gradients, both of which add up."""

    stats: dict[str, Tensor]
    pull_gradient: Float[Tensor, "B D"]
    push_gradient: Float[Tensor, "B D"]
    reference_pull: Float[Tensor, "M D"] | None = None
    reference_push: Float[Tensor, "M D"] | None = None
    paths: list[Path] = field(default_factory=list[Path])


def tile_rows(anchors: Anchors) -> int:
    """As many references as keep the block of similarities in half of a second-level cache."""
    kind = anchors.embeddings.device.type
    row_bytes = anchors.embeddings.element_size() * max(len(anchors), 1)
    return max(_BLOCK_BYTES.get(kind, _BLOCK_BYTES["cuda"]) // row_bytes, 64)


def sweep(
    anchors: Anchors,
    references: References,
    weighting: PairWeighting,
    *,
    rows: int,
    path: Path | None = None,
    reference_gradient: bool = False,
) -> Folded:
    """Fold all stages, then the gradient.

    Args:
        anchors: The B anchors.
        references: Whatever yields tiles.
        weighting: The weight functions and the stages of statistics that they read.
        rows: References in a block of similarities.
        path: Force the dense or the sparse last sweep; None chooses block by block.
        reference_gradient: Whether to take the gradient with respect to the references, too.

    Returns:
        Sums over pairs, not yet reduced. Cost: one product B × M × D per stage, and for the
        gradient one (sparse) or two (dense) more; memory one block and a few B × D.
    """
    counted: dict[str, Tensor] = {}
    stages = weighting.stages or (((),) if weighting.needs_both else ())
    for stage in stages:
        counted |= _fold_stage(anchors, references, stage, counted, rows=rows)
    last = _Gradient(anchors, weighting, counted, len(references) if reference_gradient else None)
    chooser = _Chooser(path, weighting.negative_bound(_columns(counted)))
    start = 0
    for tile in references.tiles(rows * _BLOCKS):
        candidate = anchors.candidates(tile)
        passing: list[Tensor] = []
        similar: list[Tensor] = []
        for block, sim in _blocks(anchors, tile, rows):
            columns = chooser.columns(sim, candidate[block])
            if columns is None:
                part = Tile(tile.embeddings[block], tile.labels[block], tile.ids[block])
                place = slice(start + block.start, start + block.stop)
                last.absorb(compare(anchors, part, sim, candidate=candidate[block]), place)
            else:
                similar.append(sim.index_select(1, columns))
                passing.append(columns.add_(block.start))
        if passing:
            columns, sim = torch.cat(passing), torch.cat(similar, dim=1)
            part = Tile(*(rows.index_select(0, columns) for rows in tile))
            last.absorb(
                compare(anchors, part, sim, candidate=candidate[columns]), columns.add_(start)
            )
        start += len(tile.embeddings)
    last.folded.paths = chooser.taken
    return last.finish(len(references))


def _blocks(
    anchors: Anchors, tile: Tile, rows: int
) -> Iterator[tuple[slice, Float[Tensor, "B T"]]]:
    """The similarities of a tile, block by block, in one buffer that is written again and again.

    A tile is several blocks: labels and ids are looked up once for all of them.
    """
    x = anchors.embeddings
    buffer = x.new_empty(len(x) * min(rows, len(tile.embeddings)))
    for start in range(0, len(tile.embeddings), rows):
        block = slice(start, min(start + rows, len(tile.embeddings)))
        r = tile.embeddings[block].detach().to(x.dtype)
        sim = buffer[: len(x) * len(r)].view(len(x), len(r))
        yield block, torch.mm(x, r.T, out=sim)


def _columns(stats: Stats) -> dict[str, Tensor]:
    """(B,) as (B, 1), to stand beside blocks of similarities."""
    return {name: value[:, None] for name, value in stats.items()}


def _fold_stage(
    anchors: Anchors,
    references: References,
    stage: tuple[Statistic, ...],
    known: dict[str, Tensor],
    *,
    rows: int,
) -> dict[str, Tensor]:
    x = anchors.embeddings
    folded = {s.name: x.new_full((len(x),), s.monoid.identity) for s in stage}
    counts = {name: x.new_zeros(len(x)) for name in ("positives", "negatives")}
    stats = _columns(known)
    for tile in references.tiles(rows * _BLOCKS):
        candidate = anchors.candidates(tile)
        for block, sim in _blocks(anchors, tile, rows):
            part = Tile(tile.embeddings[block], tile.labels[block], tile.ids[block])
            pairs = compare(anchors, part, sim, candidate=candidate[block])
            counts["positives"] += pairs.positives()
            counts["negatives"] += pairs.negatives()
            for statistic in stage:
                term = fold_tile(statistic, pairs, stats)
                folded[statistic.name] = statistic.monoid.merge(folded[statistic.name], term)
    return counts | folded


def fold_tile(statistic: Statistic, pairs: Comparison, stats: Stats) -> Float[Tensor, " B"]:
    """One statistic over one tile. Overwrites ``pairs.sim`` where it holds no negatives."""
    monoid = statistic.monoid
    if statistic.side == "positive":
        term = statistic.term(pairs.strip, stats)
        return monoid.fold(torch.where(pairs.positive, term, monoid.identity))
    return monoid.fold(pairs.fill_excluded(statistic.term(pairs.sim, stats), monoid.identity))


class _Gradient:
    """The last sweep: weights, their products with the references, and sums for the report."""

    def __init__(
        self, anchors: Anchors, weighting: PairWeighting, counted: Stats, rows: int | None
    ) -> None:
        x = anchors.embeddings
        self._x, self._weighting, self._stats = x, weighting, _columns(counted)
        self._valid: Bool[Tensor, "B 1"] | None = None
        if weighting.needs_both:
            both = (counted["positives"] > 0) & (counted["negatives"] > 0)
            self._valid = both[:, None]
        names = ("positives", "excluded", "active_positives", "active_negatives", "pull")
        self._sums = {name: x.new_zeros(len(x)) for name in names}
        self.folded = Folded(dict(counted), torch.zeros_like(x), torch.zeros_like(x))
        if rows is not None:
            self.folded.reference_pull = x.new_zeros(rows, x.shape[1])
            self.folded.reference_push = x.new_zeros(rows, x.shape[1])

    def absorb(self, pairs: Comparison, place: Tensor | slice) -> None:
        """Add some references, which stand at ``place`` among all of them."""
        pull = self._weighting.positive(pairs.strip, self._stats)
        pull = torch.where(pairs.positive, pull, 0.0)
        push = pairs.fill_excluded(self._weighting.negative(pairs.sim, self._stats), 0.0)
        if self._valid is not None:
            pull, push = pull * self._valid, push * self._valid
        references = pairs.references.detach().to(self._x.dtype)
        self.folded.pull_gradient.addmm_(pull, references.index_select(0, pairs.columns))
        self.folded.push_gradient.addmm_(push, references)
        self._sums["pull"] += (pull * pairs.strip).sum(dim=1)
        self._sums["positives"] += pairs.positives()
        self._sums["excluded"] += pairs.excluded.sum(dim=1)
        self._sums["active_positives"] += _nonzero(pull)
        self._sums["active_negatives"] += _nonzero(push)
        if self.folded.reference_pull is not None and self.folded.reference_push is not None:
            rows = torch.arange(len(self.folded.reference_pull), device=self._x.device)[place]
            self.folded.reference_pull.index_add_(0, rows[pairs.columns], pull.T @ self._x)
            self.folded.reference_push.index_add_(0, rows, push.T @ self._x)

    def finish(self, rows: int) -> Folded:
        """Name the sums; Σ w⁻ S = ⟨x, G⁻⟩ costs no pass of its own."""
        sums = self._sums
        excluded = sums.pop("excluded")
        sums["negatives"] = rows - excluded
        sums["push"] = (self._x * self.folded.push_gradient).sum(dim=1)
        self.folded.stats |= sums
        return self.folded


def _nonzero(block: Float[Tensor, "B T"]) -> Float[Tensor, " B"]:
    return torch.ne(block, 0, out=torch.empty_like(block)).sum(dim=1)


class _Chooser:
    """Which columns of a tile the last sweep goes on with: those that pass the bound, or all."""

    def __init__(self, path: Path | None, bound: Tensor | float | None) -> None:
        self._bound = bound
        self._path: Path = "dense" if bound is None else path or "sparse"
        self._forced = bound is None or path is not None
        self.taken: list[Path] = []

    def columns(self, sim: Tensor, candidate: Tensor) -> Tensor | None:
        probe = not self._forced and len(self.taken) % _PROBE_EVERY == 0
        if self._path == "dense" and not probe:
            self.taken.append("dense")
            return None
        keep = self._passing(sim).logical_or_(candidate)
        columns = keep.nonzero().flatten()
        if not self._forced:
            share = len(columns) / max(sim.shape[1], 1)
            self._path = "sparse" if share < _SPARSE_BELOW else "dense"
        self.taken.append(self._path)
        return columns if self._path == "sparse" else None

    def _passing(self, sim: Tensor) -> Tensor:
        assert self._bound is not None
        if isinstance(self._bound, Tensor):
            passing = torch.gt(sim, self._bound, out=torch.empty_like(sim))
            return passing.amax(dim=0) > 0
        return sim.amax(dim=0) > self._bound

r"""From stages of statistics to the gradient, past the references as rarely as can be.

    for stage in stages:  m_i ← m_i ⊕ fold(tile)                    (statistics, B × k)
    last:                 G⁻ ← G⁻ + W⁻ R,   G⁺ ← G⁺ + W⁺ R          (gradient, B × D)

Statistics of positives, and all that regards mixed references, need the mixed few alone. The plain
rest is passed in the first stage that has negatives, and with some luck never again:

- w⁻ = exp(E + F): the gradient is taken along as a running softmax;
- a rising bound: pairs that set a record are put by, and later sweeps go over these;
- otherwise once more, with the bound that is known by then.

Of references that are spread over ranks each rank passes its part, with the anchors of all: m_i is
merged after each stage, G⁺ and G⁻ are summed at the end. What is put by or taken along (records, a
running softmax) regards a rank's own part and stays there.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from crossbatch._recorded import Room
from crossbatch._shapes import Float
from crossbatch.collective import Ranks
from crossbatch.engine.fused import Sums
from crossbatch.engine.pairs import Anchors, Mixed, Split, above, places_of
from crossbatch.engine.plain import Path, PlainSweep
from crossbatch.engine.push import Block, Bound, Pairs, Push, RunningSoftmax, Weighted, columns
from crossbatch.references import References, Sharded
from crossbatch.weighting import PairWeighting, Statistic
from crossbatch.weighting.statistics import LOG_SUM_EXP, MAX, Stats

_BLOCK_BYTES = {"cpu": 512 * 1024, "cuda": 64 * 1024 * 1024}
_RECORDS = 64  # pairs put by for each anchor, on average; with more it does not pay


@dataclass
class Folded:
    """What the sweeps leave behind: B × k statistics and B × D gradients, both of which add up."""

    stats: dict[str, Tensor]
    pull_gradient: Float[Tensor, "B D"]
    push_gradient: Float[Tensor, "B D"]
    reference_pull: Float[Tensor, "M D"] | None = None
    reference_push: Float[Tensor, "M D"] | None = None
    paths: list[Path] = field(default_factory=list[Path])
    mixed: int | Tensor = 0

    def rows(self, own: slice) -> "Folded":
        """What regards some of the anchors."""
        stats = {name: value[own] for name, value in self.stats.items()}
        return Folded(
            stats, self.pull_gradient[own], self.push_gradient[own], paths=list(self.paths)
        )


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
    rows: int | None = None,
    path: Path | None = None,
    reference_gradient: bool = False,
    room: Room | None = None,
) -> Folded:
    """Fold all stages, then the gradient.

    Args:
        anchors: The B anchors.
        references: Whatever yields tiles. If they are sharded, all ranks call this together.
        weighting: The weight functions and the stages of statistics that they read.
        rows: References in a block of similarities, None for :func:`tile_rows`.
        path: Force the path past plain references; None chooses tile by tile.
        reference_gradient: Whether to take the gradient with respect to the references, too.
        room: For how many mixed references of a tile; see :class:`crossbatch.engine.pairs.Split`.

    Returns:
        Sums over pairs, not yet reduced. Cost: one product B × M × D, a part of it or all of it
        again for the gradient, and one more for each further stage with negatives; memory one
        tile and a few B × D. Of sharded references M is the part of this rank and B all anchors
        of all ranks.
    """
    ranks, own = Ranks(), slice(None)
    if isinstance(references, Sharded):
        ranks, references = references.ranks, references.part
        columns, sizes = ranks.gather(anchors.embeddings, anchors.labels, anchors.ids)
        anchors, own = Anchors(*columns), ranks.of(ranks.rank, sizes)
    split = Split(anchors, references, rows or tile_rows(anchors), room=room)
    run = _Sweep(split, weighting, ranks, path, reference_gradient)
    for stage in weighting.stages:
        run.fold(stage)
    folded = run.gradient()
    return folded if ranks.world == 1 else folded.rows(own)


class _Sweep:
    def __init__(
        self,
        split: Split,
        weighting: PairWeighting,
        ranks: Ranks,
        path: Path | None,
        reference_gradient: bool,
    ) -> None:
        self._split, self._weighting, self._ranks = split, weighting, ranks
        self._path: Path | None = path
        self._x = split.anchors.embeddings
        self._reference_gradient = reference_gradient
        self._softmax: RunningSoftmax | None = None
        self._records: list[Pairs] | None = None
        self._passed = False
        self._taken: list[Path] = []
        self._stats = self._counts()

    def fold(self, stage: tuple[Statistic, ...]) -> None:
        """All statistics of a stage."""
        values = {s.name: s.monoid.empty(len(self._x), self._x) for s in stage}
        known = columns(self._stats)
        for block in self._split.mixed():
            for s in stage:
                values[s.name] = s.monoid.merge(values[s.name], _fold_mixed(s, block, known))
        pushed = [s for s in stage if s.side == "negative"]
        if pushed and self._split.any_plain:
            self._fold_plain(pushed, values)
        for s in stage:
            self._stats[s.name] = self._ranks.merge(values[s.name], s.monoid.merge)

    def gradient(self) -> Folded:
        """Both gradients with all statistics known, and sums for the report."""
        stats, x = self._stats, self._x
        valid = torch.ones_like(stats["positives"])
        if self._weighting.needs_both:
            valid = ((stats["positives"] > 0) & (stats["negatives"] > 0)).to(x.dtype)
        last = _Last(self._weighting, stats, x, valid)
        if self._reference_gradient:
            last.reference_pull = x.new_zeros(len(self._split.references), x.shape[1])
            last.reference_push = torch.zeros_like(last.reference_pull)
        for block in self._split.mixed():
            last.mixed(block)
        if self._split.any_plain:
            self._plain_gradient(last)
        last.exchange(self._ranks)
        folded = Folded(stats, last.pull_gradient, last.push_gradient * valid[:, None])
        folded.stats |= last.report | {
            "pull": last.pull,
            "push": (x * folded.push_gradient).sum(dim=1),
            "active_positives": last.active_positives,
            "active_negatives": last.active_negatives * valid,
        }
        folded.reference_pull, folded.reference_push = last.reference_pull, last.reference_push
        folded.paths, folded.mixed = self._taken, self._split.count
        return folded

    def _counts(self) -> dict[str, Tensor]:
        positives = self._x.new_zeros(len(self._x))
        negatives = self._x.new_zeros(len(self._x)) + self._split.plain
        for block in self._split.mixed():
            positives += block.positive.sum(dim=1)
            negatives += block.negative.sum(dim=1)
        self._ranks.add(positives, negatives)
        return {"positives": positives, "negatives": negatives}

    def _fold_plain(self, pushed: list[Statistic], values: dict[str, Tensor]) -> None:
        """Past the plain references; ``values`` hold the mixed ones already and are raised."""
        exponent = self._weighting.negative_exponent
        first, self._passed = not self._passed, True
        folding = _Folding(pushed, self._stats, values)
        if self._records is not None:
            for pairs in self._records:
                folding.pairs(pairs)
            return
        sinks: list[Push] = [folding]
        bound = self._bound(pushed)
        probe = (
            exponent(self._x.new_zeros(len(self._x), 1), columns(self._stats))
            if first and all(s.side == "positive" for s in self._weighting.report)
            else None
        )
        if first and probe is not None and not self._reference_gradient:
            terms = [self._weighting.negative_term, *([exponent] if bound is None else [])]
            known = [s for s in pushed if s.term in terms and s.monoid in (MAX, LOG_SUM_EXP)]
            others = [s for s in pushed if s not in known]
            softmax = RunningSoftmax(self._weighting, self._stats, self._x, bound)
            if others:
                self._pass([_Folding(others, self._stats, values), softmax], bound)
            else:
                self._pass([softmax], bound, line=self._weighting.negative_line)
            for s in known:
                values[s.name] = s.monoid.merge(values[s.name], softmax.statistic(s.monoid))
            self._softmax = softmax
            return
        rising = self._weighting.rising_bound(self._stats | values) if first else None
        if rising is None or self._reference_gradient or self._split.room is not None:
            self._pass(sinks, bound)
            return
        records = _Records(self._weighting, self._stats, values, self._x)
        self._pass([*sinks, records], None)
        self._records = records.final()

    def _plain_gradient(self, last: "_Last") -> None:
        if self._softmax is not None:
            factor = self._weighting.negative_log_factor(self._stats)
            last.push_gradient += self._softmax.gradient(factor)
            last.active_negatives += torch.where(factor > -torch.inf, self._softmax.active, 0.0)
            return
        pushed = [s for s in self._weighting.report if s.side == "negative"]
        folding = _Folding(pushed, self._stats, last.report)
        weighted = Weighted(self._weighting, self._stats, self._x)
        if self._reference_gradient:
            weighted.reference = last.reference_push
            weighted.reference_anchors = last.valid_anchors
        if self._records is not None:
            for pairs in self._records:
                folding.pairs(pairs)
                weighted.pairs(pairs)
        else:
            bound = self._bound(pushed)
            if self._reference_gradient:
                self._pass([folding, weighted], None)
            elif pushed or self._weighting.negative_bound(self._stats) is None:
                self._pass([folding, weighted], bound)
            else:
                self._pass([weighted], bound, line=self._weighting.negative_line)
        last.push_gradient += weighted.gradient
        last.active_negatives += weighted.active

    def _bound(self, pushed: list[Statistic]) -> Bound:
        """Where pairs have neither a weight nor a term."""
        if not all(s.bounded for s in pushed):
            return None
        return self._weighting.negative_bound(self._stats)

    def _pass(
        self, sinks: list[Push], bound: Bound, line: tuple[float, float] | None = None
    ) -> None:
        plain = PlainSweep(self._split, bound=bound, line=line, path=self._path)
        plain.run(sinks)
        self._taken += plain.taken


def _fold_mixed(statistic: Statistic, block: Mixed, known: Stats) -> Tensor:
    mask = block.positive if statistic.side == "positive" else block.negative
    term = statistic.term(block.sim, known)
    return statistic.monoid.fold(torch.where(mask, term, statistic.monoid.identity))


class _Folding:
    """Statistics of plain negatives, merged into ``values`` as they come."""

    def __init__(
        self, statistics: list[Statistic], early: Stats, values: dict[str, Tensor]
    ) -> None:
        self._statistics, self._early, self._columns = statistics, early, columns(early)
        self._values = values

    def block(self, block: Block) -> None:
        for s in self._statistics:
            term = s.term(block.sim, self._columns)
            term = block.hide(term.clone() if term is block.sim else term, s.monoid.identity)
            self._merge(s, s.monoid.fold(term))

    def pairs(self, pairs: Pairs) -> None:
        for s in self._statistics:
            term = s.term(pairs.sim, pairs.at_anchors(self._early))
            rows = len(self._values[s.name])
            self._merge(s, s.monoid.fold_pairs(term, pairs.anchor, rows))

    def sums(self, sums: Sums) -> None:
        raise AssertionError("statistics are folded on other paths")

    def _merge(self, statistic: Statistic, result: Tensor) -> None:
        name = statistic.name
        self._values[name] = statistic.monoid.merge(self._values[name], result)


class _Records:
    """Pairs above a rising bound when they were met; after the sweep those above the final one."""

    def __init__(
        self, weighting: PairWeighting, early: Stats, running: dict[str, Tensor], x: Tensor
    ) -> None:
        self._weighting, self._early, self._running, self._x = weighting, early, running, x
        self._met: list[Pairs] | None = []
        self._count = 0

    def block(self, block: Block) -> None:
        if self._met is None:
            return
        passing = torch.empty(block.sim.shape, dtype=torch.bool, device=block.sim.device)
        above(block.sim, self._bound()[:, None], out=passing)
        flat = places_of(block.hide(passing, by=0.0))
        self._count += len(flat)
        if self._count > _RECORDS * len(self._x):
            self._met = None
            return
        anchor = flat.div(passing.shape[1], rounding_mode="floor")
        column = flat - anchor * passing.shape[1]
        rows = block.references.index_select(0, column)
        sim = block.sim.reshape(-1).index_select(0, flat)
        self._met.append(Pairs(anchor, torch.arange(len(flat), device=flat.device), sim, rows))

    def pairs(self, pairs: Pairs) -> None:
        raise AssertionError("a rising bound is met on the dense path")

    def sums(self, sums: Sums) -> None:
        raise AssertionError("a rising bound is met on the dense path")

    def final(self) -> list[Pairs] | None:
        """What passes the final bound."""
        if self._met is None:
            return None
        bound = self._bound()
        kept: list[Pairs] = []
        for pairs in self._met:
            keep = places_of(pairs.sim > bound.index_select(0, pairs.anchor))
            kept.append(pairs.rows(keep))
        return kept

    def _bound(self) -> Tensor:
        bound = self._weighting.rising_bound({**self._early, **self._running})
        assert bound is not None
        return bound


class _Last:
    """The gradient over mixed references, to which that over plain ones is added."""

    def __init__(
        self, weighting: PairWeighting, stats: Stats, x: Tensor, valid: Float[Tensor, " B"]
    ) -> None:
        self._weighting, self._columns, self._x, self._valid = weighting, columns(stats), x, valid
        self.valid_anchors = x * valid[:, None]
        self.report = {s.name: s.monoid.empty(len(x), x) for s in weighting.report}
        self.pull_gradient, self.push_gradient = torch.zeros_like(x), torch.zeros_like(x)
        names = ("pull", "active_positives", "active_negatives")
        self.pull, self.active_positives, self.active_negatives = (
            x.new_zeros(len(x)) for _ in names
        )
        self.reference_pull: Tensor | None = None
        self.reference_push: Tensor | None = None

    def exchange(self, ranks: Ranks) -> None:
        """Add what other ranks found in their parts of the references."""
        for s in self._weighting.report:
            self.report[s.name] = ranks.merge(self.report[s.name], s.monoid.merge)
        ranks.add(
            *(self.pull_gradient, self.push_gradient),
            *(self.pull, self.active_positives, self.active_negatives),
        )

    def mixed(self, block: Mixed) -> None:
        """Weigh every pair."""
        for s in self._weighting.report:
            term = _fold_mixed(s, block, self._columns)
            self.report[s.name] = s.monoid.merge(self.report[s.name], term)
        pull = self._weighting.positive(block.sim, self._columns)
        pull = torch.where(block.positive, pull, 0.0) * self._valid[:, None]
        push = self._weighting.negative(block.sim, self._columns)
        push = torch.where(block.negative, push, 0.0)
        self.pull_gradient.addmm_(pull, block.references)
        self.push_gradient.addmm_(push, block.references)
        self.pull += (pull * block.sim).sum(dim=1)
        self.active_positives += (pull != 0).sum(dim=1)
        self.active_negatives += (push != 0).sum(dim=1)
        if self.reference_pull is not None and self.reference_push is not None:
            self.reference_pull.index_add_(0, block.place, pull.T @ self._x)
            self.reference_push.index_add_(0, block.place, push.T @ self.valid_anchors)

r"""PRISM: which labels of a batch the memory believes.

Rows of the memory that carry label k speak for class k. How likely the label y_i of anchor z_i is
right, by their mean similarity with it,

    T_ik = 1 / |M_k| Σ_{r ∈ M_k} ⟨z_i, r⟩ = ⟨z_i, μ_k⟩,    P_i = exp(T_iy / τ) / Σ_k exp(T_ik / τ).

Rows of the anchor's own image say nothing on its label and are left out of M_y. With s > 1
sub-centres each class has s means, of rows that lie together, and T_ik is the largest similarity
with one of them, for classes of several looks. The share ν of labels that are thought wrong is
left out: those with C P_i below a threshold that moves with training, the mean over the last w
batches of its ν-quantile. C is the number of classes that the memory holds: P falls as 1 / C while
a memory fills, and C P, which compares with a guess, does not.

Over several ranks the quantile is that of the batches of all, so they share one threshold; a
memory that is spread over them stays where it is, and sums of its rows go round.

*Noise-resistant Deep Metric Learning with Ranking-based Instance Selection* (Liu et al.,
CVPR 2021), with the smooth threshold (sTRM). The paper keeps
old rows of the same image, which vote for whatever label it has, and has P where C P stands, which
is the same once the memory holds all classes.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbatch._check import check_embeddings, check_integers
from crossbatch._lookup import Lookup
from crossbatch._shapes import Bool, Float, Int
from crossbatch.collective import Ranks
from crossbatch.errors import CrossbatchError, expected
from crossbatch.references import References, Sharded, Tile

_ROWS = 8192
_ROUNDS = 3  # of k-means


class Believed(NamedTuple):
    """What the memory says of the labels of a batch.

    Attributes:
        probability: P of each label, shape (B,), in (0, 1]; NaN where the memory has no row of the
            class but the image's own.
        keep: Whether to train on it, shape (B,): at least one is kept.
    """

    probability: Float[Tensor, " B"]
    keep: Bool[Tensor, " B"]


class Prism(nn.Module):
    """Keeps the images of a batch whose labels the memory believes.

    Ask before the batch is enqueued, take the loss of what is kept, and enqueue what is kept. All
    state is in buffers. With several ranks all ask together, each with its batch, beside copies of
    one memory or a :class:`crossbatch.ShardedMemory`; their state is the same, and each keeps one
    image at least.

    Args:
        noise: ν in [0, 1), the share of wrong labels that is expected.
        window: w ≥ 1, batches over which the threshold is averaged.
        temperature: τ > 0 of the similarities; 1 in the paper.
        sub_centres: s ≥ 1 means of a class.

    Raises:
        CrossbatchError: A value is out of range.

    >>> import torch
    >>> import crossbatch as xb
    >>> memory = xb.CrossBatchMemory(capacity=100, dim=2)
    >>> memory.enqueue(torch.eye(2), torch.tensor([0, 1]), torch.tensor([10, 11]))
    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> prism = Prism(noise=0.5)
    >>> prism(z, torch.tensor([0, 1]), ids=torch.tensor([20, 21]), references=memory).keep
    tensor([ True, False])
    """

    cites: ClassVar[tuple[str, ...]] = ("liu2021prism",)

    quantiles: Tensor
    seen: Tensor

    def __init__(
        self,
        noise: float,
        *,
        window: int = 100,
        temperature: float = 1.0,
        sub_centres: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= noise < 1 or window < 1 or not temperature > 0 or sub_centres < 1:
            raise CrossbatchError(
                expected(
                    "Prism with noise in [0, 1), window ≥ 1, temperature > 0 and sub_centres ≥ 1",
                    f"noise={noise}, window={window}, temperature={temperature}, "
                    f"sub_centres={sub_centres}",
                    "0.2 leaves out the least probable fifth.",
                )
            )
        self.noise, self.temperature, self.sub_centres = noise, temperature, sub_centres
        self.register_buffer("quantiles", torch.zeros(window))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(
        self,
        embeddings: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        *,
        ids: Int[Tensor, " B"],
        references: References,
    ) -> Believed:
        """P of every label, and which to keep. Each call moves the threshold by a batch.

        Args:
            embeddings: Shape (B, D), of unit norm, B ≥ 1.
            labels: Shape (B,).
            ids: Shape (B,), which image each is.
            references: A memory, perhaps empty; all is kept then.

        Raises:
            CrossbatchError: Wrong shapes or dtypes, non-finite embeddings.

        Cost: one read of the memory for its means, M · D additions, and one product of B × C × D;
        with s > 1 sub-centres s + 5 reads, all but one of which take M · s · D multiplications.
        """
        check_embeddings(embeddings, where="Prism")
        for name, column in (("labels", labels), ("ids", ids)):
            check_integers(column, name=name, rows=len(embeddings), where="Prism")
        x = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
        probability, classes = torch.full_like(x[:, 0], torch.nan), 0
        if len(references):
            memory, sharing = _held(references)
            means = _Classes.of(memory, x, self.sub_centres, ranks=sharing)
            anchors = (x, labels.long(), ids.long())
            probability = means.probability(memory, anchors, self.temperature)
            classes = len(means.labels)
        beside_chance = classes * probability
        unknown = probability.isnan()
        (known,), _ = Ranks.here().gather(beside_chance[~unknown])
        if not len(known):
            return Believed(probability, unknown)
        place = int(self.seen) % len(self.quantiles)
        low = min(int(self.noise * len(known)), len(known) - 1)
        self.quantiles[place] = known.sort().values[low]
        self.seen += 1
        threshold = self.quantiles[: int(self.seen)].mean().to(x)
        keep = unknown | (beside_chance >= threshold)
        if not keep.any():
            keep[probability.argmax()] = True
        return Believed(probability, keep)

    def extra_repr(self) -> str:
        """Prints as code."""
        return (
            f"noise={self.noise}, window={len(self.quantiles)}, temperature={self.temperature}, "
            f"sub_centres={self.sub_centres}"
        )


def _held(references: References) -> tuple[References, Ranks]:
    """The rows that this rank reads, and the ranks that read others."""
    if isinstance(references, Sharded):
        return references.part, references.ranks
    return references, Ranks()


def _distinct(values: Int[Tensor, " N"]) -> Int[Tensor, " C"]:
    """Each value once, rising."""
    values = values.sort()[0]
    return values[F.pad(values[1:] != values[:-1], (1, 0), value=True)[: len(values)]]


class _Classes:
    """The rows of a memory, of all ranks that share it, summed by class and nearest centre."""

    def __init__(
        self, labels: Int[Tensor, " C"], centres: Float[Tensor, "S C D"], ranks: Ranks
    ) -> None:
        self.labels, self.centres, self.ranks = labels, F.normalize(centres, dim=2), ranks
        self.sums = torch.zeros_like(centres)
        self.counts = centres.new_zeros(centres.shape[:2])

    @staticmethod
    def of(
        memory: References, x: Float[Tensor, "B D"], sub_centres: int, *, ranks: Ranks
    ) -> "_Classes":
        """Means of the classes; or sub-centres by k-means, begun at rows far from each other."""
        here = [tile.labels.to(x.device).long() for tile in memory.tiles(_ROWS)]
        none = torch.empty(0, dtype=torch.int64, device=x.device)  # a rank may hold no row
        (theirs,), _ = ranks.gather(_distinct(torch.cat([none, *here])))
        labels = _distinct(theirs)
        classes = _Classes(labels, x.new_zeros(1, len(labels), x.shape[1]), ranks)
        classes._average(memory)
        if sub_centres == 1:
            return classes
        centres = _Classes(labels, classes.sums, ranks)._farthest(memory)[None]
        while len(centres) < sub_centres:
            farthest = _Classes(labels, centres, ranks)._farthest(memory)
            centres = torch.cat([centres, farthest[None]])
        for _ in range(_ROUNDS):  # a centre without rows stays
            classes = _Classes(labels, centres, ranks)
            classes._average(memory)
            centres = torch.where(classes.counts[:, :, None] > 0, classes.sums, centres)
        return classes

    def find(self, labels: Int[Tensor, " B"]) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Where labels are among the classes, and whether they are."""
        place = torch.searchsorted(self.labels, labels).clamp_(max=len(self.labels) - 1)
        return place, self.labels[place] == labels

    def probability(
        self, memory: References, anchors: tuple[Tensor, Tensor, Tensor], temperature: float
    ) -> Float[Tensor, " B"]:
        """P of the labels of anchors (embeddings, labels, ids); NaN where nothing is known."""
        x, labels, _ = anchors
        own, found = self.find(labels)
        sims = torch.einsum("bd,scd->bsc", x, self.sums / self.counts.clamp(min=1)[:, :, None])
        row = torch.arange(len(x), device=x.device)
        rows = self.counts[:, own].T  # B × S, of the own class
        said, times = self._said(memory, anchors)
        left = rows - times
        sims[row, :, own] = (sims[row, :, own] * rows - said) / left.clamp(min=1)
        held = self.counts.gt(0).expand(len(x), -1, -1).clone()
        held[row, :, own] = left > 0
        best = sims.masked_fill(~held, -torch.inf).amax(dim=1)
        p = F.softmax(best / temperature, dim=1).gather(1, own[:, None])[:, 0]
        return torch.where(found & (left > 0).any(dim=1), p, torch.nan)

    def _said(
        self, memory: References, anchors: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S"]]:
        """What the anchors' own images say in their class: sums of similarities, and of rows."""
        (x, labels, ids), sizes = self.ranks.gather(*anchors)
        said = x.new_zeros(len(x), len(self.sums))
        times, known = torch.zeros_like(said), Lookup.of(ids)
        for tile in self._tiles(memory):
            few = tile.rows(known.may_hold(tile.ids).nonzero().flatten())
            same = (ids[:, None] == few.ids) & (labels[:, None] == few.labels)
            anchor, row = same.nonzero(as_tuple=True)
            place = (anchor, self._sub(few)[row])
            sims = (x[anchor] * few.embeddings[row]).sum(dim=1)
            said.index_put_(place, sims, accumulate=True)
            times.index_put_(place, torch.ones_like(sims), accumulate=True)
        self.ranks.add(said, times)
        own = self.ranks.of(self.ranks.rank, sizes)
        return said[own], times[own]

    def _tiles(self, memory: References) -> Iterator[Tile]:
        """Tiles beside the sums, in their precision."""
        for tile in memory.tiles(_ROWS):
            here = tile.to(self.sums.device)
            rows = here.embeddings.to(self.sums.dtype)
            yield Tile(rows, here.labels.long(), here.ids.long())

    def _nearest(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Of each row the similarity with the nearest centre of its class, and which it is."""
        place, _ = self.find(tile.labels)
        sims = [of.index_select(0, place).mul_(tile.embeddings).sum(dim=1) for of in self.centres]
        near = torch.stack(sims).max(dim=0)
        return near.values, near.indices

    def _sub(self, tile: Tile) -> Int[Tensor, " T"]:
        """Which centre of its class each row belongs to."""
        alone = len(self.centres) == 1
        return torch.zeros_like(tile.labels) if alone else self._nearest(tile)[1]

    def _average(self, memory: References) -> None:
        """Sum the rows that are nearest to each centre."""
        sums, counts = self.sums, self.counts
        for tile in self._tiles(memory):
            place, _ = self.find(tile.labels)
            flat = self._sub(tile) * len(self.labels) + place
            sums.view(-1, sums.shape[2]).index_add_(0, flat, tile.embeddings)
            counts.view(-1).index_add_(0, flat, torch.ones_like(tile.embeddings[:, 0]))
        self.ranks.add(sums, counts)

    def _farthest(self, memory: References) -> Float[Tensor, "C D"]:
        """Of each class the row that is least similar to its nearest centre; the first such."""
        least = self.sums.new_full((len(self.labels),), torch.inf)
        rows = torch.zeros_like(self.sums[0])
        for tile in self._tiles(memory):
            (near, _), (place, _) = self._nearest(tile), self.find(tile.labels)
            low = torch.full_like(least, torch.inf).scatter_reduce_(0, place, near, "amin")
            first = place.new_full((len(least),), len(place))
            hit = (near == low[place]).nonzero().flatten()
            first.scatter_reduce_(0, place[hit], hit, "amin")
            better = (low < least).nonzero().flatten()
            rows[better] = tile.embeddings[first[better]]
            least = torch.minimum(least, low)
        whole = self.ranks.merge(least, torch.minimum)
        owner = torch.where(least == whole, self.ranks.rank, self.ranks.world)
        rows[self.ranks.merge(owner, torch.minimum) != self.ranks.rank] = 0
        self.ranks.add(rows)
        return rows

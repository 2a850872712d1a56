r"""PRISM: which labels of a batch the memory believes.

Rows of the memory that carry label k speak for class k. How likely the label y_i of anchor z_i is
right, by their mean similarity with it,

    T_ik = 1 / |M_k| Σ_{r ∈ M_k} ⟨z_i, r⟩ = ⟨z_i, μ_k⟩,    P_i = exp(T_iy / τ) / Σ_k exp(T_ik / τ).

Rows of the anchor's own image say nothing on its label and are left out of M_y. With s > 1
sub-centres each class has s means, of rows that lie together, and T_ik is the largest similarity
with one of them, for classes of several looks. The share ν of labels that are thought wrong is
left out: those with P_i below a threshold that moves with training, the mean over the last w
batches of the ν-quantile of P.

*Noise-resistant Deep Metric Learning with Ranking-based Instance Selection* (Liu et al.,
CVPR 2021), with the smooth threshold (sTRM). The paper keeps
old rows of the same image, which vote for whatever label it has.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbatch._check import check_embeddings, check_integers
from crossbatch._lookup import Lookup
from crossbatch._shapes import Bool, Float, Int
from crossbatch.errors import CrossbatchError, expected
from crossbatch.references import References, Tile

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
    state is in buffers.

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

        Cost: one read of the memory for its means, M · D additions, and one product of
        B × C × D; with s sub-centres s + 3 reads.
        """
        check_embeddings(embeddings, where="Prism")
        for name, column in (("labels", labels), ("ids", ids)):
            check_integers(column, name=name, rows=len(embeddings), where="Prism")
        x = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
        probability = self._probability(references, x, labels.long(), ids.long())
        known = probability[~probability.isnan()]
        if not len(known):
            return Believed(probability, torch.ones_like(labels, dtype=torch.bool))
        place = int(self.seen) % len(self.quantiles)
        low = known.sort().values[min(int(self.noise * len(known)), len(known) - 1)]
        self.quantiles[place] = low
        self.seen += 1
        threshold = self.quantiles[: int(self.seen)].mean().to(x)
        keep = probability.isnan() | (probability >= threshold)
        if not keep.any():
            keep[probability.argmax()] = True
        return Believed(probability, keep)

    def _probability(self, memory: References, x: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        if not len(memory):
            return torch.full_like(x[:, 0], torch.nan)
        classes = _Classes.of(memory, x, self.sub_centres)
        own, found = classes.find(labels)
        sums = classes.sums / classes.counts.clamp(min=1)[:, :, None]
        sims = torch.einsum("bd,scd->bsc", x, sums)
        row = torch.arange(len(x), device=x.device)
        counts = classes.counts[:, own].T.clone()  # B × S, of the own class
        totals = sims[row, :, own] * counts
        for tile, sub in classes.tiles(memory):  # what the own image said leaves its class
            seen = Lookup.of(ids).may_hold(tile.ids).nonzero().flatten()
            same = (ids[:, None] == tile.ids[seen]) & (labels[:, None] == tile.labels[seen])
            anchor, place = same.nonzero(as_tuple=True)
            place = seen[place]
            said = (x[anchor] * tile.embeddings[place]).sum(dim=1)
            totals.index_put_((anchor, sub[place]), -said, accumulate=True)
            counts.index_put_((anchor, sub[place]), -torch.ones_like(said), accumulate=True)
        sims[row, :, own] = totals / counts.clamp(min=1)
        held = classes.counts.gt(0).expand(len(x), -1, -1).clone()
        held[row, :, own] = counts > 0
        best = sims.masked_fill(~held, -torch.inf).amax(dim=1)
        p = F.softmax(best / self.temperature, dim=1).gather(1, own[:, None])[:, 0]
        return torch.where(found & (counts > 0).any(dim=1), p, torch.nan)

    def extra_repr(self) -> str:
        """Prints as code."""
        return (
            f"noise={self.noise}, window={len(self.quantiles)}, temperature={self.temperature}, "
            f"sub_centres={self.sub_centres}"
        )


class _Classes:
    """The rows of a memory summed by class and sub-centre."""

    def __init__(self, labels: Int[Tensor, " C"], centres: Float[Tensor, "S C D"]) -> None:
        self.labels, self.sums = labels, centres
        self.counts = centres.new_zeros(centres.shape[:2])

    @staticmethod
    def of(memory: References, x: Float[Tensor, "B D"], sub_centres: int) -> "_Classes":
        """Means of the classes; or sub-centres by k-means, begun at rows far from each other."""
        y = torch.cat([tile.labels.to(x.device) for tile in memory.tiles(_ROWS)]).long().sort()[0]
        labels = y[F.pad(y[1:] != y[:-1], (1, 0), value=True)]
        classes = _Classes(labels, x.new_zeros(1, len(labels), x.shape[1]))
        classes._average(memory)
        if sub_centres == 1:
            return classes
        centres = classes._farthest(memory)[None]
        while len(centres) < sub_centres:
            farthest = _Classes(labels, centres)._farthest(memory)
            centres = torch.cat([centres, farthest[None]])
        classes = _Classes(labels, centres)
        for _ in range(_ROUNDS):
            classes._average(memory)
        return classes

    def find(self, labels: Int[Tensor, " B"]) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Where labels are among the classes, and whether they are."""
        place = torch.searchsorted(self.labels, labels).clamp_(max=len(self.labels) - 1)
        return place, self.labels[place] == labels

    def tiles(self, memory: References) -> Iterator[tuple[Tile, Int[Tensor, " T"]]]:
        """Tiles beside the sums, in their precision, and the sub-centre of each row."""
        for tile in memory.tiles(_ROWS):
            here = tile.to(self.sums.device)
            rows = here.embeddings.to(self.sums.dtype)
            here = Tile(rows, here.labels.long(), here.ids.long())
            alone = len(self.sums) == 1
            yield here, torch.zeros_like(here.labels) if alone else self._nearest(here)[1]

    def _nearest(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Of each row the similarity with the nearest centre of its class, and which it is."""
        place, _ = self.find(tile.labels)
        centres = F.normalize(self.sums, dim=2)
        sims = torch.stack([(tile.embeddings * of[place]).sum(dim=1) for of in centres])
        near = sims.max(dim=0)
        return near.values, near.indices

    def _average(self, memory: References) -> None:
        """Sums of the rows that are nearest to each centre; what has no row stays a centre."""
        sums, counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        for tile, sub in self.tiles(memory):
            place, _ = self.find(tile.labels)
            flat = sub * len(self.labels) + place
            sums.view(-1, sums.shape[2]).index_add_(0, flat, tile.embeddings)
            counts.view(-1).index_add_(0, flat, torch.ones_like(tile.embeddings[:, 0]))
        self.sums, self.counts = sums, counts

    def _farthest(self, memory: References) -> Float[Tensor, "C D"]:
        """Of each class the row that is least similar to its nearest centre; the first such."""
        least = self.sums.new_full((len(self.labels),), torch.inf)
        rows = torch.zeros_like(self.sums[0])
        for tile, _ in self.tiles(memory):
            place, _ = self.find(tile.labels)
            near, _ = self._nearest(tile)
            low = torch.full_like(least, torch.inf).scatter_reduce_(0, place, near, "amin")
            first = place.new_full((len(least),), len(place))
            hit = (near == low[place]).nonzero().flatten()
            first.scatter_reduce_(0, place[hit], hit, "amin")
            better = (low < least).nonzero().flatten()
            rows[better] = tile.embeddings[first[better]]
            least = torch.minimum(least, low)
        return rows

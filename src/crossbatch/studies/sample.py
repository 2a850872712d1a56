r"""Samples: what one step of training with a memory meets, held as plain similarities.

A batch of B anchors stands beside M references: the memory after the batch was enqueued, that is
the batch's own rows and M − B older ones.

    S_ij = ⟨a_i, r_j⟩,    P = {same label, other id},    N = {other label, other id}

A study looks at all B × M pairs at once, which the engine itself never does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossbatch._check import check_embeddings, check_integers
from crossbatch._shapes import Bool, Float, Int
from crossbatch.data import PKSampler
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation import embed_manifest
from crossbatch.training import RunFolder, load_split


@dataclass(frozen=True, eq=False)
class Sample:
    """A batch of anchors beside its references.

    Args:
        similarities: S, shape (B, M).
        labels: Of the anchors, shape (B,), integers.
        ids: Of the anchors, shape (B,), integers; pairs of equal ids are no pairs.
        reference_labels: Shape (M,).
        reference_ids: Shape (M,).
        in_batch: Which references are rows of the batch, shape (M,); the others are the memory's.

    Raises:
        CrossbatchError: Shapes do not agree, or a similarity is not finite.
    """

    similarities: Float[Tensor, "B M"]
    labels: Int[Tensor, " B"]
    ids: Int[Tensor, " B"]
    reference_labels: Int[Tensor, " M"]
    reference_ids: Int[Tensor, " M"]
    in_batch: Bool[Tensor, " M"]

    def __post_init__(self) -> None:
        check_embeddings(self.similarities, where="Sample (its similarities)")
        anchors, references = self.similarities.shape
        for name, rows in (("labels", anchors), ("ids", anchors)):
            check_integers(getattr(self, name), name=name, rows=rows, where="Sample")
        for name in ("reference_labels", "reference_ids"):
            check_integers(getattr(self, name), name=name, rows=references, where="Sample")
        if self.in_batch.dtype != torch.bool or self.in_batch.shape != (references,):
            got = f"{self.in_batch.dtype} of shape {tuple(self.in_batch.shape)}"
            remedy = "Say of each reference whether it is a row of the batch."
            raise CrossbatchError(expected(f"`in_batch`, {references} booleans", got, remedy))

    def pairs(self, side: str) -> Bool[Tensor, "B M"]:
        """Which pairs are ``positive`` or ``negative``."""
        same_label = self.labels[:, None] == self.reference_labels
        same_id = self.ids[:, None] == self.reference_ids
        return (same_label if side == "positive" else ~same_label) & ~same_id


def draw_samples(
    embeddings: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"] | np.ndarray,
    *,
    classes: int = 16,
    instances: int = 4,
    batches: int = 8,
    memory: int = 20_000,
    seed: int = 0,
) -> list[Sample]:
    """Draw batches as training does, each beside a memory of the other rows.

    Args:
        embeddings: Shape (N, D), unit norm; each row an image.
        labels: Shape (N,), integers.
        classes: P, classes in a batch.
        instances: K, images of a class in a batch.
        batches: How many samples to draw.
        memory: Rows of the memory at most; drawn at random where there are more.
        seed: Of the batches and of the memory.

    Raises:
        CrossbatchError: The rows cannot fill a batch, or a number is out of range.
    """
    check_embeddings(embeddings, where="draw_samples")
    if batches < 1 or memory < 0:
        got = f"batches={batches}, memory={memory}"
        remedy = "Eight batches beside 20,000 rows are usual."
        raise CrossbatchError(expected("`batches` ≥ 1 and `memory` ≥ 0", got, remedy))
    codes = torch.as_tensor(labels)
    check_integers(codes, name="labels", rows=len(embeddings), where="draw_samples")
    sampler = PKSampler(codes.numpy(), classes=classes, instances=instances, seed=seed)
    order = np.random.default_rng(seed).permutation(len(embeddings))
    return [_sample(embeddings, codes, next(sampler), order, memory) for _ in range(batches)]


def _sample(
    embeddings: Tensor, labels: Tensor, batch: np.ndarray, order: np.ndarray, memory: int
) -> Sample:
    older = order[~np.isin(order, batch)][:memory]
    anchors, rows = torch.from_numpy(batch), torch.from_numpy(np.concatenate([batch, older]))
    z = embeddings.double()
    return Sample(
        similarities=(z[anchors] @ z[rows].T).clamp(-1, 1),
        labels=labels[anchors],
        ids=anchors,
        reference_labels=labels[rows],
        reference_ids=rows,
        in_batch=torch.arange(len(rows)) < len(batch),
    )


def synthetic_samples(
    *, batches: int = 4, memory: int = 20_000, dim: int = 32, spread: float = 0.9
) -> list[Sample]:
    r"""Samples without any data: classes as clouds on the unit sphere, always the same.

    A class has a centre c ∼ N(0, I) and its images are z = (c + σ n)/‖c + σ n‖, n ∼ N(0, I). So
    negatives have similarities about N(0, 1/D), and positives about 1/(1 + σ²): many easy pairs,
    a few hard ones, and an overlap. 128 classes of 16 images, batches of 16 × 4.

    Args:
        batches: How many samples.
        memory: Rows of the memory at most.
        dim: D.
        spread: σ.
    """
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(128), 16)
    centres = generator.standard_normal((128, dim))
    images = centres[labels] + spread * generator.standard_normal((len(labels), dim))
    embeddings = F.normalize(torch.from_numpy(images), dim=1)
    return draw_samples(embeddings, labels, batches=batches, memory=memory)


def sample_run(
    folder: Path,
    *,
    split: str = "train",
    batches: int = 8,
    memory: int = 20_000,
    device: str = "cpu",
    watch: Callable[[Iterable[Tensor]], Iterable[Tensor]] = iter,
) -> list[Sample]:
    """Samples as a finished run would meet them: its encoder, its images, its batches.

    Args:
        folder: The run folder.
        split: Of its manifest: train, validation or test.
        batches: How many samples.
        memory: Rows of the memory at most.
        device: Where to embed.
        watch: Wrapped around the batches that are embedded, such as a progress bar.

    Raises:
        CrossbatchError: There is no such run or split, or it cannot fill a batch of the run.
    """
    run = RunFolder.open(folder)
    config = run.read_config()
    loaded = load_split(run, split)
    embeddings = embed_manifest(
        loaded.encoder,
        loaded.images,
        device=device,
        workers=config.workers,
        features=loaded.features,
        watch=watch,
    )
    return draw_samples(
        embeddings,
        loaded.images.codes,
        classes=config.sampler.classes,
        instances=config.sampler.instances,
        batches=batches,
        memory=memory,
        seed=config.seed,
    )

r"""Classes that are known: logits, cross-entropy, images set aside.

With weights w_i of the images and logits ℓ, the loss of a batch is the weighted mean

    L = Σ_i w_i H(y_i, ℓ_i) / Σ_i w_i,     H(y, ℓ) = (1 − s) (−log p_y) + s · mean_c (−log p_c),

p = softmax(ℓ), s the label smoothing (Szegedy et al., CVPR 2016). *mixup* (Zhang, Cisse, Dauphin,
Lopez-Paz, ICLR 2018) trains on x̃_i = λ x_i + (1 − λ) x_j with λ ~ Beta(α, α) for each batch and j
a permutation of it, and each of the two labels counts with its part:

    L = Σ_i [λ w_i H(y_i, ℓ̃_i) + (1 − λ) w_j H(y_j, ℓ̃_i)] / Σ_i [λ w_i + (1 − λ) w_j].

λ and the permutation are drawn by (seed, step, rank). *RandAugment* (Cubuk, Zoph, Shlens, Le,
NeurIPS 2020) is part of the transform of images.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbatch.collective import Ranks
from crossbatch.data import ImageSampler, Manifest, hold_out_images
from crossbatch.engine import ObjectiveResult
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation import classify
from crossbatch.models import Classifier, Encoder, EncoderConfig
from crossbatch.training.batch import Classes, Mixture
from crossbatch.training.config import TrainConfig
from crossbatch.training.tasks.base import with_weights


class Classification:
    """The task of a training that tells the training classes apart.

    Args:
        config: The run.
        manifest: Where it has no split `validation`, a part of the images of every training class
            becomes one.

    Raises:
        CrossbatchError: There are fewer than two classes, or validation images of others.
    """

    score = "top-1"
    unit = 1

    def __init__(self, config: TrainConfig, manifest: Manifest) -> None:
        splits = manifest.column("split")
        if config.validation.fraction and "validation" not in set(splits):
            manifest = hold_out_images(
                manifest, split="validation", fraction=config.validation.fraction, seed=config.seed
            )
        self.manifest, splits = manifest, manifest.column("split")
        self.classes = sorted(set(manifest.labels[splits == "train"].tolist()))
        if len(self.classes) < 2:
            remedy = "Make a manifest whose split `train` has at least two."
            raise CrossbatchError(
                expected("at least two training classes", len(self.classes), remedy)
            )
        self.codes = codes_of(manifest.labels, self.classes)
        strange = (self.codes < 0) & (splits == "validation")
        if strange.any():
            raise CrossbatchError(
                expected(
                    "validation images of the training classes, for `task` classification",
                    f"{strange.sum()} of others, such as {manifest.labels[strange][0]!r}",
                    "Hold images out, not classes: crossbatch manifest --hold-out images.",
                )
            )
        sampler = config.sampler
        self.batch = sampler.batch or sampler.classes * sampler.instances
        self._config, self._options = config, config.classification

    def encoder(self, config: EncoderConfig) -> EncoderConfig:
        """One with as many outputs as there are classes."""
        return replace(config, dim=len(self.classes))

    def network(self, encoder: Encoder) -> nn.Module:
        """Inputs to logits."""
        if self._config.mode == "head":
            return encoder.head
        return Classifier(encoder, self.classes)

    def features(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Pooled features; logits where the trunk is frozen, since its features never change."""
        if isinstance(network, Classifier):
            return network.encoder.features(inputs)
        return network(inputs)

    def room(self, codes: np.ndarray) -> int:
        """Each image once."""
        return len(codes)

    def sampler(
        self,
        codes: np.ndarray,
        *,
        units: int | None = None,
        seed: int,
        balanced: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> ImageSampler:
        """Shuffled images, or every class as often."""
        return ImageSampler(
            codes,
            batch=self.batch if units is None else units,
            seed=seed,
            balanced=balanced,
            rank=rank,
            world=world,
        )

    def vary(self, inputs: Tensor, batch: Classes, step: int) -> tuple[Tensor, Classes]:
        """Mix images, where that is asked for."""
        if not self._options.mixup:
            return inputs, batch
        draw = np.random.default_rng([self._config.seed, step, Ranks.here().rank, 2])
        share = float(draw.beta(self._options.mixup, self._options.mixup))
        partner = torch.from_numpy(draw.permutation(len(inputs)))
        mixed = torch.lerp(inputs[partner.to(inputs.device)], inputs, share)
        return mixed, replace(batch, mixed=Mixture(partner, share))

    def loss(self, outputs: Tensor, batch: Classes) -> ObjectiveResult:
        """The weighted mean of the cross-entropy.

        Raises:
            CrossbatchError: A logit is not finite.
        """
        logits = outputs.float()
        if not bool(torch.isfinite(logits).all()):
            remedy = "Lower the learning rate, or look for a broken image."
            raise CrossbatchError(expected("finite logits", "NaN or infinity", remedy))
        weights = torch.ones(len(logits)) if batch.weights is None else batch.weights
        parts = [(batch.codes, weights)]
        if batch.mixed is not None:
            partner, share = batch.mixed.partner, batch.mixed.share
            parts = [
                (batch.codes, share * weights),
                (batch.codes[partner], (1 - share) * weights[partner]),
            ]
        total, mass = logits.new_zeros(()), logits.new_zeros(())
        for codes, w in parts:
            each = F.cross_entropy(
                logits,
                codes.to(logits.device),
                label_smoothing=self._options.label_smoothing,
                reduction="none",
            )
            w = w.to(logits)
            total, mass = total + (w * each).sum(), mass + w.sum()
        return ObjectiveResult(total / mass.clamp(min=1e-12), None, None, None)

    def measure(self, outputs: Tensor, images: Classes) -> dict[str, float]:
        """Accuracies and the cross-entropy, without smoothing."""
        found = classify(outputs, images.codes).metrics
        return {**found, "cross_entropy": F.cross_entropy(outputs, images.codes).item()}

    def save(self, encoder: Encoder, network: nn.Module, folder: Path) -> None:
        """The encoder's folder with the names of the classes."""
        Classifier(with_weights(encoder, network, self.network), self.classes).save(folder)


def codes_of(labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """Places of labels among sorted classes, ``(N,)`` int64; -1 where one is not among them."""
    place = {name: code for code, name in enumerate(classes)}
    return np.array([place.get(label, -1) for label in labels.tolist()], np.int64)

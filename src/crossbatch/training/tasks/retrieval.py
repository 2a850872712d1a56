"""Embeddings whose neighbours are of their class: P × K batches, classes set aside."""

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from crossbatch.data import Manifest, PKSampler, hold_out
from crossbatch.engine import ObjectiveResult
from crossbatch.errors import CrossbatchError
from crossbatch.evaluation import evaluate
from crossbatch.models import Encoder, EncoderConfig
from crossbatch.training.batch import Classes
from crossbatch.training.config import TrainConfig
from crossbatch.training.material import HeadOnly
from crossbatch.training.tasks.base import with_weights


class Retrieval:
    """The task of a training whose loss is one of pairs.

    Args:
        config: The run.
        manifest: Where it has no split `validation`, a part of the training classes becomes one:
            two at least, of four or more.
    """

    score = "MAP@R"

    def __init__(self, config: TrainConfig, manifest: Manifest) -> None:
        self.manifest = _with_validation(manifest, config)
        self._holds_out = self.manifest is not manifest
        self.codes = self.manifest.codes
        self.batch = config.sampler.classes * config.sampler.instances
        self.unit = config.sampler.instances
        self._config = config

    def encoder(self, config: EncoderConfig) -> EncoderConfig:
        """As it is configured."""
        return config

    def network(self, encoder: Encoder) -> nn.Module:
        """Inputs to embeddings of unit norm."""
        return encoder if self._config.mode == "fine_tune" else HeadOnly(encoder.head)

    def features(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """The embeddings."""
        return network(inputs)

    def room(self, codes: np.ndarray) -> int:
        """Whole groups of K images, at most K of a class."""
        sizes = np.unique(codes, return_counts=True)[1]
        return int(np.minimum(sizes, self.unit).sum()) // self.unit

    def sampler(
        self,
        codes: np.ndarray,
        *,
        units: int | None = None,
        seed: int,
        balanced: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> PKSampler:
        """P classes × K images, always balanced; of a part as many classes as it has units."""
        del balanced
        try:
            return PKSampler(
                codes,
                classes=self._config.sampler.classes if units is None else units,
                instances=self.unit,
                seed=seed,
                rank=rank,
                world=world,
                least=2 if units is None else 1,
            )
        except CrossbatchError as error:
            if not self._holds_out:
                raise
            held_out = _classes(self.manifest, "validation")
            told = f"{held_out} more classes are held out to validate"
            raise CrossbatchError(
                f"{error} {told}: `--validation.fraction 0` trains on them."
            ) from None

    def vary(self, inputs: Tensor, batch: Classes, step: int) -> tuple[Tensor, Classes]:
        """Nothing."""
        del step
        return inputs, batch

    def loss(self, outputs: Tensor, batch: Classes) -> ObjectiveResult | None:
        """That of pairs."""
        del outputs, batch

    def measure(self, outputs: Tensor, images: Classes) -> dict[str, float]:
        """R@1 and what is averaged over ranks, leave-one-out."""
        names = ("R-precision", "MAP@R")
        return evaluate(outputs, images.codes, ids=images.ids, ks=(1,), metrics=names).metrics

    def save(self, encoder: Encoder, network: nn.Module, folder: Path) -> None:
        """The encoder's folder."""
        with_weights(encoder, network, self.network).save(folder)


def _with_validation(manifest: Manifest, config: TrainConfig) -> Manifest:
    """Hold out at least two training classes, where there are four or more."""
    classes = _classes(manifest, "train")
    if not config.validation.fraction or classes < 4 or "validation" in manifest.column("split"):
        return manifest
    fraction = max(config.validation.fraction, 2 / classes)
    return hold_out(manifest, split="validation", fraction=fraction, seed=config.seed)


def _classes(manifest: Manifest, split: str) -> int:
    return len(np.unique(manifest.codes[manifest.column("split") == split]))

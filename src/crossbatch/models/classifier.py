"""The classifier: an encoder whose head gives one number for each class.

    ℓ = head(pool(trunk(x))),     p = softmax(ℓ)

It is saved as an encoder, with the names of its classes beside: the folder can be read as either.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from crossbatch._files import replace_folder
from crossbatch._shapes import Float
from crossbatch.errors import FormatError, expected
from crossbatch.models.config import EncoderConfig
from crossbatch.models.encoder import Encoder

_CLASSES = "classes.json"


class Classifier(nn.Module):
    """Logits of an encoder's head, which has as many outputs as there are classes.

    Args:
        encoder: Its parameters are shared, not copied.
        classes: C names; the encoder's ``dim`` is C.

    Raises:
        FormatError: Names and outputs are not equally many.
    """

    def __init__(self, encoder: Encoder, classes: Sequence[str]) -> None:
        super().__init__()
        if len(classes) != encoder.config.dim:
            remedy = "Build the encoder with as many outputs as there are classes."
            got = f"{len(classes)} names"
            raise FormatError(expected(f"{encoder.config.dim} classes", got, remedy))
        self.encoder, self.classes = encoder, list(classes)

    @property
    def config(self) -> EncoderConfig:
        """Of the encoder."""
        return self.encoder.config

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from the channels of an image."""
        return self.encoder.mean

    @property
    def std(self) -> tuple[float, ...]:
        """What they are divided by afterwards."""
        return self.encoder.std

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Logits, ``(B, C)``, in float32 at least."""
        return self.embed_features(self.encoder.features(images))

    def embed_features(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Logits of pooled features, ``(B, C)``."""
        logits = self.encoder.head(features)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def save(self, folder: Path | str) -> None:
        """Write the encoder and ``classes.json``: the whole folder, or nothing.

        Raises:
            CrossbatchError: The folder could not be written; what stood there still stands.
        """

        def write(part: Path) -> None:
            self.encoder.write(part)
            text = json.dumps(self.classes, ensure_ascii=False, indent=0) + "\n"
            (part / _CLASSES).write_text(text, encoding="utf-8")

        replace_folder(Path(folder), write)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a saved classifier, on the CPU. Nothing is fetched.

        Raises:
            FormatError: The folder is no encoder, or one without classes.
        """
        encoder, path = Encoder.load(folder), Path(folder) / _CLASSES
        try:
            classes = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            remedy = "Name the `encoder` folder of a run with --task classification."
            raise FormatError(expected(f"the classes of {folder}", error, remedy)) from error
        return cls(encoder, classes)

"""What an encoder is made of; the `config.json` beside its tensors."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from crossbatch.errors import CrossbatchError, FormatError, expected, nearest

FORMAT = 1

PoolingName = Literal["avg", "max", "gem"]
HeadName = Literal["linear", "mlp"]


@dataclass(frozen=True)
class EncoderConfig:
    """A trunk, a pooling and a head.

    Attributes:
        trunk: A model of timm, such as ``resnet50`` or ``resnet50.a1_in1k``.
        weights: Where the trunk's weights come from: ``timm`` (pretrained, fetched by timm),
            ``none`` (random), or the path of a local file (.safetensors, .pth, .pt, .bin).
        image_size: Side of the square images, in pixels.
        crop: The share of the image's shorter side that is seen outside of training, in (0, 1].
        pooling: Mean, maximum or generalised mean over the positions of the feature map.
        head: One linear layer, or linear, batch normalisation, ReLU, linear.
        dim: Width of the embedding.
        dropout: Share of the features that the head drops while training, in [0, 1).
        standardise: Bring each feature to mean 0 and deviation 1 before the head. Call
            ``encoder.head.fit(features)`` once, before training.
        frozen_norm: Training, too, takes the statistics of the trunk's batch normalisation as they
            were pretrained, and leaves them so. Small batches know theirs badly.

    Raises:
        CrossbatchError: A value is out of range.
    """

    trunk: str = "resnet50"
    weights: str = "timm"
    image_size: int = 224
    crop: float = 0.875
    pooling: PoolingName = "avg"
    head: HeadName = "linear"
    dim: int = 128
    dropout: float = 0.0
    standardise: bool = False
    frozen_norm: bool = False

    def __post_init__(self) -> None:
        for name, names in (("pooling", get_args(PoolingName)), ("head", get_args(HeadName))):
            got = getattr(self, name)
            if got not in names:
                wanted = f"`{name}` of an encoder, one of {', '.join(names)}"
                raise CrossbatchError(expected(wanted, repr(got), nearest(str(got), names)))
        for name in ("image_size", "dim"):
            got = getattr(self, name)
            if isinstance(got, bool) or not isinstance(got, int) or got < 1:
                remedy = "Give a whole number, 1 or more."
                raise CrossbatchError(expected(f"`{name}` of an encoder", repr(got), remedy))
        if not 0 < self.crop <= 1:
            remedy = "1 shows the whole side, 0.875 is the field's habit."
            raise CrossbatchError(expected("`crop` of an encoder in (0, 1]", self.crop, remedy))
        if not 0 <= self.dropout < 1:
            remedy = "Give the share of the features to drop."
            raise CrossbatchError(
                expected("`dropout` of an encoder in [0, 1)", self.dropout, remedy)
            )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `config.json`.

        Raises:
            FormatError: There is none, it is not JSON, of another format version, or has other
                keys than this class.
        """
        return cls(**_checked(_json(path), {field.name for field in fields(cls)}, path))

    def write(self, path: Path) -> None:
        """Write a `config.json`."""
        stored = {"format": FORMAT, **asdict(self)}
        path.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    wanted, remedy = (
        f"the configuration of an encoder at {path}",
        "Name the folder that `Encoder.save` wrote, such as the `encoder` of a run.",
    )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(expected(wanted, error, remedy)) from error
    if not isinstance(stored, dict):
        raise FormatError(expected(wanted, f"a JSON {type(stored).__name__}", remedy))
    return stored


def _checked(stored: dict[str, Any], names: set[str], path: Path) -> dict[str, Any]:
    found = stored.pop("format", None)
    if found != FORMAT:
        remedy = "Use the crossbatch that wrote it, or train again with this one."
        wanted = f"{path} to be an encoder of format {FORMAT}"
        raise FormatError(expected(wanted, f"format {found}", remedy))
    for name in stored:
        if name not in names:
            wanted = f"only settings of an encoder in {path}"
            raise FormatError(expected(wanted, repr(name), nearest(name, names)))
    missing = sorted(names - stored.keys())
    if missing:
        wanted, got = f"every setting of an encoder in {path}", f"none for {', '.join(missing)}"
        raise FormatError(expected(wanted, got, "Save the encoder again."))
    return stored

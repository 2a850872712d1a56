"""The encoder: image → trunk → pooling → head → unit sphere.

    z = h / ‖h‖,  h = head(pool(trunk(x)))

`features` stops before the head, `embed_features` begins there: a head can be trained on features
that were extracted once.
"""

import difflib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional

from crossbatch._files import recover_folder, replace_folder
from crossbatch._shapes import Float
from crossbatch._torchvision import import_torchvision
from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.models.config import EncoderConfig
from crossbatch.models.head import Head
from crossbatch.models.pooling import make_pooling
from crossbatch.models.weights import differences, load_weights, pretrained_trunk, some

import_torchvision()

import timm  # noqa: E402

_CONFIG, _TENSORS = "config.json", "model.safetensors"
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Encoder(nn.Module):
    """A trunk of timm, a pooling and a head.

    Transformers are pooled as timm's own average pooling does it: their class and register tokens
    are left out, the others are the positions of the map, whichever the pooling.

    Args:
        config: What to build; pretrained weights are loaded here.

    Attributes:
        config: As given.
        width: F, the features' width.
        mean: What the trunk expects to be subtracted from the three channels of an image.
        std: What it expects them to be divided by afterwards.

    Raises:
        CrossbatchError: timm has no such trunk, or its weights could not be had.
        FormatError: The weights' file does not fit the trunk.
    """

    trunk: Any  # timm gives its models no common type

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = _trunk(config)
        self.width: int = self.trunk.num_features
        self.mean, self.std = _normalisation(self.trunk)
        self.pool = make_pooling(config.pooling)
        self.head = Head(
            self.width,
            config.dim,
            kind=config.head,
            dropout=config.dropout,
            standardise=config.standardise,
        )

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Pooled features of the trunk, ``(B, F)``."""
        return self.pool(_as_map(self.trunk, self.trunk.forward_features(images)))

    def embed_features(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B D"]:
        """Embeddings of unit norm, ``(B, D)``; the norm is taken in float32 at least."""
        h = self.head(features)
        return functional.normalize(h.to(torch.promote_types(h.dtype, torch.float32)), dim=-1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Embeddings of unit norm, ``(B, D)``."""
        return self.embed_features(self.features(images))

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; frozen statistics stay as they are in both."""
        super().train(mode)
        if self.config.frozen_norm:
            for module in self.trunk.modules():
                if isinstance(module, _BATCH_NORMS):
                    module.eval()
        return self

    def features_digest(self) -> str:
        """A hash of all that `features` depends on beside the images: what a cache is valid for.

        Costs one pass over the trunk's weights.
        """
        content = hashlib.sha256(f"{self.config.trunk} {self.config.pooling}".encode())
        for part in (self.trunk, self.pool):
            for name, tensor in part.state_dict().items():
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                content.update(flat.view(torch.uint8).numpy().tobytes())
        return content.hexdigest()

    def save(self, folder: Path | str) -> None:
        """Write ``config.json`` and ``model.safetensors``: the whole folder, or nothing.

        Raises:
            CrossbatchError: The folder could not be written; what stood there still stands.
        """
        # A copy each: safetensors refuses tensors that share memory.
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.state_dict().items()
        }

        def write(part: Path) -> None:
            self.config.write(part / _CONFIG)
            (part / _TENSORS).write_bytes(to_bytes(tensors))

        replace_folder(Path(folder), write)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a saved encoder, on the CPU. Nothing is fetched.

        Raises:
            FormatError: The folder is not an encoder, is of another format version, or its
                tensors do not fit its configuration.
        """
        folder = Path(folder)
        recover_folder(folder)
        config = EncoderConfig.read(folder / _CONFIG)
        encoder = cls(replace(config, weights="none"))
        encoder.config = config
        encoder.load_state_dict(_tensors(folder / _TENSORS, encoder.state_dict()))
        return encoder


def _tensors(path: Path, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, exactly those of ``ours``."""
    wanted = f"the tensors that {_CONFIG} speaks of in {path}"
    remedy = "Save the encoder again, or name the `encoder` folder of a run."
    try:
        theirs = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FormatError(expected(wanted, error, remedy)) from error
    wrong = differences(ours, theirs)
    wrong += [f"{name} is left over" for name in theirs if name not in ours]
    if wrong:
        raise FormatError(expected(wanted, some(wrong), remedy))
    return theirs


def _trunk(config: EncoderConfig) -> Any:
    """The trunk, its weights loaded."""
    _check_name(config.trunk)
    trunk = _with_weights(config)
    if hasattr(trunk, "set_input_size"):  # transformers fit their positions to the image
        trunk.set_input_size(img_size=config.image_size)
    return trunk


def _with_weights(config: EncoderConfig) -> Any:
    if config.weights == "timm":
        return pretrained_trunk(config.trunk)
    trunk = timm.create_model(config.trunk, pretrained=False, num_classes=0, global_pool="")
    if config.weights != "none":
        load_weights(trunk, Path(config.weights).expanduser())
    return trunk


def _check_name(name: str) -> None:
    wanted = "`trunk`, the name of a timm model"
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=4)
        hint = f"Close names: {', '.join(close)}." if close else "See `timm.list_models()`."
        raise CrossbatchError(expected(wanted, repr(name), hint))
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        plain = name.split(".")[0]
        tags = ", ".join(timm.list_pretrained(f"{plain}.*")) or "none"
        remedy = f"Leave the part after the point out: `{plain}`. Known: {tags}."
        raise CrossbatchError(expected(wanted, repr(name), remedy)) from error


def _normalisation(trunk: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    stored = trunk.pretrained_cfg
    return tuple(stored["mean"]), tuple(stored["std"])


def _as_map(trunk: Any, features: Any) -> Tensor:
    """``(B, C, H, W)``, from whatever layout the trunk has."""
    ndim = features.ndim if isinstance(features, Tensor) else None
    if ndim == 3:  # (B, tokens, C)
        positions = features[:, getattr(trunk, "num_prefix_tokens", 0) :]
        return positions.transpose(1, 2).unsqueeze(-1)
    if ndim == 4:
        channels_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        return features.permute(0, 3, 1, 2) if channels_last else features
    got = type(features).__name__ if ndim is None else tuple(features.shape)
    wanted = "a trunk whose features are a map (B, C, H, W) or tokens (B, N, C)"
    raise CrossbatchError(expected(wanted, got, "Choose another trunk."))

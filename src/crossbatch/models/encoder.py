"""The encoder: image → trunk → pooling → head → unit sphere.

    z = h / ‖h‖,  h = head(pool(trunk(x)))

`features` stops before the head, `embed_features` begins there: a head can be trained on features
that were extracted once.
"""

import difflib
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional

from crossbatch._files import recover_folder, replace_folder, write_beside
from crossbatch._shapes import Float
from crossbatch._torchvision import import_torchvision
from crossbatch.errors import CrossbatchError, FormatError, expected
from crossbatch.models.card import ModelCard
from crossbatch.models.config import EncoderConfig
from crossbatch.models.encoding import Embedded, Picture, embed_pictures
from crossbatch.models.encoding import name as picture_name
from crossbatch.models.head import Head
from crossbatch.models.hub import find_encoder, upload
from crossbatch.models.pooling import make_pooling
from crossbatch.models.weights import differences, load_weights, pretrained_trunk, some

import_torchvision()

import timm  # noqa: E402

_CONFIG, _TENSORS = "config.json", "model.safetensors"
_NOT_SEEN = ("weights", "dropout", "frozen_norm")  # settings of training alone
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
        about = f"{self.config.trunk} {self.config.pooling}"
        return _digest(about, self.trunk.state_dict(), self.pool.state_dict())

    def digest(self) -> str:
        """A hash of all that an embedding depends on beside the image: whose embedding it is.

        Costs one pass over the weights.
        """
        config = asdict(self.config)
        seen = {name: config[name] for name in config if name not in _NOT_SEEN}
        return _digest(json.dumps(seen, sort_keys=True), self.state_dict())

    def encode(
        self,
        images: Picture | Iterable[Picture],
        *,
        batch_size: int = 32,
        progress: bool = False,
        as_tensor: bool = False,
        skip_bad: bool = False,
        workers: int = 2,
    ) -> np.ndarray | Tensor:
        """Embed pictures, seen as in evaluation, in the order given.

        Args:
            images: Paths, bytes of files, pictures of Pillow's, or tensors (3, H, W) of uint8 or
                of floats in [0, 1]; several, or one.
            batch_size: Pictures at a time.
            progress: Show a bar on standard error (needs rich).
            as_tensor: Return a tensor instead of an array.
            skip_bad: A picture that cannot be read becomes a row of NaN instead of an error.
            workers: Threads that decode.

        Returns:
            Embeddings of unit norm, float32, on the CPU: (N, D), or (D,) for a lone picture.

        Raises:
            CrossbatchError: A picture cannot be read (the message names it).
        """
        lone = isinstance(images, str | Path | bytes | Image.Image)
        lone = lone or (isinstance(images, Tensor) and images.ndim == 3)
        pictures: list[Any] = [images] if lone else list(cast("Iterable[Picture]", images))
        found = torch.full((len(pictures), self.config.dim), torch.nan)
        batches = embed_pictures(self, pictures, batch_size=batch_size, workers=workers)
        if progress:
            batches = _shown(batches, -(-len(pictures) // batch_size))
        for batch in batches:
            if batch.faults and not skip_bad:
                place, reason = batch.faults[0]
                got = f"{picture_name(pictures[place], place)}: {reason}"
                remedy = "Mend it or leave it out; from Python `skip_bad=True` makes it NaN."
                raise CrossbatchError(expected("pictures that can be read", got, remedy))
            found[batch.places] = batch.embeddings
        result = found[0] if lone else found
        return result if as_tensor else result.numpy()

    def save(self, folder: Path | str) -> None:
        """Write ``config.json`` and ``model.safetensors``: the whole folder, or nothing.

        Raises:
            CrossbatchError: The folder could not be written; what stood there still stands.
        """
        replace_folder(Path(folder), self.write)

    def write(self, folder: Path) -> None:
        """Write both files into a folder that is there, one after the other."""
        self.config.write(folder / _CONFIG)
        (folder / _TENSORS).write_bytes(to_bytes(self._copies()))

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

    @classmethod
    def from_pretrained(cls, source: Path | str, *, revision: str | None = None) -> Self:
        """Read an encoder from a folder, from a run, or from the Hugging Face Hub; on the CPU.

        Args:
            source: What `save` or `save_pretrained` wrote, a run folder, or a name on the Hub
                (``owner/model``) where no such folder is.
            revision: Of the Hub: a branch, tag or commit.

        Raises:
            FormatError: There is no encoder, or none that this version reads.
        """
        return cls.load(find_encoder(source, revision=revision))

    def save_pretrained(self, folder: Path | str, *, card: ModelCard | None = None) -> None:
        """Write ``model.safetensors``, ``README.md`` and ``config.json``; leave other files be.

        Args:
            folder: Made where there is none. Each file is whole or the old one.
            card: What the README says [default: the config, and that nothing was measured].

        Raises:
            CrossbatchError: A file could not be written.
        """
        folder = Path(folder)
        config = replace(self.config, weights=Path(self.config.weights).name)  # no one's folders
        text = (card or ModelCard(folder.resolve().name)).text(config)
        content = to_bytes(self._copies())
        write_beside(folder / _TENSORS, lambda part: part.write_bytes(content))
        write_beside(folder / "README.md", lambda part: part.write_text(text, encoding="utf-8"))
        write_beside(folder / _CONFIG, config.write)

    def push_to_hub(
        self,
        repo: str,
        *,
        card: ModelCard | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Put what `save_pretrained` writes on the Hugging Face Hub, as one commit.

        Args:
            repo: ``owner/model``; made where there is none.
            card: As for `save_pretrained`.
            private: Whether a new repository is private.
            token: [default: that of `huggingface_hub`'s login].

        Returns:
            The address of the commit.

        Raises:
            CrossbatchError: The Hub refused, or could not be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, card=card or ModelCard(repo))
            return upload(Path(folder), repo, private=private, token=token)

    def _copies(self) -> dict[str, Tensor]:
        """A copy of each tensor: safetensors refuses tensors that share memory."""
        return {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.state_dict().items()
        }


def _digest(about: str, *parts: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256(about.encode())
    for part in parts:
        for name, tensor in part.items():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            content.update(flat.view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _shown(batches: Iterable[Embedded], total: int) -> Iterator[Embedded]:
    from rich.console import Console  # only where a bar is asked for
    from rich.progress import track

    shown = track(batches, "Embedding", total, console=Console(stderr=True), transient=True)
    yield from shown


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

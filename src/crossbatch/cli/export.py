"""``crossbatch export RUN``: a model that others can load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from crossbatch.errors import CrossbatchError, expected
from crossbatch.models import Encoder
from crossbatch.models.onnx import export_onnx
from crossbatch.training import RunFolder, model_card


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's best encoder for others: a folder with its card, the Hub, an ONNX file."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run folder that `crossbatch train` made."""
    folder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write config.json, model.safetensors and README.md, the model card, here."""
    hub: Annotated[str | None, tyro.conf.arg(metavar="OWNER/MODEL")] = None
    """Put the same on the Hugging Face Hub, as the user that `hf auth login` knows."""
    private: bool = False
    """Make a new repository on the Hub private."""
    onnx: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write an ONNX graph, checked against torch."""
    licence: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Of the weights, for the card, such as apache-2.0."""


def main(argv: list[str]) -> int:
    """Write what was asked for and say where it stands."""
    options = tyro.cli(Export, prog="crossbatch export", args=argv)
    if options.folder is None and options.hub is None and options.onnx is None:
        remedy = "Say what to write; several go together."
        raise CrossbatchError(expected("`--folder`, `--hub` or `--onnx`", "none", remedy))
    run = RunFolder.open(options.run)
    encoder = Encoder.load(run.encoder)
    console = Console(highlight=False)
    if options.folder is not None:
        name = options.folder.resolve().name
        encoder.save_pretrained(
            options.folder, card=model_card(run, name=name, licence=options.licence)
        )
        _say(console, f"Wrote the encoder and its card to {options.folder}.")
    if options.onnx is not None:
        parity = export_onnx(encoder, options.onnx)
        sizes = ", ".join(map(str, parity.batches))
        _say(
            console,
            f"Wrote {options.onnx}. The largest difference between onnxruntime and torch is "
            f"{parity.difference:.1e}, in batches of {sizes}.",
        )
    if options.hub is not None:
        card = model_card(run, name=options.hub, licence=options.licence)
        where = encoder.push_to_hub(options.hub, card=card, private=options.private)
        _say(console, f"The encoder and its card are at {where}.")
    return 0


def _say(console: Console, text: str) -> None:
    console.print(escape(text), soft_wrap=True)

"""An encoder as ONNX, checked against torch before the file takes its place.

The graph has one input, `images` (B, 3, S, S) float32, resized, cut and standardised as
`crossbatch.models.encoding.plain_transform` does it, and one output, `embeddings` (B, D) on the
unit sphere; B is free. What the transform needs stands in the file's metadata: image_size, crop,
mean, std, digest.
"""

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from crossbatch._files import write_beside
from crossbatch.errors import CrossbatchError, expected
from crossbatch.models.encoder import Encoder

BATCHES = (1, 2, 5)  # checked; the graph is traced with the second


class Parity(NamedTuple):
    """How far onnxruntime is from torch.

    Attributes:
        difference: The largest of any number of an embedding.
        batches: The sizes of the batches that were compared, of random images.
    """

    difference: float
    batches: tuple[int, ...]


def export_onnx(encoder: Encoder, path: Path | str, *, tolerance: float = 1e-4) -> Parity:
    """Write an encoder as one ONNX file and compare it with torch.

    Args:
        encoder: Exported in evaluation mode, on the CPU; put back as it was.
        path: Where the file shall be.
        tolerance: The largest difference of any number of an embedding that is let pass.

    Raises:
        CrossbatchError: A package is missing, the trunk cannot be exported, the difference is
            larger, or the file cannot be written. What stood at ``path`` still stands.

    Cost: three forward passes of each, and the weights twice in memory.
    """
    _packages()
    training, device = encoder.training, next(encoder.parameters()).device
    encoder.cpu().eval()
    try:
        content = _graph(encoder)
        parity = _compare(encoder, content)
    finally:
        encoder.to(device).train(training)
    if not parity.difference <= tolerance:
        remedy = "Choose another trunk, or a larger `tolerance` if that is near enough."
        wanted = f"onnxruntime within {tolerance:g} of torch"
        raise CrossbatchError(expected(wanted, f"a difference of {parity.difference:g}", remedy))
    write_beside(Path(path), lambda part: part.write_bytes(content))
    return parity


def _packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        remedy = "Install them: pip install 'crossbatch[export]'."
        wanted = "the packages that an export to ONNX needs"
        raise CrossbatchError(expected(wanted, f"no {error.name}", remedy)) from error


def _graph(encoder: Encoder) -> bytes:
    config = encoder.config
    images = torch.randn(BATCHES[1], 3, config.image_size, config.image_size)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                encoder,
                (images,),
                input_names=["images"],
                output_names=["embeddings"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever a trunk's forward pass leads the exporter into
        got = str(error).strip().splitlines()[0]
        remedy = "Choose another trunk."
        wanted = f"a trunk that torch can export, in {config.trunk}"
        raise CrossbatchError(expected(wanted, got, remedy)) from error
    model = program.model_proto
    about = {
        "image_size": config.image_size,
        "crop": config.crop,
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "digest": encoder.digest(),
    }
    for key, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    return model.SerializeToString()


@torch.no_grad()
def _compare(encoder: Encoder, content: bytes) -> Parity:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    draw = torch.Generator().manual_seed(0)
    size = encoder.config.image_size
    largest = 0.0
    for rows in BATCHES:
        images = torch.randn(rows, 3, size, size, generator=draw)
        found = np.asarray(session.run(["embeddings"], {"images": images.numpy()})[0])
        largest = max(largest, float(np.abs(found - encoder(images).numpy()).max()))
    return Parity(largest, BATCHES)

"""Run folders as training and evaluation leave them, without training anything."""

import io

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from crossbatch.data import Manifest
from crossbatch.evaluation import describe, evaluate_manifest, write_evaluation
from crossbatch.training import MemoryConfig, RunFolder, TrainConfig


def write_manifest(path, classes=8, images=4, roles=None, notes=None):
    """Each class a colour; all of it split `test`."""
    rng = np.random.default_rng(0)
    pictures = []
    for colour in rng.integers(0, 255, (classes, 3)):
        for shade in rng.integers(-20, 20, images):
            pixels = np.full((12, 16, 3), np.clip(colour + shade, 0, 255), np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            pictures.append({"bytes": file.getvalue(), "path": "x.png"})
    table = {
        "image": pictures,
        "label": [f"<class {c}>" for c in range(classes) for _ in range(images)],
        "split": ["test"] * (classes * images),
        "id": np.arange(classes * images) * 3 + 5,
    }
    Manifest(pa.table(table | ({"role": roles} if roles else {})), notes=notes or {}).write(path)
    return path


def embeddings(manifest, seed, noise):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(manifest.classes), 8, generator=torch.Generator().manual_seed(99))
    return centres[manifest.codes] + noise * torch.randn(len(manifest), 8, generator=generator)


def write_run(folder, manifest_path, *, noise=1.0, memory=0, seed=0, steps=40, evaluated=True):
    """A whole run folder, whose embedding is better the smaller ``noise`` is."""
    manifest = Manifest.read(manifest_path)
    config = TrainConfig(str(manifest_path), memory=MemoryConfig(capacity=memory), seed=seed)
    run = RunFolder.create(folder, config, digest=manifest.digest())
    for step in range(1, steps + 1):
        seen = memory > 0 and step > 10
        row = {
            "step": step,
            "loss": 5 / step,
            "loss_batch": 3 / step,
            "loss_memory": 2 / step if seen else None,
            "active_negatives_batch": max(0, 30 - step),
            "active_negatives_memory": 3000 // step if seen else 0,
            "images_per_second": 900.0,
            "memory_share": 0.07 if seen else None,
            "drift": 0.1 if seen else None,
            "drift_age": 8.0 if seen else None,
        }
        run.append("log.jsonl", row)
        if step % 10 == 0:
            run.append("validation.jsonl", {"step": step, "R@1": step / 100, "best": True})
    if evaluated:
        result = evaluate_manifest(embeddings(manifest, seed, noise), manifest, neighbours=5)
        found = describe(
            result,
            split="test",
            manifest=str(manifest_path),
            manifest_digest=manifest.digest(),
        )
        write_evaluation(folder, found)
    return folder

"""From images to batches: the manifest, its importers and checks, the sampler, the data set.

The names below are loaded on first use: reading a manifest needs neither torch nor torchvision.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ImageDataset": "crossbatch.data.dataset",
    "ImageSampler": "crossbatch.data.image_sampler",
    "Imported": "crossbatch.data.problems",
    "Kind": "crossbatch.data.problems",
    "Manifest": "crossbatch.data.manifest",
    "MixedSampler": "crossbatch.data.image_sampler",
    "PKSampler": "crossbatch.data.sampler",
    "PackedImages": "crossbatch.data.pack",
    "Problem": "crossbatch.data.problems",
    "Sampler": "crossbatch.data.stream",
    "Validation": "crossbatch.data.problems",
    "from_csv": "crossbatch.data.importers",
    "from_folder": "crossbatch.data.importers",
    "hold_out": "crossbatch.data.holdout",
    "hold_out_images": "crossbatch.data.holdout",
    "item_keys": "crossbatch.data.dataset",
    "transforms": "crossbatch.data.transforms",
    "validate": "crossbatch.data.validation",
}

if TYPE_CHECKING:
    from crossbatch.data import transforms
    from crossbatch.data.dataset import ImageDataset, item_keys
    from crossbatch.data.holdout import hold_out, hold_out_images
    from crossbatch.data.image_sampler import ImageSampler, MixedSampler
    from crossbatch.data.importers import from_csv, from_folder
    from crossbatch.data.manifest import Manifest
    from crossbatch.data.pack import PackedImages
    from crossbatch.data.problems import Imported, Kind, Problem, Validation
    from crossbatch.data.sampler import PKSampler
    from crossbatch.data.stream import Sampler
    from crossbatch.data.validation import validate

__all__ = [
    "ImageDataset",
    "ImageSampler",
    "Imported",
    "Kind",
    "Manifest",
    "MixedSampler",
    "PKSampler",
    "PackedImages",
    "Problem",
    "Sampler",
    "Validation",
    "from_csv",
    "from_folder",
    "hold_out",
    "hold_out_images",
    "item_keys",
    "transforms",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'crossbatch.data' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if name == "transforms" else getattr(module, name)

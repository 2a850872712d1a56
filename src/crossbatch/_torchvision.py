"""torchvision beside a torch that has no CUDA.

The wheel of torchvision that package registries carry is bound to CUDA. Next to a CPU build of
torch its compiled operators do not load, and importing it stops at the first description of an
operator that is missing, although none of them is used here: transforms and layers are Python.
Declaring the names of the missing operators first lets the import pass.
"""

import re
import sys
from types import ModuleType

_MISSING = re.compile(r"operator (torchvision::\w+) does not exist")


def import_torchvision() -> ModuleType:
    """Import torchvision, with or without its compiled operators.

    Call it before the first import of ``torchvision`` or ``timm``; calling it again costs nothing.

    Returns:
        The module ``torchvision``.
    """
    declared: set[str] = set()
    while True:
        try:
            import torchvision
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None or missing[1] in declared:
                raise
            declared.add(missing[1])
            _declare(missing[1])
        else:
            return torchvision


def _declare(operator: str) -> None:
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    torch.library.define(operator, "(Tensor x) -> Tensor")

"""Functions in C, compiled for this processor by the system's compiler, where there is one.

They are compiled anew by each process that needs them (half a second), into a folder that is
deleted at once: nothing is left that another machine could mistake for its own.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared")
_NATIVE = (("-march=native",), ())  # the first that the compiler takes
_SECONDS = 60.0  # after which a compiler is given up


def compiled(source: Path, arguments: Mapping[str, Sequence[Any]]) -> ctypes.CDLL | None:
    """The functions of a file that compiles; None if it does not, or nothing compiles.

    Args:
        source: In C.
        arguments: The types that each function takes. All return 64 bits. Those that this
            processor lacks are left out.
    """
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return None
    for native in _NATIVE:
        library = _loaded([compiler, *_FLAGS, *native, str(source)])
        if library is not None:
            break
    else:
        return None
    for name, types in arguments.items():
        if hasattr(library, name):
            function = getattr(library, name)
            function.argtypes, function.restype = types, ctypes.c_int64
    return library


def _loaded(command: list[str]) -> ctypes.CDLL | None:
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            target = str(Path(folder) / "compiled.so")
            subprocess.run(
                [*command, "-o", target], check=True, capture_output=True, timeout=_SECONDS
            )
            return ctypes.CDLL(target)
    except (OSError, subprocess.SubprocessError):
        return None

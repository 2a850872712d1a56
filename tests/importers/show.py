"""What ``crossbatch manifest NAME`` prints on the miniature of each published data set.

    python -m tests.importers.show

runs the command of every importer's test and prints what it printed.
"""

import contextlib
import importlib
import io
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

NAMES = (
    *("sop", "in_shop", "vehicle_id", "cub", "cars", "inaturalist"),
    *("food101", "clothing1m", "webvision", "imagenet", "huggingface"),
)


def printed(name, folder):
    """What the command prints for one data set."""
    shown = []
    buffer = io.StringIO()

    def readouterr():
        shown.append(buffer.getvalue())
        buffer.seek(0)
        buffer.truncate()
        return SimpleNamespace(out=shown[-1], err="")

    module = importlib.import_module(f"tests.importers.test_{name}")
    with contextlib.redirect_stdout(buffer):
        module.test_command(Path(folder), SimpleNamespace(readouterr=readouterr))
    text = "".join([*shown, buffer.getvalue()])
    return text.replace(f"{folder}/", "")


def main(stream):
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            stream.write(f"== {name.replace('_', '-')}\n{printed(name, folder).rstrip()}\n\n")


if __name__ == "__main__":
    main(sys.stdout)

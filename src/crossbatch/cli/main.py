"""``crossbatch``: one command per file, each loaded only when it is called."""

import errno
import importlib
import os
import sys
import threading
from importlib.util import find_spec

import crossbatch
from crossbatch.errors import CrossbatchError, expected, nearest

COMMANDS = {
    "manifest": "list images and labels in one table, checked: folder, csv, sop, ...",
    "pack": "decode all images once, for trainings to map",
    "train": "train an encoder, with or without a memory; resume a run",
    "evaluate": "measure retrieval on held-out classes",
    "rank": "which images to believe: density of each class; a page, a list of suspects",
    "report": "one page for a run, or for runs beside each other",
    "index": "a gallery from a folder or a manifest, to be searched by picture; add, delete",
    "search": "the most similar pictures of an index",
    "duplicates": "near-identical pictures of an index",
    "explore": "a run's embeddings and their neighbours as a file, and as a map",
    "serve": "a page and an API that search an index, on this machine or with a token",
    "embed": "embeddings of a folder or a manifest as Parquet or NumPy",
    "export": "a model for others: a folder with its card, the Hub, ONNX",
    "study": "why a weighting does what it does: weights",
}


def usage() -> str:
    """What ``crossbatch --help`` prints."""
    lines = [f"  {name:<10} {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        (
            "usage: crossbatch COMMAND ...",
            "",
            "Image-retrieval embeddings, trained with a memory of past batches.",
            "",
            *lines,
            "",
            "crossbatch COMMAND --help tells more; crossbatch --version prints the version.",
        )
    )


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def main() -> None:
    """Run a command. Exit status 2 and one message for bad input, 130 when interrupted."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--version":
        print(crossbatch.__version__)
        raise SystemExit(0)
    threading.excepthook = _in_thread
    try:
        raise SystemExit(run(arguments[0], arguments[1:]))
    except CrossbatchError as error:
        print(f"crossbatch: {_message(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has left
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" {error.filename}" if error.filename else ""
        remedy = "Make room or choose another place; `crossbatch train --resume` continues a run."
        print(f"crossbatch: Could not write{where}: {error.strerror}. {remedy}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("crossbatch: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _in_thread(found: threading.ExceptHookArgs) -> None:
    """A log's writing thread that finds no room is silent: the main thread will say it."""
    error = found.exc_value
    if not (isinstance(error, OSError) and error.errno in _NO_ROOM):
        threading.__excepthook__(found)


def _message(error: CrossbatchError) -> str:
    """What the error says, without the traceback that torch adds in a process of a loader."""
    kind = type(error)
    return str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()


def run(command: str, arguments: list[str]) -> int:
    """Import the command's file and call its ``main``."""
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS)
        raise CrossbatchError(expected("a command of crossbatch", repr(command), hint))
    missing = [name for name in ("tyro", "pyarrow", "rich", "timm") if find_spec(name) is None]
    if missing:
        raise CrossbatchError(
            expected(
                f"the packages that `crossbatch {command}` needs",
                f"no {', '.join(missing)}",
                "Install them: pip install 'crossbatch[train,study]'.",
            )
        )
    module = importlib.import_module(f"crossbatch.cli.{command}")
    return module.main(arguments)


if __name__ == "__main__":
    main()

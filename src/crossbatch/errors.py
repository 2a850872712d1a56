"""What goes wrong, said in three parts: what was expected, what came, what to do."""

import difflib
from collections.abc import Iterable


class CrossbatchError(ValueError):
    """An input, a file or a setting that crossbatch cannot work with.

    Every message says what was expected, what came, and what to do. The command line prints
    the message alone and exits with status 2.
    """


class FormatError(CrossbatchError):
    """A file or a folder that is not in the format, or the version, that was expected."""


class TrainingError(CrossbatchError):
    """A training run that cannot go on, such as one whose embeddings are no longer finite."""


def expected(what: str, got: object, remedy: str) -> str:
    """One sentence for all errors.

    >>> expected("`margin` in [-1, 1]", 3.0, "Choose a cosine similarity.")
    'Expected `margin` in [-1, 1]. Got 3.0. Choose a cosine similarity.'
    """
    return f"Expected {what}. Got {got}. {remedy}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint that names the valid spelling closest to ``name``, or lists them all.

    >>> nearest("margn", ["margin", "alpha"])
    'Did you mean `margin`?'
    >>> nearest("x", ["margin", "alpha"])
    'Valid are: alpha, margin.'
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean `{close[0]}`?" if close else f"Valid are: {', '.join(names)}."

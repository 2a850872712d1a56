"""Weightings written as code: what ``repr`` prints, YAML and the command line read back."""

import ast
import dataclasses
from typing import Any

import crossbatch.weighting
from crossbatch.errors import CrossbatchError, expected, nearest
from crossbatch.weighting import Curve, PairWeighting

_EXAMPLE = "Write for example Contrastive(margin=0.5)."


def parse_weighting(text: str) -> PairWeighting:
    """Read ``Contrastive(margin=0.5)``, ``Contrastive`` or ``contrastive``; nested, too.

    Only the weightings and curves of :mod:`crossbatch.weighting` are known, and only literals and
    further ones as arguments; nothing is executed.

    Raises:
        CrossbatchError: The text is not such a call; the nearest valid name is given.

    >>> parse_weighting("contrastive")
    Contrastive(margin=0.5)
    >>> parse_weighting("MultiSimilarity(beta=50.0, epsilon=None)")
    MultiSimilarity(alpha=2.0, beta=50.0, base=0.5, epsilon=None)
    >>> parse_weighting("Thresholded(SupCon(0.07), base=0.3)")
    Thresholded(inner=SupCon(temperature=0.07), base=0.3)
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        found = _call(tree) if isinstance(tree, ast.Name) else _value(tree)
    except CrossbatchError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise CrossbatchError(expected("a weighting as code", repr(text), _EXAMPLE)) from error
    if not isinstance(found, PairWeighting):
        raise CrossbatchError(expected("a weighting as code", repr(text), _EXAMPLE))
    return found


def known_weightings() -> dict[str, type[PairWeighting]]:
    """Every weighting that :mod:`crossbatch.weighting` exports, by its name."""
    return {name: kind for name, kind in _known().items() if issubclass(kind, PairWeighting)}


def _known() -> dict[str, type[PairWeighting] | type[Curve]]:
    module = crossbatch.weighting
    members = {name: getattr(module, name) for name in module.__all__}
    return {
        name: member
        for name, member in members.items()
        if isinstance(member, type) and issubclass(member, PairWeighting | Curve)
        if dataclasses.is_dataclass(member)
    }


def _value(tree: ast.expr) -> Any:
    """A literal, or a weighting or curve."""
    return _call(tree) if isinstance(tree, ast.Call) else ast.literal_eval(tree)


def _call(tree: ast.Call | ast.Name) -> PairWeighting | Curve:
    called = tree.func if isinstance(tree, ast.Call) else tree
    if not isinstance(called, ast.Name):
        raise ValueError
    known = _known()
    name = {k.lower(): k for k in known}.get(called.id.lower().replace("_", ""))
    if name is None:
        hint = nearest(called.id, known)
        raise CrossbatchError(expected("the name of a weighting", repr(called.id), hint))
    parameters = [f.name for f in dataclasses.fields(known[name])]  # pyright: ignore[reportArgumentType]
    positional = [_value(a) for a in tree.args] if isinstance(tree, ast.Call) else []
    keywords = tree.keywords if isinstance(tree, ast.Call) else []
    named = {str(k.arg): _value(k.value) for k in keywords}
    unknown = [key for key in named if key not in parameters]
    if unknown or len(positional) > len(parameters):
        got = f"`{unknown[0]}`" if unknown else f"{len(positional)} of them"
        hint = nearest(unknown[0], parameters) if unknown else f"There are {len(parameters)}."
        raise CrossbatchError(expected(f"parameters of {name}", got, hint))
    named |= dict(zip(parameters, positional, strict=False))
    try:
        return known[name](**named)
    except TypeError as error:
        remedy = f"Give numbers, or weightings: {', '.join(parameters)}."
        got = ast.unparse(tree)
        raise CrossbatchError(expected(f"parameters of {name}", got, remedy)) from error

"""Weightings written as code: what ``repr`` prints, YAML and the command line read back."""

import ast
import dataclasses

import crossbatch.weighting
from crossbatch.errors import CrossbatchError, expected, nearest
from crossbatch.weighting import PairWeighting


def parse_weighting(text: str) -> PairWeighting:
    """Read ``Contrastive(margin=0.5)``, ``Contrastive`` or ``contrastive``.

    Only the names of :mod:`crossbatch.weighting` are known, and only literal arguments; nothing is
    executed.

    Raises:
        CrossbatchError: The text is not such a call; the nearest valid name is given.

    >>> parse_weighting("contrastive")
    Contrastive(margin=0.5)
    >>> parse_weighting("MultiSimilarity(beta=50.0, epsilon=None)")
    MultiSimilarity(alpha=2.0, beta=50.0, base=0.5, epsilon=None)
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(func=tree, args=[], keywords=[])
        if not isinstance(call.func, ast.Name):
            raise ValueError
        positional = [ast.literal_eval(argument) for argument in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        remedy = "Write for example Contrastive(margin=0.5)."
        raise CrossbatchError(expected("a weighting as code", repr(text), remedy)) from error
    known = known_weightings()
    name = {k.lower(): k for k in known}.get(call.func.id.lower().replace("_", ""))
    if name is None:
        hint = nearest(call.func.id, known)
        raise CrossbatchError(expected("the name of a weighting", repr(call.func.id), hint))
    parameters = [f.name for f in dataclasses.fields(known[name])]  # pyright: ignore[reportArgumentType]
    unknown = [key for key in named if key not in parameters]
    if unknown or len(positional) > len(parameters):
        got = f"`{unknown[0]}`" if unknown else f"{len(positional)} of them"
        hint = nearest(unknown[0], parameters) if unknown else f"There are {len(parameters)}."
        raise CrossbatchError(expected(f"parameters of {name}", got, hint))
    named |= dict(zip(parameters, positional, strict=False))
    try:
        return known[name](**named)
    except TypeError as error:
        remedy = f"Give numbers, as in {known[name]()!r}."
        raise CrossbatchError(expected(f"parameters of {name}", text, remedy)) from error


def known_weightings() -> dict[str, type[PairWeighting]]:
    """Every weighting that :mod:`crossbatch.weighting` exports, by its name."""
    module = crossbatch.weighting
    members = {name: getattr(module, name) for name in module.__all__}
    return {
        name: member
        for name, member in members.items()
        if isinstance(member, type) and issubclass(member, PairWeighting)
        if dataclasses.is_dataclass(member)
    }

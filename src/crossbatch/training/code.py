"""Weightings and plans as code: what ``repr`` prints, YAML and the command line read back."""

import ast
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import crossbatch.weighting
from crossbatch.curriculum.plan import RECIPES, Plan, Stage
from crossbatch.errors import CrossbatchError, expected, nearest
from crossbatch.weighting import Curve, PairWeighting


class _Language(NamedTuple):
    """What can be called, by name; and how messages speak of it."""

    what: str
    names: Mapping[str, Callable[..., Any]]
    example: str


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
    language = _Language("weighting", _known(), "Write for example Contrastive(margin=0.5).")
    found = _parse(text, language)
    if not isinstance(found, PairWeighting):
        raise CrossbatchError(expected("a weighting as code", repr(text), language.example))
    return found


def parse_plan(text: str) -> Plan:
    """Read ``curriculumnet``, ``Plan.curriculumnet()`` or ``Plan(stages=(Stage(), Stage()))``.

    Only recipes, plans, stages and literals are known; nothing is executed.

    Raises:
        CrossbatchError: The text is no plan; the nearest valid name is given.

    >>> parse_plan("Plan.two_stages(iterations=(1000, 2000))").lengths(0)
    (1000, 2000)
    >>> parse_plan("clean_only") == parse_plan(repr(Plan.clean_only()))
    True
    """
    recipes = {name: getattr(Plan, name) for name in RECIPES}
    names = {"Plan": Plan, "Stage": Stage, **recipes}
    names |= {f"Plan.{name}": recipe for name, recipe in recipes.items()}
    language = _Language("plan", names, f"Write {', '.join(RECIPES)}, or Plan(stages=(Stage(),)).")
    found = _parse(text, language)
    if not isinstance(found, Plan):
        raise CrossbatchError(expected("a plan as code", repr(text), language.example))
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


def _parse(text: str, language: _Language) -> Any:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return _call(tree, language) if _is_name(tree) else _value(tree, language)
    except CrossbatchError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        wanted = f"a {language.what} as code"
        raise CrossbatchError(expected(wanted, repr(text), language.example)) from error


def _is_name(tree: ast.expr) -> bool:
    return isinstance(tree, ast.Name | ast.Attribute)


def _value(tree: ast.expr, language: _Language) -> Any:
    """A literal, something called, or a tuple of these."""
    if isinstance(tree, ast.Call):
        return _call(tree, language)
    if isinstance(tree, ast.Tuple | ast.List):
        return tuple(_value(element, language) for element in tree.elts)
    return ast.literal_eval(tree)


def _call(tree: ast.expr, language: _Language) -> Any:
    called = tree.func if isinstance(tree, ast.Call) else tree
    if not _is_name(called):
        raise ValueError
    known, written = language.names, ast.unparse(called)
    name = {k.lower().replace("_", ""): k for k in known}.get(written.lower().replace("_", ""))
    if name is None:
        hint = nearest(written, known)
        raise CrossbatchError(expected(f"the name of a {language.what}", repr(written), hint))
    parameters = list(inspect.signature(known[name]).parameters)
    arguments, keywords = (tree.args, tree.keywords) if isinstance(tree, ast.Call) else ([], [])
    positional = [_value(a, language) for a in arguments]
    named = {str(k.arg): _value(k.value, language) for k in keywords}
    unknown = [key for key in named if key not in parameters]
    if unknown or len(positional) > len(parameters):
        got = f"`{unknown[0]}`" if unknown else f"{len(positional)} of them"
        hint = nearest(unknown[0], parameters) if unknown else f"There are {len(parameters)}."
        raise CrossbatchError(expected(f"parameters of {name}", got, hint))
    named |= dict(zip(parameters, positional, strict=False))
    try:
        return known[name](**named)
    except TypeError as error:
        remedy = f"Give numbers, or {language.what}s: {', '.join(parameters)}."
        got = ast.unparse(tree)
        raise CrossbatchError(expected(f"parameters of {name}", got, remedy)) from error

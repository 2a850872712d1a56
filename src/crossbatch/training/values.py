"""Configs as nested plain values, as YAML holds them, and back."""

import contextlib
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from crossbatch.curriculum.plan import Plan
from crossbatch.errors import FormatError, expected, nearest
from crossbatch.training.code import parse_plan, parse_weighting
from crossbatch.weighting import PairWeighting

T = TypeVar("T")


def to_mapping(config: Any) -> dict[str, Any]:
    """A config as nested plain values, a weighting as its code."""
    result: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if isinstance(value, PairWeighting):
            value = repr(value)
        result[f.name] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(element) for element in cast(tuple[Any, ...], value)]
    return to_mapping(value) if is_dataclass(value) else value


def from_mapping(kind: type[T], mapping: dict[str, Any], *, where: str = "") -> T:
    """The inverse of :func:`to_mapping`; missing keys take their defaults.

    Raises:
        FormatError: An unknown key (the nearest valid one is named) or a value of another type.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in hints:
            what = f"a key of {where or kind.__name__}"
            raise FormatError(expected(what, f"`{key}`", nearest(str(key), hints)))
        values[key] = convert(hints[key], value, where=f"{where}.{key}" if where else key)
    return kind(**values)


def convert(hint: Any, value: Any, *, where: str) -> Any:
    """A value as a type hint wants it; ``where`` is its name in messages."""
    origin = get_origin(hint)
    if origin is Annotated:
        return convert(get_args(hint)[0], value, where=where)
    if origin is Literal:
        if value in get_args(hint):
            return value
        remedy = nearest(str(value), map(str, get_args(hint)))
        raise FormatError(expected(f"a known value of `{where}`", repr(value), remedy))
    if origin in (Union, UnionType):
        if value is None and NoneType in get_args(hint):
            return None
        return convert(next(a for a in get_args(hint) if a is not NoneType), value, where=where)
    if hint is PairWeighting:
        return parse_weighting(str(value))
    if hint is Plan and isinstance(value, str):
        return parse_plan(value)
    if origin is tuple and isinstance(value, list | tuple):
        kind, values = get_args(hint)[0], cast(list[Any], value)
        return tuple(convert(kind, v, where=f"{where}[{i}]") for i, v in enumerate(values))
    if is_dataclass(hint) and isinstance(value, dict):
        return from_mapping(cast(type[Any], hint), value, where=where)
    return _plain_value(hint, value, where=where)


def _plain_value(hint: Any, value: Any, *, where: str) -> Any:
    if get_origin(hint) is tuple:
        raise FormatError(expected(f"`{where}` as a list", repr(value), "Correct the config."))
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    if hint is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)  # YAML reads 1e-4 as text
    raise FormatError(
        expected(f"`{where}` of type {hint.__name__}", repr(value), "Correct the config.")
    )

"""Filters over the metadata of a gallery: a condition in SQL's words, and nothing else of SQL.

A condition compares columns with constants: ``label = 'it''s' AND (weight > 0.5 OR source IN ('a',
'b'))``. Columns stand bare, in "double quotes" or in `backticks`, and case counts; texts stand in
'single quotes', a quote within doubled. Allowed are comparisons, AND, OR, NOT, IN, LIKE, ILIKE,
BETWEEN, IS NULL, arithmetic, ``lower`` and ``upper``. The words are checked here, the grammar by
DataFusion, which evaluates it.
"""

import re
from collections.abc import Collection, Mapping

from crossbatch.errors import CrossbatchError, expected, nearest

Value = str | int | float | bool
Where = str | Mapping[str, Value | None]
"""A condition, or columns with the value that each shall have."""

_KEYWORDS = frozenset(
    {
        *("and", "or", "not", "in", "is", "null", "like", "ilike", "between", "escape"),
        *("true", "false", "date", "timestamp"),
    }
)
_FUNCTIONS = frozenset({"lower", "upper"})
_LONGEST = 10_000  # characters
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")+"|`[^`]+`)
      | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
      | (?P<word>[^\W\d]\w*)
      | (?P<sign><=|>=|<>|!=|[=<>(),+*/%]|-(?!-))""",
    re.VERBOSE,
)


def condition(where: Where, columns: Collection[str]) -> str:
    """The condition as the table's engine reads it, every column in backticks.

    Args:
        where: What was asked for.
        columns: Those that may be named.

    Raises:
        CrossbatchError: An unknown column, a text that does not end, or a word or a sign that has
            no place in a condition.

    >>> condition("label = 'it''s' and not Weight > 1", ["label", "Weight"])
    "`label` = 'it''s' and not `Weight` > 1"
    >>> condition({"label": "it's", "camera": None}, ["label", "camera"])
    "`label` = 'it''s' AND `camera` IS NULL"
    """
    if not isinstance(where, str):
        return " AND ".join(_equal(name, value, columns) for name, value in where.items())
    if not where.strip() or len(where) > _LONGEST:
        got = f"{len(where):,} characters" if where.strip() else "nothing"
        remedy = "Write, say, label = 'shoe'."
        raise CrossbatchError(
            expected(f"a condition of 1 to {_LONGEST:,} characters", got, remedy)
        )
    place, parts = 0, list[str]()
    while place < len(where):
        found = _TOKEN.match(where, place)
        if found is None:
            raise CrossbatchError(_misplaced(where[place:]))
        parts.append(_part(found, columns))
        place = found.end()
    return "".join(parts)


def _part(found: re.Match[str], columns: Collection[str]) -> str:
    text, kind = found[0], found.lastgroup
    if kind == "quoted":
        return _column(text[1:-1].replace('""', '"'), columns)
    if kind != "word":
        return text
    if text in columns:
        return _column(text, columns)
    if text.lower() in _KEYWORDS | _FUNCTIONS:
        return text
    return _column(text, columns)


def _column(name: str, columns: Collection[str]) -> str:
    if name not in columns:
        wanted = "a column of the index in the condition"
        hint = f"{nearest(name, columns)} Texts stand in 'single quotes'."
        raise CrossbatchError(expected(wanted, f"`{name}`", hint))
    return f"`{name}`"


def _equal(name: str, value: Value | None, columns: Collection[str]) -> str:
    column = _column(name, columns)
    if value is None:
        return f"{column} IS NULL"
    if isinstance(value, str):
        quoted = value.replace("'", "''")
        return f"{column} = '{quoted}'"
    return f"{column} = {str(value).lower() if isinstance(value, bool) else repr(value)}"


def _misplaced(rest: str) -> str:
    wanted = "one condition, such as label = 'shoe'"
    if rest[0] in "'\"`":
        return expected(wanted, f"a quote that is never closed: {rest[:30]}", "Close it.")
    remedy = "Write a text in 'single quotes', a quote within it doubled."
    return expected(wanted, f"{rest[:12]!r}, which has no place in one", remedy)

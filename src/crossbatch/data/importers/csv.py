"""Lists of images: our own columns, plain ``path,label`` lines, and the CSV of OML.

A file whose first line names the columns `path` and `label` has a header; any other is read as
``path,label`` lines (the lists of research-xbm and PRISM). Known columns are those of a manifest;
further ones are kept as text. The CSV of open-metric-learning is recognised by `is_query` and
`is_gallery`, which become the role; its split "validation" keeps its name. Its boxes (`x_1`, ...)
are refused where one is filled in: the box, not the picture, is then what the label speaks of, and
a manifest's images are whole pictures. A column without a name, such as the index that pandas
writes, is left out. Fields are separated by commas, in ``.tsv`` files by tabs.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from crossbatch.data._schema import COLUMNS
from crossbatch.data.importers.folder import SPLIT_NAMES
from crossbatch.data.manifest import Manifest
from crossbatch.data.problems import Imported, Kind, Problem
from crossbatch.errors import FormatError, expected, nearest

_BOX = ("x_1", "x_2", "y_1", "y_2")
_YES = ("true", "1", "1.0", "yes")
_NO = ("false", "0", "0.0", "no", "", "nan", "none")
_NUMBERS: dict[str, Callable[[str], int | float]] = {"id": int, "subset": int, "weight": float}


class _List(NamedTuple):
    """The cells of a file, with the number of each line and a name for messages."""

    name: str
    columns: list[str]
    lines: list[tuple[int, dict[str, str]]]
    problems: list[Problem]


def from_csv(file: Path, *, root: Path | None = None) -> Imported:
    """Read a list of images; none is opened.

    Args:
        file: The list, in UTF-8.
        root: Where relative paths start; by default the folder of ``file``.

    Returns:
        A manifest, which may have no rows, and the lines that could not become a row.

    Raises:
        FormatError: The file cannot be read, has no `label` or `path`, fills in boxes, or has a
            number, split or role that is none; or it has queries and a gallery, and an image is
            in both, or a class in training and test.
    """
    listed = _read(file)
    _refuse_boxes(listed)
    if {"is_query", "is_gallery"} & set(listed.columns):
        listed = _with_roles(listed)
    _check_retrieval(listed)
    kept = [name for name in listed.columns if name and name not in _BOX]
    table = pa.table({name: _column(listed, name) for name in kept})
    folder = file.parent if root is None else root
    return Imported(Manifest(table, folder.absolute()), tuple(listed.problems))


def _read(file: Path) -> _List:
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = csv.reader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        remedy = "Give a text file with one image a line, in UTF-8."
        raise FormatError(expected(f"a list of images at {file}", error, remedy)) from error
    columns = _header(file, lines[0][1]) if lines else None
    lines = lines if columns is None else lines[1:]
    columns = columns or ["path", "label"]
    whole: list[tuple[int, dict[str, str]]] = []
    problems: list[Problem] = []
    for number, cells in lines:
        row = dict(zip(columns, cells, strict=False))
        if len(cells) != len(columns):
            reason = f"{len(cells)} fields instead of {len(columns)}"
            problems.append(Problem(Kind.BAD_LINE, f"{file.name}:{number}", reason))
        elif not row["path"]:
            problems.append(Problem(Kind.BAD_LINE, f"{file.name}:{number}", "no path"))
        else:
            whole.append((number, row))
    return _List(file.name, columns, whole, problems)


def _header(file: Path, first: list[str]) -> list[str] | None:
    """The names of the columns, if the first line of a file tells them."""
    names = [cell.lower() for cell in first]
    if {"path", "label"} <= set(names):
        if twice := [name for name in names if names.count(name) > 1]:
            remedy = "Rename one of them."
            raise FormatError(expected("every column once", f"`{twice[0]}` twice", remedy))
        if "image" in names:
            wanted = "no column `image`, which holds embedded pictures"
            raise FormatError(expected(wanted, f"one in {file}", "Rename it."))
        return names
    if len(names) == 2 and not {"path", "label"} & set(names):
        return None
    missing = "label" if "path" in names else "path"
    raise FormatError(
        expected(
            f"{file} to name the columns `path` and `label`, or to have lines `path,label`",
            f"first line {','.join(first)[:80]}",
            f"`{missing}` is missing. {nearest(missing, names)}",
        )
    )


def _check_retrieval(listed: _List) -> None:
    """Where there are queries or a gallery, no image and no class may be on both sides."""
    roles = {row.get("role") for _, row in listed.lines}
    if not roles & {"query", "gallery"}:
        return
    first: dict[tuple[str, str], tuple[int, str]] = {}
    trained: dict[str, int] = {}
    tested: dict[str, int] = {}
    for number, row in listed.lines:
        split = SPLIT_NAMES.get(row.get("split", "").lower(), "train")
        (trained if split == "train" else tested).setdefault(row["label"], number)
        role = row.get("role", "")
        before, said = first.setdefault((split, row["path"]), (number, role))
        if split != "train" and {role, said} == {"query", "gallery"}:
            wanted = f"{row['path']} as query or in the gallery, not both"
            got = f"{said} in {listed.name}:{before} and {role} in {listed.name}:{number}"
            remedy = "Leave the role empty where an image is both (leave one out)."
            raise FormatError(expected(wanted, got, remedy))
    if both := sorted(trained.keys() & tested.keys()):
        label = both[0]
        where = f"{listed.name}:{trained[label]} and {listed.name}:{tested[label]}"
        wanted = "no class in training and test, or retrieval is measured on what was trained"
        got = f"{len(both)} in both: {', '.join(both[:5])}; {label} in {where}"
        raise FormatError(expected(wanted, got, "Take them out of one of the two."))


def _refuse_boxes(listed: _List) -> None:
    for number, row in listed.lines:
        if any(row.get(name, "").lower() not in ("", "nan", "none") for name in _BOX):
            raise FormatError(
                expected(
                    "whole pictures, with empty box columns x_1, x_2, y_1, y_2",
                    f"a box in {listed.name}:{number}",
                    "Cut the boxes out into files of their own and list those.",
                )
            )


def _with_roles(listed: _List) -> _List:
    """`is_query` and `is_gallery` as a role; a row that is both has none (leave one out)."""
    lines: list[tuple[int, dict[str, str]]] = []
    problems = list(listed.problems)
    for number, row in listed.lines:
        where = f"{listed.name}:{number}"
        query, gallery = (_flag(row.pop(name, ""), where) for name in ("is_query", "is_gallery"))
        if SPLIT_NAMES.get(row.get("split", ""), "train") == "train":
            row["role"] = "train"
        elif query or gallery:
            row["role"] = "" if query and gallery else "query" if query else "gallery"
        else:
            problems.append(Problem(Kind.NO_ROLE, row["path"], f"{where}: both are false"))
            continue
        lines.append((number, row))
    columns = [name for name in listed.columns if name not in ("is_query", "is_gallery", "role")]
    return _List(listed.name, [*columns, "role"], lines, problems)


def _flag(text: str, where: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        remedy = "Write True or False."
        raise FormatError(expected(f"`is_query` and `is_gallery` in {where}", text, remedy))
    return text.lower() in _YES


def _column(listed: _List, name: str) -> pa.Array:
    cells = [_cell(listed, name, number=n, text=row[name]) for n, row in listed.lines]
    return pa.array(cells, COLUMNS.get(name, pa.string()))


def _cell(listed: _List, name: str, *, number: int, text: str) -> Any:
    if name == "label":
        return text
    if not text:
        return None
    if name == "split":
        return SPLIT_NAMES.get(text.lower(), text)
    if name not in _NUMBERS:
        return text
    try:
        return _NUMBERS[name](text)
    except ValueError as error:
        remedy = "Correct the line."
        wanted = f"a number in column `{name}` of {listed.name}:{number}"
        raise FormatError(expected(wanted, repr(text), remedy)) from error

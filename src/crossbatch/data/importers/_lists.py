"""Lists of images as the owners of a data set publish them, read line by line.

Lines are UTF-8 and may end in CRLF; empty ones are passed over. Any other line that is not of the
list's form is an error with file and number. Rows go into Arrow piece by piece, so that two
million of them cost little more than their text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from crossbatch.data._schema import COLUMNS
from crossbatch.errors import CrossbatchError, FormatError, expected

_PIECE = 2**16  # rows


@dataclass(frozen=True)
class ListFile:
    """A text file with one entry a line."""

    path: Path

    def lines(self, *, skip: int = 0) -> Iterator[tuple[int, str]]:
        """The lines that are not empty, stripped, with their numbers; the first few skipped.

        Raises:
            FormatError: The file cannot be read, or is not UTF-8.
        """
        try:
            with self.path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    if number == 1:
                        raw = raw.removeprefix(b"\xef\xbb\xbf")
                    if number > skip and (text := self._text(number, raw)):
                        yield number, text
        except OSError as error:
            remedy = "Unpack the data set again, lists and images together."
            raise FormatError(expected(f"the list {self.path}", error, remedy)) from error

    def broken(self, number: int, wanted: str, got: str) -> FormatError:
        """What to raise at a line that is not of the form."""
        remedy = "Correct the line, or get the list anew from its owners."
        return FormatError(expected(f"{wanted} in {self.path}:{number}", repr(got[:120]), remedy))

    def inside(self, number: int, path: str) -> str:
        """A path that the list names, if it stays below the root.

        Raises:
            FormatError: It is absolute or goes upwards.
        """
        if path.startswith("/") or (".." in path and ".." in path.split("/")):
            raise self.broken(number, "a path below the root", path)
        return path

    def integer(self, number: int, text: str, name: str) -> int:
        """A whole number that the list names.

        Raises:
            FormatError: It is none.
        """
        try:
            return int(text)
        except ValueError as error:
            raise self.broken(number, f"a whole number as {name}", text) from error

    def _text(self, number: int, raw: bytes) -> str:
        try:
            return raw.decode().strip()
        except UnicodeDecodeError as error:
            got = raw.decode("latin-1").strip()
            raise self.broken(number, "text in UTF-8", got) from error


def locate(root: Path, file: str, *, inside: Sequence[str] = ()) -> Path:
    """The folder that holds a file or folder: the root, or one that an archive makes in it.

    Args:
        root: What the user gave.
        file: What to look for.
        inside: Folders below the root where it may stand as well.

    Raises:
        CrossbatchError: It is in none of them; the message says what was looked for and where.
    """
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing"
        remedy = "Give the folder that the data set was unpacked in."
        raise CrossbatchError(expected(f"a folder at {root}", got, remedy))
    places = [root, *(root / name for name in inside)]
    for place in places:
        if (place / file).exists():
            return place
    held = sorted(entry.name for entry in islice(root.iterdir(), 1000))
    raise FormatError(
        expected(
            " or ".join(str(place / file) for place in places),
            f"none; {root} holds {', '.join(held[:5]) or 'nothing'}{', ...' * (len(held) > 5)}",
            "Give the folder that the data set was unpacked in.",
        )
    )


def as_table(names: Sequence[str], rows: Iterable[Sequence[str | None]]) -> pa.Table:
    """Rows as columns, held as Arrow text."""
    schema = pa.schema([(name, COLUMNS.get(name, pa.string())) for name in names])
    left, pieces = iter(rows), list[pa.RecordBatch]()
    while piece := list(islice(left, _PIECE)):
        columns = zip(*piece, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
        pieces.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return pa.Table.from_batches(pieces, schema)

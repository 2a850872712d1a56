"""What an index says of itself: `index.json`."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from crossbatch._files import recover_folder, write_beside
from crossbatch.errors import FormatError, expected

FORMAT = 1
NAME = "index.json"


@dataclass(frozen=True)
class Source:
    """Where items came from: a folder or a manifest, and where their relative paths start."""

    origin: str
    root: str


@dataclass(frozen=True)
class Ann:
    """An approximate index over the vectors, and what was measured when it was built.

    Attributes:
        rows: It was built over.
        partitions: The cells of the inverted file.
        probes: Cells that a search looks into.
        recall: Share of the 10 nearest that it found, over `queries` items as queries.
        queries: How many.
        speedup: Time of an exact search of one query over its own, medians, on that machine.
        seconds: It took to measure.
    """

    rows: int
    partitions: int
    probes: int
    recall: float
    queries: int
    speedup: float
    seconds: float


@dataclass(frozen=True)
class Header:
    """The facts about an index that never change, its sources, and its approximate index.

    Attributes:
        model: Digest of the encoder.
        dim: Width of the embeddings.
        created: When.
        version: Of the table: the last that was found whole.
        sources: In the order in which they came; items count on it.
        ann: If there is one.
    """

    model: str
    dim: int
    created: str
    version: int = 1
    sources: tuple[Source, ...] = ()
    ann: Ann | None = None

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"
        write_beside(folder / NAME, lambda part: part.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it.

        Raises:
            FormatError: There is none, or it is damaged or of another format version.
        """
        recover_folder(folder)
        remedy = "Make one with `crossbatch index RUN FOLDER --out NAME`."
        wanted = f"an index at {folder}"
        try:
            stored: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
            version = stored.pop("format")
            if version != FORMAT:
                remedy = "Use the crossbatch that made it, or make it again."
                wanted = f"{folder} to be an index of format {FORMAT}"
                raise FormatError(expected(wanted, f"format {version}", remedy))
            ann = stored.pop("ann")
            sources = tuple(Source(**source) for source in stored.pop("sources"))
            return cls(**stored, sources=sources, ann=None if ann is None else Ann(**ann))
        except FormatError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FormatError(expected(wanted, f"no {NAME} there", remedy)) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            got = f"an {NAME} that cannot be read ({error})"
            raise FormatError(expected(wanted, got, remedy)) from error

    def with_source(self, source: Source) -> tuple[Self, int]:
        """The header with that source, and its place."""
        for place, known in enumerate(self.sources):
            if known.origin == source.origin:
                changed = (*self.sources[:place], source, *self.sources[place + 1 :])
                return replace(self, sources=changed), place
        return replace(self, sources=(*self.sources, source)), len(self.sources)

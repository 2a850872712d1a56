"""The demo's data: the same emoji as drawn by different designers.

A class is an emoji, its pictures are the drawings of ten openly licensed icon sets, rendered on
this machine at 64 px on white. A picture serves one class only: where a set draws two emoji
alike (the flags of Norway and of Bouvet Island), the emoji that more sets draw keeps it. Classes
with fewer than four pictures are left out. Half of the classes are for training, the others for
testing, drawn by a hash of the emoji, so the halves do not depend on a library's random numbers.
"""

import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from demo.fetch import icon_folders
from demo.icons import IconSet, emoji_names, match

DESIGNERS = 4
"""The fewest pictures of a class."""
_PROCESSES = 2
_CHUNK = 200

T = TypeVar("T")


def make_manifest(out: Path, *, cache: Path, size: int = 64) -> None:
    """Render the emoji and write their manifest, pictures within.

    Args:
        out: The Parquet file to write.
        cache: Folder for the icon sets; what is there already is used again.
        size: Side of a picture in pixels.

    Raises:
        CrossbatchError: The sets could not be fetched, or the file could not be written.
    """
    import pyarrow as pa

    from crossbatch.data import Manifest

    sets = [IconSet.read(folder) for folder in icon_folders(cache)]
    drawn = frequent(match(sets))
    pictures = frequent(distinct(_render_all(sets, drawn, size)))
    notes = {"size": size, "sets": [_credit(icons) for icons in sets]}
    table = pa.table(_rows(pictures, emoji_names(drawn)))
    Manifest(table, out.parent, notes).write(out)


def frequent(drawn: Mapping[str, Mapping[str, T]]) -> dict[str, dict[str, T]]:
    """Only the emoji that enough sets draw."""
    count = Counter(code for emoji in drawn.values() for code in emoji)
    return {
        name: {code: emoji[code] for code in sorted(emoji) if count[code] >= DESIGNERS}
        for name, emoji in drawn.items()
    }


def distinct(pictures: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
    """``{set: {emoji: picture}}`` with each picture once.

    A picture that stands for several emoji stays with the one that most sets draw.
    """
    count = Counter(code for emoji in pictures.values() for code in emoji)
    seen: set[bytes] = set()
    kept: dict[str, dict[str, bytes]] = {}
    for name, emoji in pictures.items():
        kept[name] = {}
        for code in sorted(emoji, key=lambda code: (-count[code], code)):
            if emoji[code] not in seen:
                seen.add(emoji[code])
                kept[name][code] = emoji[code]
    return kept


def halves(codes: Collection[str]) -> dict[str, str]:
    """``train`` or ``test`` for each emoji."""
    order = sorted(codes, key=lambda code: hashlib.sha256(code.encode()).hexdigest())
    half = (len(order) + 1) // 2
    return {code: "train" if place < half else "test" for place, code in enumerate(order)}


def render(svg: str, *, size: int) -> bytes:
    """A drawing as a PNG of ``size`` × ``size`` pixels on white."""
    import resvg_py

    return resvg_py.svg_to_bytes(
        svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True
    )


def _render_all(
    sets: Sequence[IconSet], drawn: Mapping[str, Mapping[str, str]], size: int
) -> dict[str, dict[str, bytes]]:
    jobs = [(icons, code, name) for icons in sets for code, name in drawn[icons.name].items()]
    pictures: dict[str, dict[str, bytes]] = {icons.name: {} for icons in sets}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_PROCESSES, mp_context=spawn) as processes:
        svgs = (icons.svg(name) for icons, _, name in jobs)
        rendered = processes.map(partial(render, size=size), svgs, chunksize=_CHUNK)
        for (icons, code, _), picture in zip(jobs, rendered, strict=True):
            pictures[icons.name][code] = picture
    return pictures


def _rows(
    pictures: Mapping[str, Mapping[str, bytes]], names: Mapping[str, str]
) -> dict[str, list[Any]]:
    """The manifest's columns, by emoji and set."""
    split = halves({code for emoji in pictures.values() for code in emoji})
    rows = sorted((code, name) for name, emoji in pictures.items() for code in emoji)
    return {
        "image": [{"bytes": pictures[name][code], "path": None} for code, name in rows],
        "label": [names[code] for code, _ in rows],
        "split": [split[code] for code, _ in rows],
        "source": [name for _, name in rows],
    }


def _credit(icons: IconSet) -> dict[str, Any]:
    return {
        "set": icons.name,
        "title": icons.info["name"],
        "version": icons.version,
        "author": icons.info["author"],
        "license": icons.info["license"],
    }

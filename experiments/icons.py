"""Pictures that carry the same name in many open icon sets: labels that nobody has checked.

A class is a name, without words that name a style (``heart-fill`` is a ``heart``); each set gives
one picture of it. Designers agree on what a ``camera`` looks like, not on a ``bolt`` or a
``focus``: the noise is in the data, not injected.
"""

import io
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from demo.icons import IconSet

SIDE, SETS = 32, 8  # pixels, and the fewest sets that have a name
_STYLE = re.compile(
    "(-(outline|outlined|fill|filled|line|solid|bold|thin|light|duotone|sharp|rounded|round|"
    "regular|linear|broken|two-tone|twotone|duo|stroke|[0-9]+))+$"
)


def draw(folders: list[Path]) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Pictures (N, 32, 32), class codes, names of the classes, and which set each is from."""
    named: dict[str, dict[str, tuple[IconSet, str]]] = defaultdict(dict)
    for folder in folders:
        icons = _read(folder)
        for name in sorted(icons.icons, key=lambda name: (len(name), name)):
            if not icons.icons[name].get("hidden"):
                named[_STYLE.sub("", name)].setdefault(icons.name, (icons, name))
    names = sorted(name for name, sets in named.items() if len(sets) >= SETS)
    order = {folder.name: number for number, folder in enumerate(folders)}
    images, labels, origin = [], [], []
    for label, name in enumerate(names):
        for of, (icons, icon) in sorted(named[name].items()):
            images.append(_picture(icons.svg(icon)))
            labels.append(label)
            origin.append(order[of])
    return np.stack(images), np.array(labels), names, np.array(origin)


def _read(folder: Path) -> IconSet:
    pack, info, version = (
        json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ("icons", "info", "package")
    )
    size = (pack.get("width", 16), pack.get("height", 16))
    return IconSet(folder.name, version["version"], info, pack["icons"], {}, {}, size)


def _picture(svg: str) -> np.ndarray:
    """Black on white."""
    drawn = resvg_py.svg_to_bytes(svg.replace("currentColor", "#000"), width=SIDE, height=SIDE)
    picture = Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(paper, picture).convert("L"))

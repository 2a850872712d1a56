"""Which icons of several sets draw the same emoji.

An emoji *is* its code points (``1f436``, or ``1f3f3-200d-1f308``: hyphens join a sequence). Five
of the sets say for each icon which emoji it draws. The others give names alone, so a name is
looked up in what the five call their icons, then in the names of the Unicode standard; the
spelling is reduced to letters and digits first, and several answers are settled by vote.

Left out: emoji with a skin tone (the same drawing in another colour), private code points (each
set's own inventions) and icons that a set has withdrawn.
"""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TONES = {f"{point:x}" for point in range(0x1F3FB, 0x1F400)}
_STANDARD = [*range(0x20, 0x3300), *range(0x1F000, 0x1FB00)]  # blocks that hold emoji
_DECLARED, _ALIAS, _UNICODE = 100, 10, 1  # how much a source's word on a name counts

Votes = Mapping[str, Counter[str]]


@dataclass(frozen=True)
class IconSet:
    """One designer's icons, as an ``@iconify-json`` package holds them."""

    name: str
    version: str
    info: dict[str, Any]
    """Title, author and licence."""
    icons: dict[str, Any]
    aliases: dict[str, Any]
    declared: dict[str, str]
    """Icon of an emoji, where the set says so."""
    size: tuple[float, float]
    """Width and height of an icon that does not give its own."""

    @classmethod
    def read(cls, folder: Path) -> "IconSet":
        """Read a set from the folder of its package."""
        pack, info, chars, version = (
            json.loads((folder / f"{name}.json").read_text("utf-8"))
            for name in ("icons", "info", "chars", "package")
        )
        return cls(
            name=pack["prefix"],
            version=version["version"],
            info=info,
            icons=pack["icons"],
            aliases=pack.get("aliases", {}),
            declared={code: icon for code, icon in chars.items() if _kept(code)},
            size=(pack.get("width", 16), pack.get("height", 16)),
        )

    def names(self) -> Iterator[str]:
        """Every name of an icon that the set still shows, icons before aliases."""
        for name, icon in self.icons.items():
            if not icon.get("hidden"):
                yield name
        yield from self.aliases

    def svg(self, name: str) -> str:
        """The drawing of an icon as a square document, centred where the icon is not square."""
        alias = self.aliases.get(name, {})
        icon = self.icons[alias.get("parent", name)]
        width, height = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        left, top, side = icon.get("left", 0), icon.get("top", 0), max(width, height)
        body = icon["body"]
        if alias.get("hFlip"):
            body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{side}" height="{side}" viewBox="{left - (side - width) / 2} '
            f'{top - (side - height) / 2} {side} {side}">{body}</svg>'
        )


def match(sets: Iterable[IconSet]) -> dict[str, dict[str, str]]:
    """The emoji of each set: ``{set: {emoji: icon}}``, an emoji being its code points."""
    sets = list(sets)
    votes = _votes(sets)
    return {icons.name: _emoji_of(icons, votes) for icons in sets}


def emoji_names(drawn: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """One name for each emoji: the one that most sets use, with the code points if it is taken."""
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for emoji in drawn.values():
        for code, icon in emoji.items():
            names[code][_plain_flag(icon)] += 1
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for code, votes in sorted(names.items()):
        name = min(votes, key=lambda name: (-votes[name], name))
        chosen[code] = f"{name}-{code}" if name in taken else name
        taken.add(name)
    return chosen


def _emoji_of(icons: IconSet, votes: Votes) -> dict[str, str]:
    emoji = dict(icons.declared)
    for name in icons.names():
        found = votes.get(_spelling(name))
        if found is not None:
            code = max(found, key=lambda code: (found[code], code))
            emoji.setdefault(code, name)
    return emoji


def _votes(sets: Iterable[IconSet]) -> Votes:
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for icons in sets:
        codes = {icon: code for code, icon in icons.declared.items()}
        for icon, code in codes.items():
            votes[_spelling(icon)][code] += _DECLARED
        for name, alias in icons.aliases.items():
            code = codes.get(alias["parent"])
            if code is not None and not alias.get("hFlip"):
                votes[_spelling(name)][code] += _ALIAS
    for point in _STANDARD:
        name = unicodedata.name(chr(point), "")
        if name and _kept(f"{point:x}"):
            votes[_spelling(name)][f"{point:x}"] += _UNICODE
    return votes


def _spelling(name: str) -> str:
    return re.sub("[^a-z0-9]", "", _plain_flag(name.lower()))


def _plain_flag(name: str) -> str:
    """``flag-for-chad`` and ``flag-chad`` are the same name."""
    return re.sub("^(flag-for-)?flag-(for-)?", "flag-", name)


def _kept(code: str) -> bool:
    parts = code.split("-")
    private = any(unicodedata.category(chr(int(part, 16))) == "Co" for part in parts)
    return not private and _TONES.isdisjoint(parts)

"""What an index gives back: items, hits, groups of duplicates."""

from typing import Any, NamedTuple

import pyarrow as pa


class Item(NamedTuple):
    """A picture of an index.

    Attributes:
        id: Its number, which stays.
        path: As its folder or manifest names it; relative to a root that is not told.
        label: Empty where there is none.
        metadata: Its other columns.
    """

    id: int
    path: str
    label: str
    metadata: dict[str, Any]


class Hit(NamedTuple):
    """An item that was found, and its cosine with the query."""

    item: Item
    similarity: float


class Duplicates(NamedTuple):
    """Items that near-identical pairs connect; the least and greatest cosine of such a pair."""

    items: list[Item]
    least: float
    greatest: float


def embedded(item: Item) -> bool:
    """Whether its image came within a manifest: its path says so, and is none."""
    return item.path.startswith("embedded image, id ")


def as_items(found: pa.Table) -> list[Item]:
    """Rows with `id`, `path`, `label` and further columns."""
    return [
        Item(row.pop("id"), row.pop("path"), row.pop("label") or "", row)
        for row in found.to_pylist()
    ]

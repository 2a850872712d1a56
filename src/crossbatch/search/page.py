"""What was found, as one self-contained HTML page: pictures are data URIs, nothing is fetched."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from crossbatch._files import write_beside
from crossbatch.data._decode import decode
from crossbatch.errors import CrossbatchError
from crossbatch.search.hits import embedded
from crossbatch.search.index import GalleryIndex, Hit
from crossbatch.search.refine import Refinement

_SIDE = 192  # pixels


def thumbnail(image: bytes, side: int = _SIDE) -> bytes:
    """A small WebP of an image, upright, its longer side at most so many pixels.

    Raises:
        OSError: It is not a whole image; see `crossbatch.data._decode.decode`.
    """
    picture = decode(image, shortest=side)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80)
    return file.getvalue()


def write_page(
    out: Path,
    index: GalleryIndex,
    found: Sequence[Sequence[Hit]],
    *,
    queries: Sequence[Sequence[Path]],
    where: str | None = None,
    refine: Refinement | None = None,
) -> None:
    """Write the page.

    Args:
        out: Where it shall be.
        index: That was searched.
        found: Of each query its hits.
        queries: Of each query its pictures.
        where: The condition, if there was one.
        refine: The second look, if there was one.

    Raises:
        CrossbatchError: It could not be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crossbatch.search"), autoescape=True, trim_blocks=True
    )
    rows = [
        {
            "pictures": [
                {"src": _uri(path.expanduser().read_bytes()), "name": path.name} for path in paths
            ],
            "hits": [_hit(index, hit) for hit in hits],
        }
        for paths, hits in zip(queries, found, strict=True)
    ]
    text = environment.get_template("gallery.html").render(
        queries=rows, name=_title(index.path), size=len(index), where=where, refine=refine
    )
    write_beside(out, lambda part: part.write_text(text, encoding="utf-8"))


def _hit(index: GalleryIndex, hit: Hit) -> dict[str, Any]:
    item = hit.item
    shown = {key: value for key, value in item.metadata.items() if value not in (None, "")}
    try:
        src = _uri(index.image(item.id))
    except CrossbatchError:
        src = None
    return {
        **{"src": src, "similarity": hit.similarity, "item": item, "metadata": shown},
        "path": "" if embedded(item) else item.path,
    }


def _title(path: Path) -> str:
    return path.name.removesuffix(".index") or path.name


def _uri(image: bytes) -> str | None:
    try:
        small = thumbnail(image)
    except Exception:  # Pillow's plugins raise whatever a broken file leads them into
        return None
    return "data:image/webp;base64," + base64.b64encode(small).decode()

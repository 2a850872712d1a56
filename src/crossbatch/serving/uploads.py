"""The form of a search, read within its limits and held in memory: no upload touches the disk."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from crossbatch.errors import CrossbatchError, nearest
from crossbatch.evaluation.rerank import Expansion, KReciprocal
from crossbatch.search import Refinement
from crossbatch.serving.limits import Limits
from crossbatch.serving.pictures import WHOLE, Crop
from crossbatch.serving.refusals import Refusal

FIELDS = ("image", "item", "k", "where", "crop", "expand", "rerank")
K = 12
EXPAND = 50
"""The nearest that a query may be moved towards, at most."""
LARGEST_ID = 10**18 - 1
LEAST = 0.01  # of a side, for a crop
_TEXT = 64 * 1024  # bytes of a field
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Wanted:
    """What a search is asked for.

    Attributes:
        images: Files, of one thing; none where an item is the query.
        item: The item that is the query.
        k: How many to find.
        where: A condition, or None.
        crop: What of the only picture, or of the item, is meant.
        refine: A second look, or None.
    """

    images: tuple[bytes, ...]
    item: int | None
    k: int
    where: str | None
    crop: Crop
    refine: Refinement | None


class Bodies:
    """Reads the bodies of requests; what all of them hold together is bounded.

    Args:
        limits: Of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held = 0

    @asynccontextmanager
    async def wanted(self, request: Request) -> AsyncGenerator[Wanted]:
        """The search that a request asks for; its bytes count until the context ends.

        Raises:
            Refusal: The body is too large, too slow, or not the form of a search.
        """
        kind = request.headers.get("content-type", "")
        if kind.split(";")[0].strip().lower() != "multipart/form-data":
            message = "Expected a body of multipart/form-data. Send a form with `image` or `item`."
            raise Refusal("not_multipart", message)
        mine = 0

        async def within() -> AsyncGenerator[bytes]:
            nonlocal mine
            async for chunk in request.stream():
                mine += len(chunk)
                self.held += len(chunk)
                self._check(mine)
                yield chunk

        declared = request.headers.get("content-length", "0")
        self._check(int(declared) if _WHOLE_NUMBER.fullmatch(declared) else 0, declared=True)
        try:
            form = await self._parse(request, within())
            yield _wanted(form, await _files(form), self._limits)
        finally:
            self.held -= mine

    async def _parse(self, request: Request, body: AsyncGenerator[bytes]) -> FormData:
        parser = MultiPartParser(
            request.headers,
            body,
            max_files=self._limits.pictures,
            max_fields=len(FIELDS),
            max_part_size=_TEXT,
        )
        parser.spool_max_size = self._limits.upload_bytes + 1  # so it never spools to the disk
        try:
            async with asyncio.timeout(self._limits.seconds / 2):
                return await parser.parse()
        except TimeoutError as error:
            message = f"Expected the whole body within {self._limits.seconds / 2:g} s. Send less."
            raise Refusal("too_slow", message) from error
        except (MultiPartException, ClientDisconnect, ValueError, LookupError) as error:
            most = self._limits.pictures
            message = f"Expected a form of at most {most} images and the fields of a search. "
            said = getattr(error, "message", "") or "a body that ends early or is none"
            raise Refusal(
                "bad_form", f"{message}Got: {said.rstrip('.')}. Send it anew."
            ) from error

    def _check(self, size: int, *, declared: bool = False) -> None:
        limit = self._limits.upload_bytes
        if size > limit:
            message = f"Expected at most {limit / 2**20:g} MiB. Got more. Send smaller images."
            raise Refusal("upload_too_large", message)
        if self.held + size * declared > self._limits.held_bytes:
            raise Refusal("busy", "Too many uploads are held at once. Try again in a moment.")


async def _files(form: FormData) -> tuple[bytes, ...]:
    files = [value for value in form.getlist("image") if isinstance(value, UploadFile)]
    try:
        return tuple([await file.read() for file in files])
    finally:
        await form.close()


def _wanted(form: FormData, images: tuple[bytes, ...], limits: Limits) -> Wanted:
    given: dict[str, str] = {}
    for name, value in form.multi_items():
        if name not in FIELDS:
            raise Refusal("bad_form", f"Got a field `{name[:40]}`. {nearest(name, FIELDS)}")
        if isinstance(value, UploadFile) != (name == "image"):
            kind = "a file" if name == "image" else "a text"
            raise Refusal("bad_form", f"Expected {kind} in `{name}`. Send it as one.")
        if isinstance(value, str):
            if name in given:
                raise Refusal("bad_form", f"Expected one `{name}`. Got several. Send one.")
            given[name] = value
    if bool(images) == ("item" in given):
        got = "both" if images else "neither"
        raise Refusal("bad_form", f"Expected `image` or `item`. Got {got}. Send one of them.")
    crop = _crop(given["crop"]) if "crop" in given else WHOLE
    if crop != WHOLE and len(images) > 1:
        message = f"Expected one picture beside `crop`. Got {len(images)}. Send the cropped one."
        raise Refusal("bad_form", message)
    item = whole("item", given["item"], least=0, most=LARGEST_ID) if "item" in given else None
    k = whole("k", given.get("k", str(min(K, limits.k))), least=1, most=limits.k)
    where = given.get("where", "").strip() or None
    return Wanted(images, item, k, where, crop, _refinement(given))


def whole(name: str, text: str, *, least: int, most: int) -> int:
    """A whole number from a request.

    Raises:
        Refusal: It is none, or out of its range.
    """
    if not _WHOLE_NUMBER.fullmatch(text) or not least <= int(text) <= most:
        message = f"Expected `{name}` to be a whole number from {least} to {most}. "
        raise Refusal("bad_parameter", f"{message}Got {text[:30]!r}. Choose another.")
    return int(text)


def _refinement(given: dict[str, str]) -> Refinement | None:
    many = whole("expand", given.get("expand", "0"), least=0, most=EXPAND)
    text = given.get("rerank", "")
    if not many and not text:
        return None
    try:
        k1, k2, weight = text.split(",") if text else ("1", "1", "0")
        rerank = KReciprocal(int(k1), int(k2), float(weight))
        if rerank.k1 > Refinement.pool:
            raise ValueError("more than are looked at")
    except (ValueError, CrossbatchError) as error:
        message = (
            f"Expected `rerank` as k1,k2,lambda with 1 ≤ k1 ≤ {Refinement.pool}, 1 ≤ k2 ≤ k1 + 1 "
            f"and lambda from 0 to 1, such as 20,6,0.3. Got {text[:60]!r}. Leave it out, or so."
        )
        raise Refusal("bad_parameter", message) from error
    return Refinement(Expansion(many) if many else None, rerank if text else None)


def _crop(text: str) -> Crop:
    message = (
        "Expected `crop` as four shares of the upright picture, left, top, width, height, within "
        f"it, such as 0.1,0.2,0.5,0.5. Got {text[:60]!r}. Draw it anew."
    )
    try:
        crop = Crop(*[float(part) for part in text.split(",")])
    except (ValueError, TypeError) as error:
        raise Refusal("bad_parameter", message) from error
    within = min(crop) >= 0 and crop.left + crop.width <= 1.001
    if not (within and crop.top + crop.height <= 1.001 and min(crop[2:]) >= LEAST):
        raise Refusal("bad_parameter", message)
    return crop

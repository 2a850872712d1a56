"""What the server answers.

============================ ==================================================================
``GET /``                    the page
``POST /search``             items like some pictures of one thing, or like an item
``GET /items/{id}``          what is known of an item
``GET /items/{id}/image``    a small picture of it
``GET /health``              whether there is an index, and what may be asked of it
``GET /openapi.json``        all of this for programs
============================ ==================================================================
"""

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

import crossbatch
from crossbatch.errors import CrossbatchError
from crossbatch.models.encoding import plain_transform
from crossbatch.search import Hit, together
from crossbatch.serving import pictures, shelf
from crossbatch.serving.embedder import Embedder
from crossbatch.serving.guard import Guard, refused
from crossbatch.serving.limits import Limits
from crossbatch.serving.openapi import description
from crossbatch.serving.page import page
from crossbatch.serving.refusals import Refusal
from crossbatch.serving.shelf import Opened, Shelf
from crossbatch.serving.uploads import LARGEST_ID, Bodies, Wanted, whole

SMALLEST, SIDE, LARGEST = 32, 256, 1024  # pixels of a small picture
THREADS = 4
_T = TypeVar("_T")


class Service:
    """The endpoints, and what they share.

    Args:
        path: Of the index.
        limits: Of the server.
        interval: Seconds between looks at the index on the disk.

    Raises:
        FormatError: There is no index, or it cannot be read.
    """

    def __init__(self, path: Path, limits: Limits, *, interval: float = shelf.INTERVAL) -> None:
        self.limits = limits
        self.shelf = Shelf(path, interval=interval)
        self.bodies = Bodies(limits)
        self.embedder = Embedder()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="serving")
        self._small: OrderedDict[str, bytes] = OrderedDict()
        self._kept = 0  # bytes of them
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the threads."""
        self.embedder.close()
        self._pool.shutdown(cancel_futures=True)

    async def page(self, request: Request) -> Response:
        """The page."""
        headers = {"Content-Security-Policy": page().policy, "Cache-Control": "no-cache"}
        return HTMLResponse(page().text, headers=headers)

    async def search(self, request: Request) -> Response:
        """The items nearest to some pictures or to an item."""
        _only(request)
        async with self.bodies.wanted(request) as wanted:
            query, model = await self._query(wanted)

        def find(opened: Opened) -> tuple[Opened, list[Hit]]:
            found = shelf.search(
                opened, query, model=model, k=wanted.k, where=wanted.where, refine=wanted.refine
            )
            return opened, found

        opened, hits = await self._use(find)
        found = [{"similarity": hit.similarity, **shelf.plain(hit.item)} for hit in hits]
        return JSONResponse({"hits": found, "items": opened.items})

    async def item(self, request: Request) -> Response:
        """What is known of an item."""
        _only(request)
        number = _number(request)
        return JSONResponse(shelf.plain(await self._use(lambda o: shelf.item(o, number))))

    async def image(self, request: Request) -> Response:
        """A small picture of an item; what the browser has already is not sent again."""
        _only(request, "size")
        number = _number(request)
        size = request.query_params.get("size", str(SIDE))
        side = whole("size", size, least=SMALLEST, most=LARGEST)

        def draw(opened: Opened) -> tuple[str, bytes | None]:
            about = f"{opened.version} {number} {side}"
            tag = f'"{hashlib.sha256(about.encode()).hexdigest()[:24]}"'
            if tag in request.headers.get("if-none-match", ""):
                return tag, None
            return tag, self._drawn(opened, tag, number, side)

        tag, drawn = await self._use(draw)
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if drawn is None:
            return Response(status_code=304, headers=headers)
        return Response(drawn, media_type="image/webp", headers=headers)

    async def health(self, request: Request) -> Response:
        """Whether there is an index, and what may be asked of it."""
        _only(request)
        opened = await self._use(lambda found: found)
        limits = self.limits
        about = {
            "status": "ok",
            "crossbatch": crossbatch.__version__,
            "name": opened.index.path.name,
            "items": opened.items,
            "version": opened.version,
            "model": opened.index.model,
            "columns": opened.index.columns,
            "examples": opened.examples,
            "limits": {
                "upload_bytes": limits.upload_bytes,
                "pixels": limits.pixels,
                "pictures": limits.pictures,
                "k": limits.k,
            },
        }
        return JSONResponse(about)

    async def openapi(self, request: Request) -> Response:
        """The description of the API."""
        _only(request)
        return JSONResponse(description(self.limits))

    # Within

    async def _query(self, wanted: Wanted) -> tuple[np.ndarray, str]:
        """The embedding that is searched with, (D,), and its model's digest."""
        number = wanted.item
        if number is not None and wanted.crop == pictures.WHOLE:
            return await self._use(lambda o: (shelf.embedding(o, number), o.index.model))
        images = wanted.images
        if number is not None:
            images = (await self._use(lambda o: shelf.image(o, number)),)
        opened = await self._use(lambda found: found)
        transform = plain_transform(opened.encoder)

        def read(data: bytes) -> Any:
            pixels = self.limits.pixels
            shortest = transform.side
            return pictures.read(
                data, transform, pixels=pixels, shortest=shortest, crop=wanted.crop
            )

        seen = await asyncio.gather(*[self._work(lambda x=x: read(x)) for x in images])
        found = await asyncio.wrap_future(self.embedder.ask(opened.encoder, list(seen)))
        return _one(found), opened.index.model

    def _drawn(self, opened: Opened, tag: str, number: int, side: int) -> bytes:
        with self._lock:
            if tag in self._small:
                self._small.move_to_end(tag)
                return self._small[tag]
        try:
            data = shelf.image(opened, number)
            drawn = pictures.small(data, side, pixels=self.limits.pixels)
        except Refusal as refusal:
            if refusal.code == "no_such_item":
                raise
            message = f"The image of item {number} cannot be read any more."
            raise Refusal("image_gone", message) from refusal
        with self._lock:
            self._kept += len(drawn) - len(self._small.pop(tag, b""))
            self._small[tag] = drawn
            while self._kept > self.limits.cache_bytes:
                self._kept -= len(self._small.popitem(last=False)[1])
        return drawn

    async def _use(self, work: Callable[[Opened], _T]) -> _T:
        return await self._work(lambda: self.shelf.use(work))

    async def _work(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def application(
    path: Path,
    limits: Limits,
    *,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
    interval: float = shelf.INTERVAL,
) -> ASGIApp:
    """The whole server as an ASGI application.

    Args:
        path: Of the index.
        limits: Of what is served.
        token: That must be sent, if any.
        hosts: What ``Host`` may name; None for anything.
        interval: Seconds between looks at the index on the disk.

    Raises:
        FormatError: There is no index, or it cannot be read.
    """
    service = Service(path, limits, interval=interval)

    @asynccontextmanager
    async def living(app: Starlette) -> AsyncGenerator[None]:
        yield
        service.close()

    app = Starlette(
        routes=[
            Route("/", service.page),
            Route("/search", service.search, methods=["POST"]),
            Route("/items/{id}", service.item),
            Route("/items/{id}/image", service.image),
            Route("/health", service.health),
            Route("/openapi.json", service.openapi),
        ],
        exception_handlers={Refusal: _refused, HTTPException: _http, Exception: _failed},
        lifespan=living,
    )
    app.router.redirect_slashes = False
    return Guard(app, limits, token=token, hosts=hosts)


def _number(request: Request) -> int:
    return whole("id", request.path_params["id"], least=0, most=LARGEST_ID)


def _only(request: Request, *names: str) -> None:
    """Raise for parameters that mean nothing here."""
    for name, _ in request.query_params.multi_items():
        if name not in names or len(request.query_params.getlist(name)) > 1:
            wanted = f"one `{names[0]}` at most" if names else "no parameters in the address"
            message = f"Expected {wanted}. Got `{name[:40]}`. Leave it out."
            raise Refusal("bad_parameter", message)


def _one(found: np.ndarray) -> np.ndarray:
    try:
        if not np.isfinite(found).all():
            raise CrossbatchError("not finite")
        return together(found)[0] if len(found) > 1 else found[0]
    except CrossbatchError as error:
        message = "The pictures have no common direction. Search with one at a time."
        raise Refusal("bad_form", message) from error


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refused(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        answer = refused(Refusal("method_not_allowed", "Expected another method."))
        answer.headers.update(error.headers or {})
        return answer
    return refused(Refusal("not_found", "There is nothing at this address. See /openapi.json."))


async def _failed(request: Request, error: Exception) -> Response:
    body = {"error": {"code": "failed", "message": "The server failed; its log says more."}}
    return JSONResponse(body, 500)

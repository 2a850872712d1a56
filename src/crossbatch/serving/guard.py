"""What stands before every request: who may ask, how much at a time, and what each answer says.

On a loopback address whoever runs a program on this machine may ask, and nobody else: requests
whose ``Host`` is another name come from a page that was rebound to this address (DNS rebinding),
and those that a browser marks as another site's are refused, too. Elsewhere a token is asked for.
"""

import asyncio
import hmac
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossbatch.serving.limits import Limits
from crossbatch.serving.refusals import Refusal

OPEN = ("/", "/openapi.json")
"""Asked for without a token: they hold nothing of the index."""
NOTHING = "default-src 'none'; frame-ancestors 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": NOTHING,
    "Cache-Control": "no-store",
}
"""On every answer, where it does not say otherwise itself."""
_log = logging.getLogger("crossbatch.serving")


class Guard:
    """An ASGI application around another.

    Args:
        app: What answers.
        limits: Of the server.
        token: Asked for as a bearer, if there is one.
        hosts: Names that ``Host`` may have; None for any.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, *, token: str | None, hosts: frozenset[str] | None
    ) -> None:
        self._app = app
        self._limits = limits
        self._token = token
        self._hosts = hosts
        self._working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, count, time, and answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = await self._serve(scope, receive, with_headers)
        if refusal is not None and not begun:
            answer = refused(refusal)
            await answer(scope, receive, with_headers)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> Refusal | None:
        try:
            self._admit(scope["path"], Headers(scope=scope))
            if self._working >= self._limits.requests:
                return Refusal("busy", "The server does as much as it can. Try again in a moment.")
            self._working += 1
            try:
                async with asyncio.timeout(self._limits.seconds):
                    await self._app(scope, receive, send)
            finally:
                self._working -= 1
        except Refusal as refusal:
            return refusal
        except TimeoutError:
            said = (
                f"The answer took longer than {self._limits.seconds:g} s. Try again in a moment."
            )
            return Refusal("timed_out", said)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
        return None

    def _admit(self, path: str, headers: Headers) -> None:
        if self._hosts is not None and _host(headers) not in self._hosts:
            message = "Expected this machine's own name in `Host`. Ask http://127.0.0.1 instead."
            raise Refusal("wrong_host", message)
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") and path != "/":
            raise Refusal("cross_site", "Only the server's own page may ask from a browser.")
        if self._token is not None and path not in OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode(), self._token.encode())
            if kind.lower() != "bearer" or not same:
                message = "Expected the server's token. Send it as `Authorization: Bearer TOKEN`."
                raise Refusal("unauthorized", message)


def refused(refusal: Refusal) -> JSONResponse:
    """The answer to a request that is not served."""
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)


def _host(headers: Headers) -> str | None:
    named = headers.getlist("host")
    if len(named) != 1:
        return None
    host = named[0].strip().lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0].removesuffix(".")

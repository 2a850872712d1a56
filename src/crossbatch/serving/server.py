"""From an index to a server that listens: on this machine alone, or with a token on others.

Whoever reaches a loopback address is on this machine. Any other address may be reached by
strangers, so a token is asked for there, and made where none is given.
"""

import ipaddress
import logging
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from crossbatch.errors import CrossbatchError, expected
from crossbatch.serving.limits import Limits

SHORTEST = 16  # characters of a token
_GRACE = 5  # seconds that requests at work have when the server is stopped


class Address(NamedTuple):
    """Where to listen.

    Attributes:
        host: An address or a name of this machine; ``0.0.0.0`` and ``::`` are all of them.
        port: 0 for any that is free.
    """

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def hosts(self) -> frozenset[str] | None:
        """What requests may name it; None for anything."""
        if not self.loopback:
            return None
        own = self.host.strip("[]").lower()
        return frozenset({"localhost", "127.0.0.1", "[::1]", f"[{own}]" if ":" in own else own})


def choose_token(address: Address, given: str | None) -> str | None:
    """The token to ask for: the one that was given, or a new one where strangers may reach it.

    Raises:
        CrossbatchError: The one that was given is short, or not plain text.
    """
    if given is None:
        return None if address.loopback else secrets.token_urlsafe(24)
    if len(given) < SHORTEST or not given.isascii() or not given.isprintable() or " " in given:
        wanted = f"a token of at least {SHORTEST} letters, digits and signs"
        remedy = "Leave it out, and one is made."
        raise CrossbatchError(expected(wanted, f"one of {len(given)} characters", remedy))
    return given


def serve(
    path: Path,
    address: Address,
    *,
    limits: Limits,
    token: str | None = None,
    ready: Callable[[str], object] = str,
) -> None:
    """Serve an index until the process is interrupted.

    Args:
        path: Of the index.
        address: Where to listen.
        limits: Of what is served.
        token: Asked for, if any; see `choose_token`.
        ready: Told the page's address once the server listens.

    Raises:
        CrossbatchError: The address cannot be listened at, a stranger could reach it without a
            token, or a package is missing.
        FormatError: There is no index, or it cannot be read.
    """
    if token is None and not address.loopback:
        remedy = "Give one, or listen on 127.0.0.1."
        raise CrossbatchError(expected(f"a token for {address.host}", "none", remedy))
    try:
        import uvicorn

        from crossbatch.serving.api import application
    except ImportError as error:
        remedy = "Install them: pip install 'crossbatch[web]'."
        wanted = "starlette, uvicorn and python-multipart"
        raise CrossbatchError(expected(wanted, f"no {error.name}", remedy)) from error
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # of each broken form a line
    app = application(path, limits, token=token, hosts=address.hosts)
    with _listen(address) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=_GRACE,
        )
        host = f"[{address.host}]" if ":" in address.host else address.host
        ready(f"http://{host}:{port}/")
        uvicorn.Server(config).run(sockets=[listening])


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host.strip("[]"), address.port))
        listening.listen(1024)
    except (OSError, OverflowError) as error:
        listening.close()
        said = error.strerror if isinstance(error, OSError) else str(error)
        wanted = f"to listen at {address.host}, port {address.port}"
        remedy = "Choose another `--port` (0: any that is free) or `--host`."
        raise CrossbatchError(expected(wanted, said, remedy)) from error
    return listening

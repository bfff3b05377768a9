"""The health endpoints, served from a thread and an event loop of their own: they answer even if the keeper's is stuck."""

import asyncio
import errno
import json
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict
from ipaddress import ip_address
from typing import Final, Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from keeper.errors import ConfigurationError, Fatal
from keeper.observe.health import Health

MAX_CONNECTIONS: Final = 64
MAX_CONNECTION_S: Final = 10.0
MAX_WAITING: Final = 32
"""Connections that the system holds for us: as many are accepted at once, before the first of them is counted."""
MAX_LINE_BYTES: Final = 4096
MAX_HEADERS: Final = 64
START_TIMEOUT_S: Final = 5.0

HEADERS: Final = {"Server": "keeper", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Exposition = Callable[[str], tuple[bytes, str]]


class _Door(web.Server):
    """Hangs up on a connection that is one too many, or lasts too long: a client owns no descriptor of ours for ever."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Let a connection in."""
        super().connection_made(handler, transport)
        patience_s = MAX_CONNECTION_S if len(self.connections) <= MAX_CONNECTIONS else 0.0
        asyncio.get_running_loop().call_later(patience_s, transport.abort)


class Server:
    """Serves `/livez`, `/readyz` and `/metrics`; use it as a context manager.

    Raises, on entering: ConfigurationError when the address cannot be had, Fatal when the thread cannot.
    """

    def __init__(self, *, host: str, port: int, health: Health, exposition: Exposition) -> None:
        self._host = host
        self._wanted_port = port
        self._health = health
        self._exposition = exposition
        self._log = logging.getLogger("keeper.http")
        self._log.addFilter(_is_ours)
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = _nothing
        self.port = port

    def __enter__(self) -> Self:
        listening = _bind(self._host, self._wanted_port)
        address, self.port = listening.getsockname()[:2]
        self._is_local = ip_address(address).is_loopback
        is_up = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening, is_up)), name="http", daemon=True
        )
        self._thread.start()
        if not is_up.wait(START_TIMEOUT_S):
            raise Fatal("the health endpoints did not start")
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._stop()
            self._thread.join(MAX_CONNECTION_S)

    async def _serve(self, listening: socket.socket, is_up: threading.Event) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        server = _Door(
            self._answer,
            access_log=None,
            keepalive_timeout=5.0,
            lingering_time=0.0,
            logger=self._log,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            max_line_size=MAX_LINE_BYTES,
        )

        listener = await loop.create_server(server, sock=listening, backlog=MAX_WAITING)
        is_up.set()
        await stop.wait()
        listener.close()
        await server.shutdown(1.0)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = self._route(request)
        response.headers.update(HEADERS)
        response.force_close()
        return response

    def _route(self, request: web.BaseRequest) -> web.Response:
        if self._is_local and not _is_loopback_name(request.headers.get("Host", "")):
            return _text(403, "this address is for the machine itself: ask for 127.0.0.1 or localhost")
        routes = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        route = routes.get(request.path)
        if route is None:
            return _text(404, f"there are {', '.join(routes)}")
        if request.method not in {"GET", "HEAD"}:
            response = _text(405, "only GET and HEAD")
            response.headers["Allow"] = "GET, HEAD"
            return response
        return route(request)

    def _livez(self, _request: web.BaseRequest) -> web.Response:
        check = self._health.liveness()
        return _json(200 if check.ok else 503, {"status": "live" if check.ok else "stuck", "checks": [asdict(check)]})

    def _readyz(self, _request: web.BaseRequest) -> web.Response:
        is_ready, checks = self._health.readiness()
        status = "ready" if is_ready else "not_ready"
        return _json(200 if is_ready else 503, {"status": status, "checks": [asdict(check) for check in checks]})

    def _metrics(self, request: web.BaseRequest) -> web.Response:
        body, content_type = self._exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=MAX_WAITING)
    except OSError as error:
        problem = {
            errno.EADDRINUSE: f"KEEPER_HTTP_PORT: port {port} is in use; choose another, or stop what listens there",
            errno.EACCES: f"KEEPER_HTTP_PORT: port {port} is reserved for the system; choose one from 1024 up",
        }.get(
            error.errno or 0, "KEEPER_HTTP_HOST: is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all"
        )
        raise ConfigurationError(problem) from error


def _is_loopback_name(host: str) -> bool:
    """Say whether a Host header means this machine: a foreign name that resolves to it is an attack by a web page."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return name.lower() == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out what a client can cause by sending nonsense: it could fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")


def _json(status: int, body: object) -> web.Response:
    return web.Response(status=status, text=f"{json.dumps(body)}\n", content_type="application/json")


def _nothing() -> None:
    """Stop nothing: the server is not up."""

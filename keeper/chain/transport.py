"""One node's connection: a request body out, its response frames in, under a size cap and without a trace of the address."""

import asyncio
import errno
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from io import BytesIO
from types import SimpleNamespace
from typing import Final, Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload

from keeper.chain.failures import (
    AnswerTooLarge,
    BadResponse,
    BatchTooLarge,
    NodeFailure,
    RateLimited,
    TimedOut,
    Unauthorised,
    Unreachable,
)
from keeper.chain.observer import lasting
from keeper.chain.wire import Envelope, envelopes

_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
_DEFAULT_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 300.0
_ERROR_BODY_LIMIT: Final = 64 * 1024
_LONG_BODY: Final = 1 << 20


MayLeave = Callable[[], bool]
"""Says whether a request may still leave the process. It must not wait."""


class Transport(Protocol):
    """Carries one framed request and brings back the frames of its answer."""

    async def exchange(self, body: bytes, first_id: int, may_leave: MayLeave | None = None) -> list[Envelope]:
        """Send a body whose first call has `first_id`; return the response objects.

        `may_leave` is asked at the last instant before the body is written.
        Raises: NodeFailure.
        """
        ...

    async def close(self) -> None:
        """Drop every connection."""
        ...


class HttpTransport:
    """JSON-RPC over HTTP POST: no redirects, no proxies, no cookies, no retries."""

    def __init__(self, alias: str, url: str, *, max_answer_bytes: int, max_in_flight: int) -> None:
        """Keep the address; nothing is opened before the first request."""
        self._alias = alias
        self._url = url
        self._max_answer_bytes = max_answer_bytes
        self._max_in_flight = max_in_flight
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        """Name the node by its alias."""
        return f"HttpTransport({self._alias})"

    async def exchange(self, body: bytes, first_id: int, may_leave: MayLeave | None = None) -> list[Envelope]:
        """Post a body and return the response objects."""
        del first_id
        session = self._session or self._open()
        failure: NodeFailure
        try:
            async with session.post(self._url, data=_payload(body, may_leave), allow_redirects=False) as response:
                if response.status == 200:
                    return self._parse(await self._read(response, self._max_answer_bytes))
                return await self._refused(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = connection_failure(self._alias, error)
        raise failure  # outside the handler: the library's error holds the address and must not be chained

    async def close(self) -> None:
        """Close the session and let its sockets go."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_in_flight + 4, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
        )
        return self._session

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes | bytearray:
        """Read the body, counting after decompression."""
        body: bytes | bytearray = await response.content.readany()
        while chunk := await response.content.readany():
            if isinstance(body, bytes):
                body = bytearray(body)
            body += chunk  # in place: a second copy of a long answer would double what it takes
            if len(body) > limit:
                break
        if len(body) > limit:
            response.close()
            raise AnswerTooLarge(self._alias, f"an answer larger than {limit} bytes")
        return body

    def _parse(self, body: bytes | bytearray) -> list[Envelope]:
        try:
            return envelopes(body)
        except (ValueError, RecursionError):
            pass
        raise BadResponse(self._alias, "an answer that is not JSON-RPC")

    async def _refused(self, response: aiohttp.ClientResponse) -> list[Envelope]:
        """Turn a status other than 200 into a failure, unless the body explains it in JSON-RPC."""
        status = response.status
        if 300 <= status < 400:
            raise BadResponse(self._alias, f"a redirect, which is not followed (HTTP {status})")
        if status in (401, 402, 403):
            raise Unauthorised(self._alias, f"HTTP {status}")
        if status == 429:
            raise RateLimited(self._alias, "HTTP 429", retry_after(response.headers))
        try:
            found = envelopes(await self._read(response, _ERROR_BODY_LIMIT))
        except (ValueError, RecursionError, AnswerTooLarge):
            found = []
        if found and all(len(memoryview(item.error)) for item in found):
            return found
        if status == 413:
            raise BatchTooLarge(self._alias, "HTTP 413")
        if status in (408, 504):
            raise TimedOut(self._alias, f"HTTP {status}")
        raise BadResponse(self._alias, f"HTTP {status}")


def _payload(body: bytes, may_leave: MayLeave | None) -> bytes | BytesIO | BytesPayload:
    """Return a body as the library wants it: a long one is written in parts."""
    if may_leave is not None:
        return _GuardedPayload(body, may_leave)
    return body if len(body) <= _LONG_BODY else BytesIO(body)


class _GuardedPayload(BytesPayload):
    """A body that is written only while it still may leave: the process may have stood still since that was found."""

    def __init__(self, body: bytes, may_leave: MayLeave) -> None:
        super().__init__(body)
        self._may_leave = may_leave

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        _require(self._may_leave)
        await super().write_with_length(writer, content_length)


def _require(may_leave: MayLeave | None) -> None:
    if may_leave is not None and not may_leave():
        raise ConnectionAbortedError(errno.ECONNABORTED, "it must not leave any more")


class WsTransport:
    """JSON-RPC over one websocket: answers are matched by id, everything else is handed to `on_notice`."""

    def __init__(self, alias: str, url: str, *, max_answer_bytes: int) -> None:
        """Keep the address; the socket opens with the first request."""
        self._alias = alias
        self._url = url
        self._max_answer_bytes = max_answer_bytes
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._listener: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._pending: dict[int, asyncio.Future[list[Envelope]]] = {}
        self.notices: asyncio.Queue[Envelope | NodeFailure] = asyncio.Queue(maxsize=256)
        """Subscription messages, then one failure when the socket is lost."""

    def __repr__(self) -> str:
        """Name the node by its alias."""
        return f"WsTransport({self._alias})"

    async def exchange(self, body: bytes, first_id: int, may_leave: MayLeave | None = None) -> list[Envelope]:
        """Send a frame and wait for the one that answers it."""
        socket = await self._connected()
        answer: asyncio.Future[list[Envelope]] = asyncio.get_running_loop().create_future()
        self._pending[first_id] = answer
        failure: NodeFailure
        try:
            _require(may_leave)
            await socket.send_str(body.decode())
            return await answer
        except (aiohttp.ClientError, OSError) as error:
            failure = connection_failure(self._alias, error)
        finally:
            self._pending.pop(first_id, None)
        raise failure

    async def close(self) -> None:
        """Close the socket and the session."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None
        self._drop(Unreachable(self._alias, "closed"))
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _connected(self) -> aiohttp.ClientWebSocketResponse:
        async with self._opening:
            if self._socket is not None and not self._socket.closed:
                return self._socket
            session = self._session or self._open()
            failure: NodeFailure
            try:
                self._socket = await session.ws_connect(self._url, max_msg_size=self._max_answer_bytes)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                failure = connection_failure(self._alias, error)
            else:
                listening = asyncio.create_task(self._listen(self._socket), name=f"{self._alias} websocket")
                self._listener = lasting(listening)
                return self._socket
        raise failure

    def _open(self) -> aiohttp.ClientSession:
        stay = aiohttp.TraceConfig()
        stay.on_request_redirect.append(_refuse_redirect)
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=[stay],
            trust_env=False,
        )
        return self._session

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Hand every frame on until the socket ends; one frame that is not JSON-RPC ends it."""
        failure: NodeFailure = Unreachable(self._alias, "the websocket was closed")
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                failure = BadResponse(self._alias, "a websocket frame that is not text")
                break
            try:
                found = envelopes(message.data)
            except (ValueError, RecursionError):
                failure = BadResponse(self._alias, "a websocket frame that is not JSON-RPC")
                break
            self._hand_on(found)
        await socket.close()
        if self._socket is socket:
            self._drop(failure)

    def _hand_on(self, found: list[Envelope]) -> None:
        if len(found) == 1 and found[0].method:
            if self.notices.full():
                self.notices.get_nowait()
            self.notices.put_nowait(found[0])
            return
        for item in found:
            waiting = self._pending.get(item.id) if isinstance(item.id, int) else None
            if waiting is None and item.id is None and len(self._pending) == 1:
                (waiting,) = self._pending.values()
            if waiting is not None and not waiting.done():
                waiting.set_result(found)
                return

    def _drop(self, failure: NodeFailure) -> None:
        self._socket = None
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(failure)
        if self.notices.full():
            self.notices.get_nowait()
        self.notices.put_nowait(failure)


async def _refuse_redirect(_session: aiohttp.ClientSession, _context: SimpleNamespace, _redirect: object) -> None:
    """Stop a websocket handshake that is sent elsewhere: the library has no switch for it."""
    raise aiohttp.ClientConnectionError("redirect")


def connection_failure(alias: str, error: Exception) -> NodeFailure:
    """Name what broke a connection, without the address that the library's error holds."""
    if isinstance(error, TimeoutError):
        return TimedOut(alias, "the connection timed out")
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return handshake_failure(alias, error)
    if isinstance(error, aiohttp.ClientSSLError):
        return Unreachable(alias, "TLS failed")
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        reason = errno.errorcode.get(number, "name not resolved") if number else "name not resolved"
        return Unreachable(alias, f"no connection ({reason})")
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientResponseError, ValueError)):
        return BadResponse(alias, f"a broken answer ({type(error).__name__})")
    return Unreachable(alias, f"the connection broke ({type(error).__name__})")


def handshake_failure(alias: str, error: aiohttp.WSServerHandshakeError) -> NodeFailure:
    """Name why a websocket was refused."""
    if error.status in (401, 402, 403):
        return Unauthorised(alias, f"HTTP {error.status}")
    if error.status == 429:
        return RateLimited(alias, "HTTP 429", retry_after(error.headers or {}))
    return Unreachable(alias, f"no websocket (HTTP {error.status})")


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the pause that a refusal's headers ask for, within bounds; a date counts from the server's own clock."""
    text = headers.get("Retry-After", "").strip()[:64]
    if text.isascii() and text.isdigit():
        return min(max(float(text[:9]), 0.1), _LONGEST_PAUSE_S)
    try:
        pause = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))
    except (ValueError, TypeError):
        return _DEFAULT_PAUSE_S
    return min(max(pause.total_seconds(), 0.1), _LONGEST_PAUSE_S)


def transport_of(alias: str, url: str, *, max_answer_bytes: int, max_in_flight: int) -> HttpTransport | WsTransport:
    """Return the transport for an address: websocket for ws and wss, HTTP otherwise."""
    if url.startswith(("ws://", "wss://")):
        return WsTransport(alias, url, max_answer_bytes=max_answer_bytes)
    return HttpTransport(alias, url, max_answer_bytes=max_answer_bytes, max_in_flight=max_in_flight)

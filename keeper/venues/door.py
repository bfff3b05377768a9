"""One service's door: one request out, one bounded answer in, at the service's own pace.

Nothing follows a redirect, asks twice, waits beyond its deadline, or tells an address or a key. A service that fails in a
row, or asks for it, is left alone for a while, and twice as long the next time.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import msgspec

from keeper.chain.transport import connection_failure, retry_after
from keeper.domain.ports import Clock
from keeper.errors import ConfigurationError, Transient

MAX_ANSWER_BYTES: Final = 512 * 1024
_STRIKES: Final = 3
_FIRST_REST_S: Final = 15.0
_LONGEST_REST_S: Final = 900.0
_REFUSED_REST_S: Final = 600.0
_GRACE_S: Final = 1.0
"""Who asks gives up by itself; this only ends what was forgotten."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "keeper"}


class Key(Protocol):
    """A secret text that no rendering shows."""

    def reveal(self) -> str:
        """Return the text itself."""
        ...


class Unanswered(Transient):
    """The service did not answer, or not in the way that it documents."""


class NoOffer(Transient):
    """The service says that it has nothing to offer for this."""


class Line(Protocol):
    """How a service's module asks, until some deadline."""

    async def get(self, path: str, query: Mapping[str, str]) -> bytes:
        """Return the body of a good answer.

        Raises: Unanswered, NoOffer.
        """
        ...

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Post JSON and return the body of a good answer.

        Raises: Unanswered, NoOffer.
        """
        ...


def check_url(url: str) -> str:
    """Let a base URL pass that a key may be sent to: https, or this machine.

    Raises: ConfigurationError, without the URL.
    """
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        is_sound = is_sound and bool(parts.hostname) and not parts.query and not parts.fragment
    except ValueError:
        is_sound = False
    if not is_sound:
        raise ConfigurationError("url must be an https URL without a query, or an http URL of this machine")
    return url.rstrip("/")


@dataclass(slots=True)
class Door:
    """A service's connections, kept alive, with its pace and its breaker."""

    name: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    clock: Clock = field(repr=False)
    pace_s: float
    _free_s: float = 0.0
    _rests_until_s: float = 0.0
    _rest_s: float = _FIRST_REST_S
    _strikes: int = 0
    _session: aiohttp.ClientSession | None = field(default=None, repr=False)

    @property
    def is_open(self) -> bool:
        """Return whether the service is asked at all."""
        return self.clock.monotonic_s() >= self._rests_until_s

    def until(self, deadline_s: float) -> Line:
        """Return the way to ask until an instant of the clock."""
        return _Line(self, deadline_s)

    def strike(self, weight: int = 1) -> None:
        """Count a failure; enough of them in a row close the door for a while."""
        self._strikes += weight
        if self._strikes >= _STRIKES:
            self.rest(self._rest_s)
            self._rest_s = min(self._rest_s * 2, _LONGEST_REST_S)

    def praise(self) -> None:
        """Count an answer that could be used."""
        self._strikes, self._rest_s = 0, _FIRST_REST_S

    def distrust(self) -> None:
        """Close the door for long: the service tried to have something else done."""
        self._strikes = 0
        self.rest(_LONGEST_REST_S)

    def rest(self, pause_s: float) -> None:
        """Ask nothing for so long."""
        self._strikes = 0
        self._rests_until_s = max(self._rests_until_s, self.clock.monotonic_s() + pause_s)

    async def close(self) -> None:
        """Drop the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def exchange(self, method: str, path: str, deadline_s: float, **content: Any) -> bytes:
        """Send one request and return the body of a good answer; see `Line`."""
        await self._turn(deadline_s)
        session = self._session or self._open()
        timeout = aiohttp.ClientTimeout(total=max(deadline_s - self.clock.monotonic_s(), 0) + _GRACE_S)
        try:
            async with session.request(
                method, self.url + path, timeout=timeout, allow_redirects=False, **content
            ) as response:
                self._judge(response)
                return await self._read(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = connection_failure(self.name, error).detail
        self.strike()
        raise Unanswered(f"{self.name}: {failure}")  # outside the handler: the library's error holds the address

    async def _turn(self, deadline_s: float) -> None:
        """Wait for the service's pace, unless that would take too long."""
        if not self.is_open:
            raise Unanswered(f"{self.name}: left alone for a while")
        now_s = self.clock.monotonic_s()
        at_s = max(self._free_s, now_s)
        if at_s >= deadline_s:
            raise Unanswered(f"{self.name}: no time left at its pace")
        self._free_s = at_s + self.pace_s
        if at_s > now_s:
            await asyncio.sleep(at_s - now_s)

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,  # nothing compressed was asked for, so nothing can swell
            connector=aiohttp.TCPConnector(limit=8, keepalive_timeout=75),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**_HEADERS, **self.headers},
            trust_env=False,
        )
        return self._session

    def _judge(self, response: aiohttp.ClientResponse) -> None:
        """Let a good answer pass; what a refusal says is not read."""
        status = response.status
        if status == 200:
            return
        if status in (400, 404, 422):
            raise NoOffer(f"{self.name}: nothing to offer (HTTP {status})")
        if status == 429:
            self.rest(retry_after(response.headers))
        elif status in (401, 402, 403):
            self.rest(_REFUSED_REST_S)
        else:
            self.strike(_STRIKES if 300 <= status < 400 else 1)
        raise Unanswered(f"{self.name}: HTTP {status}")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        found = bytearray()
        while chunk := await response.content.readany():
            found += chunk
            if len(found) > MAX_ANSWER_BYTES:
                response.close()
                self.strike(_STRIKES)
                raise Unanswered(f"{self.name}: an answer larger than {MAX_ANSWER_BYTES} bytes")
        return bytes(found)


@dataclass(frozen=True, slots=True)
class _Line:
    """Implement `Line`."""

    door: Door
    deadline_s: float

    async def get(self, path: str, query: Mapping[str, str]) -> bytes:
        return await self.door.exchange("GET", path, self.deadline_s, params=query)

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        return await self.door.exchange("POST", path, self.deadline_s, data=msgspec.json.encode(body), headers=headers)

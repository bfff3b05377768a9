"""Private relays over HTTP: every request signed by a key of its own, every answer kept as data.

Source: docs.flashbots.net (`eth_sendPrivateTransaction`, `eth_sendBundle`, their cancellations, `X-Flashbots-Signature`),
which the builders' own endpoints follow; they differ in what they answer, and some know no expiry of a transaction.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Never, Self
from uuid import UUID

import aiohttp
import msgspec
from coincurve import PrivateKey
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from keeper.chain.mask import Mask
from keeper.chain.phrases import SendVerdict, send_verdict
from keeper.chain.transport import connection_failure
from keeper.chain.wire import Envelope, envelopes, hex_of, is_null
from keeper.domain.units import Address, TxHash
from keeper.errors import ConfigurationError

HEADER: Final = "X-Flashbots-Signature"
_STRAGGLER: Final = timedelta(milliseconds=300)
"""How long the slower relays may take once one has taken it."""
_CONNECT_S: Final = 1
_MAX_ANSWER_BYTES: Final = 64 * 1024
_BAD_KEY: Final = "the relay key must be 32 bytes in hexadecimal, inside the curve's order"
_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}


class Word(StrEnum):
    """What one relay said. None of it proves anything: only a receipt does."""

    TAKEN = "taken"
    REFUSED = "refused"
    """It answered with an error; it has seen the bytes all the same."""
    UNSURE = "unsure"
    """It may have the bytes: no answer, or one that nobody can read."""
    UNREACHED = "unreached"
    """No connection: it has not seen a byte."""


@dataclass(frozen=True, slots=True)
class RelayAnswer:
    """What one relay said, without a trace of its address."""

    relay: str
    word: Word
    detail: str = ""


class Identity:
    """The key by which relays know us. It holds no money, and cannot be printed or copied."""

    __slots__ = ("_key", "address")

    def __init__(self, key: PrivateKey) -> None:
        """Hold the key; use `from_hex` or `random` to make one."""
        self._key = key
        self.address = Address(keccak(key.public_key.format(compressed=False)[1:])[-20:])

    @classmethod
    def from_hex(cls, secret: str) -> Self:
        """Read a raw key.

        Raises: ConfigurationError, with a constant message.
        """
        try:
            raw = bytes.fromhex(secret.strip().removeprefix("0x"))
            if len(raw) == 32:
                return cls(PrivateKey(raw))
        except ValueError:
            pass
        raise ConfigurationError(_BAD_KEY)

    @classmethod
    def random(cls) -> Self:
        """Make a key for the life of this process: a relay then knows nothing of us from before."""
        return cls(PrivateKey())

    def header(self, body: bytes) -> str:
        """Return the signature of a request's body: our address, and an EIP-191 signature of the body's hash as text."""
        text = hex_of(keccak(body)).encode()
        digest = keccak(b"\x19Ethereum Signed Message:\n" + str(len(text)).encode() + text)
        signature = self._key.sign_recoverable(digest, hasher=None)
        return f"{to_checksum_address(self.address)}:{hex_of(signature[:64] + bytes([signature[64] + 27]))}"

    def name(self, what: bytes) -> str:
        """Return a name for a bundle that nobody else can guess, always the same for the same thing."""
        return str(UUID(bytes=keccak(self._key.secret + what)[:16], version=4))

    def __repr__(self) -> str:
        return f"Identity(0x{self.address.hex()})"

    def __reduce__(self) -> Never:
        raise TypeError("an identity cannot be copied or pickled")


@dataclass(slots=True)
class Relay:
    """One relay. Nothing is opened before the first request, and nothing is ever asked twice by itself."""

    alias: str
    url: str = field(repr=False)
    identity: Identity
    timeout_s: int
    _session: aiohttp.ClientSession | None = field(default=None, repr=False)

    async def ask(self, method: str, params: Mapping[str, Any], tx_hash: TxHash | None = None) -> RelayAnswer:
        """Ask once; `tx_hash` is what a relay that answers with a transaction's hash has to answer."""
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": [params]})
        headers = {HEADER: self.identity.header(body)}
        session = self._session or self._open()
        try:
            async with session.post(self.url, data=body, headers=headers, allow_redirects=False) as response:
                content = await self._read(response)
                return self._judge(response.status, content, tx_hash)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            return self._answer(Word.UNREACHED, connection_failure(self.alias, error).detail)
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            return self._answer(Word.UNSURE, connection_failure(self.alias, error).detail)

    async def close(self) -> None:
        """Drop the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=min(_CONNECT_S, self.timeout_s)),
            trust_env=False,
        )
        return self._session

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | None:
        """Read the body, counted after decompression; None where it is too long."""
        found = b""
        while chunk := await response.content.readany():
            found += chunk
            if len(found) > _MAX_ANSWER_BYTES:
                response.close()
                return None
        return found

    def _judge(self, status: int, content: bytes | None, tx_hash: TxHash | None) -> RelayAnswer:
        told = _envelope(content)
        if told is not None and not is_null(told.error):
            return self._refused(bytes(memoryview(told.error)))
        if 300 <= status < 500:
            return self._answer(Word.REFUSED, f"HTTP {status}")
        if status != 200 or told is None:
            return self._answer(Word.UNSURE, f"HTTP {status}, and no answer of JSON-RPC")
        result = msgspec.json.decode(memoryview(told.result)) if not is_null(told.result) else None
        if result is None or result is False:
            return self._answer(Word.UNSURE, "neither a result nor an error")
        is_hash = isinstance(result, str) and len(result) == 66
        if tx_hash is not None and is_hash and result.lower() != hex_of(tx_hash):
            return self._answer(Word.UNSURE, "answered with another transaction's hash")
        return self._answer(Word.TAKEN, "")

    def _refused(self, error: bytes) -> RelayAnswer:
        found = msgspec.json.decode(error)
        message = str(found.get("message", "")) if isinstance(found, dict) else str(found)
        word = Word.TAKEN if send_verdict(message) is SendVerdict.ALREADY_KNOWN else Word.REFUSED
        return self._answer(word, message)

    def _answer(self, word: Word, detail: str) -> RelayAnswer:
        return RelayAnswer(self.alias, word, Mask(self.url).clean(detail))


class RelayGroup:
    """All relays at once; the answers of the quickest are enough."""

    def __init__(self, urls: Sequence[str], identity: Identity, *, timeout_s: int = 2) -> None:
        """Name the addresses relay-1, relay-2, … in their order."""
        self._identity = identity
        self._relays = [Relay(f"relay-{place}", url, identity, timeout_s) for place, url in enumerate(urls, 1)]
        self._tasks: set[asyncio.Task[RelayAnswer]] = set()

    def __repr__(self) -> str:
        return f"RelayGroup({', '.join(relay.alias for relay in self._relays)})"

    async def send_transaction(self, raw: bytes, *, tx_hash: TxHash, last_block: int) -> Sequence[RelayAnswer]:
        """Hand over one transaction, to be in a block up to `last_block`."""
        params = {"tx": hex_of(raw), "maxBlockNumber": hex(last_block)}
        return await self._all(lambda relay: relay.ask("eth_sendPrivateTransaction", params, tx_hash))

    async def send_bundle(self, raws: Sequence[bytes], *, block: int, name: bytes) -> Sequence[RelayAnswer]:
        """Hand over transactions that are to be in one block together, or not at all.

        A bundle takes the place of the one that had the same name.
        """
        params = {
            "txs": [hex_of(raw) for raw in raws],
            "blockNumber": hex(block),
            "replacementUuid": self._identity.name(name),
        }
        return await self._all(lambda relay: relay.ask("eth_sendBundle", params))

    def withdraw_transaction(self, tx_hash: TxHash) -> None:
        """Ask to forget a transaction, and wait for nobody: that a relay does so is never relied on."""
        self._start(lambda relay: relay.ask("eth_cancelPrivateTransaction", {"txHash": hex_of(tx_hash)}))

    def withdraw_bundle(self, name: bytes) -> None:
        """Ask to forget a bundle, and wait for nobody."""
        params = {"replacementUuid": self._identity.name(name)}
        self._start(lambda relay: relay.ask("eth_cancelBundle", params))

    async def close(self) -> None:
        """Give up what is under way and drop the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(relay.close() for relay in self._relays))

    async def _all(self, ask: Callable[[Relay], Coroutine[Any, Any, RelayAnswer]]) -> Sequence[RelayAnswer]:
        """Ask every relay; one that lags behind the first success is left to itself."""
        tasks = self._start(ask)
        pending = set(tasks)
        timeout_s: float | None = None
        while pending:
            done, pending = await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            if any(task.result().word is Word.TAKEN for task in done):
                timeout_s = _STRAGGLER.total_seconds()
        late = "no answer soon after another relay's"
        return [
            task.result() if task.done() else RelayAnswer(relay.alias, Word.UNSURE, late)
            for task, relay in zip(tasks, self._relays, strict=True)
        ]

    def _start(self, ask: Callable[[Relay], Coroutine[Any, Any, RelayAnswer]]) -> list[asyncio.Task[RelayAnswer]]:
        tasks = [asyncio.create_task(ask(relay), name=relay.alias) for relay in self._relays]
        for task in tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return tasks


def _envelope(content: bytes | None) -> Envelope | None:
    """Read an answer; None where it is no JSON-RPC."""
    if content is None:
        return None
    try:
        found = envelopes(content)
    except (ValueError, RecursionError):
        return None
    return found[0] if len(found) == 1 else None

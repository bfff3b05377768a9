"""The world: a chain in memory and JSON-RPC nodes on loopback that misbehave on request."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from aiohttp import WSMsgType, web
from eth_utils.crypto import keccak

from keeper.chain.endpoint import Node
from keeper.domain.chain import BlockHead, Log
from keeper.domain.units import Address, BlockHash, TxHash, Wei

CHAIN_ID: Final = 31_337
SECRET: Final = "s3cr3tk3y0123456789abcdef"
ALICE: Final = Address(b"\xa1" * 20)
POOL: Final = Address(b"\xb0" * 20)
EVENT: Final = keccak(b"Borrow(address)")

Handler = Callable[[list[dict[str, Any]], web.Request], Awaitable[web.StreamResponse | None]]


class Refusal(Exception):
    """Raised by a method to answer with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({} if data is None else {"data": data})


@dataclass(frozen=True, slots=True)
class Block:
    head: BlockHead
    logs: tuple[Log, ...]


def bloom_of(logs: Sequence[Log]) -> bytes:
    bloom = 0
    for log in logs:
        for item in (log.address, *log.topics):
            digest = keccak(item)
            for at in (0, 2, 4):
                bloom |= 1 << (int.from_bytes(digest[at : at + 2]) & 2047)
    return bloom.to_bytes(256)


def header_json(head: BlockHead) -> dict[str, Any]:
    return {
        "number": hex(head.number),
        "hash": "0x" + head.hash.hex(),
        "parentHash": "0x" + head.parent_hash.hex(),
        "timestamp": hex(head.timestamp_s),
        "gasLimit": hex(head.gas_limit),
        "baseFeePerGas": hex(head.base_fee_wei),
        "logsBloom": "0x" + head.logs_bloom.hex(),
        "aFieldOfTheNextFork": {"unknown": True},
    }


def log_json(log: Log) -> dict[str, Any]:
    return {
        "address": "0x" + log.address.hex(),
        "topics": ["0x" + topic.hex() for topic in log.topics],
        "data": "0x" + log.data.hex(),
        "blockNumber": hex(log.block_number),
        "blockHash": "0x" + log.block_hash.hex(),
        "logIndex": hex(log.index),
        "transactionHash": "0x" + log.tx_hash.hex(),
        "transactionIndex": "0x0",
        "removed": False,
    }


class FakeChain:
    """Blocks in memory; `mine` and `reorg` change it for every node that shows it."""

    def __init__(self, length: int = 5) -> None:
        self.blocks: list[Block] = []
        self.known: dict[BlockHash, Block] = {}
        self._salt = 0
        for _ in range(length):
            self.mine()

    @property
    def head(self) -> BlockHead:
        return self.blocks[-1].head

    def mine(self, *emitted: tuple[Address, bytes, bytes]) -> BlockHead:
        """Add a block whose logs are (address, topic, data)."""
        number = len(self.blocks)
        parent = self.blocks[-1].head.hash if self.blocks else BlockHash(bytes(32))
        block_hash = BlockHash(keccak(parent + number.to_bytes(8) + self._salt.to_bytes(8)))
        logs = tuple(
            Log(address, (topic,), data, number, block_hash, index, TxHash(keccak(block_hash + bytes([index]))))
            for index, (address, topic, data) in enumerate(emitted)
        )
        head = BlockHead(number, block_hash, parent, 1_700_000_000 + 12 * number, Wei(7), 30_000_000, bloom_of(logs))
        self.blocks.append(Block(head, logs))
        self.known[head.hash] = self.blocks[-1]
        return head

    def reorg(self, depth: int, length: int | None = None) -> BlockHead:
        """Replace the last `depth` blocks by `length` others (as many by default)."""
        del self.blocks[len(self.blocks) - depth :]
        self._salt += 1
        for _ in range(depth if length is None else length):
            self.mine()
        return self.head

    def at(self, tag: str) -> Block | None:
        number = len(self.blocks) - 1 if tag in ("latest", "pending") else int(tag, 16)
        return self.blocks[number] if 0 <= number < len(self.blocks) else None

    def fork(self) -> "FakeChain":
        """Return a copy that goes its own way."""
        other = FakeChain(0)
        other.blocks, other.known, other._salt = list(self.blocks), dict(self.known), self._salt + 1_000
        return other


def canonical(chain: FakeChain, block: Any) -> Block:
    """Find the block that a pinned read names, as strict nodes do."""
    if isinstance(block, str):
        found = chain.at(block)
    else:
        found = chain.known.get(BlockHash(bytes.fromhex(block["blockHash"][2:])))
    if found is None or found not in chain.blocks:
        raise Refusal(-32000, "header not found")
    return found


@dataclass
class FakeNode:
    """One node: answers from a chain, unless a fault in `faults` (used up one by one) or `always` answers first."""

    chain: FakeChain
    chain_id: int = CHAIN_ID
    faults: deque[Handler] = field(default_factory=deque)
    always: Handler | None = None
    methods: dict[str, Callable[..., Any]] = field(default_factory=dict)
    posts: list[list[dict[str, Any]]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    log_range: int | None = None
    log_cap: int | None = None
    port: int = 0
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    on_socket: Callable[[web.WebSocketResponse], Awaitable[None]] | None = None
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        for socket in self.sockets:
            await socket.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        return f"http://user:{SECRET}@127.0.0.1:{self.port}/v3/{SECRET}?key={SECRET}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v3/{SECRET}?key={SECRET}"

    def node(self, alias: str, **options: Any) -> Node:
        return replace(Node(alias, self.url, calls_per_s=100_000), **options)

    @property
    def count(self) -> Counter[str]:
        """Return how often each method was called."""
        return Counter(call["method"] for post in self.posts for call in post)

    async def push(self, head: BlockHead) -> None:
        """Send a head to every subscriber."""
        params = {"subscription": "0x1", "result": header_json(head)}
        for socket in self.sockets:
            if not socket.closed:
                await socket.send_json({"jsonrpc": "2.0", "method": "eth_subscription", "params": params})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve_socket(request)
        body = json.loads(await request.read())
        calls = body if isinstance(body, list) else [body]
        self.posts.append(calls)
        handler = self.faults.popleft() if self.faults else self.always
        if handler is not None:
            response = await handler(calls, request)
            if response is not None:
                return response
        return web.json_response(self.answer(body))

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        if self.on_socket is not None:
            await self.on_socket(socket)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                body = json.loads(message.data)
                self.posts.append(body if isinstance(body, list) else [body])
                await socket.send_json(self.answer(body))
        return socket

    def answer(self, body: Any) -> Any:
        """Answer a request body honestly."""
        if isinstance(body, list):
            return [self._one(call) for call in body]
        return self._one(body)

    def _one(self, call: dict[str, Any]) -> dict[str, Any]:
        base = {"jsonrpc": "2.0", "id": call["id"]}
        method = self.methods.get(call["method"]) or getattr(self, "_" + call["method"], None)
        if method is None:
            return {**base, "error": {"code": -32601, "message": "the method does not exist/is not available"}}
        try:
            return {**base, "result": method(*call["params"])}
        except Refusal as refused:
            return {**base, "error": refused.error}

    def _eth_chainId(self) -> str:  # noqa: N802 - the wire's name
        return hex(self.chain_id)

    def _eth_blockNumber(self) -> str:  # noqa: N802
        return hex(self.chain.head.number)

    def _eth_subscribe(self, _kind: str) -> str:
        return "0x1"

    def _eth_getBlockByNumber(self, tag: str, _full: bool) -> Any:  # noqa: N802
        block = self.chain.at(tag)
        return None if block is None else header_json(block.head)

    def _eth_getBlockByHash(self, block_hash: str, _full: bool) -> Any:  # noqa: N802
        block = self.chain.known.get(BlockHash(bytes.fromhex(block_hash[2:])))
        return None if block is None else header_json(block.head)

    def _eth_call(self, call: dict[str, str], block: Any = "latest", *_: Any) -> str:
        del call
        canonical(self.chain, block)
        return "0x"

    def _eth_sendRawTransaction(self, raw: str) -> str:  # noqa: N802
        self.sent.append(raw)
        return "0x" + keccak(bytes.fromhex(raw[2:])).hex()

    def _eth_getLogs(self, query: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: N802
        if "blockHash" in query:
            blocks = [canonical(self.chain, query)]
        else:
            first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
            if self.log_range is not None and last - first + 1 > self.log_range:
                raise Refusal(-32000, f"block range is too wide, max block range is {self.log_range} blocks")
            blocks = self.chain.blocks[first : last + 1]
        wanted = [log_json(log) for block in blocks for log in block.logs if _matches(log, query)]
        return wanted if self.log_cap is None else wanted[: self.log_cap]


def _matches(log: Log, query: dict[str, Any]) -> bool:
    addresses, topics = query.get("address"), query.get("topics")
    return (not addresses or "0x" + log.address.hex() in addresses) and (
        not topics or any("0x" + log.topics[0].hex() == topic for topic in topics[0])
    )


@dataclass
class Watcher:
    """An observer that remembers."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def request(self, **fields: Any) -> None:
        self.requests.append(fields)

    def event(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for found, fields in self.events if found == name]


class RealClock:
    """The loop's time: these tests talk over real sockets."""

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def unix_s(self) -> float:
        return 1_700_000_100.0


def respond(*, status: int = 200, body: str | bytes = "", **headers: str) -> Handler:
    """Answer with a fixed response."""

    async def handler(_calls: list[dict[str, Any]], _request: web.Request) -> web.StreamResponse:
        data = body.encode() if isinstance(body, str) else body
        return web.Response(status=status, body=data, headers={key.replace("_", "-"): v for key, v in headers.items()})

    return handler


def altered(node: FakeNode, change: Callable[[Any], Any]) -> Handler:
    """Answer honestly, then let `change` spoil the answer."""

    async def handler(calls: list[dict[str, Any]], _request: web.Request) -> web.StreamResponse:
        return web.json_response(change(node.answer(calls if len(calls) > 1 else calls[0])))

    return handler


async def hang(_calls: list[dict[str, Any]], _request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(3600)
    raise AssertionError


async def drop(_calls: list[dict[str, Any]], request: web.Request) -> web.StreamResponse:
    """Break the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something that happens outside of this task has happened."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the world has no event to wait for
            await asyncio.sleep(0.005)

"""The faults that a view can have. Each is a small middleware; give `methods`, `times`, `skip`, `seconds` to narrow it."""

import asyncio
import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from eth_utils.crypto import keccak

from tests.faults.past import LATEST, NULL, as_of, ask_of
from tests.faults.proxy import Answer, Call, Fault, Forward, View, refused

Methods = Iterable[str]


@dataclass(eq=False)
class Break(Fault):
    """Reset the connection: before anything is done, or after the node did it and the answer is ready."""

    is_after: bool = False

    async def on_post(self, view: View, request: web.Request) -> web.StreamResponse | None:
        return None if self.is_after else _abort(request)

    async def on_body(self, view: View, request: web.Request, body: bytes) -> web.StreamResponse | None:
        return _abort(request) if self.is_after else None


@dataclass(eq=False)
class Delay(Fault):
    """Wait before anything is done; for ever where `wait_s` is None, until the fault is removed."""

    wait_s: float | None = None

    async def on_post(self, view: View, request: web.Request) -> web.StreamResponse | None:
        try:
            async with asyncio.timeout(self.wait_s):
                await self.released.wait()
        except TimeoutError:
            pass
        return None


@dataclass(eq=False)
class Drip(Fault):
    """Send the answer byte by byte, `wait_s` apart."""

    wait_s: float = 0.05

    async def on_body(self, view: View, request: web.Request, body: bytes) -> web.StreamResponse | None:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(body)
        await response.prepare(request)
        for place in range(len(body)):
            if request.transport is None or self.released.is_set():
                break
            await response.write(body[place : place + 1])
            await asyncio.sleep(self.wait_s)
        return response


@dataclass(eq=False)
class Truncate(Fault):
    """Announce the whole answer, send the first bytes, and break off."""

    kept: int = 10

    async def on_body(self, view: View, request: web.Request, body: bytes) -> web.StreamResponse | None:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: self.kept])
        return _abort(request)


@dataclass(eq=False)
class Reply(Fault):
    """Answer with a fixed status, headers and body; the node is not asked."""

    code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""

    async def on_post(self, view: View, request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=self.code, headers=self.headers, body=self.content)


@dataclass(eq=False)
class Say(Fault):
    """Answer each call concerned with a fixed result or error; the node is not asked."""

    told: Answer = field(default_factory=lambda: dict(NULL))

    async def on_call(self, view: View, call: Call, forward: Forward) -> Answer:
        return self.told


@dataclass(eq=False)
class Lie(Fault):
    """Alter results: `change(call, result)` returns the lie."""

    change: Callable[[Call, Any], Any] = field(default=lambda _call, result: result)

    async def on_call(self, view: View, call: Call, forward: Forward) -> Answer:
        told = await forward(call)
        return told if "error" in told else {"result": self.change(call, told["result"])}


@dataclass(eq=False)
class Ids(Fault):
    """Spoil the response objects of a post: their ids, their order, their number."""

    change: Callable[[list[Answer]], list[Answer]] = field(default=lambda answers: answers)

    def on_reply(self, answers: list[Answer]) -> list[Answer]:
        return self.change(answers)


@dataclass(eq=False)
class Stale(Fault):
    """Show the chain as it was some blocks ago: at `at` where it is given, else each time the next of `lags` behind."""

    lags: Sequence[int] = (1,)
    at: int | None = None
    _turn: int = 0

    async def on_call(self, view: View, call: Call, forward: Forward) -> Answer:
        tip = int((await forward(ask_of("eth_blockNumber")))["result"], 16)
        lag = self.lags[self._turn % len(self.lags)]
        self._turn += 1
        shown = max(tip - lag, 0) if self.at is None else min(self.at, tip)
        return await as_of(shown, call, forward)


@dataclass(eq=False)
class LimitLogs(Fault):
    """Allow so many blocks, or logs, in a query; `error` None cuts the answer in silence."""

    blocks: int | None = None
    count: int | None = None
    error: Answer | None = None

    async def on_call(self, view: View, call: Call, forward: Forward) -> Answer:
        (query,) = call["params"]
        if self.blocks is not None and "blockHash" not in query:
            first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
            if last - first + 1 > self.blocks:
                if self.error is not None:
                    return self.error
                query = {**query, "toBlock": hex(first + self.blocks - 1)}
        told = await forward({**call, "params": [query]})
        if self.count is None or "error" in told or len(told["result"]) <= self.count:
            return told
        return self.error or {"result": told["result"][: self.count]}


@dataclass(eq=False)
class EmptyLogsBeyond(Fault):
    """Answer `[]` to a log query that reaches beyond the head, instead of an error; `behind`: how far back the head is."""

    behind: int = 0

    async def on_call(self, view: View, call: Call, forward: Forward) -> Answer:
        tip = int((await forward(ask_of("eth_blockNumber")))["result"], 16) - self.behind
        (query,) = call["params"]
        last = query.get("toBlock", "latest")
        if last not in LATEST and int(last, 16) > tip:
            return {"result": []}
        told = await forward(call)
        return {"result": []} if "error" in told and "blockHash" in query else told


@dataclass(eq=False)
class Fork(Fault):
    """Show another fork: every block above `above` has another hash, consistently; blocks of ours are unknown.

    `without`: transactions (lower-case hex) that the fork does not have.
    """

    above: int = 0
    salt: bytes = b"fork"
    without: frozenset[str] = frozenset()
    _other: dict[str, str] = field(default_factory=dict)
    _seen: int = -1

    async def on_call(self, view: View, call: Call, forward: Forward) -> Answer:
        await self._learn(forward)
        back = {other: ours for ours, other in self._other.items()}
        if _mentions(call["params"], self._other):
            is_block = call["method"] in ("eth_getBlockByHash", "eth_getTransactionReceipt")
            return dict(NULL) if is_block else refused("header not found")
        (first, *_) = call["params"] or [None]
        if isinstance(first, str) and first.lower() in self.without:
            return dict(NULL)
        told = await forward({**call, "params": _mapped(call["params"], back)})
        return {key: _mapped(value, self._other) for key, value in told.items()}

    async def _learn(self, forward: Forward) -> None:
        tip = int((await forward(ask_of("eth_blockNumber")))["result"], 16)
        for number in range(max(self.above, self._seen) + 1, tip + 1):
            block = (await forward(ask_of("eth_getBlockByNumber", hex(number), False)))["result"]
            self._other[block["hash"]] = "0x" + keccak(self.salt + bytes.fromhex(block["hash"][2:])).hex()
        self._seen = max(self._seen, tip)


@dataclass(eq=False)
class SpoofReceipt(Fault):
    """Answer with an invented success for transactions that are not mined (`only` these); `block`: its block, as shown."""

    only: frozenset[str] = frozenset()
    block: Mapping[str, str] = field(default_factory=dict)

    async def on_call(self, view: View, call: Call, forward: Forward) -> Answer:
        told = await forward(call)
        tx_hash = str(call["params"][0])
        if told.get("result") is not None or (self.only and tx_hash.lower() not in self.only):
            return told
        tip = (await forward(ask_of("eth_blockNumber")))["result"]
        block = self.block or {"blockNumber": tip, "blockHash": "0x" + keccak(tx_hash.encode()).hex()}
        return {
            "result": {
                "transactionHash": tx_hash, "transactionIndex": "0x0", "status": "0x1", "gasUsed": "0x5208",
                "cumulativeGasUsed": "0x5208", "effectiveGasPrice": "0x3b9aca00", "logs": [], "type": "0x2",
                "from": "0x" + "00" * 20, "to": "0x" + "00" * 20, "contractAddress": None,
                "logsBloom": "0x" + "00" * 256, **block,
            }
        }  # fmt: skip


def drop(**when: Any) -> Fault:
    """Reset the connection without doing anything. To refuse connections: `await view.refuse()`."""
    return Break(**_when(when))


def swallow_response_after_forward(**when: Any) -> Fault:
    """Let the node do it and reset the connection instead of answering."""
    return Break(is_after=True, **_when(when))


def delay(wait_s: float, **when: Any) -> Fault:
    """Answer late."""
    return Delay(wait_s=wait_s, **_when(when))


def hang(**when: Any) -> Fault:
    """Accept and never answer."""
    return Delay(wait_s=None, **_when(when))


def drip(wait_s: float = 0.05, **when: Any) -> Fault:
    """Answer byte by byte."""
    return Drip(wait_s=wait_s, **_when(when))


def truncate(kept: int = 10, **when: Any) -> Fault:
    """Break off within the answer."""
    return Truncate(kept=kept, **_when(when))


def status(code: int, content: bytes | str = b"", headers: Mapping[str, str] | None = None, **when: Any) -> Fault:
    """Answer with an HTTP status."""
    body = content.encode() if isinstance(content, str) else content
    return Reply(code=code, headers=headers or {}, content=body, **_when(when))


def body(content: bytes | str, **when: Any) -> Fault:
    """Answer 200 with these bytes."""
    return status(200, content, **when)


def gzip_bomb(size: int, **when: Any) -> Fault:
    """Answer with a small body that expands to `size` bytes."""
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    return status(200, gzip.compress(b" " * size), headers, **when)


def null(**when: Any) -> Fault:
    """Answer null."""
    return Say(told=dict(NULL), **_when(when))


def result(value: Any, **when: Any) -> Fault:
    """Answer with a fixed result."""
    return Say(told={"result": value}, **_when(when))


def error(message: str, code: int = -32000, data: object = None, **when: Any) -> Fault:
    """Answer with a JSON-RPC error."""
    return Say(told=refused(message, code, data), **_when(when))


def wrong_chain(chain_id: int = 1, **when: Any) -> Fault:
    """Say that the node is on another chain."""
    return result(hex(chain_id), **{"methods": ("eth_chainId",), **when})


def wrong_id(**when: Any) -> Fault:
    """Answer under another id."""
    return Ids(change=lambda answers: [{**each, "id": each["id"] + 7_000_000} for each in answers], **_when(when))


def swapped_ids(**when: Any) -> Fault:
    """Swap the answers of a batch among its calls."""

    def rotate(answers: list[Answer]) -> list[Answer]:
        ids = [each["id"] for each in answers]
        return [{**each, "id": other} for each, other in zip(answers, [*ids[1:], ids[0]], strict=True)]

    return Ids(change=rotate, **_when(when))


def missing_item(**when: Any) -> Fault:
    """Leave out the last answer of a batch."""
    return Ids(change=lambda answers: answers[:-1] if len(answers) > 1 else answers, **_when(when))


def reordered(**when: Any) -> Fault:
    """Answer a batch backwards: allowed by the protocol."""
    return Ids(change=lambda answers: answers[::-1], **_when(when))


def stale(blocks: int, **when: Any) -> Fault:
    """Be so many blocks behind, always."""
    return Stale(lags=(blocks,), **_when(when))


def frozen(at: int, **when: Any) -> Fault:
    """Stop at a block."""
    return Stale(at=at, **_when(when))


def rewind(*lags: int, **when: Any) -> Fault:
    """Be so many blocks behind, another number with every call: a balancer before nodes that differ."""
    return Stale(lags=lags or (0, 3), **_when(when))


def limit_logs(blocks: int | None = None, count: int | None = None, says: str | None = None, **when: Any) -> Fault:
    """Refuse, or cut in silence where `says` is None, what has more blocks or logs."""
    told = None if says is None else refused(says, -32005 if "limit" in says else -32000)
    return LimitLogs(blocks=blocks, count=count, error=told, **_when({"methods": ("eth_getLogs",), **when}))


def silent_empty_logs(behind: int = 0, **when: Any) -> Fault:
    """Answer `[]` for logs beyond a head that is so far behind, while telling the true head."""
    return EmptyLogsBeyond(behind=behind, **_when({"methods": ("eth_getLogs",), **when}))


def lie(method: str, change: Callable[[Call, Any], Any], **when: Any) -> Fault:
    """Alter the results of a method: `change(call, result)` returns what is told instead."""
    return Lie(change=change, **_when({"methods": (method,), **when}))


def dup(**when: Any) -> Fault:
    """Tell every log twice."""
    return lie("eth_getLogs", lambda _call, logs: [each for log in logs for each in (log, dict(log))], **when)


def reorder(**when: Any) -> Fault:
    """Tell logs backwards."""
    return lie("eth_getLogs", lambda _call, logs: logs[::-1], **when)


def fork(above: int, salt: bytes = b"fork", without: Iterable[str] = (), **when: Any) -> Fault:
    """Show other hashes for the blocks above a height."""
    return Fork(above=above, salt=salt, without=frozenset(each.lower() for each in without), **_when(when))


def spoof_receipt(*only: str, block: Mapping[str, str] | None = None, **when: Any) -> Fault:
    """Tell of receipts that do not exist."""
    lowered = frozenset(each.lower() for each in only)
    return SpoofReceipt(only=lowered, block=block or {}, **_when({"methods": ("eth_getTransactionReceipt",), **when}))


def _when(when: Mapping[str, Any]) -> dict[str, Any]:
    return {**when, "methods": frozenset(when.get("methods", ()))}


def _abort(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _mentions(value: Any, words: Mapping[str, str]) -> bool:
    match value:
        case str():
            return value.lower() in words
        case list():
            return any(_mentions(each, words) for each in value)
        case dict():
            return any(_mentions(each, words) for each in value.values())
    return False


def _mapped(value: Any, words: Mapping[str, str]) -> Any:
    match value:
        case str():
            return words.get(value.lower(), value) if len(value) == 66 else value
        case list():
            return [_mapped(each, words) for each in value]
        case dict():
            return {key: _mapped(each, words) for key, each in value.items()}
    return value

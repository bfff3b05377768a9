"""A fault-injecting JSON-RPC proxy before one real node: several views of it, each of which can lie, stall or vanish.

Faults are middleware (see `rules`): they can be added to and taken from a view at any time, are limited by method, by
count and by time, and compose in the order in which they were added. Every raw transaction that any view ever saw is
in `FaultProxy.raw_transactions`, whether the node got it or not: what the journal must account for.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp import web
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from keeper.chain.endpoint import Node
from tests.faults.stream import Stream

Call = dict[str, Any]
"""One JSON-RPC request object."""
Answer = dict[str, Any]
"""`{"result": …}` or `{"error": {"code": …, "message": …}}`."""
Forward = Callable[[Call], Awaitable[Answer]]

RAW_METHODS: Final = frozenset({"eth_sendRawTransaction", "eth_sendPrivateTransaction", "eth_sendBundle"})
_ids = count(1)


def refused(message: str, code: int = -32000, data: object = None) -> Answer:
    """Return an error as an answer."""
    return {"error": {"code": code, "message": message} | ({} if data is None else {"data": data})}


@dataclass(eq=False)
class Fault:
    """One way to go wrong. `methods`: those concerned, all where empty; `times`: how many posts; `seconds`: how long.

    `skip`: how many matching posts pass first. Subclasses override the hooks.
    """

    methods: frozenset[str] = field(default=frozenset(), kw_only=True)
    times: int | None = field(default=None, kw_only=True)
    skip: int = field(default=0, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)
    is_lasting: bool = field(default=False, kw_only=True)
    """Whether `reset` leaves it."""
    hits: int = field(default=0, kw_only=True)
    """How many posts it has concerned."""
    begun_s: float = field(default=0.0, kw_only=True)
    released: asyncio.Event = field(default_factory=asyncio.Event, kw_only=True)
    """Set when the fault is taken away, for hooks that wait."""

    def concerns(self, call: Call) -> bool:
        return not self.methods or call.get("method") in self.methods

    def takes(self, calls: Sequence[Call]) -> bool:
        """Say whether the fault applies to a post, and use it up by one."""
        if self.seconds is not None and time.monotonic() > self.begun_s + self.seconds:
            return False
        if not any(map(self.concerns, calls)) or (self.times is not None and self.hits >= self.skip + self.times):
            return False
        self.hits += 1
        return self.hits > self.skip

    async def on_post(self, view: "View", request: web.Request) -> web.StreamResponse | None:
        """Answer a post before anything is done for it, or leave it."""

    async def on_call(self, view: "View", call: Call, forward: Forward) -> Answer:
        """Answer one call: alone, or by changing what is forwarded, or what comes back."""
        return await forward(call)

    def on_reply(self, answers: list[Answer]) -> list[Answer]:
        """Change the finished response objects."""
        return answers

    async def on_body(self, view: "View", request: web.Request, body: bytes) -> web.StreamResponse | None:
        """Answer a post after everything is done for it, or leave it."""


@dataclass
class RawSeen:
    """A raw transaction that arrived at a view. `view`: its number; `reached_node`: whether it was passed on."""

    raw: bytes
    view: int
    at_s: float
    """By `time.monotonic`."""
    method: str = "eth_sendRawTransaction"
    reached_node: bool = False

    @property
    def tx_hash(self) -> bytes:
        return keccak(self.raw)

    @property
    def sender(self) -> str:
        return str(Account.recover_transaction(self.raw))

    @property
    def fields(self) -> dict[str, Any]:
        """Return nonce, fees, gas, to, value, data: what the transaction says."""
        return dict(TypedTransaction.from_bytes(HexBytes(self.raw)).as_dict())

    @property
    def nonce(self) -> int:
        return int(self.fields["nonce"])


class View:
    """One address of the node, with its own faults."""

    def __init__(self, proxy: "FaultProxy", place: int) -> None:
        self.proxy = proxy
        self.place = place
        self.port = 0
        self.path = "/"
        self.faults: list[Fault] = []
        self.calls: list[Call] = []
        """Every call that arrived, also those that got no answer."""
        self.posts: list[list[Call]] = []
        self.stream = Stream(self)
        """The websocket side: `ws_url`, with faults of its own."""
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{self.path}"

    @property
    def count(self) -> Counter[str]:
        """Return how often each method was called."""
        return Counter(call["method"] for call in self.calls)

    def node(self, alias: str = "", **options: Any) -> Node:
        """Return the view as the pool wants it."""
        return Node(alias or f"rpc-{self.place + 1}", self.url, **{"calls_per_s": 100_000, **options})

    def add(self, *faults: Fault) -> Fault:
        """Add faults and return the last one."""
        for fault in faults:
            fault.begun_s = time.monotonic()
            fault.released.clear()
            self.faults.append(fault)
        return faults[-1]

    def remove(self, fault: Fault) -> None:
        """Take a fault away and let those go on whom it holds."""
        with suppress(ValueError):
            self.faults.remove(fault)
        fault.released.set()

    def reset(self) -> None:
        """Be honest from now on, on the websocket as well. A refusing view keeps refusing: see `accept`."""
        for fault in list(self.faults):
            if not fault.is_lasting:
                self.remove(fault)
        self.stream.reset()

    def forget(self) -> None:
        """Forget the calls that arrived so far."""
        self.calls.clear()
        self.posts.clear()

    async def accept(self) -> None:
        """Listen, on the same port as before."""
        if self._runner is not None:
            return
        application = web.Application(client_max_size=2**26)
        application.router.add_route("*", "/{anything:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def refuse(self) -> None:
        """Break every connection and refuse new ones."""
        runner, self._runner = self._runner, None
        await self.stream.close()
        if runner is not None:
            await runner.cleanup()

    @property
    def is_listening(self) -> bool:
        return self._runner is not None

    async def ask(self, calls: list[Call]) -> list[Answer]:
        """Answer calls as a client of this view would be answered, without the faults of whole posts."""
        return await self._answers(calls, [fault for fault in self.faults if fault.takes(calls)])

    def note(self, calls: list[Call]) -> None:
        """Record what arrived."""
        self.posts.append(calls)
        self.calls += calls
        for call in calls:
            if call.get("method") in RAW_METHODS:
                self.proxy.note(call, self.place)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self.stream.serve(request)
        asked = json.loads(await request.read())
        calls: list[Call] = asked if isinstance(asked, list) else [asked]
        self.note(calls)
        active = [fault for fault in self.faults if fault.takes(calls)]
        for fault in active:
            if (response := await fault.on_post(self, request)) is not None:
                return response
        answers = await self._answers(calls, active)
        for fault in active:
            answers = fault.on_reply(answers)
        body = json.dumps(answers if isinstance(asked, list) or len(answers) != 1 else answers[0]).encode()
        for fault in active:
            if (response := await fault.on_body(self, request, body)) is not None:
                return response
        return web.Response(body=body, content_type="application/json")

    async def _answers(self, calls: list[Call], active: Sequence[Fault]) -> list[Answer]:
        if not any(type(fault).on_call is not Fault.on_call for fault in active):
            return await self.proxy.forward(calls, self.place)
        found = await asyncio.gather(*(self._answer(call, active) for call in calls))
        return [{"jsonrpc": "2.0", "id": call["id"], **told} for call, told in zip(calls, found, strict=True)]

    async def _answer(self, call: Call, active: Sequence[Fault]) -> Answer:
        forward: Forward = partial(self._forward, self.place)
        for fault in reversed(active):
            if fault.concerns(call):
                forward = partial(fault.on_call, self, forward=forward)
        told = await forward(call)
        return {key: told[key] for key in ("result", "error") if key in told}

    async def _forward(self, place: int, call: Call) -> Answer:
        (answer,) = await self.proxy.forward([call], place)
        return answer


class FaultProxy:
    """Run views of one node for as long as the `async with` block lasts."""

    def __init__(self, upstream: str, views: int = 3) -> None:
        self.upstream = upstream
        self.views = tuple(View(self, place) for place in range(views))
        self.raw_transactions: list[RawSeen] = []
        """Every raw transaction that any view ever saw, in the order of arrival."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        for view in self.views:
            await view.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reset()
        for view in self.views:
            await view.refuse()
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the one connection pool to the node."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session

    @property
    def urls(self) -> list[str]:
        return [view.url for view in self.views]

    @property
    def ws_upstream(self) -> str:
        return self.upstream.replace("http", "ws", 1)

    def add(self, *faults: Callable[[], Fault]) -> None:
        """Add a fault of its own to every view: `proxy.add(lambda: rules.status(500))`."""
        for view in self.views:
            view.add(*(make() for make in faults))

    def reset(self) -> None:
        """Be honest everywhere."""
        for view in self.views:
            view.reset()

    async def rpc(self, method: str, *params: object) -> Any:
        """Ask the node itself, past every fault."""
        (answer,) = await self.forward([{"jsonrpc": "2.0", "id": 0, "method": method, "params": list(params)}])
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def note(self, call: Call, place: int) -> None:
        """Record the raw transactions of a call."""
        for text in _raw_texts(call):
            try:
                raw = bytes.fromhex(text[2:])
            except ValueError:
                continue
            self.raw_transactions.append(RawSeen(raw, place, time.monotonic(), call["method"]))

    async def forward(self, calls: list[Call], place: int | None = None) -> list[Answer]:
        """Pass calls to the node in one request and return its response objects in the order of the calls."""
        numbered = [{**call, "id": next(_ids)} for call in calls]
        async with self.session.post(self.upstream, json=numbered) as response:
            found = {each["id"]: each for each in await response.json()}
        if place is not None:
            self._note_reached(calls, place)
        return [{**found[asked["id"]], "id": call["id"]} for asked, call in zip(numbered, calls, strict=True)]

    def _note_reached(self, calls: list[Call], place: int) -> None:
        sent = {text for call in calls if call.get("method") in RAW_METHODS for text in _raw_texts(call)}
        for seen in self.raw_transactions:
            if seen.view == place and "0x" + seen.raw.hex() in sent:
                seen.reached_node = True


def _raw_texts(call: Call) -> list[str]:
    """Return the raw transactions in a call's parameters."""
    (first, *_) = call.get("params") or [None]
    if isinstance(first, str):
        return [first]
    if isinstance(first, dict):
        found = [first.get("tx"), *(first.get("txs") or ())]
        return [text for text in found if isinstance(text, str)]
    return []

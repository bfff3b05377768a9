"""The five services on loopback, as they document themselves, and everything that a bad one could answer instead.

Each checks what it is asked for like the real one (method, path, fields, key), quotes by a price of its own, and writes
the router's calldata with the library's own ABI encoder. `lie` changes what an answer would do, `handler` answers
instead of it.
Source: the documentation that each module in `keeper/venues` names.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web
from eth_abi.abi import encode
from eth_utils.address import is_checksum_address

from keeper.domain.abi import selector
from keeper.domain.units import Address

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEY: Final = "canary-key-5ecret"
PATH: Final = "/t0kenInThePath"
SETTLER: Final = Address(b"\x5e" * 20)
AGENT: Final = Address(b"\xa6" * 20)
"""What a router calls to swap."""
SOLD_PER_GIVEN: Final = (2, 1)

_DESC_V6: Final = "(address,address,address,address,uint256,uint256,uint256)"
_GENERIC: Final = "(address,address,uint256,uint256,uint256,bytes32,address)"
_ODOS: Final = "(address,uint256,address,address,uint256,uint256,address)"
_KYBER: Final = "(address,address,address[],uint256[],address[],uint256[],address,uint256,uint256,uint256,bytes)"


class Refused(Exception):
    """The question is not of the documented form."""


@dataclass(frozen=True)
class Deal:
    """What an answer's calldata would do; a lie replaces some of it."""

    router: Address
    give: Address
    take: Address
    amount: int
    least: int
    recipient: Address
    bought: int
    value: int = 0
    flags: int = 0
    operator: Address = SETTLER
    target: Address = SETTLER
    function: bytes | None = None
    data: bytes | None = None


Lie = Callable[[Deal], Deal]


def honest(deal: Deal) -> Deal:
    return deal


@dataclass
class Stall:
    """One service; `ask` turns a request into the deals that it would make."""

    router: Address
    chain_id: int = 1
    lie: Lie = honest
    handler: Handler | None = None
    delay_s: float = 0.0
    price: tuple[int, int] = SOLD_PER_GIVEN
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    arrived: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Released once for each question."""
    given_up: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Released once for each that was not waited for."""
    port: int = 0
    _runner: web.AppRunner | None = None
    _paths: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{anything:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        fields = json.loads(body) if body else dict(request.query)
        self.asked.append((request.method, request.path.removeprefix(PATH), fields))
        self.headers.append(dict(request.headers))
        self.arrived.release()
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.given_up.release()
            raise
        if self.handler is not None:
            return await self.handler(request)
        if not request.path.startswith(PATH):
            return web.Response(status=404)
        try:
            return web.json_response(self.answer(request, request.path.removeprefix(PATH), fields))
        except Refused as refused:
            return web.json_response({"error": str(refused)}, status=400)

    def answer(self, request: web.Request, path: str, fields: dict[str, Any]) -> Any:
        raise NotImplementedError

    def deal(self, give: str, take: str, amount: str, recipient: str, tolerance_bps: int) -> Deal:
        """Return what is promised, after the lie."""
        bought = int(amount) * self.price[0] // self.price[1]
        least = bought * (10_000 - tolerance_bps) // 10_000
        true = Deal(
            router=self.router,
            give=_address(give),
            take=_address(take),
            amount=int(amount),
            least=least,
            recipient=_address(recipient),
            bought=bought,
        )
        return self.lie(true)


def called(deal: Deal, signature: str, types: list[str], words: list[Any]) -> bytes:
    """Return calldata, or what a lie puts in its place."""
    if deal.data is not None:
        return deal.data
    return (deal.function or selector(signature)) + encode(types, words)


def _address(text: str) -> Address:
    if len(text) != 42 or not text.startswith("0x"):
        raise Refused("not an address")
    return Address(bytes.fromhex(text[2:]))


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _need(fields: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a request that lacks a field; the value None stands for any."""
    for name, value in wanted.items():
        if name not in fields or (value is not None and fields[name] != value):
            raise Refused(f"{name} is missing or wrong")


def _bps(percent: str | float) -> int:
    return round(float(percent) * 100)


class OneInchStall(Stall):
    def answer(self, request: web.Request, path: str, fields: dict[str, Any]) -> Any:
        if request.method != "GET" or path != f"/swap/v6.1/{self.chain_id}/swap":
            raise Refused("not found")
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            raise Refused("no key")
        _need(fields, dict.fromkeys(("src", "dst", "amount", "from", "origin", "slippage")))
        _need(fields, {"disableEstimate": "true", "compatibility": "true"})
        deal = self.deal(
            fields["src"],
            fields["dst"],
            fields["amount"],
            fields.get("receiver", fields["from"]),
            _bps(fields["slippage"]),
        )
        description = (deal.give, deal.take, AGENT, deal.recipient, deal.amount, deal.least, deal.flags)
        data = called(
            deal, f"swap(address,{_DESC_V6},bytes)", ["address", _DESC_V6, "bytes"], [AGENT, description, b"\x01" * 40]
        )
        tx = {"from": fields["from"], "to": _hex(deal.router), "data": _hex(data), "value": str(deal.value)}
        return {"dstAmount": str(deal.bought), "gas": 210_000, "tx": {**tx, "gas": 0, "gasPrice": "356795929"}}


class ZeroExStall(Stall):
    liquid: bool = True

    def answer(self, request: web.Request, path: str, fields: dict[str, Any]) -> Any:
        if request.method != "GET" or path != "/swap/allowance-holder/quote":
            raise Refused("not found")
        if (request.headers.get("0x-api-key"), request.headers.get("0x-version")) != (KEY, "v2"):
            raise Refused("no key")
        _need(fields, {"chainId": str(self.chain_id), "txOrigin": None, "taker": None, "slippageBps": None})
        if not self.liquid:
            return {"liquidityAvailable": False, "zid": "0x1d95bf1a0b45fcc4f6efaa39"}
        taker = fields.get("recipient", fields["taker"])
        deal = self.deal(
            fields["sellToken"], fields["buyToken"], fields["sellAmount"], taker, int(fields["slippageBps"])
        )
        execute = "execute((address,address,uint256),bytes[],bytes32)"
        inner = called(
            replace(deal, data=None),
            execute,
            ["(address,address,uint256)", "bytes[]", "bytes32"],
            [(deal.recipient, deal.take, deal.least), [b"\x01" * 36, b"\x02" * 4], b"\x07" * 32],
        )
        data = called(
            replace(deal, function=None),
            "exec(address,address,uint256,address,bytes)",
            ["address", "address", "uint256", "address", "bytes"],
            [deal.operator, deal.give, deal.amount, deal.target, inner],
        )
        transaction = {"to": _hex(deal.router), "data": _hex(data), "value": str(deal.value), "gas": None}
        return {
            "liquidityAvailable": True,
            "allowanceTarget": _hex(deal.router),
            "buyAmount": str(deal.bought),
            "minBuyAmount": str(deal.least),
            "sellAmount": fields["sellAmount"],
            "issues": {"allowance": {"actual": "0", "spender": _hex(deal.router)}, "simulationIncomplete": True},
            "transaction": {**transaction, "gasPrice": "14551300000"},
        }


class VeloraStall(Stall):
    def answer(self, request: web.Request, path: str, fields: dict[str, Any]) -> Any:
        if request.method != "GET" or path != "/swap":
            raise Refused("not found")
        _need(fields, {"network": str(self.chain_id), "version": "6.2", "side": "SELL", "userAddress": None})
        _need(fields, {"srcDecimals": "18", "destDecimals": "6", "includeContractMethods": "swapExactAmountIn"})
        deal = self.deal(
            fields["srcToken"], fields["destToken"], fields["amount"], fields["receiver"], int(fields["slippage"])
        )
        is_own = deal.recipient == _address(fields["userAddress"])
        beneficiary = bytes(20) if is_own else deal.recipient
        generic = (deal.give, deal.take, deal.amount, deal.least, deal.bought, b"\x03" * 32, beneficiary)
        data = called(
            deal,
            f"swapExactAmountIn(address,{_GENERIC},uint256,bytes,bytes)",
            ["address", _GENERIC, "uint256", "bytes", "bytes"],
            [AGENT, generic, 0, b"", b"\x04" * 50],
        )
        route = {"srcAmount": fields["amount"], "destAmount": str(deal.bought), "gasCost": "180000", "hmac": "00"}
        tx = {"from": fields["userAddress"], "to": _hex(deal.router), "value": str(deal.value), "data": _hex(data)}
        return {"priceRoute": route, "txParams": {**tx, "gasPrice": "16000000000", "chainId": self.chain_id}}


class OdosStall(Stall):
    def answer(self, request: web.Request, path: str, fields: dict[str, Any]) -> Any:
        if request.method != "POST":
            raise Refused("not found")
        if path == "/sor/quote/v3":
            return self._quote(fields)
        if path != "/sor/assemble":
            raise Refused("not found")
        _need(fields, {"pathId": None, "userAddr": None})
        asked = self._paths.get(fields["pathId"])
        if asked is None or asked["userAddr"] != fields["userAddr"]:
            raise Refused("an unknown path")
        (given,), (taken,) = asked["inputTokens"], asked["outputTokens"]
        receiver = fields.get("receiver", fields["userAddr"])
        deal = self.deal(
            given["tokenAddress"], taken["tokenAddress"], given["amount"], receiver, _bps(asked["slippageLimitPercent"])
        )
        info = (deal.give, deal.amount, AGENT, deal.take, deal.bought, deal.least, deal.recipient)
        data = called(
            deal,
            f"swap({_ODOS},bytes,address,(uint64,uint64,address))",
            [_ODOS, "bytes", "address", "(uint64,uint64,address)"],
            [info, b"\x05" * 33, AGENT, (0, 0, bytes(20))],
        )
        transaction = {"to": _hex(deal.router), "data": _hex(data), "value": str(deal.value), "gas": 250_000}
        return {
            "deprecated": None,
            "gasEstimate": 240_000.5,
            "outputTokens": [{"tokenAddress": taken["tokenAddress"], "amount": str(deal.bought)}],
            "transaction": {**transaction, "chainId": self.chain_id, "nonce": 0},
            "simulation": None,
        }

    def _quote(self, fields: dict[str, Any]) -> Any:
        _need(fields, {"chainId": self.chain_id, "compact": False, "userAddr": None, "slippageLimitPercent": None})
        for token in (*fields["inputTokens"], *fields["outputTokens"]):
            if not is_checksum_address(token["tokenAddress"]):
                raise Refused("an address without its checksum")
        path = f"path-{len(self._paths)}"
        self._paths[path] = fields
        return {"pathId": path, "outAmounts": ["1"], "gasEstimate": 240_000.5, "blockNumber": 1}


class KyberStall(Stall):
    slug: str = "ethereum"
    simple: bool = False

    def answer(self, request: web.Request, path: str, fields: dict[str, Any]) -> Any:
        base = f"/{self.slug}/api/v1"
        if "x-client-id" not in request.headers:
            raise Refused("who asks?")
        if (request.method, path) == ("GET", f"{base}/routes"):
            _need(fields, dict.fromkeys(("tokenIn", "tokenOut", "amountIn")))
            summary = {**fields, "route": [[]], "gas": "200000", "l1FeeUsd": "0", "checksum": "1"}
            data: Any = {"routeSummary": summary, "routerAddress": _hex(self.router)}
            return {"code": 0, "message": "successfully", "data": data, "requestId": "1"}
        if (request.method, path) != ("POST", f"{base}/route/build"):
            raise Refused("not found")
        _need(fields, dict.fromkeys(("routeSummary", "sender", "recipient", "slippageTolerance")))
        asked = fields["routeSummary"]
        if asked.get("checksum") != "1":
            return {"code": 4000, "message": "the summary was changed"}
        deal = self.deal(
            asked["tokenIn"], asked["tokenOut"], asked["amountIn"], fields["recipient"], fields["slippageTolerance"]
        )
        data = {
            "amountIn": asked["amountIn"],
            "amountOut": str(deal.bought),
            "gas": "220000",
            "data": _hex(self._calldata(deal)),
            "routerAddress": _hex(deal.router),
            "transactionValue": str(deal.value),
        }
        return {"code": 0, "message": "successfully", "data": data, "requestId": "2"}

    def _calldata(self, deal: Deal) -> bytes:
        description: tuple[Any, ...] = (
            *(deal.give, deal.take, [AGENT], [deal.amount], [], [], deal.recipient, deal.amount, deal.least),
            *(deal.flags, b""),
        )
        if self.simple:
            types = ["address", _KYBER, "bytes", "bytes"]
            words: list[Any] = [AGENT, description, b"\x06" * 64, b"{}"]
            return called(deal, f"swapSimpleMode(address,{_KYBER},bytes,bytes)", types, words)
        execution = f"(address,address,bytes,{_KYBER},bytes)"
        words = [(AGENT, bytes(20), b"\x06" * 65, description, b"{}")]
        return called(deal, f"swap({execution})", [execution], words)

"""A private relay with a builder, on loopback before a real node.

It checks what real ones check: the header's signature over the very body, the shape of the call, the transaction's chain,
sender, nonce and balance, and by simulation that nothing reverts. Its builder hands what it holds to the node right
before a block is mined, so that no pool has it before or after. Switches make it lie, leak, stall or forget.
Source: docs.flashbots.net; the header as flashbots' own servers verify it.
"""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from keeper.devnet.chain import DevChain
from tests.faults.proxy import RawSeen

PATH: Final = "/v1/canaryRelay5ecret"
MAX_BLOCKS: Final = 25
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_BUNDLE: Final = {"txs", "blockNumber", "minTimestamp", "maxTimestamp", "revertingTxHashes", "replacementUuid"}
_FIELDS: Final = {
    "eth_sendPrivateTransaction": ({"tx"}, {"tx", "maxBlockNumber", "preferences"}),
    "eth_sendBundle": ({"txs", "blockNumber"}, _BUNDLE),
    "eth_cancelPrivateTransaction": ({"txHash"}, {"txHash"}),
    "eth_cancelBundle": ({"replacementUuid"}, {"replacementUuid"}),
}


class Refused(Exception):
    """The relay will not have it."""


@dataclass(frozen=True)
class Held:
    """A transaction that was found good. `value_wei` and the rest: what it says."""

    raw: bytes
    sender: str
    nonce: int
    cap_wei: int
    gas: int
    value_wei: int
    to: str
    data: str

    @classmethod
    def of(cls, text: object, chain_id: int) -> "Held":
        """Decode signed bytes of one chain."""
        if not isinstance(text, str) or not text.startswith("0x"):
            raise Refused("a transaction has to be hexadecimal")
        try:
            raw = bytes.fromhex(text[2:])
            fields: dict[str, Any] = dict(TypedTransaction.from_bytes(HexBytes(raw)).as_dict())
            sender = str(Account.recover_transaction(raw)).lower()
        except Exception as error:
            raise Refused("the transaction cannot be decoded") from error
        if fields["chainId"] != chain_id:
            raise Refused("invalid chain id")
        return cls(
            raw=raw,
            sender=sender,
            nonce=int(fields["nonce"]),
            cap_wei=int(fields["maxFeePerGas"]),
            gas=int(fields["gas"]),
            value_wei=int(fields["value"]),
            to="0x" + bytes(fields["to"]).hex(),
            data="0x" + bytes(fields["data"]).hex(),
        )

    @property
    def tx_hash(self) -> str:
        return "0x" + keccak(self.raw).hex()

    @property
    def call(self) -> dict[str, str]:
        """Return the fields of a simulated call."""
        plain = {"from": self.sender, "to": self.to, "data": self.data, "value": hex(self.value_wei)}
        return {**plain, "gas": hex(self.gas)}


@dataclass(frozen=True)
class Parcel:
    """What was handed over at once, for the blocks from `first_block` to `last_block`, by whoever signed for it."""

    txs: tuple[Held, ...]
    first_block: int
    last_block: int
    signer: str
    name: str


class LocalRelay:
    """Run a relay for as long as the `async with` block lasts."""

    def __init__(self, node: DevChain, chain_id: int) -> None:
        self.node = node
        self.chain_id = chain_id
        self.port = 0
        self.includes = True
        """Whether blocks are of its builder's making."""
        self.is_lying = False
        """Whether it takes everything and keeps nothing."""
        self.is_leaking = False
        """Whether it shows to the public pool what it takes."""
        self.is_stubborn = False
        """Whether it goes on after an expiry or a cancellation, as builders do that know of neither."""
        self.delay_s = 0.0
        """How long it thinks before it answers."""
        self.calls: list[dict[str, Any]] = []
        self.signers: list[str] = []
        """Who signed each call."""
        self.raws: list[RawSeen] = []
        """Every raw transaction that it was given, in the order of arrival."""
        self.refusals: list[str] = []
        self.parcels: dict[str, Parcel] = {}
        self._past: list[Parcel] = []
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    @property
    def methods(self) -> list[str]:
        return [call["method"] for call in self.calls]

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()

    async def accept(self) -> None:
        """Listen, on the same port as before."""
        application = web.Application()
        application.router.add_post(PATH, self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def refuse(self) -> None:
        """Refuse every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def mine(self) -> list[str]:
        """Mine a block, of the builder's making if it includes; return the hashes that it put in."""
        block = await self.node.block_number() + 1
        chosen = await self._chosen(block) if self.includes and not self.is_lying else []
        for held in chosen:
            await self._displace(held)
            await self.node.rpc("eth_sendRawTransaction", "0x" + held.raw.hex())
        await self.node.mine()
        mined = {
            each["hash"] for each in (await self.node.rpc("eth_getBlockByNumber", hex(block), True))["transactions"]
        }
        for held in chosen:
            if held.tx_hash not in mined:
                await self.node.rpc("anvil_dropTransaction", held.tx_hash)
        return [held.tx_hash for held in chosen if held.tx_hash in mined]

    async def _serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            call = self._call(body)
            signer = self._signer(request.headers.get("X-Flashbots-Signature", ""), body)
        except Refused as refused:
            self.refusals.append(str(refused))
            return _error(None, -32600, str(refused), status=403)
        self.calls.append(call)
        self.signers.append(signer)
        (params,) = call["params"]
        self.raws += [
            RawSeen(bytes.fromhex(text[2:]), -1, time.monotonic(), call["method"])
            for text in (params.get("txs") or [params.get("tx")])
            if text
        ]
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        try:
            result = await self._done(call["method"], params, signer)
        except Refused as refused:
            self.refusals.append(str(refused))
            return _error(call["id"], -32000, str(refused))
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": result})

    def _call(self, body: bytes) -> dict[str, Any]:
        """Check a call's shape, with no field too few or too many."""
        try:
            call = json.loads(body)
        except ValueError:
            raise Refused("parse error") from None
        if not isinstance(call, dict) or call.get("jsonrpc") != "2.0" or "id" not in call:
            raise Refused("invalid request")
        params = call.get("params")
        if call.get("method") not in _FIELDS:
            raise Refused("method not found")
        if not isinstance(params, list) or len(params) != 1 or not isinstance(params[0], dict):
            raise Refused("invalid params")
        least, most = _FIELDS[call["method"]]
        if not least <= params[0].keys() <= most:
            raise Refused(f"unknown or missing fields: {sorted(params[0])}")
        return call

    def _signer(self, header: str, body: bytes) -> str:
        """Recover who signed the body, and compare with who says so."""
        address, separator, signature = header.partition(":")
        if not separator or not signature.startswith("0x"):
            raise Refused("no signature provided")
        message = encode_defunct(text="0x" + keccak(body).hex())
        try:
            found = str(Account.recover_message(message, signature=bytes.fromhex(signature[2:])))
        except Exception as error:
            raise Refused("invalid flashbots signature") from error
        if found.lower() != address.lower():
            raise Refused("signing address mismatch")
        return found

    async def _done(self, method: str, params: dict[str, Any], signer: str) -> object:
        if method == "eth_cancelPrivateTransaction":
            return self._cancelled(str(params["txHash"]), signer)
        if method == "eth_cancelBundle":
            self._cancelled(_name(params["replacementUuid"]), signer)
            return 200
        parcel = await self._parcel(method, params, signer)
        if self.is_leaking:
            for held in parcel.txs:
                await self.node.rpc("eth_sendRawTransaction", "0x" + held.raw.hex())
        if not self.is_lying:
            self.parcels[parcel.name] = parcel
            self._past.append(parcel)
        if method == "eth_sendBundle":
            return {"bundleHash": "0x" + keccak(b"".join(keccak(held.raw) for held in parcel.txs)).hex()}
        return parcel.txs[0].tx_hash

    def _cancelled(self, name: str, signer: str) -> bool:
        if self.parcels.get(name) is None or self.parcels[name].signer != signer:
            return False
        del self.parcels[name]
        return True

    async def _parcel(self, method: str, params: dict[str, Any], signer: str) -> Parcel:
        """Check everything about what was handed over."""
        head = await self.node.block_number()
        if method == "eth_sendBundle":
            txs = tuple(Held.of(text, self.chain_id) for text in params["txs"])
            first = last = _number(params["blockNumber"])
            name = _name(params.get("replacementUuid"))
        else:
            txs = (Held.of(params["tx"], self.chain_id),)
            first, name = head + 1, txs[0].tx_hash
            last = min(_number(params.get("maxBlockNumber", hex(head + MAX_BLOCKS))), head + MAX_BLOCKS)
        if not txs or last <= head:
            raise Refused(f"block {last} is in the past")
        sender = txs[0].sender
        if any(held.sender != sender for held in txs):
            raise Refused("this builder knows one sender for each bundle")
        nonce = await self._count(sender)
        lowest = nonce if method == "eth_sendBundle" else max(nonce, txs[0].nonce)
        if [held.nonce for held in txs] != list(range(lowest, lowest + len(txs))):
            raise Refused(f"nonce too low or too high: the account is at {nonce}")
        balance = int(await self.node.rpc("eth_getBalance", sender, "latest"), 16)
        if balance < sum(held.gas * held.cap_wei + held.value_wei for held in txs):
            raise Refused("insufficient funds for gas * price + value")
        before = [] if method == "eth_sendBundle" else self._before(sender, nonce, txs[0].nonce)
        await self._simulate([*before, *txs])
        return Parcel(txs, first, last, signer, name)

    def _before(self, sender: str, nonce: int, limit: int) -> list[Held]:
        """Return what it holds of a sender in front of a nonce."""
        held = {each.nonce: each for parcel in self.parcels.values() for each in parcel.txs if each.sender == sender}
        return [held[each] for each in range(nonce, limit) if each in held]

    async def _simulate(self, txs: Sequence[Held]) -> None:
        asked = {"blockStateCalls": [{"calls": [held.call for held in txs]}], "validation": False}
        (block,) = await self.node.rpc("eth_simulateV1", asked, "latest")
        for result in block["calls"]:
            if int(result["status"], 16) != 1:
                raise Refused(f"execution reverted: {result['returnData']}")

    async def _chosen(self, block: int) -> list[Held]:
        """Choose for a block: for each sender the longest line that begins at its nonce and pays the base fee."""
        parcels = self._past if self.is_stubborn else list(self.parcels.values())
        fitting = [each for each in parcels if each.first_block <= block <= each.last_block or self.is_stubborn]
        base_fee = int((await self.node.rpc("eth_feeHistory", "0x1", "latest", []))["baseFeePerGas"][-1], 16)
        chosen: list[Held] = []
        for sender in {held.sender for parcel in fitting for held in parcel.txs}:
            nonce = await self._count(sender)
            lines = [
                parcel.txs for parcel in fitting if parcel.txs[0].nonce == nonce and parcel.txs[0].sender == sender
            ]
            line: list[Held] = []
            for txs in lines:
                line = list(txs) if len(txs) > len(line) else line
            singles = {parcel.txs[0].nonce: parcel.txs[0] for parcel in fitting if len(parcel.txs) == 1}
            while line and (held := singles.get(line[-1].nonce + 1)) is not None:
                line.append(held)
            line = line or [singles[key] for key in sorted(singles) if key > nonce]  # behind what is public
            if line and all(held.cap_wei >= base_fee for held in line):
                try:
                    await self._simulate(line)
                except Refused as refused:
                    self.refusals.append(str(refused))
                    continue
                chosen += line
        return chosen

    async def _displace(self, held: Held) -> None:
        """Take what the public pool has at a nonce out of the way: a builder prefers what it was given."""
        pending = (await self.node.rpc("txpool_content"))["pending"]
        for sender, found in pending.items():
            other = found.get(str(held.nonce)) if sender.lower() == held.sender else None
            if other is not None:
                await self.node.rpc("anvil_dropTransaction", other["hash"])

    async def _count(self, sender: str) -> int:
        return int(await self.node.rpc("eth_getTransactionCount", sender, "latest"), 16)


def _name(text: object) -> str:
    if not isinstance(text, str) or _UUID.fullmatch(text) is None:
        raise Refused("replacementUuid has to be a UUID, version 4")
    return text


def _number(text: object) -> int:
    if not isinstance(text, str) or re.fullmatch("0x(0|[1-9a-f][0-9a-f]*)", text) is None:
        raise Refused("a block number has to be a hexadecimal quantity")
    return int(text, 16)


def _error(call_id: object, code: int, message: str, *, status: int = 200) -> web.Response:
    return web.json_response(
        {"jsonrpc": "2.0", "id": call_id, "error": {"code": code, "message": message}}, status=status
    )

"""The rules of geth's transaction pool before a node that is more lenient.

Anvil takes replacements that pay 5 % more or raise the cap alone, refuses a cap below the base fee, and forgets
transactions that a reorganisation drops. `StrictGeth` answers as geth does; `reinject` gives dropped ones back.
Source: go-ethereum core/txpool/validation.go, core/txpool/legacypool/list.go, internal/ethapi/api.go.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from tests.faults.proxy import Answer, Call, Fault, FaultProxy, Forward, View, refused

_BUMP_PERCENT: Final = 10
_ETHER: Final = 10**18


@dataclass
class Pooled:
    """A transaction that geth's pool would hold. `is_held`: the node does not have it, as its cap is below the base fee."""

    raw: str
    tx_hash: str
    sender: str
    nonce: int
    tip_wei: int
    cap_wei: int
    gas: int
    value_wei: int
    is_held: bool = False

    @classmethod
    def of(cls, raw: str) -> "Pooled":
        """Decode signed bytes.

        Raises: ValueError, TypeError and what else the library raises.
        """
        content = bytes.fromhex(raw[2:])
        fields: dict[str, Any] = dict(TypedTransaction.from_bytes(HexBytes(content)).as_dict())
        return cls(
            raw=raw,
            tx_hash="0x" + keccak(content).hex(),
            sender=str(Account.recover_transaction(content)),
            nonce=int(fields["nonce"]),
            tip_wei=int(fields["maxPriorityFeePerGas"]),
            cap_wei=int(fields["maxFeePerGas"]),
            gas=int(fields["gas"]),
            value_wei=int(fields["value"]),
        )


@dataclass
class Pool:
    """The pool that all views of one proxy share. `fee_cap_wei`: the node's own limit for gas × cap; 0 for none."""

    least_tip_wei: int = 0
    fee_cap_wei: int = _ETHER
    seen: dict[tuple[str, int], Pooled] = field(default_factory=dict)
    every: dict[str, Pooled] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One transaction at a time, as in geth."""
    refusals: list[str] = field(default_factory=list)
    """What was refused, in geth's words."""


@dataclass(eq=False)
class StrictGeth(Fault):
    """Judge raw transactions as geth does before the node sees them."""

    pool: Pool = field(default_factory=Pool)

    async def on_call(self, view: View, call: Call, forward: Forward) -> Answer:
        await promote(view.proxy, self.pool)
        if call["method"] == "eth_getTransactionByHash":
            return await self._known(call, forward)
        if call["method"] != "eth_sendRawTransaction":
            return await forward(call)
        async with self.pool.turn:
            refusal = await self._refusal(view.proxy, str(call["params"][0]))
            if refusal is not None:
                self.pool.refusals.append(refusal)
                return refused(refusal)
            return await self._take(view.proxy, call, forward)

    async def _refusal(self, proxy: FaultProxy, raw: str) -> str | None:
        try:
            tx = Pooled.of(raw)
        except Exception:  # noqa: BLE001 - whatever the library makes of junk
            return "typed transaction too short"
        limit = int((await proxy.rpc("eth_getBlockByNumber", "latest", False))["gasLimit"], 16)
        cost = tx.gas * tx.cap_wei + tx.value_wei
        balance = int(await proxy.rpc("eth_getBalance", tx.sender, "latest"), 16)
        nonce = int(await proxy.rpc("eth_getTransactionCount", tx.sender, "latest"), 16)
        if self.pool.fee_cap_wei and tx.gas * tx.cap_wei > self.pool.fee_cap_wei:
            told = f"{tx.gas * tx.cap_wei / _ETHER:.2f} ether"
            return f"tx fee ({told}) exceeds the configured cap ({self.pool.fee_cap_wei / _ETHER:.2f} ether)"
        if await self._holds(proxy, tx.tx_hash):
            return "already known"
        if tx.gas > limit:
            return "exceeds block gas limit"
        if tx.tip_wei > tx.cap_wei:
            return (
                f"max priority fee per gas higher than max fee per gas: address {tx.sender}, "
                f"maxPriorityFeePerGas: {tx.tip_wei}, maxFeePerGas: {tx.cap_wei}"
            )
        if tx.tip_wei < self.pool.least_tip_wei:
            return f"transaction underpriced: tip needed {self.pool.least_tip_wei}, tip permitted {tx.tip_wei}"
        if tx.nonce < nonce:
            return f"nonce too low: address {tx.sender}, tx: {tx.nonce} state: {nonce}"
        if balance < cost:
            return (
                f"insufficient funds for gas * price + value: address {tx.sender} have {balance} want {cost}: "
                f"balance {balance}, tx cost {cost}, overshot {cost - balance}"
            )
        old = self.pool.seen.get((tx.sender, tx.nonce))
        if old is not None and await self._holds(proxy, old.tx_hash) and not _is_enough(old, tx):
            return "replacement transaction underpriced"
        return None

    async def _take(self, proxy: FaultProxy, call: Call, forward: Forward) -> Answer:
        tx = Pooled.of(str(call["params"][0]))
        old = self.pool.seen.get((tx.sender, tx.nonce))
        if await _next_base_fee(proxy) > tx.cap_wei:
            if old is not None and not old.is_held:
                await proxy.rpc("anvil_dropTransaction", old.tx_hash)
            tx.is_held = True
            told: Answer = {"result": tx.tx_hash}
        else:
            told = await forward(call)
        if "error" not in told:
            if old is not None:
                old.is_held = False
            self.pool.seen[tx.sender, tx.nonce] = self.pool.every[tx.tx_hash] = tx
        return told

    async def _holds(self, proxy: FaultProxy, tx_hash: str) -> bool:
        """Say whether a transaction waits in the pool: held here, or pending at the node."""
        known = self.pool.every.get(tx_hash)
        if known is not None and known.is_held:
            return True
        found = await proxy.rpc("eth_getTransactionByHash", tx_hash)
        return found is not None and found.get("blockHash") is None

    async def _known(self, call: Call, forward: Forward) -> Answer:
        known = self.pool.every.get(str(call["params"][0]).lower())
        if known is None or not known.is_held:
            return await forward(call)
        shown = {"hash": known.tx_hash, "from": known.sender, "nonce": hex(known.nonce), "type": "0x2"}
        return {"result": {**shown, "blockHash": None, "blockNumber": None}}


def strict_geth(proxy: FaultProxy, **options: Any) -> Pool:
    """Put geth's rules before every view, with one pool for all; `reset` leaves it."""
    pool = Pool(**options)
    for view in proxy.views:
        view.add(StrictGeth(pool=pool, is_lasting=True))
    return pool


async def promote(proxy: FaultProxy, pool: Pool) -> None:
    """Give the node what was held until the base fee fell."""
    held = [each for each in pool.every.values() if each.is_held]
    if not held:
        return
    base_fee = await _next_base_fee(proxy)
    for tx in held:
        if tx.is_held and base_fee <= tx.cap_wei:  # another view may have been faster
            tx.is_held = False
            await proxy.rpc("eth_sendRawTransaction", tx.raw)


async def reinject(proxy: FaultProxy, pool: Pool) -> list[str]:
    """Put back what a reorganisation dropped, as geth does and anvil does not; return the hashes."""
    back = []
    for tx in pool.seen.values():
        found = await proxy.rpc("eth_getTransactionByHash", tx.tx_hash)
        nonce = int(await proxy.rpc("eth_getTransactionCount", tx.sender, "latest"), 16)
        if found is None and tx.nonce >= nonce and not tx.is_held:
            await proxy.rpc("eth_sendRawTransaction", tx.raw)
            back.append(tx.tx_hash)
    return back


def _is_enough(old: Pooled, new: Pooled) -> bool:
    """Say whether both fees were raised enough."""
    pairs = ((old.tip_wei, new.tip_wei), (old.cap_wei, new.cap_wei))
    return all(100 * raised >= (100 + _BUMP_PERCENT) * before and raised > before for before, raised in pairs)


async def _next_base_fee(proxy: FaultProxy) -> int:
    """Return the base fee that the node's pool demands: that of the next block."""
    history = await proxy.rpc("eth_feeHistory", "0x1", "latest", [])
    return int(history["baseFeePerGas"][-1], 16)

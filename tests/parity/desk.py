"""What parity tests read and send with: the local node through the ports, an impersonated liquidator with money."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keeper.chain.multicall import MULTICALL3, pack, unpack
from keeper.devnet.chain import MAX_UINT, DevChain, RpcFailed
from keeper.devnet.market import APPROVE, MINT, AaveMarket
from keeper.domain.chain import BlockHead, Call, Log, LogFilter, ViewCall, ViewResult
from keeper.domain.units import Address, BlockHash, TxHash, Wei

LIQUIDATOR = "0x" + "11" * 20
_CHUNK = 400
_GAS = 3_000_000


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def address(text: str) -> Address:
    return Address(raw(text))


def log_of(entry: dict[str, Any]) -> Log:
    return Log(
        address=address(entry["address"]),
        topics=tuple(raw(each) for each in entry["topics"]),
        data=raw(entry["data"]),
        block_number=int(entry["blockNumber"], 16),
        block_hash=BlockHash(raw(entry["blockHash"])),
        index=int(entry["logIndex"], 16),
        tx_hash=TxHash(raw(entry["transactionHash"])),
    )


async def read_head(chain: DevChain, block: str = "latest") -> BlockHead:
    found = await chain.header(block)
    return BlockHead(
        number=int(found["number"], 16),
        hash=BlockHash(raw(found["hash"])),
        parent_hash=BlockHash(raw(found["parentHash"])),
        timestamp_s=int(found["timestamp"], 16),
        base_fee_wei=Wei(int(found["baseFeePerGas"], 16)),
        gas_limit=int(found["gasLimit"], 16),
        logs_bloom=raw(found["logsBloom"]),
    )


async def read_logs(chain: DevChain, wanted: LogFilter, from_block: int = 0) -> list[Log]:
    span = {
        "fromBlock": hex(from_block),
        "toBlock": "latest",
        "address": ["0x" + each.hex() for each in wanted.addresses],
        "topics": [["0x" + each.hex() for each in wanted.topics]],
    }
    return [log_of(entry) for entry in await chain.rpc("eth_getLogs", span)]


class DevReads:
    """`ports.Reads` over the local node, pinned to a block's hash; it counts the rounds."""

    def __init__(self, chain: DevChain, head: BlockHead) -> None:
        self._chain = chain
        self._head = head
        self.rounds = 0

    @property
    def head(self) -> BlockHead:
        return self._head

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.rounds += 1
        results: list[ViewResult] = []
        for start in range(0, len(calls), _CHUNK):
            results += await self._aggregate(calls[start : start + _CHUNK])
        return results

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.rounds += 1
        return await self._aggregate(calls)

    async def _aggregate(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        request = {"to": "0x" + MULTICALL3.hex(), "data": "0x" + pack(calls).hex(), "gas": hex(10**9)}
        answer = await self._chain.rpc("eth_call", request, {"blockHash": "0x" + self._head.hash.hex()})
        return unpack(raw(answer), len(calls))


@dataclass(frozen=True, slots=True)
class Desk:
    """One market on the node, with everything a liquidation needs."""

    market: AaveMarket

    @property
    def chain(self) -> DevChain:
        return self.market.chain

    async def head(self) -> BlockHead:
        return await read_head(self.chain)

    async def reads(self) -> DevReads:
        return DevReads(self.chain, await self.head())

    async def logs(self, wanted: LogFilter, from_block: int = 0) -> list[Log]:
        return await read_logs(self.chain, wanted, from_block)

    async def open(self) -> None:
        """Give the liquidator native currency, and all tokens that it could ever repay."""
        await self.chain.rpc("anvil_impersonateAccount", LIQUIDATOR)
        await self.chain.set_balance(LIQUIDATOR, 10**21)
        for reserve in self.market.reserves.values():
            await self.chain.send(reserve.token, MINT, LIQUIDATOR, 10 ** (reserve.decimals + 12))
            await self.chain.send(reserve.token, APPROVE, self.market.pool, MAX_UINT, sender=LIQUIDATOR)

    async def send(self, call: Call) -> dict[str, Any]:
        """Send a call in a block of its own and return its receipt."""
        request = {"from": LIQUIDATOR, "to": "0x" + call.to.hex(), "data": "0x" + call.data.hex(), "gas": hex(_GAS)}
        return await self.chain.receipt(await self.chain.rpc("eth_sendTransaction", request))

    async def rehearse(self, at_s: int, calls: Sequence[Call]) -> list[dict[str, Any]]:
        """Execute calls one after another in a block at that time, which the chain then forgets."""
        sent = [{"from": LIQUIDATOR, "to": "0x" + each.to.hex(), "data": "0x" + each.data.hex()} for each in calls]
        block = {"blockOverrides": {"time": hex(at_s)}, "calls": [{**each, "gas": hex(_GAS)} for each in sent]}
        (done,) = await self.chain.rpc("eth_simulateV1", {"blockStateCalls": [block]}, "latest")
        assert int(done["timestamp"], 16) == at_s
        return list(done["calls"])

    async def revert_data(self, call: Call) -> bytes | None:
        """Return what a call reverts with, or None where it succeeds."""
        request = {"from": LIQUIDATOR, "to": "0x" + call.to.hex(), "data": "0x" + call.data.hex()}
        try:
            await self.chain.rpc("eth_call", request, "latest")
        except RpcFailed as failed:
            return raw(failed.data)
        return None

    async def configure(self, signature: str, *args: object, to: str | None = None) -> None:
        """Change the market as its administrator."""
        await self.chain.send(to or self.market.configurator, signature, *args)

    async def pass_time(self, seconds: int) -> None:
        await self.chain.increase_time(seconds)
        await self.chain.mine()

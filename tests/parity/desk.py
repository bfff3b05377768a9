"""What parity tests read and send with: the local node through the ports, an impersonated liquidator with money."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from keeper.chain.multicall import MULTICALL3, pack, unpack
from keeper.devnet.chain import MAX_UINT, DevChain, RpcFailed
from keeper.devnet.market import APPROVE, MINT
from keeper.domain.chain import BlockHead, Call, Log, LogFilter, Moment, ViewCall, ViewResult
from keeper.domain.units import Address, BlockHash, TxHash, Wei

LIQUIDATOR = "0x" + "11" * 20
_CHUNK = 400
_GAS = 8_000_000
_LIQUIDATOR_WEI = 10**25


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


class OnChain(Protocol):
    """A market that says which node it is on."""

    @property
    def chain(self) -> DevChain: ...


MarketT = TypeVar("MarketT", bound=OnChain)


@dataclass(frozen=True, slots=True)
class Desk(Generic[MarketT]):
    """One market on the node, with everything a liquidation needs, whatever the protocol."""

    market: MarketT

    @property
    def chain(self) -> DevChain:
        return self.market.chain

    async def head(self) -> BlockHead:
        return await read_head(self.chain)

    async def reads(self) -> DevReads:
        return DevReads(self.chain, await self.head())

    async def logs(self, wanted: LogFilter, from_block: int = 0) -> list[Log]:
        return await read_logs(self.chain, wanted, from_block)

    async def enter(self) -> None:
        """Let the node sign for the liquidator, who has native currency."""
        await self.chain.rpc("anvil_impersonateAccount", LIQUIDATOR)
        await self.chain.set_balance(LIQUIDATOR, _LIQUIDATOR_WEI)

    async def give(self, tokens: Iterable[tuple[str, int]], spender: str) -> None:
        """Give the liquidator more of each token, of so many decimals, than it could ever repay."""
        for token, decimals in tokens:
            await self.chain.send(token, MINT, LIQUIDATOR, 10 ** (decimals + 12))
            await self.chain.send(token, APPROVE, spender, MAX_UINT, sender=LIQUIDATOR)

    async def send(self, call: Call) -> dict[str, Any]:
        """Send a call in a block of its own and return its receipt."""
        return await self.chain.receipt(await self.chain.rpc("eth_sendTransaction", _request(call)))

    async def rehearse(self, at: Moment, calls: Sequence[Call]) -> list[dict[str, Any]]:
        """Execute calls one after another in the block of that moment, which the chain then forgets."""
        (done,) = await self.rehearse_each(at, [calls])
        return done

    async def rehearse_each(self, at: Moment, sequences: Iterable[Sequence[Call]]) -> list[list[dict[str, Any]]]:
        """Rehearse each sequence of calls on the head's state, untouched by the others.

        The number is overridden beside the time: the node's own choice is the block that it stands on.
        """
        moment = {"number": hex(at.block), "time": hex(at.time_s)}
        blocks = [{"blockOverrides": moment, "calls": [_request(each) for each in calls]} for calls in sequences]
        done = await self.chain.batch([("eth_simulateV1", ({"blockStateCalls": [each]}, "latest")) for each in blocks])
        for (block,) in done:
            assert Moment(int(block["number"], 16), int(block["timestamp"], 16)) == at
        return [list(block["calls"]) for (block,) in done]

    async def revert_data(self, call: Call) -> bytes | None:
        """Return what a call reverts with, or None where it succeeds."""
        try:
            await self.chain.rpc("eth_call", _request(call), "latest")
        except RpcFailed as failed:
            return raw(failed.data)
        return None

    async def pass_time(self, seconds: int) -> None:
        await self.chain.increase_time(seconds)
        await self.chain.mine()


def _request(call: Call) -> dict[str, str]:
    return {
        "from": LIQUIDATOR,
        "to": "0x" + call.to.hex(),
        "data": "0x" + call.data.hex(),
        "value": hex(call.value_wei),
        "gas": hex(_GAS),
    }

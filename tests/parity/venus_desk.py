"""What the Venus parity tests share: one saved chain with its positions, and a liquidator with money."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from keeper.devnet.chain import DevChain, RpcFailed
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil, AnvilOptions
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.devnet.venus import deploy_venus
from keeper.devnet.venus_market import VenusGeneration, VenusMarket, VenusRecord
from keeper.devnet.venus_positions import open_venus_positions, random_venus_positions
from keeper.domain.chain import BlockHead, Call, Log, LogFilter
from keeper.domain.position import Opportunity
from keeper.domain.units import Address, BlockHash, PositionId, Wei
from keeper.oracles.prices import Prices
from keeper.protocols.compound_v2 import calls
from keeper.protocols.compound_v2.contracts import CompoundPosition, CompoundSnapshot
from keeper.protocols.compound_v2.reader import CompoundReader
from tests.parity.desk import LIQUIDATOR, DevReads, address, log_of, raw

LANDING_S = 12
GAS = 5_000_000


class Saved(msgspec.Struct, frozen=True):
    """A chain that was built once."""

    record: VenusRecord
    state: Path
    errors: dict[str, str]


def build(
    folder: Path, accounts: int, seed: int, hf_range: tuple[float, float], generation: VenusGeneration = "10"
) -> Saved:
    """Deploy Venus, open positions, and save the chain."""

    async def made() -> Saved:
        packages = ensure_packages(default_cache_dir(), sets=("core", "venus"))
        async with Anvil(find_anvil(packages), AnvilOptions()) as node, DevChain(node.http_url) as chain:
            await deploy_multicall3(chain, packages)
            market = await deploy_venus(chain, packages, generation)
            await open_venus_positions(market, random_venus_positions(market, accounts, seed, hf_range))
            await chain.set_balance(LIQUIDATOR, 10**25)
            async with chain.impersonate(LIQUIDATOR):
                await market.fund(LIQUIDATOR, dollars=10**9)
            await chain.set_next_base_fee(10**9)
            await chain.mine()
            state = str(await chain.rpc("anvil_dumpState"))
            (folder / "state.json").write_bytes(_unpacked(state))
            return Saved(market.record(), folder / "state.json", dict(chain.errors))

    return asyncio.run(made())


def _unpacked(state: str) -> bytes:
    return gzip.decompress(bytes.fromhex(state.removeprefix("0x")))


@asynccontextmanager
async def opened(saved: Saved) -> AsyncIterator["VenusDesk"]:
    packages = ensure_packages(default_cache_dir(), sets=("core", "venus"))
    async with (
        Anvil(find_anvil(packages), AnvilOptions(load_state=saved.state)) as node,
        DevChain(node.http_url) as chain,
    ):
        chain.errors.update(saved.errors)
        await chain.rpc("anvil_impersonateAccount", LIQUIDATOR)
        yield VenusDesk(VenusMarket.bind(saved.record, chain))


@dataclass(frozen=True, slots=True)
class VenusDesk:
    """One market on the node."""

    market: VenusMarket

    @property
    def chain(self) -> DevChain:
        return self.market.chain

    async def head(self) -> BlockHead:
        block = await self.chain.header()
        return BlockHead(
            number=int(block["number"], 16),
            hash=BlockHash(raw(block["hash"])),
            parent_hash=BlockHash(raw(block["parentHash"])),
            timestamp_s=int(block["timestamp"], 16),
            base_fee_wei=Wei(int(block["baseFeePerGas"], 16)),
            gas_limit=int(block["gasLimit"], 16),
            logs_bloom=raw(block["logsBloom"]),
        )

    async def reads(self) -> DevReads:
        return DevReads(self.chain, await self.head())

    async def logs(self, wanted: LogFilter, from_block: int = 0) -> list[Log]:
        span = {
            "fromBlock": hex(from_block),
            "toBlock": "latest",
            "address": ["0x" + each.hex() for each in wanted.addresses],
            "topics": [["0x" + each.hex() for each in wanted.topics]],
        }
        return [log_of(entry) for entry in await self.chain.rpc("eth_getLogs", span)]

    async def discovered(self) -> CompoundReader:
        reader = CompoundReader("venus", address(self.market.comptroller), prices=Prices(self.token("WETH")))
        await reader.discover(await self.reads())
        return reader

    async def borrowers(self, reader: CompoundReader) -> list[PositionId]:
        return sorted(reader.named(await self.logs(reader.discovery_filter, self.market.from_block)))

    async def book(self, reader: CompoundReader) -> tuple[CompoundSnapshot, list[CompoundPosition]]:
        reads, ids = await self.reads(), await self.borrowers(reader)
        return await reader.snapshot(reads), list(await reader.positions(reads, ids))

    def token(self, symbol: str) -> Address:
        return address(self.market.reserves[symbol].token)

    def v_token(self, symbol: str) -> Address:
        return address(self.market.reserves[symbol].v_token)

    async def send(self, call: Call) -> dict[str, Any]:
        """Send a call in a block of its own and return its receipt."""
        return await self.chain.receipt(await self.chain.rpc("eth_sendTransaction", _request(call)))

    async def rehearse(self, each: Sequence[Call]) -> list[dict[str, Any]]:
        """Execute calls one after another in the next block, which the chain then forgets."""
        number = await self.chain.block_number() + 1  # the node's own choice is the block that it stands on
        block = {"blockOverrides": {"number": hex(number)}, "calls": [_request(call) for call in each]}
        done = await self.chain.rpc("eth_simulateV1", {"blockStateCalls": [block]}, "latest")
        assert int(done[0]["number"], 16) == number
        return list(done[0]["calls"])

    async def revert_data(self, opportunity: Opportunity) -> bytes | None:
        """Return what carrying an opportunity out reverts with, or None where it succeeds."""
        try:
            await self.chain.rpc("eth_call", _request(calls.liquidation(opportunity)), "latest")
        except RpcFailed as failed:
            return raw(failed.data)
        return None

    async def balances(self, tokens: Iterable[Address]) -> dict[Address, int]:
        asked = [("0x" + each.hex(), "balanceOf(address)(uint256)", (LIQUIDATOR,)) for each in tokens]
        return dict(zip(tokens, await self.chain.call_all(asked), strict=True))


def _request(call: Call) -> dict[str, str]:
    return {
        "from": LIQUIDATOR,
        "to": "0x" + call.to.hex(),
        "data": "0x" + call.data.hex(),
        "value": hex(call.value_wei),
        "gas": hex(GAS),
    }

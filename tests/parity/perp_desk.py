"""What Perpetual Protocol parity tests read and send with: a node with the genuine contracts, and a liquidator."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from keeper.devnet.assets import deploy_assets
from keeper.devnet.chain import DevChain, RpcFailed
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.devnet.perp import deploy_perp
from keeper.devnet.perp_market import PerpMarket
from keeper.devnet.perp_positions import open_perp_positions, random_perp_positions
from keeper.devnet.spec import DEFAULT_SPEC
from keeper.domain.chain import BlockHead, Call, Log, LogFilter
from keeper.domain.units import Address, BlockHash, PositionId, Wei
from keeper.oracles.prices import Prices
from keeper.protocols.perp_curie.contracts import PerpPosition, PerpSnapshot
from keeper.protocols.perp_curie.reader import PerpReader
from tests.parity.desk import DevReads, address, log_of, raw

LIQUIDATOR = "0x" + "11" * 20
_GAS = 8_000_000


@dataclass(frozen=True, slots=True)
class PerpDesk:
    """One ClearingHouse on the node, and the owners of the drawn positions."""

    market: PerpMarket
    owners: tuple[str, ...]

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

    def prices(self, *, is_settlement_priced: bool = True) -> Prices:
        assets = self.market.assets
        fed = [self.market.settlement, self.market.collateral] if is_settlement_priced else [self.market.collateral]
        feeds = {address(assets[name].token): address(assets[name].feed) for name in fed}
        return Prices(address(assets[self.market.collateral].token), feeds=feeds)

    async def discovered(self, prices: Prices | None = None) -> PerpReader:
        """Discover as the keeper does: the layout, then what logs name, then the rest of it."""
        reader = PerpReader("perp", address(self.market.clearing_house), prices=prices or self.prices())
        await reader.discover(await self.reads())
        reader.recall(await self.named(reader))
        await reader.discover(await self.reads())
        return reader

    async def named(self, reader: PerpReader) -> list[PositionId]:
        return sorted(reader.named(await self.logs(reader.discovery_filter, self.market.from_block)))

    async def book(self, reader: PerpReader) -> tuple[PerpSnapshot, list[PerpPosition]]:
        reads = await self.reads()
        snapshot = await reader.snapshot(reads)
        found = await reader.positions(reads, await self.named(reader))
        return snapshot, [each for each in found if each.has_debt]

    def base_token(self, symbol: str) -> Address:
        return address(self.market.perpetuals[symbol].base_token)

    async def fund(self, margin: int) -> None:
        """Give the liquidator gas money and margin in the vault (the settlement token's units)."""
        await self.chain.rpc("anvil_impersonateAccount", LIQUIDATOR)
        await self.chain.set_balance(LIQUIDATOR, 10**21)
        await self.market.deposit(LIQUIDATOR, self.market.settlement, margin)

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


@asynccontextmanager
async def perp_desk(accounts: int, seed: int, hf_range: tuple[float, float] = (1.6, 3.0)) -> AsyncIterator[PerpDesk]:
    """Run a node with a ClearingHouse, and so many accounts in it, for as long as the block lasts."""
    packages = ensure_packages(default_cache_dir(), sets=("core", "perp"))
    async with Anvil(find_anvil(packages)) as node, DevChain(node.http_url) as chain:
        await deploy_multicall3(chain, packages)
        assets = await deploy_assets(chain, packages, DEFAULT_SPEC.reserves, {})
        market = await deploy_perp(chain, packages, assets)
        owners = await open_perp_positions(market, random_perp_positions(market, accounts, seed, hf_range))
        yield PerpDesk(market, owners)

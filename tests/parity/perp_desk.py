"""What Perpetual Protocol parity tests read and send with: a node with the genuine contracts, and a liquidator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from keeper.devnet.assets import deploy_assets
from keeper.devnet.chain import DevChain
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.devnet.perp import deploy_perp
from keeper.devnet.perp_market import PerpMarket
from keeper.devnet.perp_positions import open_perp_positions, random_perp_positions
from keeper.devnet.spec import DEFAULT_SPEC
from keeper.domain.units import Address, PositionId
from keeper.oracles.prices import Prices
from keeper.protocols.perp_curie.contracts import PerpPosition, PerpSnapshot
from keeper.protocols.perp_curie.reader import PerpReader
from tests.parity.desk import LIQUIDATOR, Desk, address


@dataclass(frozen=True, slots=True)
class PerpDesk(Desk[PerpMarket]):
    """One ClearingHouse on the node, and the owners of the drawn positions."""

    owners: tuple[str, ...]

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
        await self.enter()
        await self.market.deposit(LIQUIDATOR, self.market.settlement, margin)


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

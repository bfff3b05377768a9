"""What Morpho's parity tests read and send with: a node with the genuine contracts, and a liquidator with money."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from keeper.devnet.chain import MAX_UINT, DevChain
from keeper.devnet.market import APPROVE, MINT
from keeper.devnet.morpho import DEFAULT_MORPHO, MorphoMarket, deploy_morpho
from keeper.devnet.morpho_positions import open_positions, random_positions
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.domain.units import Base, PositionId
from keeper.oracles.prices import Prices
from keeper.protocols.morpho_blue.contracts import MorphoPosition, MorphoSnapshot
from keeper.protocols.morpho_blue.reader import MorphoReader
from tests.parity.desk import Desk, address, raw

POSITIONS = 330


@dataclass(frozen=True, slots=True)
class MorphoDesk(Desk[MorphoMarket]):
    """One Morpho on the node."""

    def prices(self) -> Prices:
        feeds = {address(asset.token): address(asset.feed) for asset in self.market.assets.values()}
        return Prices(address(self.market.assets["WETH"].token), feeds=feeds)

    def reader(self, *, allow: frozenset[bytes] = frozenset(), floor_base: int = 0) -> MorphoReader:
        return MorphoReader(
            "morpho",
            address(self.market.morpho),
            self.prices(),
            allow=allow,
            trust=None,
            floor_base=Base(floor_base),
            adaptive_irm=address(self.market.adaptive_irm),
        )

    async def discovered(self, reader: MorphoReader | None = None) -> tuple[MorphoReader, list[PositionId]]:
        """Return a reader that knows everything that logs name, and the positions among that."""
        found = reader or self.reader()
        await found.discover(await self.reads())
        named = found.named(await self.logs(found.discovery_filter))
        found.recall(named)
        await found.discover(await self.reads())
        return found, sorted(each for each in named if any(each[:20]))

    async def book(
        self, reader: MorphoReader, ids: Sequence[PositionId]
    ) -> tuple[MorphoSnapshot, list[MorphoPosition]]:
        reads = await self.reads()
        return await reader.snapshot(reads), list(await reader.positions(reads, ids))

    async def fund(self) -> None:
        """Give the liquidator native currency, and all tokens that it could ever repay."""
        await self.enter()
        assets = self.market.assets.values()
        await self.give([(each.token, each.decimals) for each in assets], self.market.morpho)

    async def crash(self, factors: dict[str, float]) -> None:
        """Move prices to so many times what they are; the oracles follow in the same block."""
        now = await self.market.prices()
        await self.market.set_prices({name: max(1, int(now[name] * factor)) for name, factor in factors.items()})

    async def supply(self, owner: str, pair: str, amount: int) -> None:
        """Let an owner mint collateral and supply it."""
        dev_pair = self.market.pairs[pair]
        supply = "supplyCollateral((address,address,address,address,uint256),uint256,address,bytes)"
        async with self.chain.impersonate(owner):
            await self.chain.send(dev_pair.collateral.token, MINT, owner, amount, sender=owner)
            await self.chain.send(dev_pair.collateral.token, APPROVE, self.market.morpho, MAX_UINT, sender=owner)
            await self.chain.send(self.market.morpho, supply, dev_pair.params, amount, owner, b"", sender=owner)

    async def act(self, owner: str, signature: str, *args: object) -> None:
        """Let an owner call Morpho."""
        async with self.chain.impersonate(owner):
            await self.chain.send(self.market.morpho, signature, *args, sender=owner)

    def pair_id(self, name: str) -> bytes:
        return raw(self.market.pairs[name].id)


@asynccontextmanager
async def morpho_desk(positions: int = POSITIONS) -> AsyncIterator[MorphoDesk]:
    """Run a node with a populated Morpho."""
    packages = ensure_packages(default_cache_dir(), sets=("core", "morpho"))
    async with Anvil(find_anvil(packages)) as node, DevChain(node.http_url) as chain:
        await deploy_multicall3(chain, packages)
        market = await deploy_morpho(chain, packages, DEFAULT_MORPHO)
        await open_positions(market, random_positions(market, positions, seed=5))
        desk = MorphoDesk(market)
        await desk.fund()
        yield desk

"""What Uniswap parity tests trade with: a node with both genuine generations, and positions at random in v3's pools."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import combinations

from keeper.devnet.assets import deploy_assets
from keeper.devnet.chain import MAX_UINT, DevChain, Reverted, Tx
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.devnet.spec import DEFAULT_SPEC
from keeper.devnet.uniswap import MAKER, deploy_uniswap
from keeper.devnet.uniswap_market import ARBITRAGEUR, SWAP_V3, UniswapMarket, worth
from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.units import Address
from keeper.venues.uniswap_v3 import UniswapV3
from keeper.venues.uniswap_v3_pool import UniswapV3Pool
from tests.parity.desk import Desk, DevReads, address

QUOTED = "((address,address,uint256,uint24,uint160))(uint256,uint160,uint32,uint256)"
MINT = "mint((address,address,uint24,int24,int24,uint256,uint256,uint256,uint256,address,uint256))"
DECREASE = "decreaseLiquidity((uint256,uint128,uint256,uint256,uint256))"
POSITION = (
    "positions(uint256)(uint96,address,address,address,uint24,int24,int24,uint128,uint256,uint256,uint128,uint128)"
)
_GAS = 1_500_000


class CountingReads(DevReads):
    """Reads that also count the calls."""

    calls = 0

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.calls += len(calls)
        return await super().many(calls)


def name(token: bytes) -> str:
    return "0x" + token.hex()


@dataclass(frozen=True, slots=True)
class UniswapDesk(Desk[UniswapMarket]):
    """Both generations on the node."""

    @property
    def tokens(self) -> set[Address]:
        return {address(each.token) for each in self.market.assets.values()}

    @property
    def pairs(self) -> list[tuple[Address, Address]]:
        return list(combinations(sorted(self.tokens), 2))

    async def counting(self) -> CountingReads:
        return CountingReads(self.chain, await self.head())

    async def fresh(self, window: int = 2_500) -> dict[bytes, UniswapV3Pool]:
        """Read all pools as a venue does that knows nothing yet."""
        venue, reads = UniswapV3("uniswap-v3", address(self.market.v3_factory), window=window), await self.reads()
        await venue.discover(reads, self.pairs)
        return {each.id: each for each in await venue.pools(reads)}

    async def quoted(self, pool: UniswapV3Pool, pair: tuple[Address, Address], amount: int, kind: str) -> list[int]:
        """Ask QuoterV2 for an amount and the price afterwards; nothing where it reverts."""
        terms = (*map(name, pair), amount, pool.listing.fee, 0)
        try:
            return list(await self.chain.call(self.market.quoter, f"quoteExact{kind}Single{QUOTED}", terms))[:2]
        except Reverted:
            return []

    async def swap(self, pool: UniswapV3Pool, pair: tuple[Address, Address], amount: int) -> None:
        terms = (*map(name, pair), pool.listing.fee, ARBITRAGEUR, amount, 0, 0)
        await self.chain.send(self.market.router, SWAP_V3, terms, sender=ARBITRAGEUR)

    async def mint(self, pool: UniswapV3Pool, rng: random.Random, count: int) -> None:
        """Open positions of all sizes around a pool's price, near and far."""
        prices = await self.market.prices()
        async with self.chain.bulk():
            await self.chain.send_all([self._position(pool, rng, prices) for _ in range(count)])

    def _position(self, pool: UniswapV3Pool, rng: random.Random, prices: dict[str, int]) -> Tx:
        listing = pool.listing
        assets = {address(each.token): each for each in self.market.assets.values()}
        place, reach = pool.tick // listing.spacing, max(2, rng.choice((20, 600, 3_000)) // listing.spacing)
        low, high = sorted((place + rng.randint(-reach, reach), place + rng.randint(-reach, reach)))
        ticks = low * listing.spacing, (high + (low == high)) * listing.spacing
        dollars = 10 ** rng.randint(3, 6)
        both = [worth(assets[token], dollars, prices) for token in (listing.token0, listing.token1)]
        terms = (name(listing.token0), name(listing.token1), listing.fee, *ticks, *both, 0, 0, MAKER, MAX_UINT)
        return Tx(MAKER, self.market.position_manager, MINT, (terms,), gas=_GAS)

    async def burn(self, number: int, percent: int) -> None:
        """Take liquidity out of one of the maker's positions."""
        held = (await self.chain.call(self.market.position_manager, POSITION, number))[7]
        terms = (number, held * percent // 100, 0, 0, MAX_UINT)
        await self.chain.send(self.market.position_manager, DECREASE, terms, sender=MAKER)


@asynccontextmanager
async def uniswap_desk(seed: int, positions: int) -> AsyncIterator[UniswapDesk]:
    """Run a node with pools of every fee, so many positions in each, and protocol fees in half of them."""
    packages = ensure_packages(default_cache_dir(), sets=("core", "uniswap"))
    async with Anvil(find_anvil(packages)) as node, DevChain(node.http_url) as chain:
        await deploy_multicall3(chain, packages)
        assets = await deploy_assets(chain, packages, DEFAULT_SPEC.reserves, {})
        desk = UniswapDesk(await deploy_uniswap(chain, packages, assets, wrapped_native=assets["WETH"].token))
        rng = random.Random(seed)
        for number, pool in enumerate((await desk.fresh()).values()):
            await desk.mint(pool, rng, positions)
            if number % 2:
                terms = rng.choice((0, 4, 7)), rng.randint(4, 10)
                await chain.send(name(pool.id), "setFeeProtocol(uint8,uint8)", *terms)
        yield desk

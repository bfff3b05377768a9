"""Deployed Uniswap v3 and v2: their addresses, and the arbitrage that keeps their pools at the feeds' prices."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import isqrt
from typing import Any, Final, Literal, Self, TypeAlias

from keeper.devnet.assets import DevAsset, price_updates
from keeper.devnet.chain import DevChain, Receipt, Tx
from keeper.devnet.spec import PRICE_UNIT

Version: TypeAlias = Literal[2, 3]

ARBITRAGEUR: Final = "0x976EA74026E726554dB657fA54763abd0C3a0aa9"
"""An unlocked account of the node with a fortune in every token."""
FORTUNE_USD: Final = 10**11
V2: Final = 2
V3: Final = 3
SWAP_V3: Final = "exactInputSingle((address,address,uint24,address,uint256,uint256,uint160))"
SWAP_V2: Final = "swapExactTokensForTokens(uint256,uint256,address[],address)"
SLOT0: Final = "slot0()(uint160,int24,uint16,uint16,uint16,uint8,bool)"
RESERVES: Final = "getReserves()(uint112,uint112,uint32)"
_SWAP_GAS: Final = 700_000
# Half of what a v2 pool charges: nearer to the price than that, a swap costs more than it brings.
_WORTHWHILE: Final = 10_015, 10_000
_MOST_USD: Final = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class DevPool:
    """One pool of two assets; in v3 `fee` counts millionths, in v2 there is but one and it is left out."""

    version: Version
    symbol0: str
    symbol1: str
    fee: int
    address: str

    @property
    def name(self) -> str:
        """Return a name that is unique on a chain."""
        return f"v{self.version} {self.symbol0}/{self.symbol1} {self.fee}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UniswapRecord:
    """The addresses of both generations: plain data that can be saved."""

    v3_factory: str
    v3_init_code_hash: str
    v2_factory: str
    v2_init_code_hash: str
    position_manager: str
    quoter: str
    router: str
    from_block: int
    assets: dict[str, DevAsset]
    pools: tuple[DevPool, ...]


def worth(asset: DevAsset, dollars: int, prices: Mapping[str, int]) -> int:
    """Return how many units of an asset are worth so many dollars."""
    unit: int = 10**asset.decimals
    return dollars * PRICE_UNIT * unit // prices[asset.symbol]


def raw_price(asset0: DevAsset, asset1: DevAsset, prices: Mapping[str, int]) -> tuple[int, int]:
    """Return what a unit of the first asset costs in units of the second, as a fraction."""
    return prices[asset0.symbol] * 10**asset1.decimals, prices[asset1.symbol] * 10**asset0.decimals


def sqrt_price_x96(price: tuple[int, int]) -> int:
    """Return a v3 pool's square root price for a price given as a fraction."""
    return isqrt((price[0] << 192) // price[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class UniswapMarket(UniswapRecord):
    """Both generations on a running node."""

    chain: DevChain

    @classmethod
    def bind(cls, record: UniswapRecord, chain: DevChain) -> Self:
        """Join a record with the node that holds its contracts."""
        return cls(chain=chain, **{field.name: getattr(record, field.name) for field in fields(UniswapRecord)})

    def record(self) -> UniswapRecord:
        """Return what is left of the market without its node."""
        return UniswapRecord(**{field.name: getattr(self, field.name) for field in fields(UniswapRecord)})

    def pool(self, version: Version, symbol: str, other: str, fee: int = 0) -> DevPool:
        """Return one pool; the order of its assets does not matter, and v2 has no choice of fees."""
        wanted = {symbol, other}
        return next(
            each
            for each in self.pools
            if (each.version, each.fee) == (version, fee) and {each.symbol0, each.symbol1} == wanted
        )

    async def prices(self) -> dict[str, int]:
        """Read what the feeds say now (US dollars with eight decimals)."""
        calls = [(asset.feed, "latestAnswer()(int256)", ()) for asset in self.assets.values()]
        return dict(zip(self.assets, await self.chain.call_all(calls), strict=True))

    async def pool_prices(self) -> dict[str, float]:
        """Read what each pool says its first asset costs in its second, whole tokens for whole tokens."""
        found: dict[str, float] = {}
        for pool, state in zip(self.pools, await self._states(self.pools), strict=True):
            ratio = state[1] / state[0] if pool.version == V2 else (state[0] / 2**96) ** 2
            decimals = self.assets[pool.symbol0].decimals - self.assets[pool.symbol1].decimals
            found[pool.name] = ratio * 10.0**decimals
        return found

    async def arbitrage(self, prices: Mapping[str, int] | None = None) -> list[Tx]:
        """Return the swaps that bring every pool to the feeds' prices, or to those given beside them.

        A v3 pool goes there exactly; a v2 pool as near as its fee lets a swap pay.
        """
        aim = {**await self.prices(), **(prices or {})}
        states = await self._states(self.pools)
        return [tx for pool, state in zip(self.pools, states, strict=True) for tx in self._swaps(pool, state, aim)]

    async def set_prices(self, prices: Mapping[str, int]) -> list[Receipt]:
        """Move several feeds, and all pools with them, in one new block."""
        updates = await price_updates(self.chain, {self.assets[name]: price for name, price in prices.items()})
        updates += await self.arbitrage(prices)
        async with self.chain.bulk():
            return await self.chain.send_all(updates)

    async def _states(self, pools: Iterable[DevPool]) -> list[Any]:
        return await self.chain.call_all(
            (each.address, RESERVES if each.version == V2 else SLOT0, ()) for each in pools
        )

    def _swaps(self, pool: DevPool, state: tuple[int, ...], prices: Mapping[str, int]) -> Iterator[Tx]:
        assets = self.assets[pool.symbol0], self.assets[pool.symbol1]
        price = raw_price(*assets, prices)
        if pool.version == V2:
            reserves = state[:2]
            after = isqrt(reserves[0] * reserves[1] * price[1] // price[0])
            wanted = after, reserves[0] * reserves[1] // after
            for way, (give, take) in enumerate((assets, assets[::-1])):
                if wanted[way] > reserves[way] * _WORTHWHILE[0] // _WORTHWHILE[1]:
                    terms = (wanted[way] - reserves[way], 0, [give.token, take.token], ARBITRAGEUR)
                    yield Tx(ARBITRAGEUR, self.router, SWAP_V2, terms, gas=_SWAP_GAS)
            return
        target = sqrt_price_x96(price)
        if target != state[0]:
            give, take = assets if target < state[0] else assets[::-1]
            swap = (give.token, take.token, pool.fee, ARBITRAGEUR, worth(give, _MOST_USD, prices), 0, target)
            yield Tx(ARBITRAGEUR, self.router, SWAP_V3, (swap,), gas=_SWAP_GAS)

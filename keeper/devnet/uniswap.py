"""Deploys Uniswap v3 and v2 as published, with pools of every asset at the feeds' prices."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, log
from pathlib import Path
from typing import Final

import msgspec
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.devnet.artifacts import Artifact, artifact
from keeper.devnet.assets import DevAsset
from keeper.devnet.chain import MAX_UINT, DevChain, Tx
from keeper.devnet.market import APPROVE, MINT
from keeper.devnet.packages import Packages, Progress, silent
from keeper.devnet.uniswap_market import (
    ARBITRAGEUR,
    FORTUNE_USD,
    V3,
    DevPool,
    UniswapMarket,
    raw_price,
    sqrt_price_x96,
    worth,
)

MAKER: Final = "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc"
"""An unlocked account of the node that gives the pools their depth."""

MINT_V3: Final = "mint((address,address,uint24,int24,int24,uint256,uint256,uint256,uint256,address,uint256))"

_NOBODY: Final = "0x" + "00" * 20
_MILLION: Final = 10**6
_SPACINGS: Final = {100: 1, 500: 10, 3_000: 60, 10_000: 200}
_MAX_TICK: Final = 887_272
_CREATE_GAS: Final = 6_000_000
_MINT_GAS: Final = 1_000_000
_FOLDERS: Final = {
    "UniswapV3Factory": "v3-core/artifacts/contracts/UniswapV3Factory.sol",
    "UniswapV3Pool": "v3-core/artifacts/contracts/UniswapV3Pool.sol",
    "UniswapV2Factory": "v2-core/build",
    "UniswapV2Pair": "v2-core/build",
    "NonfungiblePositionManager": "v3-periphery/artifacts/contracts/NonfungiblePositionManager.sol",
    "SwapRouter02": "swap-router-contracts/artifacts/contracts/SwapRouter02.sol",
    "QuoterV2": "swap-router-contracts/artifacts/contracts/lens/QuoterV2.sol",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """A pool to open: `depth_usd` is what both sides are worth. A fee of 0 makes it one of v2."""

    pair: tuple[str, str]
    depth_usd: int
    fee: int = 0
    is_pegged: bool = False

    @property
    def shares(self) -> tuple[tuple[float, int], ...]:
        """Return how far from the price liquidity reaches, as a factor both ways, with its percentage of the depth."""
        return ((1.01, 85), (1.1, 10), (0, 5)) if self.is_pegged else ((1.15, 25), (2.2, 50), (0, 25))


def _pools(symbol: str, other: str, *depths: tuple[int, int], is_pegged: bool = False) -> Iterator[PoolSpec]:
    """Yield pools of one pair: pairs of a fee and millions of dollars."""
    for fee, millions in depths:
        yield PoolSpec(pair=(symbol, other), fee=fee, depth_usd=millions * _MILLION, is_pegged=is_pegged)


DEFAULT_POOLS: Final = (
    *_pools("WETH", "USDC", (500, 120), (3_000, 80), (10_000, 5), (0, 40)),
    *_pools("WBTC", "WETH", (500, 60), (3_000, 100), (0, 20)),
    *_pools("WBTC", "USDC", (3_000, 60), (0, 10)),
    *_pools("wstETH", "WETH", (100, 120), (500, 20), (0, 5), is_pegged=True),
    *_pools("wstETH", "USDC", (3_000, 10), (0, 5)),
    *_pools("USDC", "USDT", (100, 120), (0, 20), is_pegged=True),
    *_pools("WETH", "USDT", (500, 40), (3_000, 60), (0, 20)),
    *_pools("DAI", "USDC", (100, 120), (500, 10), (0, 20), is_pegged=True),
    *_pools("DAI", "WETH", (3_000, 40), (0, 10)),
    *_pools("LINK", "WETH", (3_000, 60), (10_000, 10), (0, 10)),
    *_pools("LINK", "USDC", (3_000, 20), (0, 5)),
    *_pools("GUSD", "USDC", (500, 40), (0, 5), is_pegged=True),
    *_pools("GUSD", "WETH", (3_000, 10), (0, 5)),
    *_pools("CRV", "WETH", (3_000, 40), (10_000, 10), (0, 10)),
    *_pools("CRV", "USDC", (3_000, 20), (0, 5)),
    *_pools("PEPE", "WETH", (3_000, 30), (10_000, 10), (0, 10)),
    *_pools("PEPE", "USDC", (10_000, 10), (0, 5)),
    *_pools("GOLD", "WETH", (3_000, 20), (0, 5)),
    *_pools("GOLD", "USDC", (3_000, 20), (0, 5)),
)
"""Every asset against the wrapped native token and against a dollar; those that are not there are left out."""


def uniswap_artifact(node_modules: Path, name: str) -> Artifact:
    """Load a contract of the published packages."""
    raw = msgspec.json.decode((node_modules / "@uniswap" / _FOLDERS[name] / f"{name}.json").read_bytes())
    return artifact(name, raw["abi"], raw["bytecode"], raw.get("linkReferences", {}))


async def deploy_uniswap(
    chain: DevChain,
    packages: Packages,
    assets: Mapping[str, DevAsset],
    *,
    wrapped_native: str,
    pools: tuple[PoolSpec, ...] = DEFAULT_POOLS,
    progress: Progress = silent,
) -> UniswapMarket:
    """Deploy both generations, open the pools whose assets are there at the feeds' prices, and give them depth."""
    progress("deploying Uniswap v3 and v2")
    from_block = await chain.block_number() + 1

    def load(name: str) -> Artifact:
        return uniswap_artifact(packages.folder("uniswap"), name)

    def code_hash(name: str) -> str:
        return "0x" + keccak(hexstr=load(name).bytecode).hex()

    v3_factory = await chain.deploy(load("UniswapV3Factory"))
    v2_factory = await chain.deploy(load("UniswapV2Factory"), MAKER)
    manager = await chain.deploy(load("NonfungiblePositionManager"), v3_factory, wrapped_native, _NOBODY)
    router = await chain.deploy(load("SwapRouter02"), v2_factory, v3_factory, manager, wrapped_native)
    market = UniswapMarket(
        chain=chain,
        v3_factory=v3_factory,
        v3_init_code_hash=code_hash("UniswapV3Pool"),
        v2_factory=v2_factory,
        v2_init_code_hash=code_hash("UniswapV2Pair"),
        position_manager=manager,
        quoter=await chain.deploy(load("QuoterV2"), v3_factory, wrapped_native),
        router=router,
        from_block=from_block,
        assets={symbol: asset.plain() for symbol, asset in assets.items()},
        pools=(),
    )
    await chain.send(v3_factory, "enableFeeAmount(uint24,int24)", 100, _SPACINGS[100])
    wanted = [each for each in pools if set(each.pair) <= assets.keys()]
    return await _open(market, wanted, progress)


async def _open(market: UniswapMarket, specs: Sequence[PoolSpec], progress: Progress) -> UniswapMarket:
    """Create the pools, give the maker and the arbitrageur their fortunes, and fill the pools."""
    chain, prices = market.chain, await market.prices()
    async with chain.bulk():
        await chain.send_all(_creation(market, each) for each in specs)
        found = await chain.call_all(_lookup(market, each) for each in specs)
        opened = [_pool(market, spec, address) for spec, address in zip(specs, found, strict=True)]
        await chain.send_all(_initial(market, opened, prices))
        await chain.send_all(_fortunes(market, specs, prices))
        progress("making pools")
        for pool, spec in zip(opened, specs, strict=True):
            await chain.send_all(_depth(market, pool, spec, prices))
    return replace(market, pools=tuple(opened))


def _creation(market: UniswapMarket, spec: PoolSpec) -> Tx:
    tokens = [market.assets[symbol].token for symbol in spec.pair]
    if spec.fee:
        return Tx(MAKER, market.v3_factory, "createPool(address,address,uint24)", (*tokens, spec.fee), gas=_CREATE_GAS)
    return Tx(MAKER, market.v2_factory, "createPair(address,address)", tuple(tokens), gas=_CREATE_GAS)


def _lookup(market: UniswapMarket, spec: PoolSpec) -> tuple[str, str, tuple[object, ...]]:
    tokens = [market.assets[symbol].token for symbol in spec.pair]
    if spec.fee:
        return market.v3_factory, "getPool(address,address,uint24)(address)", (*tokens, spec.fee)
    return market.v2_factory, "getPair(address,address)(address)", tuple(tokens)


def _pool(market: UniswapMarket, spec: PoolSpec, address: str) -> DevPool:
    symbol0, symbol1 = sorted(spec.pair, key=lambda symbol: int(market.assets[symbol].token, 16))
    return DevPool(
        version=3 if spec.fee else 2,
        symbol0=symbol0,
        symbol1=symbol1,
        fee=spec.fee,
        address=to_checksum_address(address),
    )


def _initial(market: UniswapMarket, pools: Iterable[DevPool], prices: Mapping[str, int]) -> Iterator[Tx]:
    """Yield what sets the first price of v3's pools; a v2 pool has it from its first liquidity."""
    for pool in pools:
        if pool.version == V3:
            price = raw_price(market.assets[pool.symbol0], market.assets[pool.symbol1], prices)
            yield Tx(MAKER, pool.address, "initialize(uint160)", (sqrt_price_x96(price),), gas=_MINT_GAS)


def _fortunes(market: UniswapMarket, specs: Iterable[PoolSpec], prices: Mapping[str, int]) -> Iterator[Tx]:
    """Yield what gives the maker all that the pools take, and the arbitrageur more than can ever be needed."""
    for symbol in dict.fromkeys(symbol for spec in specs for symbol in spec.pair):
        asset = market.assets[symbol]
        for owner, spender in ((MAKER, market.position_manager), (ARBITRAGEUR, market.router)):
            yield Tx(owner, asset.token, MINT, (owner, worth(asset, FORTUNE_USD, prices)))
            yield Tx(owner, asset.token, APPROVE, (spender, MAX_UINT))


def _depth(market: UniswapMarket, pool: DevPool, spec: PoolSpec, prices: Mapping[str, int]) -> Iterator[Tx]:
    """Yield the maker's liquidity: as much on either side of the price, the nearer the denser."""
    assets = market.assets[pool.symbol0], market.assets[pool.symbol1]
    halves = [worth(asset, spec.depth_usd // 2, prices) for asset in assets]
    if pool.version != V3:
        for asset, amount in zip(assets, halves, strict=True):
            yield Tx(MAKER, asset.token, "transfer(address,uint256)", (pool.address, amount), gas=_MINT_GAS)
        yield Tx(MAKER, pool.address, "mint(address)", (MAKER,), gas=_MINT_GAS)
        return
    tokens = [asset.token for asset in assets]
    numerator, denominator = raw_price(*assets, prices)
    middle = log(numerator) - log(denominator)
    for reach, percent in spec.shares:
        ticks = _range(middle, reach, _SPACINGS[pool.fee])
        amounts = [half * percent // 100 for half in halves]
        terms = (*tokens, pool.fee, *ticks, *amounts, 0, 0, MAKER, MAX_UINT)
        yield Tx(MAKER, market.position_manager, MINT_V3, (terms,), gas=_MINT_GAS)


def _range(middle: float, reach: float, spacing: int) -> tuple[int, int]:
    """Return the ticks that a factor both ways around a price reaches; without a factor, the widest there are."""
    if not reach:
        widest = _MAX_TICK // spacing * spacing
        return -widest, widest
    low, high = (floor((middle + way * log(reach)) / log(1.0001) / spacing) * spacing for way in (-1, 1))
    return low, high

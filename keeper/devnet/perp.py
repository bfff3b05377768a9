"""Deploys Perpetual Protocol v2 as published in @perp/curie-contract, on tokens and feeds that are there already."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from eth_utils.address import to_checksum_address

from keeper.devnet.artifacts import Artifact, artifact
from keeper.devnet.assets import DevAsset
from keeper.devnet.chain import MAX_UINT, DevChain
from keeper.devnet.linker import Linker
from keeper.devnet.market import MINT
from keeper.devnet.packages import Packages, Progress, silent
from keeper.devnet.perp_market import DevPerpetual, PerpMarket, sqrt_price_x96
from keeper.errors import Fatal

MAKER: Final = "0x" + "4c" * 20
"""Gives the pools their depth; nobody has its key."""
INDEXES: Final = {"vETH": "WETH", "vBTC": "WBTC"}
"""The perpetual markets, and the shared assets whose feeds are their indexes."""

_ROOTS: Final = ("@perp/curie-contract", "@perp/perp-oracle-contract", "@uniswap/v3-core")
_POOL_FEE: Final = 10_000
_EXCHANGE_FEE: Final = 1_000
_FUND_FEE: Final = 200_000
_OBSERVATIONS: Final = 500
_OBSERVATIONS_GAS: Final = 20_000_000
_TICKS_A_BLOCK: Final = 1_000
_FEED_TIMEOUT_S: Final = 10**9
_FEED_TWAP_S: Final = 900
_COLLATERAL_RATIO: Final = 700_000
_DISCOUNT_RATIO: Final = 100_000
_HISTORY_S: Final = 2_000
_DEPTH_USD: Final = 400_000_000
_FUND_USD: Final = 1_000_000
_MAKER_RANGE: Final = 4


@dataclass(frozen=True, slots=True)
class _Site:
    """The contracts that later steps refer to."""

    linker: Linker
    at: dict[str, str]

    async def put(self, name: str, signature: str, *args: object) -> str:
        """Deploy a contract and initialise it."""
        self.at[name] = await self.linker.deploy(name)
        await self.linker.chain.send(self.at[name], f"initialize{signature}", *args)
        return self.at[name]

    async def set(self, name: str, signature: str, *args: object) -> None:
        """Send the administrator's call to one of the contracts."""
        await self.linker.chain.send(self.at[name], signature, *args)


async def deploy_perp(
    chain: DevChain,
    packages: Packages,
    assets: Mapping[str, DevAsset],
    *,
    settlement: str = "USDC",
    collateral: str = "WETH",
    progress: Progress = silent,
) -> PerpMarket:
    """Deploy a ClearingHouse with its markets, give the pools depth and history, and fill the insurance fund.

    The feeds of `assets` are the indexes of the markets and the price of the collateral: who moves them moves all.
    """
    progress("deploying Perpetual Protocol v2")
    from_block = await chain.block_number() + 1
    linker = Linker(chain, lambda name: perp_artifact(packages.folder("perp"), name))
    site = _Site(linker, {})
    used = {name: assets[name].plain() for name in dict.fromkeys((settlement, collateral, *INDEXES.values()))}
    await _core(site, used[settlement])
    await _collateral(site, used[collateral])
    perpetuals = {symbol: await _perpetual(site, symbol, index, used[index]) for symbol, index in INDEXES.items()}
    at = site.at
    market = PerpMarket(
        chain=chain,
        clearing_house=at["ClearingHouse"],
        vault=at["Vault"],
        exchange=at["Exchange"],
        order_book=at["OrderBook"],
        account_balance=at["AccountBalance"],
        insurance_fund=at["InsuranceFund"],
        config=at["ClearingHouseConfig"],
        registry=at["MarketRegistry"],
        collateral_manager=at["CollateralManager"],
        quote_token=at["QuoteToken"],
        settlement=settlement,
        collateral=collateral,
        collateral_ratio=_COLLATERAL_RATIO,
        from_block=from_block,
        assets=used,
        perpetuals=perpetuals,
    )
    progress("making markets")
    await _deepen(market)
    return market


def perp_artifact(node_modules: Path, name: str) -> Artifact:
    """Load a contract of the published packages; names of deployable contracts are unique there."""
    for root in _ROOTS:
        for found in sorted((node_modules / root / "artifacts" / "contracts").rglob(f"{name}.sol/{name}.json")):
            raw = msgspec.json.decode(found.read_bytes())
            return artifact(name, raw["abi"], raw["bytecode"], raw["linkReferences"])
    raise Fatal(f"the perp packages have no artifact named {name}")


async def _core(site: _Site, settlement: DevAsset) -> None:
    """Deploy everything but the markets, in the order in which the contracts ask for one another."""
    at = site.at
    at["UniswapV3Factory"] = await site.linker.deploy("UniswapV3Factory")
    # The quote token has to sort above every base token: high addresses come by luck.
    for _ in range(64):
        at["QuoteToken"] = await site.linker.deploy("QuoteToken")
        if int(at["QuoteToken"], 16) >> 152 >= 0xF0:
            break
    await site.set("QuoteToken", "initialize(string,string)", "vUSD", "vUSD")
    config = await site.put("ClearingHouseConfig", "()")
    await site.set("ClearingHouseConfig", "setSettlementTokenBalanceCap(uint256)", MAX_UINT)
    registry = await site.put("MarketRegistry", "(address,address)", at["UniswapV3Factory"], at["QuoteToken"])
    order_book = await site.put("OrderBook", "(address)", registry)
    exchange = await site.put("Exchange", "(address,address,address)", registry, order_book, config)
    fund = await site.put("InsuranceFund", "(address)", settlement.token)
    accounts = await site.put("AccountBalance", "(address,address)", config, order_book)
    vault = await site.put("Vault", "(address,address,address,address)", fund, config, accounts, exchange)
    parts = (config, vault, at["QuoteToken"], at["UniswapV3Factory"], exchange, accounts, fund)
    house = await site.put("ClearingHouse", "(address,address,address,address,address,address,address)", *parts)
    await site.set("OrderBook", "setExchange(address)", exchange)
    await site.set("Exchange", "setAccountBalance(address)", accounts)
    await site.set("InsuranceFund", "setVault(address)", vault)
    await site.set("AccountBalance", "setVault(address)", vault)
    for name in ("MarketRegistry", "OrderBook", "Exchange", "AccountBalance", "Vault"):
        await site.set(name, "setClearingHouse(address)", house)
    await site.set("QuoteToken", "addWhitelist(address)", house)
    await site.set("QuoteToken", "mintMaximumTo(address)", house)


async def _collateral(site: _Site, asset: DevAsset) -> None:
    types = "(address,address,uint8,uint24,uint24,uint24,uint24,uint256,uint256)"
    terms = (5, 750_000, 500_000, 2_000, 30_000, 10_000 * 10**6, 500 * 10**6)  # as on Optimism
    await site.put("CollateralManager", types, site.at["ClearingHouseConfig"], site.at["Vault"], *terms)
    await site.set("Vault", "setCollateralManager(address)", site.at["CollateralManager"])
    offer = (await _feed(site, asset), _COLLATERAL_RATIO, _DISCOUNT_RATIO, MAX_UINT)
    await site.set("CollateralManager", "addCollateral(address,(address,uint24,uint24,uint256))", asset.token, offer)


async def _feed(site: _Site, asset: DevAsset) -> str:
    """Deploy what averages an asset's shared feed."""
    chainlink = await site.linker.deploy("ChainlinkPriceFeedV3", asset.feed, _FEED_TIMEOUT_S, _FEED_TWAP_S)
    return await site.linker.deploy("PriceFeedDispatcher", chainlink)


async def _perpetual(site: _Site, symbol: str, index: str, asset: DevAsset) -> DevPerpetual:
    chain, house, quote = site.linker.chain, site.at["ClearingHouse"], site.at["QuoteToken"]
    feed = await _feed(site, asset)
    base = await site.linker.deploy("BaseToken")
    while int(base, 16) >= int(quote, 16):
        base = await site.linker.deploy("BaseToken")
    await chain.send(base, "initialize(string,string,address)", symbol, symbol, feed)
    factory = site.at["UniswapV3Factory"]
    await chain.send(factory, "createPool(address,address,uint24)", base, quote, _POOL_FEE)
    pool = to_checksum_address(
        await chain.call(factory, "getPool(address,address,uint24)(address)", base, quote, _POOL_FEE)
    )
    price = await chain.call(asset.feed, "latestAnswer()(int256)")
    await chain.send(pool, "initialize(uint160)", sqrt_price_x96(price))
    for token, who in ((base, house), (base, pool), (quote, pool)):
        await chain.send(token, "addWhitelist(address)", who)
    await chain.send(base, "mintMaximumTo(address)", house)
    await site.set("MarketRegistry", "addPool(address,uint24)", base, _POOL_FEE)
    await site.set("MarketRegistry", "setFeeRatio(address,uint24)", base, _EXCHANGE_FEE)
    await site.set("MarketRegistry", "setInsuranceFundFeeRatio(address,uint24)", base, _FUND_FEE)
    await site.set("Exchange", "setMaxTickCrossedWithinBlock(address,uint24)", base, _TICKS_A_BLOCK)
    grown = "increaseObservationCardinalityNext(uint16)"
    await chain.send(pool, grown, _OBSERVATIONS // 2)
    await chain.send(pool, grown, _OBSERVATIONS)
    return DevPerpetual(symbol=symbol, index=index, base_token=base, pool=pool)


async def _deepen(market: PerpMarket) -> None:
    """Let time pass, so that pools have averages; then let one account make all markets far and wide, and trade."""
    await market.chain.increase_time(_HISTORY_S)
    await market.chain.mine()
    unit = 10 ** market.assets[market.settlement].decimals
    await market.deposit(MAKER, market.settlement, _DEPTH_USD * unit)
    prices = await market.prices()
    for symbol, perpetual in market.perpetuals.items():
        price = prices[perpetual.index]
        reach = (price // _MAKER_RANGE, price * _MAKER_RANGE)
        await market.add_order(MAKER, symbol, prices_usd=reach, value_usd=_DEPTH_USD)
    token = market.assets[market.settlement].token
    await market.chain.send(token, MINT, market.insurance_fund, _FUND_USD * unit)
    for symbol in market.perpetuals:
        for value in (1_000, -1_000):
            await market.trade(MAKER, symbol, value)

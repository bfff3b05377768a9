"""Deploys an Aave market of either generation, lists its reserves and gives it depth."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from eth_utils.address import to_checksum_address

from keeper.devnet.aave_v30 import AaveV30
from keeper.devnet.aave_v36 import AaveV36
from keeper.devnet.artifacts import aave_artifact
from keeper.devnet.assets import DevAsset, deploy_assets
from keeper.devnet.chain import ADMIN, ANCHOR, LENDER, MAX_UINT, DevChain, Tx
from keeper.devnet.compiler import origin_artifacts
from keeper.devnet.linker import Linker
from keeper.devnet.market import (
    APPROVE,
    BORROW,
    MINT,
    NO_REFERRAL,
    SUPPLY,
    VARIABLE_RATE,
    AaveMarket,
    DevReserve,
    Generation,
)
from keeper.devnet.packages import Packages, Progress, silent
from keeper.devnet.site import Blueprint, Site
from keeper.devnet.spec import BPS, DEFAULT_SPEC, PRICE_UNIT, MarketSpec, ReserveSpec

_NOBODY: Final = "0x" + "00" * 20
_ANCHOR_MARGIN: Final = 1.6
_TOKENS: Final = "getReserveTokensAddresses(address)(address,address,address)"
_ROLES: Final = ("addPoolAdmin", "addEmergencyAdmin", "addRiskAdmin", "addAssetListingAdmin")


async def deploy_aave(
    chain: DevChain,
    packages: Packages,
    generation: Generation,
    spec: MarketSpec = DEFAULT_SPEC,
    *,
    assets: Mapping[str, DevAsset] | None = None,
    progress: Progress = silent,
) -> AaveMarket:
    """Deploy a market; give `assets` of another market to share its tokens and feeds.

    Reserves with fewer decimals than the generation accepts are left out.
    """
    from_block = await chain.block_number() + 1
    blueprint, linker = await _tools(chain, packages, generation, progress)
    accepted = tuple(reserve for reserve in spec.reserves if reserve.decimals >= blueprint.min_decimals)
    offer = replace(spec, reserves=accepted)
    used = await deploy_assets(chain, packages, accepted, assets or {})
    progress(f"deploying Aave v{generation}")
    provider = await linker.deploy("PoolAddressesProvider", f"keeper devnet {generation}", ADMIN)
    acl_manager = await _deploy_roles(linker, provider)
    oracle = await _deploy_oracle(linker, provider, used)
    site = await _deploy_pool(linker, blueprint, provider, offer, used)
    data_provider = await linker.deploy("AaveProtocolDataProvider", provider)
    await chain.send(provider, "setPoolDataProvider(address)", data_provider)
    view = blueprint.liquidation_view and await linker.deploy(blueprint.liquidation_view, site.pool, provider)
    listings = await blueprint.listings(site)
    async with chain.bulk():
        await chain.send_all(listings)
        parameters = [tx for reserve in accepted for tx in _parameters(site, reserve)]
        await chain.send_all([*parameters, *blueprint.emodes(site), blueprint.flash_premium(site)])
        await _deepen(site, progress)
    return AaveMarket(
        chain=chain,
        generation=generation,
        spec=spec,
        provider=provider,
        pool=site.pool,
        oracle=oracle,
        configurator=site.configurator,
        acl_manager=acl_manager,
        data_provider=data_provider,
        liquidation_data_provider=view,
        from_block=from_block,
        reserves=await _listed(chain, data_provider, used),
    )


async def _tools(
    chain: DevChain, packages: Packages, generation: Generation, progress: Progress
) -> tuple[Blueprint, Linker]:
    if generation == "3.0":
        return AaveV30(), Linker(chain, lambda name: aave_artifact(packages.core, name))
    compiled = await asyncio.to_thread(origin_artifacts, packages, progress)
    return AaveV36(), Linker(chain, compiled.__getitem__)


async def _deploy_roles(linker: Linker, provider: str) -> str:
    """Make the administrator the holder of every role that configures a market."""
    await linker.chain.send(provider, "setACLAdmin(address)", ADMIN)
    acl_manager = await linker.deploy("ACLManager", provider)
    await linker.chain.send(provider, "setACLManager(address)", acl_manager)
    for role in _ROLES:
        await linker.chain.send(acl_manager, f"{role}(address)", ADMIN)
    return acl_manager


async def _deploy_oracle(linker: Linker, provider: str, assets: dict[str, DevAsset]) -> str:
    tokens = [asset.token for asset in assets.values()]
    feeds = [asset.feed for asset in assets.values()]
    oracle = await linker.deploy("AaveOracle", provider, tokens, feeds, _NOBODY, _NOBODY, PRICE_UNIT)
    await linker.chain.send(provider, "setPriceOracle(address)", oracle)
    return oracle


async def _deploy_pool(
    linker: Linker, blueprint: Blueprint, provider: str, spec: MarketSpec, assets: dict[str, DevAsset]
) -> Site:
    chain = linker.chain
    pool, configurator = await blueprint.implementations(linker, provider)
    await chain.send(provider, "setPoolImpl(address)", pool)
    await chain.send(provider, "setPoolConfiguratorImpl(address)", configurator)
    return Site(
        chain=chain,
        linker=linker,
        spec=spec,
        assets=assets,
        provider=provider,
        pool=to_checksum_address(await chain.call(provider, "getPool()(address)")),
        configurator=to_checksum_address(await chain.call(provider, "getPoolConfigurator()(address)")),
    )


def _parameters(site: Site, reserve: ReserveSpec) -> Iterator[Tx]:
    """Yield the configurator calls for one reserve; both generations have the same ones."""
    limits = (reserve.ltv_bps, reserve.liquidation_threshold_bps, reserve.liquidation_bonus_bps)
    calls: list[tuple[str, tuple[object, ...]]] = []
    if reserve.collateral:
        calls.append(("configureReserveAsCollateral(address,uint256,uint256,uint256)", limits))
    if reserve.isolated:
        calls.append(("setDebtCeiling(address,uint256)", (reserve.debt_ceiling,)))
    calls += [
        ("setReserveBorrowing(address,bool)", (reserve.borrowable,)),
        ("setBorrowableInIsolation(address,bool)", (reserve.borrowable_in_isolation,)),
        ("setReserveFactor(address,uint256)", (reserve.reserve_factor_bps,)),
        ("setLiquidationProtocolFee(address,uint256)", (reserve.protocol_fee_bps,)),
        ("setReserveFlashLoaning(address,bool)", (True,)),
    ]
    for signature, values in calls:
        yield Tx(ADMIN, site.configurator, signature, (site.token(reserve.symbol), *values))


async def _deepen(site: Site, progress: Progress) -> None:
    """Let one account supply every reserve and another borrow a good part of it, so that interest accrues."""
    spec = site.spec
    progress("supplying liquidity")
    supplied = {reserve: reserve.amount(spec.depth_usd) for reserve in spec.reserves}
    await site.chain.send_all(
        tx for reserve, amount in supplied.items() for tx in _supply(site, LENDER, reserve, amount)
    )
    backing = spec.reserve(spec.anchor_collateral)
    borrowed = [reserve for reserve in spec.reserves if reserve.borrowable and reserve is not backing]
    debt_usd = len(borrowed) * spec.depth_usd * spec.usage_bps / BPS
    backed = backing.amount(debt_usd * _ANCHOR_MARGIN * BPS / backing.ltv_bps)
    loans = [
        Tx(ANCHOR, site.pool, BORROW, (site.token(reserve.symbol), amount, VARIABLE_RATE, NO_REFERRAL, ANCHOR))
        for reserve in borrowed
        if (amount := supplied[reserve] * spec.usage_bps // BPS)
    ]
    await site.chain.send_all([*_supply(site, ANCHOR, backing, backed), *loans])


def _supply(site: Site, owner: str, reserve: ReserveSpec, amount: int) -> Iterator[Tx]:
    token = site.token(reserve.symbol)
    yield Tx(owner, token, MINT, (owner, amount))
    yield Tx(owner, token, APPROVE, (site.pool, MAX_UINT))
    yield Tx(owner, site.pool, SUPPLY, (token, amount, owner, NO_REFERRAL))


async def _listed(chain: DevChain, data_provider: str, assets: dict[str, DevAsset]) -> dict[str, DevReserve]:
    found = await chain.call_all((data_provider, _TOKENS, (asset.token,)) for asset in assets.values())
    return {
        asset.symbol: DevReserve(
            symbol=asset.symbol,
            decimals=asset.decimals,
            token=asset.token,
            feed=asset.feed,
            aggregator=asset.aggregator,
            a_token=to_checksum_address(a_token),
            variable_debt_token=to_checksum_address(variable_debt_token),
        )
        for asset, (a_token, _stable_debt_token, variable_debt_token) in zip(assets.values(), found, strict=True)
    }

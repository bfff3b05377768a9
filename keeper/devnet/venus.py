"""Deploys Venus core, lists its assets, two efficiency modes, VAI and the Liquidator, and gives it depth."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from eth_utils.abi import abi_to_signature, function_signature_to_4byte_selector

from keeper.devnet.artifacts import Artifact, artifact
from keeper.devnet.assets import DevAsset, deploy_assets
from keeper.devnet.chain import ADMIN, ANCHOR, LENDER, MAX_UINT, TREASURY, DevChain, Tx
from keeper.devnet.packages import Packages, Progress, silent
from keeper.devnet.spec import BPS, DEFAULT_SPEC, MarketSpec, ReserveSpec
from keeper.devnet.venus_market import APPROVE, MINT, NATIVE, VenusGeneration, VenusMarket, VenusReserve

_NOBODY: Final = "0x" + "00" * 20
_ANY_TOKEN_NATIVE: Final = "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"  # noqa: S105 - how the oracle calls native currency
_WAD: Final = 10**18
_BLOCKS_PER_YEAR: Final = 200_000
"""Few, so that some thousand blocks of a test bring interest worth looking at."""
_RATES: Final = (2 * 10**16, 8 * 10**16, 60 * 10**16, 80 * 10**16)
_V_DECIMALS: Final = 8
_NATIVE_DEPTH_USD: Final = 10_000_000
_NATIVE_TERMS: Final = ReserveSpec(
    symbol=NATIVE,
    decimals=18,
    price_usd=3_000 * 10**8,
    ltv_bps=7_800,
    liquidation_threshold_bps=8_000,
    liquidation_bonus_bps=11_000,
)
_POOLS: Final = {1: ("USDC", "USDT", "DAI"), 2: ("WETH", "wstETH")}
_POOL_TERMS: Final = (91 * 10**16, 93 * 10**16, 102 * 10**16)
_FALLS_BACK: Final = {1: True, 2: False}
_TREASURY_SHARE: Final = 50 * 10**16
_LEGACY_INCENTIVE: Final = 108 * 10**16
_VAI_RATE: Final = 140 * _WAD
"""A year of it has 70 million blocks: so much a year is two millionths a block."""
_LEAST_VAI: Final = 1_000 * _WAD
_LEGACY: Final = "venus-legacy"
_FACETS: Final = ("MarketFacet", "PolicyFacet", "RewardFacet", "SetterFacet", "FlashLoanFacet")
_GUARDED: Final = (
    "_setMarketSupplyCaps(address[],uint256[])", "_setMarketBorrowCaps(address[],uint256[])",
    "_supportMarket(address)", "_setForcedLiquidation(address,bool)",
    "_setForcedLiquidationForUser(address,address,bool)", "_setActionsPaused(address[],uint8[],bool)",
    "setCollateralFactor(address,uint256,uint256)", "setCollateralFactor(uint96,address,uint256,uint256)",
    "setLiquidationIncentive(address,uint256)", "setLiquidationIncentive(uint96,address,uint256)",
    "setDeviationBoundedOracle(address)", "setIsBorrowAllowed(uint96,address,bool)", "createPool(string)",
    "addPoolMarkets(uint96[],address[])", "setAllowCorePoolFallback(uint96,bool)", "setPoolActive(uint96,bool)",
    "_setReserveFactor(uint256)", "setReduceReservesBlockDelta(uint256)", "setTokenConfig(TokenConfig)",
    "setMinLiquidatableVAI(uint256)", "resumeForceVAILiquidate()", "pauseForceVAILiquidate()", "setBaseRate(uint256)",
    "setMintCap(uint256)", "restrictLiquidation(address)", "_setProtocolPaused(bool)",
    "_setCollateralFactor(address,uint256)", "_setLiquidationIncentive(uint256)",
)  # fmt: skip
_Abi = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Yard:
    """Where contracts are deployed and where their published code is."""

    chain: DevChain
    node_modules: Path

    def load(self, name: str, package: str = "venus-protocol") -> tuple[Artifact, _Abi]:
        """Load a contract; the package's own come before what it copies from others."""
        scope = self.node_modules if package == _LEGACY else self.node_modules / "@venusprotocol"
        root = scope / package / "artifacts"
        found = sorted((root / "contracts").rglob(f"{name}.json")) or sorted(root.rglob(f"{name}.json"))
        raw = msgspec.json.decode(found[0].read_bytes())
        return artifact(name, raw["abi"], raw["bytecode"], raw["linkReferences"]), raw["abi"]

    async def deploy(self, name: str, *args: object, package: str = "venus-protocol") -> str:
        return await self.chain.deploy(self.load(name, package)[0], *args)

    async def behind_proxy(self, implementation: str, data: str = "") -> str:
        """Put a contract behind a proxy whose administrator is somebody else than who calls it."""
        return await self.deploy("TransparentUpgradeableProxy", implementation, TREASURY, bytes.fromhex(data))


async def deploy_venus(
    chain: DevChain,
    packages: Packages,
    generation: VenusGeneration = "10",
    spec: MarketSpec = DEFAULT_SPEC,
    *,
    assets: Mapping[str, DevAsset] | None = None,
    progress: Progress = silent,
) -> VenusMarket:
    """Deploy a market; give `assets` of another market to share its tokens and feeds. Native currency costs what WETH does."""
    from_block = await chain.block_number() + 1
    used = await deploy_assets(chain, packages, spec.reserves, assets or {})
    progress("deploying Venus core")
    yard = _Yard(chain, packages.folder("venus"))
    control = await yard.deploy("AccessControlManager", package="governance-contracts")
    async with chain.held():
        await chain.send_all(
            Tx(ADMIN, control, "giveCallPermission(address,string,address)", (_NOBODY, each, ADMIN))
            for each in _GUARDED
        )
    comptroller = await (_diamond(yard) if generation == "10" else _legacy_comptroller(yard))
    rates = await yard.deploy("JumpRateModel", *_RATES, _BLOCKS_PER_YEAR)
    tokens = await _tokens(yard, comptroller, rates, used, generation)
    vai, controller = await _vai(yard, comptroller, control) if generation == "10" else ("", "")
    oracle = await _oracle(yard, control, used, tokens.get(NATIVE, _NOBODY), vai or _NOBODY)
    await _configure(yard, comptroller, control, oracle, generation)
    reserves = _reserves(used | ({NATIVE: used["WETH"]} if NATIVE in tokens else {}), tokens)
    async with chain.bulk():
        await chain.send_all(_listings(spec, comptroller, control, reserves, generation))
    liquidator = ""
    if generation == "10":
        await _pools(chain, comptroller, tokens)
        await _bound(yard, comptroller, control, (oracle, tokens[NATIVE], vai))
        await chain.send(comptroller, "_setVAIController(address)", controller)
        await chain.send(comptroller, "_setVAIMintRate(uint256)", BPS)
        liquidator = await _liquidator(yard, comptroller, control, tokens[NATIVE])
    market = VenusMarket(
        chain=chain,
        generation=generation,
        spec=spec,
        comptroller=comptroller,
        oracle=oracle,
        liquidator=liquidator,
        vai=vai,
        vai_controller=controller,
        from_block=from_block,
        reserves=reserves,
        pools=_POOLS if generation == "10" else {},
    )
    progress("supplying liquidity")
    await _deepen(market)
    return market


def _reserves(assets: Mapping[str, DevAsset], tokens: Mapping[str, str]) -> dict[str, VenusReserve]:
    return {
        symbol: VenusReserve(
            symbol=symbol,
            decimals=asset.decimals,
            token="" if symbol == NATIVE else asset.token,
            feed=asset.feed,
            aggregator=asset.aggregator,
            v_token=tokens[symbol],
        )
        for symbol, asset in assets.items()
    }


async def _diamond(yard: _Yard) -> str:
    """Deploy the Diamond behind the Unitroller, with every function of every facet once."""
    chain = yard.chain
    unitroller, diamond = await yard.deploy("Unitroller"), await yard.deploy("Diamond")
    await chain.send(unitroller, "_setPendingImplementation(address)", diamond)
    await chain.send(diamond, "_become(address)", unitroller)
    cuts, taken = [], set[bytes]()
    for facet in _FACETS:
        code, abi = yard.load(facet)
        functions = {
            function_signature_to_4byte_selector(abi_to_signature(cast("Any", each)))
            for each in abi
            if each["type"] == "function"
        }
        cuts.append((await chain.deploy(code), 0, sorted(functions - taken)))
        taken |= functions
    await chain.send(unitroller, "diamondCut((address,uint8,bytes4[])[])", cuts)
    return unitroller


async def _legacy_comptroller(yard: _Yard) -> str:
    chain = yard.chain
    unitroller = await yard.deploy("Unitroller", package=_LEGACY)
    comptroller = await yard.deploy("Comptroller", package=_LEGACY)
    await chain.send(unitroller, "_setPendingImplementation(address)", comptroller)
    await chain.send(comptroller, "_become(address)", unitroller)
    return unitroller


async def _tokens(
    yard: _Yard, comptroller: str, rates: str, assets: Mapping[str, DevAsset], generation: VenusGeneration
) -> dict[str, str]:
    """Deploy a vToken for every asset; 0.02 of an asset is one vToken at the start."""
    found: dict[str, str] = {}
    package = "venus-protocol" if generation == "10" else _LEGACY
    for symbol, asset in assets.items():
        rate = 2 * 10 ** (asset.decimals + _V_DECIMALS)
        terms = (asset.token, comptroller, rates, rate, f"Venus {symbol}", f"v{symbol}", _V_DECIMALS, ADMIN)
        found[symbol] = await yard.deploy("VBep20Immutable", *terms, package=package)
    if generation == "10":
        rate = 2 * 10 ** (18 + _V_DECIMALS)
        found[NATIVE] = await yard.deploy("VBNB", comptroller, rates, rate, "Venus BNB", "vBNB", _V_DECIMALS, ADMIN)
    return found


async def _vai(yard: _Yard, comptroller: str, control: str) -> tuple[str, str]:
    """Deploy Venus' own dollar, and what lends it."""
    chain = yard.chain
    vai = await yard.deploy("VAI", 31_337)
    unitroller = await yard.deploy("VAIUnitroller")
    controller = await yard.deploy("VAIController")
    await chain.send(unitroller, "_setPendingImplementation(address)", controller)
    await chain.send(controller, "_become(address)", unitroller)
    await chain.send(unitroller, "initialize()")
    settings = {
        "_setComptroller(address)": comptroller,
        "setVAIToken(address)": vai,
        "setReceiver(address)": TREASURY,
        "setAccessControl(address)": control,
    }
    for setting, value in settings.items():
        await chain.send(unitroller, setting, value)
    await chain.send(unitroller, "setBaseRate(uint256)", _VAI_RATE)
    await chain.send(vai, "rely(address)", unitroller)
    return vai, unitroller


def _initialise(control: str) -> str:
    return "c4d66de8" + control.removeprefix("0x").lower().rjust(64, "0")


async def _oracle(yard: _Yard, control: str, assets: Mapping[str, DevAsset], native: str, vai: str) -> str:
    """Deploy the resilient oracle over Chainlink's feeds."""
    chain = yard.chain
    validator = await yard.behind_proxy(await yard.deploy("BoundValidator", package="oracle"), _initialise(control))
    feeds = await yard.behind_proxy(await yard.deploy("ChainlinkOracle", package="oracle"), _initialise(control))
    implementation = await yard.deploy("ResilientOracle", native, vai, validator, package="oracle")
    oracle = await yard.behind_proxy(implementation, _initialise(control))
    of = {asset.token: asset.feed for asset in assets.values()} | {_ANY_TOKEN_NATIVE: assets["WETH"].feed}
    async with chain.held():
        feed, source = "setTokenConfig((address,address,uint256))", "setTokenConfig((address,address[3],bool[3],bool))"
        for token, address in of.items():
            await chain.send_all(
                (
                    Tx(ADMIN, feeds, feed, ((token, address, 10**9),)),
                    Tx(ADMIN, oracle, source, ((token, (feeds, _NOBODY, _NOBODY), (True, False, False), False),)),
                )
            )
    return oracle


async def _configure(yard: _Yard, comptroller: str, control: str, oracle: str, generation: VenusGeneration) -> None:
    lens = await yard.deploy("ComptrollerLens", package="venus-protocol" if generation == "10" else _LEGACY)
    for signature, value in (
        ("_setAccessControl(address)", control),
        ("_setPriceOracle(address)", oracle),
        ("_setComptrollerLens(address)", lens),
        ("_setCloseFactor(uint256)", _WAD // 2),
        *([] if generation == "10" else [("_setLiquidationIncentive(uint256)", _LEGACY_INCENTIVE)]),
    ):
        await yard.chain.send(comptroller, signature, value)


def _listings(
    spec: MarketSpec, comptroller: str, control: str, reserves: Mapping[str, VenusReserve], generation: VenusGeneration
) -> Iterator[Tx]:
    """Yield what makes every asset a market with its terms."""

    def to(target: str, signature: str, *args: object) -> Tx:
        return Tx(ADMIN, target, signature, args)

    is_borrowable = True
    for symbol, reserve in reserves.items():
        terms, token = _NATIVE_TERMS if symbol == NATIVE else spec.reserve(symbol), reserve.v_token
        if generation == "10":
            yield to(token, "setAccessControlManager(address)", control)
            yield to(token, "setReduceReservesBlockDelta(uint256)", 10**12)
        yield to(token, "_setReserveFactor(uint256)", terms.reserve_factor_bps * 10**14)
        yield to(comptroller, "_supportMarket(address)", token)
        yield to(comptroller, "_setMarketSupplyCaps(address[],uint256[])", [token], [MAX_UINT])
        yield to(comptroller, "_setMarketBorrowCaps(address[],uint256[])", [token], [MAX_UINT])
        factor, threshold = (each * 10**14 for each in (terms.ltv_bps, terms.liquidation_threshold_bps))
        if generation == "1":
            if terms.collateral:
                yield to(comptroller, "_setCollateralFactor(address,uint256)", token, factor)
            continue
        yield to(comptroller, "setIsBorrowAllowed(uint96,address,bool)", 0, token, is_borrowable)
        bonus = max(terms.liquidation_bonus_bps, BPS) * 10**14
        yield to(comptroller, "setLiquidationIncentive(address,uint256)", token, bonus)
        if terms.collateral:
            yield to(comptroller, "setCollateralFactor(address,uint256,uint256)", token, factor, threshold)


async def _pools(chain: DevChain, comptroller: str, tokens: Mapping[str, str]) -> None:
    """Make the efficiency modes: one lets other collateral count as in the core, one does not."""
    factor, threshold, incentive = _POOL_TERMS
    is_borrowable = True
    for pool, symbols in _POOLS.items():
        await chain.send(comptroller, "createPool(string)", f"pool {pool}")
        members = [tokens[each] for each in symbols]
        await chain.send(comptroller, "addPoolMarkets(uint96[],address[])", [pool] * len(members), members)
        if _FALLS_BACK[pool]:
            await chain.send(comptroller, "setAllowCorePoolFallback(uint96,bool)", pool, _FALLS_BACK[pool])
        for token in members:
            await chain.send(comptroller, "setIsBorrowAllowed(uint96,address,bool)", pool, token, is_borrowable)
            await chain.send(comptroller, "setLiquidationIncentive(uint96,address,uint256)", pool, token, incentive)
            weights = "setCollateralFactor(uint96,address,uint256,uint256)"
            await chain.send(comptroller, weights, pool, token, factor, threshold)


async def _bound(yard: _Yard, comptroller: str, control: str, constructor: tuple[str, ...]) -> None:
    """Deploy the oracle by which borrowing is valued; liquidations go by the other one."""
    implementation = await yard.deploy("DeviationBoundedOracle", *constructor, package="oracle")
    bounded = await yard.behind_proxy(implementation, _initialise(control))
    await yard.chain.send(comptroller, "setDeviationBoundedOracle(address)", bounded)


async def _liquidator(yard: _Yard, comptroller: str, control: str, native: str) -> str:
    """Deploy the contract that liquidations go through, which keeps a share of the bonus."""
    wrapped = await yard.deploy("WBNB")
    mantissa, is_timed = 10**18, False
    prime = await yard.deploy("Prime", wrapped, native, _BLOCKS_PER_YEAR, 1, mantissa, mantissa, is_timed)
    start = "cd6dc687" + control.removeprefix("0x").lower().rjust(64, "0") + f"{100:064x}"
    reserve = await yard.deploy("MockProtocolShareReserve", comptroller, wrapped, native)
    reserve = await yard.behind_proxy(reserve, start)
    await yard.chain.send(reserve, "setPrime(address)", prime)
    implementation = await yard.deploy("Liquidator", comptroller, native, wrapped)
    liquidator = await yard.behind_proxy(implementation)
    chain = yard.chain
    await chain.send(liquidator, "initialize(uint256,address,address)", _TREASURY_SHARE, control, reserve)
    await chain.send(liquidator, "setMinLiquidatableVAI(uint256)", _LEAST_VAI)
    await chain.send(liquidator, "resumeForceVAILiquidate()")
    await chain.send(comptroller, "_setLiquidatorContract(address)", liquidator)
    return liquidator


async def _deepen(market: VenusMarket) -> None:
    """Let one account supply every asset and another borrow a good part of it, so that interest accrues."""
    chain, spec = market.chain, market.spec
    await chain.set_balance(LENDER, 10**26)
    backing = spec.reserve(spec.anchor_collateral)
    borrowed = [each for each in spec.reserves if each.borrowable and each is not backing]
    loans = {each.symbol: each.amount(spec.depth_usd) * spec.usage_bps // BPS for each in borrowed}
    backed = backing.amount(len(borrowed) * spec.depth_usd * 2)
    async with chain.bulk():
        await chain.send_all(
            tx for each in spec.reserves for tx in _supply(market, LENDER, each.symbol, each.amount(spec.depth_usd))
        )
        if NATIVE in market.reserves:
            wei = _NATIVE_TERMS.amount(_NATIVE_DEPTH_USD)
            await chain.rpc("eth_sendTransaction", {
                "from": LENDER, "to": market.reserves[NATIVE].v_token, "value": hex(wei), "data": "0x1249c58b",
                "gas": hex(3_000_000),
            })  # fmt: skip
            await chain.mine()
        token = market.reserves[backing.symbol].v_token
        await chain.send_all((
            *_supply(market, ANCHOR, backing.symbol, backed),
            Tx(ANCHOR, market.comptroller, "enterMarkets(address[])", ([token],)),
            *(Tx(ANCHOR, market.reserves[each].v_token, "borrow(uint256)", (loan,)) for each, loan in loans.items()),
        ))  # fmt: skip


def _supply(market: VenusMarket, owner: str, symbol: str, amount: int) -> Iterator[Tx]:
    reserve = market.reserves[symbol]
    yield Tx(owner, reserve.token, MINT, (owner, amount))
    yield Tx(owner, reserve.token, APPROVE, (reserve.v_token, MAX_UINT))
    yield Tx(owner, reserve.v_token, "mint(uint256)", (amount,))

"""Deploys Morpho Blue with its adaptive interest model, and pairs of all kinds over shared tokens and feeds."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.devnet.artifacts import Artifact
from keeper.devnet.assets import DevAsset, deploy_assets, price_updates
from keeper.devnet.chain import ADMIN, ANCHOR, LENDER, MAX_UINT, TREASURY, DevChain, Receipt, Tx
from keeper.devnet.compiler import morpho_mocks
from keeper.devnet.market import APPROVE, MINT
from keeper.devnet.packages import Packages, Progress, silent
from keeper.devnet.spec import BPS, DEFAULT_SPEC, PRICE_UNIT, ReserveSpec
from keeper.errors import Fatal

Model: TypeAlias = Literal["adaptive", "linear", "none"]

WAD: Final = 10**18
PARAMS: Final = "(address,address,address,address,uint256)"
SUPPLY: Final = f"supply({PARAMS},uint256,uint256,address,bytes)"
SUPPLY_COLLATERAL: Final = f"supplyCollateral({PARAMS},uint256,address,bytes)"
BORROW: Final = f"borrow({PARAMS},uint256,uint256,address,address)"
_NOBODY: Final = "0x" + "00" * 20
_ORACLE_DECIMALS: Final = 36
_ANCHOR_MARGIN: Final = 3
_FACTORIES: Final = Path("@morpho-org/morpho-blue-bundlers/types/factories")
_CREATION_CODE: Final = re.compile(r'const _bytecode = "(0x[0-9a-f]+)"')
_CONTRACTS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "Morpho": ("lib/morpho-blue/src", ("address",)),
    "AdaptiveCurveIrm": ("lib/morpho-blue-irm/src/adaptive-curve-irm", ("address",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSpec:
    """An isolated pair: a collateral, a loan token, the threshold, and how interest is made."""

    collateral: str
    loan: str
    lltv_bps: int
    model: Model = "adaptive"
    fee_bps: int = 0
    usage_bps: int = 6_000

    @property
    def name(self) -> str:
        """Return a name that is unique in a specification."""
        return f"{self.collateral}/{self.loan}/{self.lltv_bps}/{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MorphoSpec:
    """Everything that a market is deployed from.

    One account lends `depth_usd` to every pair, or more where a pair's usage would leave less than `room_usd` to others;
    another borrows each pair's `usage_bps` of it, so that interest accrues. About 100,000 dollars of room are enough for
    each position that is drawn in a pair.
    """

    reserves: tuple[ReserveSpec, ...]
    pairs: tuple[PairSpec, ...]
    depth_usd: int = 100_000_000
    room_usd: int = 40_000_000

    def reserve(self, symbol: str) -> ReserveSpec:
        """Return one token's specification."""
        return next(reserve for reserve in self.reserves if reserve.symbol == symbol)


DEFAULT_MORPHO: Final = MorphoSpec(
    reserves=(
        *DEFAULT_SPEC.reserves,
        ReserveSpec(symbol="PEPE", decimals=18, price_usd=700),
        ReserveSpec(symbol="GOLD", decimals=2, price_usd=4_100 * PRICE_UNIT),
    ),
    pairs=(
        PairSpec(collateral="WETH", loan="USDC", lltv_bps=8_600, usage_bps=9_000),
        PairSpec(collateral="wstETH", loan="WETH", lltv_bps=9_450, fee_bps=1_000, usage_bps=9_500),
        PairSpec(collateral="WBTC", loan="USDC", lltv_bps=8_600, usage_bps=5_000),
        PairSpec(collateral="WBTC", loan="DAI", lltv_bps=7_700, fee_bps=2_500),
        PairSpec(collateral="LINK", loan="USDT", lltv_bps=6_250, usage_bps=2_000),
        PairSpec(collateral="USDC", loan="DAI", lltv_bps=9_650, model="none"),
        PairSpec(collateral="PEPE", loan="WBTC", lltv_bps=3_850),
        PairSpec(collateral="GOLD", loan="WETH", lltv_bps=7_700, model="linear", fee_bps=1_000),
        PairSpec(collateral="WETH", loan="GUSD", lltv_bps=9_150, usage_bps=9_800),
        PairSpec(collateral="CRV", loan="WETH", lltv_bps=6_250, model="linear"),
    ),
)
"""Ten pairs over tokens with 2, 6, 8 and 18 decimals: prices from about 10**12 to 10**48, three interest models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevPair:
    """A created pair: its parameters as addresses, and its name on chain."""

    spec: PairSpec
    id: str
    oracle: str
    irm: str
    loan: DevAsset
    collateral: DevAsset

    @property
    def params(self) -> tuple[str, str, str, str, int]:
        """Return the parameters as every call takes them."""
        return self.loan.token, self.collateral.token, self.oracle, self.irm, self.spec.lltv_bps * WAD // BPS

    def price(self, prices: Mapping[str, int]) -> int:
        """Return what the oracle says at some prices (US dollars with eight decimals)."""
        scale: int = 10 ** (_ORACLE_DECIMALS + self.loan.decimals - self.collateral.decimals)
        return scale * prices[self.spec.collateral] // prices[self.spec.loan]


@dataclass(frozen=True, slots=True, kw_only=True)
class MorphoRecord:
    """The addresses of a market and the parameters it was deployed with: plain data that can be saved."""

    spec: MorphoSpec
    morpho: str
    adaptive_irm: str
    from_block: int
    assets: dict[str, DevAsset]
    pairs: dict[str, DevPair]


@dataclass(frozen=True, slots=True, kw_only=True)
class MorphoMarket(MorphoRecord):
    """A market on a running node."""

    chain: DevChain

    @classmethod
    def bind(cls, record: MorphoRecord, chain: DevChain) -> Self:
        """Join a record with the node that holds its contracts."""
        return cls(chain=chain, **{field.name: getattr(record, field.name) for field in fields(MorphoRecord)})

    def record(self) -> MorphoRecord:
        """Return what is left of the market without its node."""
        return MorphoRecord(**{field.name: getattr(self, field.name) for field in fields(MorphoRecord)})

    async def prices(self) -> dict[str, int]:
        """Read what the feeds say now (US dollars with eight decimals)."""
        calls = [(asset.feed, "latestAnswer()(int256)", ()) for asset in self.assets.values()]
        return dict(zip(self.assets, await self.chain.call_all(calls), strict=True))

    async def oracle_updates(self, prices: Mapping[str, int]) -> list[Tx]:
        """Return the transactions that bring the pairs' oracles to prices, beside those of the feeds."""
        now = {**await self.prices(), **prices}
        moved = [pair for pair in self.pairs.values() if {pair.spec.loan, pair.spec.collateral} & prices.keys()]
        return [Tx(ADMIN, pair.oracle, "setPrice(uint256)", (pair.price(now),)) for pair in moved]

    async def set_prices(self, prices: Mapping[str, int]) -> list[Receipt]:
        """Move several feeds, and the oracles of all pairs of their tokens, in one new block."""
        updates = await price_updates(self.chain, {self.assets[name]: price for name, price in prices.items()})
        updates += await self.oracle_updates(prices)
        async with self.chain.held():
            return await self.chain.send_all(updates)


def morpho_artifact(packages: Packages, name: str) -> Artifact:
    """Load a contract of the published package: creation code in a generated module.

    Raises: Fatal when the package no longer carries it.
    """
    folder, constructor = _CONTRACTS[name]
    file = packages.folder("morpho") / _FACTORIES / folder / f"{name}__factory.js"
    found = _CREATION_CODE.search(file.read_text()) if file.is_file() else None
    if found is None:
        raise Fatal(f"the Morpho package has no creation code of {name}")
    return Artifact(name, found.group(1).removeprefix("0x"), {}, constructor, {})


async def deploy_morpho(
    chain: DevChain,
    packages: Packages,
    spec: MorphoSpec = DEFAULT_MORPHO,
    *,
    assets: Mapping[str, DevAsset] | None = None,
    progress: Progress = silent,
) -> MorphoMarket:
    """Deploy a market with its pairs and give them depth; give `assets` of another market to share tokens and feeds."""
    from_block = await chain.block_number() + 1
    symbols = {symbol for pair in spec.pairs for symbol in (pair.loan, pair.collateral)}
    wanted = [reserve for reserve in spec.reserves if reserve.symbol in symbols]
    known = {symbol: asset.plain() for symbol, asset in (assets or {}).items()}
    used = await deploy_assets(chain, packages, wanted, known)
    mocks = await asyncio.to_thread(morpho_mocks, packages, progress)
    progress("deploying Morpho Blue")
    morpho = await chain.deploy(morpho_artifact(packages, "Morpho"), ADMIN)
    adaptive = await chain.deploy(morpho_artifact(packages, "AdaptiveCurveIrm"), morpho)
    models: dict[Model, str] = {"adaptive": adaptive, "none": _NOBODY}
    models["linear"] = await chain.deploy(mocks["IrmMock"])
    market = MorphoMarket(
        chain=chain, spec=spec, morpho=morpho, adaptive_irm=adaptive, from_block=from_block, assets=used, pairs={}
    )
    for pair in spec.pairs:
        market.pairs[pair.name] = _pair(pair, used, await chain.deploy(mocks["OracleMock"]), models[pair.model])
    async with chain.bulk():
        await chain.send_all(_settings(market, models))
        await chain.send_all(await market.oracle_updates(await market.prices()))
        progress("supplying liquidity")
        for dev_pair in market.pairs.values():
            await chain.send_all(_depth(market, dev_pair))
    return market


def _pair(spec: PairSpec, assets: Mapping[str, DevAsset], oracle: str, irm: str) -> DevPair:
    loan, collateral = assets[spec.loan], assets[spec.collateral]
    named = DevPair(spec=spec, id="", oracle=oracle, irm=irm, loan=loan, collateral=collateral)
    name = "0x" + keccak(encode([PARAMS], [named.params])).hex()
    return DevPair(spec=spec, id=name, oracle=oracle, irm=irm, loan=loan, collateral=collateral)


def _settings(market: MorphoMarket, models: Mapping[Model, str]) -> Iterator[Tx]:
    """Yield the owner's calls: models and thresholds, then every pair with its fee."""

    def to_morpho(signature: str, *args: object) -> Tx:
        return Tx(ADMIN, market.morpho, signature, args)

    yield to_morpho("setFeeRecipient(address)", TREASURY)
    for irm in models.values():
        yield to_morpho("enableIrm(address)", irm)
    for lltv_wad in sorted({pair.params[-1] for pair in market.pairs.values()}):
        yield to_morpho("enableLltv(uint256)", lltv_wad)
    for pair in market.pairs.values():
        yield to_morpho(f"createMarket({PARAMS})", pair.params)
        if pair.spec.fee_bps:
            yield to_morpho(f"setFee({PARAMS},uint256)", pair.params, pair.spec.fee_bps * WAD // BPS)


def _depth(market: MorphoMarket, pair: DevPair) -> Iterator[Tx]:
    """Yield the lender's supply and the anchor's healthy loan."""
    spec = market.spec
    depth_usd = max(spec.depth_usd, spec.room_usd * BPS // (BPS - pair.spec.usage_bps))
    lent = spec.reserve(pair.spec.loan).amount(depth_usd)
    backed = spec.reserve(pair.spec.collateral).amount(_ANCHOR_MARGIN * depth_usd * BPS // pair.spec.lltv_bps)
    yield Tx(LENDER, pair.loan.token, MINT, (LENDER, lent))
    yield Tx(LENDER, pair.loan.token, APPROVE, (market.morpho, MAX_UINT))
    yield Tx(LENDER, market.morpho, SUPPLY, (pair.params, lent, 0, LENDER, b""))
    yield Tx(ANCHOR, pair.collateral.token, MINT, (ANCHOR, backed))
    yield Tx(ANCHOR, pair.collateral.token, APPROVE, (market.morpho, MAX_UINT))
    yield Tx(ANCHOR, market.morpho, SUPPLY_COLLATERAL, (pair.params, backed, ANCHOR, b""))
    loan = lent * pair.spec.usage_bps // BPS
    yield Tx(ANCHOR, market.morpho, BORROW, (pair.params, loan, 0, ANCHOR, ANCHOR))

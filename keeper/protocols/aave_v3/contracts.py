"""What Aave v3 has on chain: functions, events and errors as bytes, and the state that a decision needs.

Source: aave/aave-v3-core 1.19.3; aave-dao/aave-v3-origin v3.1.0 to v3.7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.domain.abi import UINT128, WORD, address, number, selector, topic, words
from keeper.domain.chain import BlockHead, ViewCall, ViewResult
from keeper.domain.outcome import Reason
from keeper.domain.plan import Payment
from keeper.domain.position import Health, Token
from keeper.domain.units import WAD, Address, Base, PositionId, TokenAmount, Wad

# PoolAddressesProvider
GET_POOL: Final = selector("getPool()")
GET_CONFIGURATOR: Final = selector("getPoolConfigurator()")
GET_ORACLE: Final = selector("getPriceOracle()")
GET_SENTINEL: Final = selector("getPriceOracleSentinel()")
# Pool
POOL_REVISION: Final = selector("POOL_REVISION()")
ADDRESSES_PROVIDER: Final = selector("ADDRESSES_PROVIDER()")
GET_RESERVES: Final = selector("getReservesList()")
GET_RESERVE: Final = selector("getReserveData(address)")
GET_GRACE_PERIOD: Final = selector("getLiquidationGracePeriod(address)")
GET_CATEGORY_LEGACY: Final = selector("getEModeCategoryData(uint8)")  # to 3.1
GET_CATEGORY: Final = selector("getEModeCategoryCollateralConfig(uint8)")  # from 3.2
GET_CATEGORY_BITMAP: Final = selector("getEModeCategoryCollateralBitmap(uint8)")  # from 3.2
GET_USER_BITMAP: Final = selector("getUserConfiguration(address)")
GET_USER_CATEGORY: Final = selector("getUserEMode(address)")
GET_USER_HEALTH: Final = selector("getUserAccountData(address)")
LIQUIDATION_CALL: Final = selector("liquidationCall(address,address,address,uint256,bool)")
# AaveOracle and PriceOracleSentinel
BASE_CURRENCY: Final = selector("BASE_CURRENCY()")
BASE_CURRENCY_UNIT: Final = selector("BASE_CURRENCY_UNIT()")
GET_PRICE: Final = selector("getAssetPrice(address)")
GET_PRICE_SOURCE: Final = selector("getSourceOfAsset(address)")
IS_LIQUIDATION_ALLOWED: Final = selector("isLiquidationAllowed()")
# tokens
SCALED_BALANCE: Final = selector("scaledBalanceOf(address)")
STABLE_PRINCIPAL: Final = selector("principalBalanceOf(address)")
STABLE_RATE: Final = selector("getUserStableRate(address)")
STABLE_UPDATED: Final = selector("getUserLastUpdated(address)")

# ReserveData, in words, and the packed configuration in its first, in bits (offset, width)
RESERVE_WORDS: Final = 15
(CONFIGURATION, LIQUIDITY_INDEX, LIQUIDITY_RATE, BORROW_INDEX, BORROW_RATE, _, UPDATED, ID, A_TOKEN, STABLE_TOKEN,
 VARIABLE_TOKEN) = range(11)  # fmt: skip
THRESHOLD_BITS: Final = (16, 16)
BONUS_BITS: Final = (32, 16)
DECIMALS_BITS: Final = (48, 8)
ACTIVE_BITS: Final = (56, 1)
PAUSED_BITS: Final = (60, 1)
FEE_BITS: Final = (152, 16)
CATEGORY_BITS: Final = (168, 8)  # to 3.1
MAX_RESERVES: Final = 128
MAX_DECIMALS: Final = 36
MAX_CATEGORY: Final = 255

BORROW: Final = topic("Borrow(address,address,address,uint256,uint8,uint256,uint16)")
LIQUIDATION: Final = topic("LiquidationCall(address,address,address,uint256,uint256,address,bool)")

# Which topics of an event name accounts whose state it changed.
POOL_ACCOUNTS: Final = {
    BORROW: (2,),
    LIQUIDATION: (3,),
    topic("Repay(address,address,address,uint256,bool)"): (2,),
    topic("UserEModeSet(address,uint8)"): (1,),
    topic("ReserveUsedAsCollateralEnabled(address,address)"): (2,),
    topic("ReserveUsedAsCollateralDisabled(address,address)"): (2,),
    topic("SwapBorrowRateMode(address,address,uint8)"): (2,),
    topic("RebalanceStableBorrowRate(address,address)"): (2,),
}
TOKEN_ACCOUNTS: Final = {
    topic("Mint(address,address,uint256,uint256,uint256)"): (2,),
    topic("Burn(address,address,uint256,uint256,uint256)"): (1,),
    topic("BalanceTransfer(address,address,uint256,uint256)"): (1, 2),
    # the stable debt token's own
    topic("Mint(address,address,uint256,uint256,uint256,uint256,uint256,uint256)"): (2,),
    topic("Burn(address,uint256,uint256,uint256,uint256,uint256)"): (1,),
}
MARKET_EVENTS: Final = frozenset(
    map(
        topic,
        (
            "Upgraded(address)",
            # PoolAddressesProvider
            "PoolUpdated(address,address)",
            "PoolConfiguratorUpdated(address,address)",
            "PriceOracleUpdated(address,address)",
            "PriceOracleSentinelUpdated(address,address)",
            # AaveOracle
            "AssetSourceUpdated(address,address)",
            "BaseCurrencySet(address,uint256)",
            "FallbackOracleUpdated(address)",
            # PoolConfigurator
            "ReserveInitialized(address,address,address,address,address)",
            "ReserveDropped(address)",
            "ReserveActive(address,bool)",
            "ReservePaused(address,bool)",
            "CollateralConfigurationChanged(address,uint256,uint256,uint256)",
            "LiquidationProtocolFeeChanged(address,uint256,uint256)",
            "LiquidationGracePeriodChanged(address,uint40)",
            "LiquidationGracePeriodDisabled(address)",
            "EModeCategoryAdded(uint8,uint256,uint256,uint256,address,string)",
            "EModeAssetCategoryChanged(address,uint8,uint8)",
            "AssetCollateralInEModeChanged(address,uint8,bool)",
            "ATokenUpgraded(address,address,address)",
            "StableDebtTokenUpgraded(address,address,address)",
            "VariableDebtTokenUpgraded(address,address,address)",
        ),
    )
)

_ERRORS: Final = (  # the string up to 3.3, the custom error from 3.4
    ("24", "InvalidMintAmount", Reason.REVERTED),
    ("25", "InvalidBurnAmount", Reason.DUST_RULE),
    ("26", "InvalidAmount", Reason.REVERTED),
    ("27", "ReserveInactive", Reason.PAUSED),
    ("29", "ReservePaused", Reason.PAUSED),
    ("45", "HealthFactorNotBelowThreshold", Reason.NOT_LIQUIDATABLE),
    ("46", "CollateralCannotBeLiquidated", Reason.NO_COLLATERAL),
    ("47", "SpecifiedCurrencyNotBorrowedByUser", Reason.NOT_LIQUIDATABLE),
    ("59", "PriceOracleSentinelCheckFailed", Reason.SENTINEL),
    ("97", "LiquidationGraceSentinelCheckFailed", Reason.GRACE_PERIOD),
    ("103", "MustNotLeaveDust", Reason.DUST_RULE),
    ("", "SelfLiquidation", Reason.SELF_LIQUIDATION),
)
STRING_ERRORS: Final = {number: (reason, name) for number, name, reason in _ERRORS if number}
CUSTOM_ERRORS: Final = {
    **{selector(f"{name}()"): (reason, name) for _, name, reason in _ERRORS},
}


def price(result: ViewResult) -> Base | None:
    """Return a price, or None where the oracle reverts or says nothing that could be one."""
    said = int.from_bytes(result.data, "big") if result.ok and len(result.data) == WORD else 0
    return Base(said) if 0 < said < UINT128 else None


@dataclass(frozen=True, slots=True)
class Reserve:
    """A listed token at one block."""

    id: int
    token: Token
    unit: int
    price_base: Base | None
    threshold_bps: int
    bonus_bps: int
    fee_bps: int
    is_active: bool
    is_paused: bool
    grace_until_s: int
    liquidity_index_ray: int
    liquidity_rate_ray: int
    borrow_index_ray: int
    borrow_rate_ray: int
    updated_s: int

    def value_base(self, amount: int) -> Base | None:
        """Value an amount, rounding down, or return None without a price."""
        return None if self.price_base is None else Base(amount * self.price_base // self.unit)


@dataclass(frozen=True, slots=True)
class Leg:
    """One side of a position in one reserve, at the price by which a liquidation would value it."""

    reserve: Reserve
    amount: int
    value: int
    price: int
    index: int

    @property
    def market_price(self) -> int:
        """Return the token's own price, also where eMode values it by another."""
        return self.price if self.reserve.price_base is None else self.reserve.price_base


@dataclass(frozen=True, slots=True)
class Category:
    """An eMode category: its collateral as bits by reserve id and, up to 3.1, perhaps a price of its own."""

    threshold_bps: int
    bonus_bps: int
    collateral_bits: int
    has_own_price: bool = False
    price_base: Base | None = None


@dataclass(frozen=True, slots=True)
class AaveSnapshot:
    """The market at one block; a reserve or category that is not here does not exist on chain either."""

    market: str
    head: BlockHead
    revision: int
    pool: Address
    reserves: Mapping[int, Reserve]
    categories: Mapping[int, Category]
    is_liquidation_allowed: bool
    native_price_base: Base | None
    payments: tuple[Payment, ...]

    @property
    def proceeds(self) -> tuple[Token, ...]:
        """Return nothing: liquidations bring the underlying tokens."""
        return ()

    @property
    def targets(self) -> frozenset[Address]:
        """Return the pool."""
        return frozenset({self.pool})

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        """Value an amount of a listed token, rounding down, or return None without a price."""
        found = next((each for each in self.reserves.values() if each.token.address == token), None)
        return None if found is None else found.value_base(amount)


@dataclass(frozen=True, slots=True)
class StableDebt:
    """A debt at the account's own rate (up to 3.1)."""

    reserve_id: int
    principal: int
    rate_ray: int
    updated_s: int


@dataclass(frozen=True, slots=True)
class AavePosition:
    """An account's flagged collateral and its debt, as scaled amounts by reserve id, and its eMode category."""

    id: PositionId
    category: int
    collateral: tuple[tuple[int, int], ...]
    debt: tuple[tuple[int, int], ...]
    stable_debt: tuple[StableDebt, ...] = ()

    @property
    def has_debt(self) -> bool:
        """Return whether it owes anything."""
        return any(scaled for _, scaled in self.debt) or bool(self.stable_debt)


def categories(
    asked: Mapping[int, Sequence[ViewCall]], answers: Mapping[ViewCall, ViewResult], *, has_bitmaps: bool
) -> tuple[dict[int, Category], dict[int, Address]]:
    """Decode the eMode categories that exist, and who prices those that have a price of their own (up to 3.1)."""
    found, price_sources = {}, {}
    for each, calls in asked.items():
        first = answers[calls[0]]
        if has_bitmaps:
            _, threshold_bps, bonus_bps = words(first, 3, "an eMode category")
            bits = number(answers[calls[1]], "an eMode category's collateral") if threshold_bps else 0
        else:
            _, _, threshold_bps, bonus_bps, source = words(first, 5, "an eMode category")
            bits = 0
            if source:
                price_sources[each] = address(source)
        if threshold_bps:
            found[each] = Category(threshold_bps, bonus_bps, bits)
    return found, price_sources


def health(result: ViewResult) -> Health:
    """Decode `getUserAccountData`."""
    collateral, debt, _, _, _, factor = words(result, 6, "an account's health")
    return Health(Wad(factor), Base(collateral), Base(debt), factor < WAD, (), ())

"""What a market offers: its reserves, their parameters, and its efficiency modes."""

from dataclasses import dataclass
from typing import Final

PRICE_UNIT: Final = 10**8
"""Prices are US dollars with eight decimals, as Chainlink's."""

BPS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSpec:
    """The two-slope interest curve of a reserve."""

    optimal_usage_bps: int = 8_000
    base_bps: int = 100
    slope1_bps: int = 400
    slope2_bps: int = 6_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveSpec:
    """One asset of a market. A `debt_ceiling` (US dollars with two decimals) makes it an isolated collateral."""

    symbol: str
    decimals: int
    price_usd: int
    ltv_bps: int = 0
    liquidation_threshold_bps: int = 0
    liquidation_bonus_bps: int = 0
    reserve_factor_bps: int = 1_000
    protocol_fee_bps: int = 1_000
    borrowable: bool = True
    debt_ceiling: int = 0
    borrowable_in_isolation: bool = False
    collateral: bool = True
    rates: RateSpec = RateSpec()

    @property
    def isolated(self) -> bool:
        """Say whether using it as collateral puts an account into isolation mode."""
        return self.debt_ceiling > 0

    def amount(self, value_usd: float) -> int:
        """Return how many units are worth so many dollars at the starting price."""
        return int(value_usd * PRICE_UNIT * 10**self.decimals // self.price_usd)

    def value_usd(self, amount: int) -> float:
        """Return what an amount is worth in dollars at the starting price."""
        return float(amount * self.price_usd / (PRICE_UNIT * 10**self.decimals))


@dataclass(frozen=True, slots=True, kw_only=True)
class EModeSpec:
    """An efficiency mode; Aave v3.0 has one list of members where later versions have two."""

    id: int
    label: str
    ltv_bps: int
    liquidation_threshold_bps: int
    liquidation_bonus_bps: int
    collaterals: tuple[str, ...]
    borrowables: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketSpec:
    """Everything that a market is deployed from.

    One account supplies `depth_usd` of every reserve; another, backed by `anchor_collateral`, borrows `usage_bps` of it,
    so that interest accrues. It is a healthy but huge position among the others.
    """

    reserves: tuple[ReserveSpec, ...]
    emodes: tuple[EModeSpec, ...] = ()
    depth_usd: int = 150_000_000
    usage_bps: int = 5_500
    anchor_collateral: str = "DAI"

    def reserve(self, symbol: str) -> ReserveSpec:
        """Return one reserve's parameters."""
        return next(reserve for reserve in self.reserves if reserve.symbol == symbol)


def _usd(dollars: float) -> int:
    return round(dollars * PRICE_UNIT)


_VOLATILE: Final = RateSpec(optimal_usage_bps=4_500, base_bps=100, slope1_bps=700, slope2_bps=30_000)
_STABLE: Final = RateSpec(optimal_usage_bps=9_000, base_bps=150, slope1_bps=550, slope2_bps=6_000)
_ETHER: Final = RateSpec(optimal_usage_bps=9_000, base_bps=50, slope1_bps=270, slope2_bps=8_000)

DEFAULT_SPEC: Final = MarketSpec(
    reserves=(
        ReserveSpec(
            symbol="WETH",
            decimals=18,
            price_usd=_usd(3_000),
            ltv_bps=8_050,
            liquidation_threshold_bps=8_300,
            liquidation_bonus_bps=10_500,
            reserve_factor_bps=1_500,
            rates=_ETHER,
        ),
        ReserveSpec(
            symbol="wstETH",
            decimals=18,
            price_usd=_usd(3_600),
            ltv_bps=7_850,
            liquidation_threshold_bps=8_100,
            liquidation_bonus_bps=10_600,
            reserve_factor_bps=1_500,
            rates=_VOLATILE,
        ),
        ReserveSpec(
            symbol="WBTC",
            decimals=8,
            price_usd=_usd(90_000),
            ltv_bps=7_300,
            liquidation_threshold_bps=7_800,
            liquidation_bonus_bps=10_625,
            reserve_factor_bps=2_000,
            rates=_VOLATILE,
        ),
        ReserveSpec(
            symbol="USDC",
            decimals=6,
            price_usd=_usd(1),
            ltv_bps=7_500,
            liquidation_threshold_bps=7_800,
            liquidation_bonus_bps=10_450,
            borrowable_in_isolation=True,
            rates=_STABLE,
        ),
        ReserveSpec(
            symbol="USDT",
            decimals=6,
            price_usd=_usd(1),
            ltv_bps=7_400,
            liquidation_threshold_bps=7_600,
            liquidation_bonus_bps=10_500,
            borrowable_in_isolation=True,
            rates=_STABLE,
        ),
        ReserveSpec(
            symbol="DAI",
            decimals=18,
            price_usd=_usd(1),
            ltv_bps=6_700,
            liquidation_threshold_bps=7_700,
            liquidation_bonus_bps=10_500,
            borrowable_in_isolation=True,
            rates=_STABLE,
        ),
        ReserveSpec(
            symbol="LINK",
            decimals=18,
            price_usd=_usd(18.5),
            ltv_bps=6_600,
            liquidation_threshold_bps=7_100,
            liquidation_bonus_bps=10_700,
            reserve_factor_bps=2_000,
            rates=_VOLATILE,
        ),
        ReserveSpec(
            symbol="GUSD",
            decimals=2,
            price_usd=_usd(1),
            collateral=False,
            rates=_STABLE,
        ),
        ReserveSpec(
            symbol="CRV",
            decimals=18,
            price_usd=_usd(0.72),
            ltv_bps=3_500,
            liquidation_threshold_bps=4_100,
            liquidation_bonus_bps=10_830,
            reserve_factor_bps=3_500,
            debt_ceiling=5_000_000_000,
            rates=_VOLATILE,
        ),
    ),
    emodes=(
        EModeSpec(
            id=1,
            label="ETH correlated",
            ltv_bps=9_300,
            liquidation_threshold_bps=9_500,
            liquidation_bonus_bps=10_100,
            collaterals=("WETH", "wstETH"),
            borrowables=("WETH", "wstETH"),
        ),
        EModeSpec(
            id=2,
            label="Stablecoins",
            ltv_bps=9_000,
            liquidation_threshold_bps=9_300,
            liquidation_bonus_bps=10_200,
            collaterals=("USDC", "USDT", "DAI"),
            borrowables=("USDC", "USDT", "DAI"),
        ),
    ),
)
"""Nine reserves with 2, 6, 8 and 18 decimals: correlated, volatile, stable, borrow-only and isolated ones."""

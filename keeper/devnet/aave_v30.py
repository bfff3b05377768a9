"""Aave v3.0.2 as published in @aave/core-v3."""

from collections.abc import Iterator
from typing import Final

from keeper.devnet.chain import ADMIN, TREASURY, Tx
from keeper.devnet.linker import Linker
from keeper.devnet.site import Blueprint, Site
from keeper.devnet.spec import RateSpec, ReserveSpec

_RAY_PER_BPS: Final = 10**23
_NOBODY: Final = "0x" + "00" * 20
_FLASH_PREMIUM_BPS: Final = 5
_INIT_RESERVES: Final = (
    "initReserves((address,address,address,uint8,address,address,address,address,"
    "string,string,string,string,string,string,bytes)[])"
)
_PER_CALL: Final = 3
# Stable-rate borrowing stays switched off; its curve only has to pass the constructor's checks.
_STABLE_CURVE_BPS: Final = (50, 6_000, 100, 800, 2_000)


class AaveV30(Blueprint):
    """The generation with one efficiency mode per asset, half-up rounding and numbered errors."""

    min_decimals = 0
    liquidation_view = None

    async def implementations(self, linker: Linker, provider: str) -> tuple[str, str]:
        """Deploy Pool and PoolConfigurator."""
        return await linker.deploy("Pool", provider), await linker.deploy("PoolConfigurator")

    async def listings(self, site: Site) -> list[Tx]:
        """Deploy the three token implementations and one rate strategy per curve; list three reserves a call."""
        tokens = [
            await site.linker.deploy(name, site.pool) for name in ("AToken", "StableDebtToken", "VariableDebtToken")
        ]
        strategies: dict[RateSpec, str] = {}
        for reserve in site.spec.reserves:
            if reserve.rates not in strategies:
                strategies[reserve.rates] = await _strategy(site, reserve.rates)
        inputs = [_input(site, reserve, tokens, strategies[reserve.rates]) for reserve in site.spec.reserves]
        calls = [inputs[start : start + _PER_CALL] for start in range(0, len(inputs), _PER_CALL)]
        return [Tx(ADMIN, site.configurator, _INIT_RESERVES, (part,), gas=20_000_000) for part in calls]

    def emodes(self, site: Site) -> list[Tx]:
        """Define the categories, then put every member into its one category."""
        return list(_emodes(site))

    def flash_premium(self, site: Site) -> Tx:
        """Set the total premium."""
        return Tx(ADMIN, site.configurator, "updateFlashloanPremiumTotal(uint128)", (_FLASH_PREMIUM_BPS,))


async def _strategy(site: Site, rates: RateSpec) -> str:
    curve = (rates.optimal_usage_bps, rates.base_bps, rates.slope1_bps, rates.slope2_bps, *_STABLE_CURVE_BPS)
    rays = [bps * _RAY_PER_BPS for bps in curve]
    return await site.linker.deploy("DefaultReserveInterestRateStrategy", site.provider, *rays)


def _input(site: Site, reserve: ReserveSpec, tokens: list[str], strategy: str) -> tuple[object, ...]:
    name = reserve.symbol
    return (
        *tokens,
        reserve.decimals,
        strategy,
        site.token(name),
        TREASURY,
        _NOBODY,
        f"Aave {name}",
        f"a{name}",
        f"Aave Variable Debt {name}",
        f"variableDebt{name}",
        f"Aave Stable Debt {name}",
        f"stableDebt{name}",
        b"",
    )


def _emodes(site: Site) -> Iterator[Tx]:
    define = "setEModeCategory(uint8,uint16,uint16,uint16,address,string)"
    assign = "setAssetEModeCategory(address,uint8)"
    for mode in site.spec.emodes:
        limits = (mode.ltv_bps, mode.liquidation_threshold_bps, mode.liquidation_bonus_bps)
        yield Tx(ADMIN, site.configurator, define, (mode.id, *limits, _NOBODY, mode.label))
        for symbol in dict.fromkeys((*mode.collaterals, *mode.borrowables)):
            if symbol in site.assets:
                yield Tx(ADMIN, site.configurator, assign, (site.token(symbol), mode.id))

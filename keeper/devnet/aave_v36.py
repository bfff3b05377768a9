"""Aave v3.6 as published in @aave-dao/aave-v3-origin, compiled here."""

from collections.abc import Iterator
from typing import Final

from eth_abi.abi import encode

from keeper.devnet.chain import ADMIN, TREASURY, Tx
from keeper.devnet.linker import Linker
from keeper.devnet.site import Blueprint, Site
from keeper.devnet.spec import ReserveSpec

_NOBODY: Final = "0x" + "00" * 20
_FLASH_PREMIUM_BPS: Final = 5
_INIT_RESERVES: Final = "initReserves((address,address,address,string,string,string,string,bytes,bytes)[])"
_RATE_TYPES: Final = ("uint16", "uint32", "uint32", "uint32")


class AaveV36(Blueprint):
    """The generation with liquid efficiency modes, directed rounding, deficits and named errors."""

    # The configurator refuses tokens with fewer.
    min_decimals = 6
    liquidation_view = "LiquidationDataProvider"

    async def implementations(self, linker: Linker, provider: str) -> tuple[str, str]:
        """Deploy the pool with its one rate strategy, and the configurator."""
        strategy = await linker.deploy("DefaultReserveInterestRateStrategyV2", provider)
        pool = await linker.deploy("PoolInstance", provider, strategy)
        return pool, await linker.deploy("PoolConfiguratorInstance")

    async def listings(self, site: Site) -> list[Tx]:
        """Deploy the two token implementations and list every reserve."""
        a_token = await site.linker.deploy("ATokenInstance", site.pool, _NOBODY, TREASURY)
        debt_token = await site.linker.deploy("VariableDebtTokenInstance", site.pool, _NOBODY)
        inputs = [_input(site, reserve, a_token, debt_token) for reserve in site.spec.reserves]
        return [Tx(ADMIN, site.configurator, _INIT_RESERVES, (inputs,), gas=30_000_000)]

    def emodes(self, site: Site) -> list[Tx]:
        """Define the categories with their collateral and borrowable assets."""
        return list(_emodes(site))

    def flash_premium(self, site: Site) -> Tx:
        """Set the premium."""
        return Tx(ADMIN, site.configurator, "updateFlashloanPremium(uint128)", (_FLASH_PREMIUM_BPS,))


def _input(site: Site, reserve: ReserveSpec, a_token: str, debt_token: str) -> tuple[object, ...]:
    name, rates = reserve.symbol, reserve.rates
    curve = (rates.optimal_usage_bps, rates.base_bps, rates.slope1_bps, rates.slope2_bps)
    return (
        a_token,
        debt_token,
        site.token(name),
        f"Aave {name}",
        f"a{name}",
        f"Aave Variable Debt {name}",
        f"variableDebt{name}",
        b"",
        encode(_RATE_TYPES, curve),
    )


def _emodes(site: Site) -> Iterator[Tx]:
    define = "setEModeCategory(uint8,uint16,uint16,uint16,string)"
    collateral = "setAssetCollateralInEMode(address,uint8,bool)"
    borrowable = "setAssetBorrowableInEMode(address,uint8,bool)"
    for mode in site.spec.emodes:
        limits = (mode.ltv_bps, mode.liquidation_threshold_bps, mode.liquidation_bonus_bps)
        yield Tx(ADMIN, site.configurator, define, (mode.id, *limits, mode.label))
        for signature, symbols in ((collateral, mode.collaterals), (borrowable, mode.borrowables)):
            for symbol in symbols:
                if symbol in site.assets:
                    yield Tx(ADMIN, site.configurator, signature, (site.token(symbol), mode.id, True))

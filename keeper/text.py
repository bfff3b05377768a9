"""Exact integers as people read them. Nothing is computed from these texts."""

from eth_utils.address import to_checksum_address

from keeper.domain.position import Health, PositionKey
from keeper.domain.units import BASE_UNIT, MAX_UINT256, WAD, Address

_HUNDREDTHS = 10_000


def address_text(address: Address) -> str:
    """Write an address with its checksum."""
    return str(to_checksum_address(address))


def position_text(key: PositionKey) -> str:
    """Write whose position it is, and the beginning of what tells it from others of the account."""
    part = f" 0x{key.part.hex()[:8]}…" if key.part else ""
    return f"{address_text(key.account)}{part}"


def amount_text(amount: int, decimals: int, places: int = 6) -> str:
    """Write a token amount in whole tokens, cut (not rounded) after `places` digits, without trailing zeros."""
    whole, part = divmod(abs(amount), 10**decimals)
    digits = f"{part:0{decimals}d}"[:places].rstrip("0") if decimals else ""
    sign = "-" if amount < 0 else ""
    return f"{sign}{whole:,}.{digits}" if digits else f"{sign}{whole:,}"


def usd_text(base: int) -> str:
    """Write base currency as dollars and cents, cut toward zero."""
    cents = abs(base) * 100 // BASE_UNIT
    sign = "-" if base < 0 else ""
    return f"{sign}${cents // 100:,}.{cents % 100:02d}"


def health_text(health_factor_wad: int) -> str:
    """Write a health factor with four digits, cut, so that 0.99999 never reads as 1; infinite without debt."""
    if health_factor_wad == MAX_UINT256:
        return "∞"
    whole, part = divmod(health_factor_wad, WAD)
    return f"{whole}.{part * 10_000 // WAD:04d}"


def distance_bps(health: Health) -> int | None:
    """Return by how many hundredths of a percent all collateral may fall before the position can be liquidated.

    Rounding: down; 0 when it already can, None without debt.
    """
    factor = health.health_factor_wad
    if factor == MAX_UINT256:
        return None
    return (factor - WAD) * _HUNDREDTHS // factor if factor > WAD else 0


def distance_text(health: Health) -> str:
    """Write the distance to liquidation as a percentage."""
    bps = distance_bps(health)
    return "∞" if bps is None else f"{bps // 100}.{bps % 100:02d}%"

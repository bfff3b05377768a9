"""Compare the keeper's own arithmetic with the chain's, a few accounts at a time, while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.domain.position import Health
from keeper.domain.units import Address


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An account whose local health differs from the chain's at the same block."""

    account: Address
    local: Health
    chain: Health | None


def sample(accounts: Sequence[Address], turn: int, size: int) -> tuple[Address, ...]:
    """Choose the accounts of one turn, so that successive turns go round all of them."""
    if not accounts:
        return ()
    start = turn * size % len(accounts)
    count = min(size, len(accounts))
    return tuple(accounts[(start + offset) % len(accounts)] for offset in range(count))


def differs(local: Health, chain: Health | None) -> bool:
    """Return whether any of the three figures that a protocol reports is off by as much as one unit."""
    if chain is None:
        return True
    return (local.health_factor_wad, local.collateral_base, local.debt_base) != (
        chain.health_factor_wad,
        chain.collateral_base,
        chain.debt_base,
    )

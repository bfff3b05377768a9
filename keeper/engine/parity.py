"""Compare the keeper's own arithmetic with the chain's, a few positions at a time, while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.domain.position import Health
from keeper.domain.units import PositionId


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A position whose local health differs from the chain's at the same block."""

    id: PositionId
    local: Health
    chain: Health | None


def sample(ids: Sequence[PositionId], turn: int, size: int) -> tuple[PositionId, ...]:
    """Choose the positions of one turn, so that successive turns go round all of them."""
    if not ids:
        return ()
    start = turn * size % len(ids)
    count = min(size, len(ids))
    return tuple(ids[(start + offset) % len(ids)] for offset in range(count))


def differs(local: Health, chain: Health | None) -> bool:
    """Return whether the verdict, or any of the figures that a protocol reports, is off by as much as one unit."""
    return chain is None or _figures(local) != _figures(chain)


def _figures(health: Health) -> tuple[int, int, int, bool]:
    return health.health_factor_wad, health.collateral_base, health.debt_base, health.is_liquidatable

"""What one pass at one head found and decided."""

from collections.abc import Mapping
from dataclasses import dataclass

from keeper.chain.ancestry import Extension
from keeper.domain.chain import BlockHead
from keeper.domain.plan import Inventory
from keeper.domain.ports import Market, Snapshot, Taken
from keeper.domain.position import PositionKey
from keeper.domain.units import PositionId
from keeper.engine.parity import Mismatch
from keeper.engine.plan import Planned
from keeper.engine.scan import Candidate, Scan
from keeper.oracles.guard import PriceMove


@dataclass(frozen=True, slots=True)
class MarketPass:
    """What one pass learnt of one market."""

    market: Market
    snapshot: Snapshot
    scan: Scan
    touched: int
    new_positions: frozenset[PositionId]
    is_rediscovered: bool
    parity_checked: int
    mismatches: tuple[Mismatch, ...]
    restored: frozenset[PositionId]
    impossible: tuple[PositionId, ...]
    taken: tuple[Taken, ...]
    prices: tuple[PriceMove, ...] = ()
    doubted: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """Everything that one pass found and decided; the daemon hands it on.

    `invalid` names the markets that answered with a value no contract could hold: they were not valued at this head;
    `silent` names the venues and lenders that nothing was traded with, because they could not be read.
    """

    head: BlockHead
    extension: Extension
    markets: tuple[MarketPass, ...]
    inventory: Inventory | None
    planned: Planned
    candidates: Mapping[PositionKey, Candidate]
    quarantined: int
    invalid: Mapping[str, str]
    silent: Mapping[str, str]
    stages_s: Mapping[str, float]

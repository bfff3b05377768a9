"""What holds a position back between two scans: locks while in flight, and cool-downs after a failure.

A cool-down belongs to one way of liquidating a position, to a class of failure and to the state that caused it: it ends
early when the position was rewritten or when the profit at stake moved by a twentieth, doubles while the same failure
repeats, and holds back no other way: a pair that always fails must not protect the rest of its account.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Outcome
from keeper.domain.ports import Position
from keeper.domain.position import Opportunity, PositionKey
from keeper.domain.units import Base

Way = tuple[bytes, ...]
"""How a position is liquidated: by which contract, what is repaid, what is seized."""

ANY_WAY: Final[Way] = ()
MAX_COOL_DOWN_BLOCKS: Final = 256

COOL_DOWN_BLOCKS: Final[Mapping[Reason, int]] = {
    Reason.SIMULATION_REVERTED: 2,
    Reason.TOKEN_BLOCKED: 32,
    Reason.UNTRUSTED: 32,
    Reason.REVERTED: 4,
    Reason.LOST_RACE: 1,
    Reason.CANCELLED: 4,
    Reason.DUST_RULE: 2,
    Reason.PAUSED: 2,
    Reason.UNKNOWN: 4,
}
"""The first wait of each class of failure. A class that is not here is judged afresh at the next head."""


REFUSED_BLOCKS: Final[Mapping[Reason, tuple[int, int]]] = {
    Reason.NO_ROUTE: (4, 64),
    Reason.NOT_REDEEMABLE: (2, 16),
    Reason.NO_LENDER: (2, 16),
    Reason.PRICE_IMPACT: (1, 4),
    Reason.UNPROFITABLE: (1, 4),
}
"""The first and the longest wait of what nobody would trade: to look again costs time, which others need more."""


def way_of(opportunity: Opportunity) -> Way:
    """Return what a cool-down of an opportunity belongs to."""
    return opportunity.target, opportunity.repay.address, opportunity.seize.address


@dataclass(frozen=True, slots=True)
class CoolDown:
    """Why a position waits, until which block, and the state in which it failed."""

    reason: Reason
    until_block: int
    failures: int
    position: Position | None
    profit_base: Base

    def is_over(self, block: int, position: Position | None, profit_base: Base) -> bool:
        """Return whether the wait has ended, or the state that caused it has changed."""
        if block >= self.until_block or position != self.position:
            return True
        return 20 * abs(profit_base - self.profit_base) > abs(self.profit_base)


class Limits:
    """Owned by the scan loop; outcomes are applied between two scans."""

    def __init__(self) -> None:
        """Start without locks or cool-downs."""
        self._locked: dict[PositionKey, str] = {}
        self._cool: dict[tuple[PositionKey, Way], CoolDown] = {}

    def lock(self, key: PositionKey, plan_id: str) -> None:
        """Hold a position until its plan has landed or failed."""
        self._locked[key] = plan_id

    def release(self, key: PositionKey) -> None:
        """Let a position go whose plan never left."""
        self._locked.pop(key, None)

    def is_locked(self, key: PositionKey) -> bool:
        """Return whether a plan for the position is in flight."""
        return key in self._locked

    def settle(self, outcome: Outcome, position: Position | None) -> None:
        """Apply the end of a plan: unlock what it locked, and cool down after a failure."""
        if self._locked.get(outcome.key) == outcome.plan_id:
            self.release(outcome.key)
        what = outcome.opportunity
        way, profit = (way_of(what), what.stake_base) if what else (ANY_WAY, Base(0))
        if outcome.result is Result.WON:
            self._cool.pop((outcome.key, way), None)
        elif outcome.reason is not None:
            self.fail(outcome.key, outcome.reason, outcome.block, position, profit, way=way)

    def fail(
        self,
        key: PositionKey,
        reason: Reason,
        block: int,
        position: Position | None,
        profit_base: Base,
        *,
        way: Way = ANY_WAY,
    ) -> None:
        """Start or double the wait of one way to liquidate a position after a failure."""
        if (first := COOL_DOWN_BLOCKS.get(reason)) is not None:
            self._hold(CoolDown(reason, block, 1, position, profit_base), (key, way), first, MAX_COOL_DOWN_BLOCKS)

    def refuse(self, key: PositionKey, reason: Reason, block: int, position: Position, stake_base: Base) -> None:
        """Start or double the wait of a position that nothing could be traded for."""
        if (waits := REFUSED_BLOCKS.get(reason)) is not None:
            self._hold(CoolDown(reason, block, 1, position, stake_base), (key, ANY_WAY), *waits)

    def _hold(self, cool: CoolDown, place: tuple[PositionKey, Way], first: int, longest: int) -> None:
        before = self._cool.get(place)
        failures = before.failures + 1 if before is not None and before.reason is cool.reason else 1
        wait = min(first << min(failures - 1, longest.bit_length()), longest)
        self._cool[place] = replace(cool, until_block=cool.until_block + wait, failures=failures)

    def cooling(
        self, key: PositionKey, block: int, position: Position | None, profit_base: Base, *, way: Way = ANY_WAY
    ) -> CoolDown | None:
        """Return the cool-down that still holds back a way to liquidate a position, or None.

        One that has run out is kept as the memory of how often the same failure came, until the state changes.
        """
        for each in (ANY_WAY, way):
            cool = self._cool.get((key, each))
            if cool is None:
                continue
            if not cool.is_over(block, position, profit_base):
                return cool
            if position != cool.position:
                del self._cool[key, each]
        return None

    def sweep(self, block: int, liquidatable: Collection[PositionKey]) -> None:
        """Forget failures long past of positions that recovered or left; an ordinary memory ends with the state."""
        over = [place for place, cool in self._cool.items() if cool.until_block + MAX_COOL_DOWN_BLOCKS <= block]
        for place in over:
            if place[0] not in liquidatable:
                del self._cool[place]

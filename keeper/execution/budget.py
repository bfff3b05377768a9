"""How much may go wrong before nothing new begins: gas lost, transactions begun, failures in a row. Pure integers.

Time is that of heads, so that it is the same after a restart and in a replay.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from keeper.domain.outcome import Reason, Result
from keeper.domain.units import Wei
from keeper.store.records import Settled

MINUTE_S: Final = 60
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
LONGEST_PAUSE_S: Final = HOUR_S
"""A breaker's pause doubles up to this, or stays what the operator has set if that is longer."""
FIRST_REFUSAL_PAUSE_S: Final = 8
LONGEST_REFUSAL_PAUSE_S: Final = 128
REFUSALS_S: Final = 8 * LONGEST_REFUSAL_PAUSE_S
"""How far back refusals are counted."""
_REFUSALS: Final = frozenset({Reason.FEE_CAP, Reason.BROADCAST_FAILED, Reason.INSUFFICIENT_GAS_MONEY})


class Limit(StrEnum):
    """What lets nothing begin."""

    LOSS_PER_HOUR = "loss_per_hour"
    LOSS_PER_DAY = "loss_per_day"
    TRANSACTIONS_PER_MINUTE = "transactions_per_minute"
    BREAKER = "breaker"
    NODE_FEE_CAP = "node_fee_cap"
    """Every node refuses to take a fee so high, though the operator allows it."""
    NODE_REFUSALS = "node_refusals"
    """Every node refuses what is sent, for another reason."""


Holds = Mapping[Limit, str]
"""Limits that hold everything back now, each with the figures."""
FREE: Final[Holds] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator is ready to lose.

    A loss is gas that bought nothing. `breaker_losses` plans in a row without a win let nothing begin for
    `breaker_pause_s`; then a single one decides: won, all is as before; not won, the pause is twice as long.
    """

    loss_per_hour_wei: Wei
    loss_per_day_wei: Wei
    transactions_per_minute: int
    breaker_losses: int
    breaker_pause_s: int


@dataclass(frozen=True, slots=True)
class Breaker:
    """How many plans in a row were not won. It is closed as long as `pause_s` is 0, and half open from `until_s` on."""

    losses: int = 0
    pause_s: int = 0
    until_s: int = 0

    def after(self, ended: Settled, limits: Limits) -> "Breaker":
        """Take how one of our transactions ended; what began before the pause was over cannot double it."""
        if ended.result is None:
            return self
        if ended.result is Result.WON:
            return Breaker()
        losses = self.losses + 1
        if not self.pause_s:
            pause_s = limits.breaker_pause_s if losses >= limits.breaker_losses else 0
        elif ended.created_s >= self.until_s:
            pause_s = min(2 * self.pause_s, max(LONGEST_PAUSE_S, limits.breaker_pause_s))
        else:
            return replace(self, losses=losses)
        return Breaker(losses, pause_s, ended.settled_s + pause_s if pause_s else 0)

    def is_open(self, now_s: int) -> bool:
        """Return whether nothing may begin."""
        return now_s < self.until_s

    def is_half_open(self, now_s: int) -> bool:
        """Return whether a single transaction may begin, to find out."""
        return bool(self.pause_s) and not self.is_open(now_s)


def lost_wei(ended: Iterable[Settled], now_s: int, within_s: int) -> Wei:
    """Return what was lost within a time up to now."""
    return Wei(sum(each.cost_wei for each in ended if each.is_loss and each.settled_s > now_s - within_s))


def spent(ended: Sequence[Settled], limits: Limits, now_s: int) -> dict[Limit, str]:
    """Return the loss budgets that are used up; a budget of nothing is used up by the first loss."""
    found = {}
    for limit, most, within_s in (
        (Limit.LOSS_PER_HOUR, limits.loss_per_hour_wei, HOUR_S),
        (Limit.LOSS_PER_DAY, limits.loss_per_day_wei, DAY_S),
    ):
        lost = lost_wei(ended, now_s, within_s)
        if lost and lost >= most:
            found[limit] = f"{lost} of {most} wei lost"
    return found


def begun_lately(begun: Iterable[tuple[int, Reason | None]], now_s: int) -> int:
    """Return how many transactions began within the last minute."""
    return sum(created_s > now_s - MINUTE_S for created_s, _ in begun)


def refused(begun: Sequence[tuple[int, Reason | None]], now_s: int) -> dict[Limit, str]:
    """Return the hold after heads at which every node refused all that began, longer with each such head in a row.

    `begun` is when each transaction began, oldest first, and why it was voided if it was.
    """
    heads = 0
    last: tuple[int, Reason] | None = None
    for created_s, reason in reversed(begun):
        if reason not in _REFUSALS or reason is None:
            break
        if last is None or created_s != last[0]:
            heads += 1
            last = (created_s, reason)
    if last is None:
        return {}
    newest_s, newest = begun[-1]
    pause_s = min(FIRST_REFUSAL_PAUSE_S << min(heads - 1, 16), LONGEST_REFUSAL_PAUSE_S)
    if now_s >= newest_s + pause_s:
        return {}
    limit = Limit.NODE_FEE_CAP if newest is Reason.FEE_CAP else Limit.NODE_REFUSALS
    return {limit: f"refused by every node at {heads} heads in a row"}

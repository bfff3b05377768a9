"""More than one liquidation of the same pair in a row, where the rules leave something for another one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from keeper.domain.chain import Moment
from keeper.domain.ports import Market, Snapshot
from keeper.domain.position import Health, Opportunity
from keeper.domain.units import WAD, Address, TokenAmount

_STEPS: Final = 10
_FIRST_STEP: Final = 4_096
_WIDER: Final = 16
_EXACT: Final = 1_024


@dataclass(frozen=True, slots=True)
class Stage:
    """One liquidation, of the position as those before it leave it."""

    position: Any
    opportunity: Opportunity


@dataclass(frozen=True, slots=True)
class _Next:
    """What a stage leaves: how healthy that is, and the same pair's next liquidation, if there is one."""

    health: Health
    stage: Stage | None


@dataclass(frozen=True, slots=True)
class Splitter:
    """One market at one moment."""

    market: Market
    snapshot: Snapshot
    at: Moment

    def cut(self, stage: Stage, most: int) -> Stage | None:
        """Return the stage with no more to pay than that, or None where that is not legal."""
        budget = {stage.opportunity.repay.address: TokenAmount(most)}
        return self._assess(stage.position, stage.opportunity, budget)[1]

    def longer(
        self, stages: tuple[Stage, ...], health: Health, pays: Callable[[int], bool]
    ) -> tuple[tuple[Stage, ...], bool] | None:
        """Return the stages with one more, and whether all before it are as large as they can be; None where none follows.

        Where the last stage would leave the position healthy, it is made as large as it can be without.
        `health` is the position's before the last stage; what surely does not pay is not looked for to the end.
        """
        *before, last = stages
        following = self._next(last)
        if following is None:
            return None
        others = _repaid(*before)
        if following.stage is not None:
            total = others + _repaid(last, following.stage)
            return ((*stages, following.stage), True) if pays(total) else None
        if following.health.is_liquidatable:
            return None
        guess = _estimate(health, following.health, last.opportunity.repay_amount)
        found = self._largest(last, guess, lambda repaid: pays(others + repaid))
        return None if found is None else ((*before, *found), False)

    def health(self, stage: Stage) -> Health:
        """Return how healthy the position is before a stage."""
        found: Health = self.market.rules.health(stage.position, self.snapshot, self.at)
        return found

    def _largest(self, whole: Stage, guess: int, pays: Callable[[int], bool]) -> tuple[Stage, Stage] | None:
        """Return the largest stage that leaves something to liquidate, with what follows: a search that starts at a guess."""
        most = int(whole.opportunity.repay_amount)
        step, low, high = most // _FIRST_STEP + 1, 0, most
        found: Stage | None = None
        tried = min(max(guess, 1), most - 1)
        for _ in range(_STEPS):
            if high - low <= most // _EXACT + 1 or not low < tried < high:
                break
            following = self._next(_share(whole, tried))
            if following is not None and following.stage is not None:
                found, low = following.stage, tried
                tried = min(tried + step, (low + high) // 2) if high == most else (low + high) // 2
            else:
                high = tried
                tried = max(tried - step, (low + high) // 2) if low == 0 else (low + high) // 2
            if found is not None and not pays(low + found.opportunity.repay_amount + high - low):
                return None
            step *= _WIDER
        first = self.cut(whole, low) if low else None
        exact = None if first is None else self._next(first)
        return None if first is None or exact is None or exact.stage is None else (first, exact.stage)

    def _next(self, stage: Stage) -> _Next | None:
        programs = self.market.programs
        left = None if programs is None else programs.after(stage.position, self.snapshot, stage.opportunity)
        return None if left is None else _Next(*self._assess(left, stage.opportunity, None))

    def _assess(
        self, position: Any, like: Opportunity, budget: Mapping[Address, TokenAmount] | None
    ) -> tuple[Health, Stage | None]:
        found = self.market.rules.assess(position, self.snapshot, self.at, budget)
        for each in found.opportunities:
            if is_same_pair(each, like):
                return found.health, Stage(position, each)
        return found.health, None


def _repaid(*stages: Stage) -> int:
    return sum(each.opportunity.repay_amount for each in stages)


def _share(whole: Stage, repaid: int) -> Stage:
    """Return about what the stage is for a part of the repayment."""
    every = whole.opportunity
    seized, fee = (each * repaid // every.repay_amount for each in (every.seized_amount, every.protocol_fee_amount))
    part = replace(
        every,
        repay_amount=TokenAmount(repaid),
        seized_amount=TokenAmount(seized),
        protocol_fee_amount=TokenAmount(fee),
    )
    return Stage(whole.position, part)


def is_same_pair(one: Opportunity, other: Opportunity) -> bool:
    """Return whether two opportunities are the same call for different amounts."""
    return (one.repay.address, one.seize.address, one.target) == (
        other.repay.address,
        other.seize.address,
        other.target,
    )


def _estimate(before: Health, after: Health, repaid: int) -> int:
    """Return about how much can be repaid until the position is healthy: what is missing shrinks in a straight line."""
    missing = before.debt_base - before.debt_base * before.health_factor_wad // WAD
    beyond = after.debt_base * after.health_factor_wad // WAD - after.debt_base
    if missing <= 0 or beyond < 0:
        return repaid // 2
    return repaid * missing // (missing + beyond) * 99_999 // 100_000

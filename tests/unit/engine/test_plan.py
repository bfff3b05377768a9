"""From candidates to plans."""

from dataclasses import replace
from typing import Any

from keeper.domain.mode import Mode
from keeper.domain.outcome import Decision, Reason, Result
from keeper.domain.plan import Inventory, Outcome
from keeper.domain.position import Assessment, PositionKey
from keeper.domain.units import Address, Base, TokenAmount, Wei
from keeper.engine.limits import Limits
from keeper.engine.plan import Planned, Policy, plan
from keeper.engine.scan import MarketBook
from tests.toy import CASH, POOL, ToyPosition, ToyReader, ToyRules, ToySnapshot, account, address, head, toy_market

POLICY = Policy(
    mode=Mode.LIVE, min_profit_base=Base(10**8), approval_base=Base(10**6 * 10**8), max_plans=10, signer=None
)
ELSEWHERE = Address(b"\x5e" * 20)
RICH = Inventory(Wei(10**18), {CASH.address: TokenAmount(10**9)}, {(CASH.address, POOL): TokenAmount(10**9)})


def key(number: int) -> PositionKey:
    return PositionKey("toy", account(number))


def planned(
    positions: list[ToyPosition],
    *,
    inventory: Inventory | None = RICH,
    policy: Policy = POLICY,
    limits: Limits | None = None,
    snapshot: ToySnapshot | None = None,
) -> Planned:
    snapshot = snapshot or ToySnapshot(head())
    book = MarketBook(toy_market(ToyReader()))
    book.put(positions, snapshot)
    found = book.scan(snapshot, snapshot.head.landing(12))
    return plan(snapshot.head, found.candidates, inventory, limits or Limits(), policy)


def only_reason(result: Planned) -> Reason | None:
    assert len(result.decisions) == 1
    assert result.batch is None
    return result.decisions[0].reason


def test_a_healthy_position_is_no_candidate() -> None:
    assert planned([ToyPosition(account(1), gold=100, cash=8_000)]) == Planned((), None)


def test_the_largest_profit_is_planned_first() -> None:
    result = planned([ToyPosition(account(n), gold=100 * n, cash=8_100 * n) for n in (1, 3, 2)])
    assert result.batch is not None
    assert [each.key.id for each in result.batch.plans] == [account(3), account(2), account(1)]
    assert result.decisions == ()


def test_a_plan_repays_half_and_seizes_with_the_bonus() -> None:
    result = planned([ToyPosition(account(1), gold=100, cash=9_000)])
    assert result.batch is not None
    opportunity = result.batch.plans[0].opportunity
    assert (opportunity.repay_amount, opportunity.seized_amount) == (4_500, 49)
    assert opportunity.gross_profit_base == (4_900 - 4_500) * 10**8


def test_a_profit_below_the_floor_is_skipped_as_unprofitable() -> None:
    policy = Policy(Mode.LIVE, Base(10**12), POLICY.approval_base, 10, None)
    assert only_reason(planned([ToyPosition(account(1), 100, 9_000)], policy=policy)) is Reason.UNPROFITABLE


def test_gas_counts_against_the_profit() -> None:
    costly = ToySnapshot(head(base_fee_wei=10**15))
    assert only_reason(planned([ToyPosition(account(1), 100, 9_000)], snapshot=costly)) is Reason.UNPROFITABLE


def test_observe_mode_never_makes_a_plan() -> None:
    policy = Policy(Mode.OBSERVE, Base(1), POLICY.approval_base, 10, None)
    assert only_reason(planned([ToyPosition(account(1), 100, 9_000)], policy=policy)) is Reason.OBSERVE_MODE


def test_the_inventory_is_shared_by_the_plans_of_one_head() -> None:
    inventory = Inventory(Wei(1), {CASH.address: TokenAmount(5_900)}, {(CASH.address, POOL): TokenAmount(10**9)})
    result = planned([ToyPosition(account(1), 100, 9_000), ToyPosition(account(2), 101, 9_000)], inventory=inventory)
    assert result.batch is not None
    assert [each.opportunity.repay_amount for each in result.batch.plans] == [4_500, 1_400]


def test_an_empty_purse_is_named_with_what_was_missing() -> None:
    result = planned([ToyPosition(account(1), 100, 9_000)], inventory=Inventory(Wei(1), {}, {}))
    assert only_reason(result) is Reason.INSUFFICIENT_INVENTORY
    assert result.decisions[0].detail == "needs 4500 of CASH, may spend 0"


def test_a_missing_allowance_is_approved_once_up_to_the_cap() -> None:
    inventory = Inventory(Wei(1), {CASH.address: TokenAmount(10**9)}, {})
    result = planned([ToyPosition(account(n), 100, 9_000) for n in (1, 2)], inventory=inventory)
    assert result.batch is not None
    assert [(each.token, each.spender, each.amount) for each in result.batch.approvals] == [(CASH.address, POOL, 10**6)]


def test_no_plan_pulls_more_than_the_approval_cap() -> None:
    policy = Policy(Mode.LIVE, Base(1), Base(1_000 * 10**8), 10, None)
    inventory = Inventory(Wei(1), {CASH.address: TokenAmount(10**9)}, {})
    result = planned([ToyPosition(account(1), 100, 9_000)], inventory=inventory, policy=policy)
    assert result.batch is not None
    assert result.batch.plans[0].opportunity.repay_limit == 1_000


def test_an_account_in_flight_is_not_planned_again() -> None:
    limits = Limits()
    limits.lock(key(1), "plan")
    assert only_reason(planned([ToyPosition(account(1), 100, 9_000)], limits=limits)) is Reason.IN_FLIGHT


def test_plans_beyond_the_limit_of_one_head_are_named_so() -> None:
    policy = Policy(Mode.LIVE, Base(1), POLICY.approval_base, 1, None)
    result = planned([ToyPosition(account(n), 100 * n, 9_000 * n) for n in (1, 2)], policy=policy)
    assert result.batch is not None
    assert len(result.batch.plans) == 1
    assert [each.reason for each in result.decisions] == [Reason.BATCH_FULL]


def test_the_signers_own_account_is_left_alone() -> None:
    policy = Policy(Mode.LIVE, Base(1), POLICY.approval_base, 1, address(1))
    assert only_reason(planned([ToyPosition(account(1), 100, 9_000)], policy=policy)) is Reason.RECEIVER_IS_BORROWER


def test_a_blocked_market_gives_its_own_reason() -> None:
    snapshot = ToySnapshot(head(), blocked=Reason.PAUSED)
    assert only_reason(planned([ToyPosition(account(1), 100, 9_000)], snapshot=snapshot)) is Reason.PAUSED


def test_without_a_native_price_nothing_is_sent() -> None:
    snapshot = ToySnapshot(head(), native_price_base=None)
    assert only_reason(planned([ToyPosition(account(1), 100, 9_000)], snapshot=snapshot)) is Reason.NATIVE_PRICE_UNKNOWN


def test_every_candidate_ends_in_exactly_one_decision_or_plan() -> None:
    positions = [ToyPosition(account(n), 100, 8_001 + 10 * n) for n in range(1, 60)]
    result = planned(positions)
    assert result.batch is not None
    named = [each.key.id for each in result.decisions] + [each.key.id for each in result.batch.plans]
    assert sorted(named) == [each.id for each in positions]
    assert {each.decision for each in result.decisions} == {Decision.SKIPPED}


def test_a_reverted_plan_cools_down_until_the_position_changes() -> None:
    limits, position = Limits(), ToyPosition(account(1), 100, 9_000)
    limits.lock(key(1), "plan")
    lost = Outcome("plan", key(1), Result.REVERTED, Reason.REVERTED, "", 100)
    limits.settle(lost, position)
    assert limits.cooling(key(1), 103, position, Base(0)) is not None
    assert limits.cooling(key(1), 104, position, Base(0)) is None
    assert limits.cooling(key(1), 101, ToyPosition(account(1), 100, 9_001), Base(0)) is None


def test_a_cool_down_doubles_while_the_same_failure_repeats() -> None:
    limits, position, waits = Limits(), ToyPosition(account(1), 100, 9_000), []
    for _ in range(12):
        limits.fail(key(1), Reason.REVERTED, 0, position, Base(100))
        waits.append(next(b for b in range(1_000) if limits.cooling(key(1), b, position, Base(100)) is None))
    assert waits == [4, 8, 16, 32, 64, 128, 256, 256, 256, 256, 256, 256]


def test_a_cool_down_ends_when_the_profit_moves() -> None:
    limits, position = Limits(), ToyPosition(account(1), 100, 9_000)
    limits.fail(key(1), Reason.REVERTED, 100, position, Base(1_000))
    assert limits.cooling(key(1), 101, position, Base(1_050)) is not None
    assert limits.cooling(key(1), 101, position, Base(1_051)) is None


class TwoWays(ToyRules):
    """The same position can be liquidated by another contract as well, for a little less."""

    def assess(self, *known: Any) -> Assessment:
        found = super().assess(*known)
        lesser = [
            replace(each, target=ELSEWHERE, seized_base=Base(each.seized_base - 10**8)) for each in found.opportunities
        ]
        return replace(found, opportunities=(*found.opportunities, *lesser))


def two_ways(limits: Limits) -> Planned:
    snapshot = ToySnapshot(head())
    book = MarketBook(replace(toy_market(ToyReader()), rules=TwoWays()))
    book.put([ToyPosition(account(1), 100, 9_000)], snapshot)
    found = book.scan(snapshot, snapshot.head.landing(12))
    return plan(snapshot.head, found.candidates, RICH, limits, POLICY)


def test_a_way_that_fails_holds_back_no_other_way_to_liquidate_the_position() -> None:
    """Else a borrower could protect himself by a contract of his own that pays best and always reverts."""
    limits = Limits()
    for target, failed in ((POOL, POOL), (ELSEWHERE, ELSEWHERE)):
        made = two_ways(limits)
        assert made.batch is not None
        (chosen,) = made.batch.plans
        assert chosen.opportunity.target == target
        what = replace(chosen.opportunity, target=failed)
        lost = Outcome("plan", key(1), Result.REVERTED, Reason.REVERTED, "", chosen.head.number, opportunity=what)
        limits.settle(lost, ToyPosition(account(1), 100, 9_000))
    assert only_reason(two_ways(limits)) is Reason.COOLING_DOWN


def test_an_allowance_is_set_once_for_all_plans_of_a_head_and_counts_what_the_first_ones_pull() -> None:
    policy = Policy(Mode.LIVE, Base(1), Base(10_000 * 10**8), 10, None)
    inventory = Inventory(Wei(1), {CASH.address: TokenAmount(10**9)}, {(CASH.address, POOL): TokenAmount(4_600)})
    result = planned([ToyPosition(account(n), 100, 9_000) for n in (1, 2, 3)], inventory=inventory, policy=policy)
    assert result.batch is not None
    assert [each.amount for each in result.batch.approvals] == [10_000]
    assert [each.opportunity.repay_limit for each in result.batch.plans] == [4_500, 4_500, 1_000]


def test_a_late_outcome_does_not_unlock_the_plan_that_came_after_it() -> None:
    limits = Limits()
    limits.lock(key(1), "second")
    limits.settle(Outcome("first", key(1), Result.WON, None, "", 100), None)
    assert limits.is_locked(key(1))
    limits.settle(Outcome("second", key(1), Result.WON, None, "", 101), None)
    assert not limits.is_locked(key(1))

"""How much may go wrong: budgets by the hour and the day, a breaker that finds out by itself, and slower tries."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.outcome import Reason, Result
from keeper.domain.units import Wei
from keeper.execution.budget import (
    DAY_S,
    HOUR_S,
    LONGEST_PAUSE_S,
    LONGEST_REFUSAL_PAUSE_S,
    Breaker,
    Limit,
    Limits,
    begun_lately,
    refused,
    spent,
)
from keeper.store.records import Settled

LIMITS = Limits(Wei(100), Wei(300), 5, 3, 60)
NOW = 1_700_000_000


def ended(at_s: int, cost: int = 10, result: Result | None = Result.REVERTED, created_s: int | None = None) -> Settled:
    begun = at_s - 24 if created_s is None else created_s
    return Settled(f"{at_s}/{cost}/{result}/{begun}", begun, at_s, Wei(cost), result is not Result.WON, result)


def folded(*found: Settled) -> Breaker:
    breaker = Breaker()
    for each in found:
        breaker = breaker.after(each, LIMITS)
    return breaker


def test_a_budget_is_used_up_by_the_losses_of_its_own_time():
    assert spent([ended(NOW - 10, 99)], LIMITS, NOW) == {}
    assert spent([ended(NOW - 10, 99), ended(NOW - HOUR_S, 99)], LIMITS, NOW) == {}
    hour = spent([ended(NOW - 10, 60), ended(NOW - 9, 40)], LIMITS, NOW)
    assert hour == {Limit.LOSS_PER_HOUR: "100 of 100 wei lost"}
    day = spent([ended(NOW - HOUR_S * hours, 60) for hours in range(1, 6)], LIMITS, NOW)
    assert day == {Limit.LOSS_PER_DAY: "300 of 300 wei lost"}
    assert spent([ended(NOW - DAY_S, 10**9)], LIMITS, NOW) == {}


def test_what_was_won_or_worked_is_no_loss():
    found = [ended(NOW, 10**9, Result.WON), Settled("approval", NOW, NOW, Wei(10**9), is_loss=False, result=None)]
    assert spent(found, LIMITS, NOW) == {}
    gap = Settled("gap", NOW, NOW, Wei(10**9), is_loss=True, result=None)
    assert set(spent([*found, gap], LIMITS, NOW)) == {Limit.LOSS_PER_HOUR, Limit.LOSS_PER_DAY}


def test_a_budget_of_nothing_is_used_up_by_the_first_loss_and_not_before():
    frugal = Limits(Wei(0), Wei(0), 5, 3, 60)
    assert spent([], frugal, NOW) == {}
    assert Limit.LOSS_PER_HOUR in spent([ended(NOW, 1)], frugal, NOW)


def test_enough_losses_in_a_row_open_the_breaker_and_a_win_between_them_does_not():
    assert not folded(ended(1), ended(2)).is_open(3)
    assert not folded(ended(1), ended(2), ended(3, result=Result.WON), ended(4), ended(5)).is_open(6)
    opened = folded(ended(1), ended(2, result=Result.CANCELLED), ended(3, result=Result.LOST))
    assert opened == Breaker(losses=3, pause_s=60, until_s=63)
    assert opened.is_open(62)
    assert not opened.is_open(63)
    assert opened.is_half_open(63)


def test_gas_without_a_plan_behind_it_does_not_count_for_the_breaker():
    assert folded(ended(1), ended(2, result=None), ended(3, result=None), ended(4)).losses == 2


def test_the_transaction_that_decides_closes_the_breaker_or_doubles_its_pause():
    opened = folded(ended(1), ended(2), ended(3))
    assert opened.after(ended(90, result=Result.WON, created_s=70), LIMITS) == Breaker()
    assert opened.after(ended(90, created_s=70), LIMITS) == Breaker(losses=4, pause_s=120, until_s=210)


def test_what_began_before_the_breaker_opened_cannot_double_its_pause():
    opened = folded(ended(1), ended(2), ended(3))
    assert opened.after(ended(90, created_s=2), LIMITS) == Breaker(losses=4, pause_s=60, until_s=63)


@given(st.lists(st.tuples(st.integers(1, 10**4), st.sampled_from([*Result, None])), max_size=60))
def test_the_pause_is_bounded_and_the_breaker_opens_only_after_enough_losses(steps: list[tuple[int, Result | None]]):
    breaker, now, row = Breaker(), NOW, 0
    for wait, result in steps:
        now += wait
        breaker = breaker.after(ended(now, result=result, created_s=now - 1), LIMITS)
        row = row if result is None else 0 if result is Result.WON else row + 1
        assert 0 <= breaker.pause_s <= LONGEST_PAUSE_S
        assert bool(breaker.pause_s) == (row >= LIMITS.breaker_losses)
        assert breaker.until_s <= now + LONGEST_PAUSE_S
        assert breaker.losses == row


def test_an_operators_own_longer_pause_is_kept():
    slow = Limits(Wei(1), Wei(1), 1, 1, 2 * LONGEST_PAUSE_S)
    breaker = Breaker().after(ended(1), slow).after(ended(10**6, created_s=10**6 - 1), slow)
    assert breaker.pause_s == 2 * LONGEST_PAUSE_S


def test_what_began_within_a_minute_is_counted():
    assert begun_lately([(NOW - 60, None), (NOW - 59, None), (NOW, Reason.FEE_CAP)], NOW) == 2


def tries(*heads: tuple[int, Reason | None]) -> Sequence[tuple[int, Reason | None]]:
    return heads


def test_each_head_at_which_every_node_refused_doubles_the_wait():
    cap = Reason.FEE_CAP
    assert set(refused(tries((NOW, cap)), NOW + 7)) == {Limit.NODE_FEE_CAP}
    assert refused(tries((NOW, cap)), NOW + 8) == {}
    both = tries((NOW, cap), (NOW, cap), (NOW + 12, cap))
    assert set(refused(both, NOW + 27)) == {Limit.NODE_FEE_CAP}
    assert refused(both, NOW + 28) == {}
    many = tries(*((NOW + 12 * step, cap) for step in range(100)))
    assert refused(many, many[-1][0] + LONGEST_REFUSAL_PAUSE_S - 1)
    assert refused(many, many[-1][0] + LONGEST_REFUSAL_PAUSE_S) == {}


@pytest.mark.parametrize("newest", [None, Reason.SIGNER_FAILED, Reason.STOPPING])
def test_what_was_taken_or_never_offered_ends_the_wait(newest: Reason | None):
    assert refused(tries((NOW - 1, Reason.FEE_CAP), (NOW, newest)), NOW) == {}


def test_refusals_for_other_reasons_have_a_name_of_their_own():
    assert set(refused(tries((NOW, Reason.BROADCAST_FAILED)), NOW)) == {Limit.NODE_REFUSALS}
    assert set(refused(tries((NOW, Reason.INSUFFICIENT_GAS_MONEY)), NOW)) == {Limit.NODE_REFUSALS}
    assert refused([], NOW) == {}

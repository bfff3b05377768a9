"""From a choice to the executor's program: the order of the steps, the limits of the swaps, and what has to come out."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from keeper.domain.program import ALL, Output, Step, StepKind
from keeper.domain.units import BASE_UNIT, NATIVE, Address, Base, TokenAmount, Wei
from keeper.engine.exchange import Exchange, Hop, Route, quote
from keeper.engine.funding import Funding
from keeper.engine.program import Choice, build, least_profit, merged
from keeper.engine.terms import SCALE, Terms, Values
from tests.unit.engine.pools import Flat, Patient, Product
from tests.unit.protocols.aave_v3 import market as aave

HELD, OWED, BASE = aave.asset(0), aave.asset(1), aave.asset(2)
WRAPPED, POOL = Address(b"\x0e" * 20), aave.POOL
LENDER = Flat("dear", {OWED: 10**60, WRAPPED: 10**60}, 5)
MARKET = aave.snapshot(10, [aave.reserve(each) for each in range(2)], native_price_base=Base(2_000 * BASE_UNIT))
DEEP = (10**27, 10**27)
CALL = Step(StepKind.LIQUIDATE_AAVE, POOL, OWED, HELD, 1_001 * 10**18, 0, b"who")
REDEEM = Step(StepKind.REDEEM_COMPOUND, HELD, HELD, BASE)


def terms(**changes: Any) -> Terms:
    return replace(Terms(Wei(10**9), Base(2_000 * BASE_UNIT), Base(0), 101, 7), **changes)


def values() -> Values:
    return Values("aave", MARKET, terms(), WRAPPED)


def choice(funding: Funding, route: Route, *, sold: int = 1_050 * 10**18, **changes: Any) -> Choice:
    owed, quoted = funding.owed(1_000 * 10**18, 1_001 * 10**18), quote(route, sold)
    assert owed is not None
    assert quoted is not None
    made = Choice(OWED, (CALL,), 1_000 * 10**18, 1_001 * 10**18, HELD, funding, owed, quoted)
    return made._replace(**changes)


def hop(number: int, give: Address, take: Address, fee_bps: int = 5) -> Hop:
    return Hop(Product(number, (give, take), DEEP, fee_bps), give, take)


def test_a_loan_opens_the_program_and_covers_all_that_the_call_may_take():
    made = build(choice(Funding(OWED, lender=LENDER), (hop(1, HELD, OWED),)), values(), terms())
    opening, call, swap = made.steps
    assert (opening.kind, opening.take, opening.amount) == (StepKind.FLASH_AAVE, OWED, 1_001 * 10**18)
    assert opening.limit == -(-1_001 * 10**18 * 5 // 10_000)
    assert call == CALL
    assert (swap.give, swap.take, swap.amount) == (HELD, OWED, ALL)
    assert (made.last_block, made.deadline_s) == (101, 7)


def test_what_is_left_after_the_debt_and_the_fee_has_to_come_out_less_a_tenth():
    picked = choice(Funding(OWED, lender=LENDER), (hop(1, HELD, OWED),))
    out, fee = picked.quote.amount, -(-1_001 * 10**18 * 5 // 10_000)
    assert picked.profit == out - 1_000 * 10**18 - fee
    assert build(picked, values(), terms()).outputs[0] == Output(OWED, TokenAmount(picked.profit * 9 // 10))


def test_every_token_that_is_touched_on_the_way_is_swept_home():
    middle = Address(b"\x3d" * 20)
    picked = choice(Funding(OWED, lender=LENDER), (hop(1, HELD, middle), hop(2, middle, OWED)))
    rest = build(picked, values(), terms()).outputs[1:]
    assert set(rest) == {Output(HELD, TokenAmount(0)), Output(middle, TokenAmount(0))}


def test_no_less_has_to_come_out_than_the_smallest_profit_is_worth():
    rate = values().rate(OWED)
    assert least_profit(10**18, rate, terms()) == 9 * 10**17
    assert least_profit(10**18, rate, terms(min_profit_base=Base(99 * BASE_UNIT // 100))) == 99 * 10**16
    assert rate * 10**18 == BASE_UNIT * SCALE


def test_a_swap_brings_the_quote_less_the_tolerance_where_that_is_above_the_oracles_bound():
    picked = choice(Funding(OWED, lender=LENDER), (hop(1, HELD, OWED),))
    assert build(picked, values(), terms()).steps[-1].limit == picked.quote.amount * 9_950 // 10_000


def test_a_swap_brings_what_the_oracle_says_where_the_tolerance_would_allow_less():
    picked = choice(Funding(OWED, lender=LENDER), (hop(1, HELD, OWED),))
    swap = build(picked, values(), terms(tolerance_bps=900, max_slippage_bps=100)).steps[-1]
    assert swap.limit == 1_050 * 10**18 * 99 // 100


def test_every_hop_has_its_limit_and_one_without_a_price_only_the_tolerance():
    route = (hop(1, HELD, BASE), hop(2, BASE, OWED))
    picked = choice(Funding(OWED, lender=LENDER), route)
    *_, first, second = build(picked, values(), terms(tolerance_bps=900, max_slippage_bps=100)).steps
    assert first.limit == picked.quote.amounts[0] * 91 // 100
    assert second.limit == 1_050 * 10**18 * 99 // 100


def test_a_pool_that_is_paid_last_opens_the_program_and_asks_for_no_more_than_the_tolerance():
    pool = Patient(3, (HELD, OWED), DEEP, 5)
    picked = choice(Funding(OWED, hop=Hop(pool, HELD, OWED)), ())
    made = build(picked, values(), terms())
    opening = made.steps[0]
    assert (opening.kind, opening.give, opening.take) == (StepKind.SWAP_FIRST_UNISWAP_V3, HELD, OWED)
    assert (opening.amount, opening.limit) == (1_001 * 10**18, -(-picked.owed.amount * 10_050 // 10_000))
    assert made.outputs == (Output(HELD, TokenAmount(picked.profit * 9 // 10)), Output(OWED, TokenAmount(0)))
    strict = build(picked, values(), terms(tolerance_bps=900, max_slippage_bps=100)).steps[0]
    assert strict.limit == 1_001 * 10**18 * 100 // 99


def test_the_protocols_own_door_needs_nothing_before_it():
    door = Step(StepKind.LIQUIDATE_MORPHO, POOL, OWED, HELD, 1_001 * 10**18)
    made = build(choice(Funding(OWED), (hop(1, HELD, OWED),), steps=(door,)), values(), terms())
    assert [each.kind for each in made.steps] == [StepKind.LIQUIDATE_MORPHO, StepKind.SWAP_UNISWAP_V2]


def test_native_currency_is_borrowed_wrapped_and_what_is_left_of_it_is_wrapped_again():
    call = replace(CALL, give=NATIVE)
    route = (Hop(Product(1, (HELD, WRAPPED), (10**27, 10**27 // 2_000), 5), HELD, WRAPPED),)
    funding = Funding(WRAPPED, lender=LENDER)
    picked = choice(funding, route, steps=(call,), token=WRAPPED)
    opening, unwrap, *_, wrap, swap = build(picked, values(), terms()).steps
    assert (opening.take, opening.amount) == (WRAPPED, 1_001 * 10**18)
    assert (unwrap.kind, unwrap.amount, unwrap.take) == (StepKind.UNWRAP_NATIVE, 1_001 * 10**18, NATIVE)
    assert (wrap.kind, wrap.amount, wrap.take) == (StepKind.WRAP_NATIVE, ALL, WRAPPED)
    assert swap.take == WRAPPED
    exact = picked._replace(borrowed=picked.repaid)
    assert StepKind.WRAP_NATIVE not in [each.kind for each in build(exact, values(), terms()).steps]
    wrapping = Exchange([], [], WRAPPED).routes(NATIVE, WRAPPED, 10**18, values())[0]
    wrapped = quote(wrapping, 10**18)
    assert wrapped is not None
    first = picked._replace(quote=wrapped)
    assert [each.kind for each in build(first, values(), terms()).steps].count(StepKind.WRAP_NATIVE) == 1


def test_receipts_of_several_stages_are_redeemed_once_and_last():
    other = replace(CALL, amount=5)
    assert merged([(CALL, REDEEM), (other, REDEEM)]) == (CALL, other, REDEEM)
    assert merged([(CALL,), (CALL,)]) == (CALL, CALL)


@dataclass(slots=True)
class Quoted(Product):
    """One that sells just what it was asked about."""

    takes_exactly = True


@pytest.mark.parametrize("amount", [1_050 * 10**18])
def test_a_pool_that_takes_what_it_was_asked_about_is_given_that_and_the_rest_comes_out(amount: int):
    route = (Hop(Quoted(1, (HELD, OWED), DEEP), HELD, OWED),)
    made = build(choice(Funding(OWED, lender=LENDER), route, sold=amount), values(), terms())
    assert made.steps[-1].amount == amount
    assert made.outputs[-1] == Output(HELD, TokenAmount(0))

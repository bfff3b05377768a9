"""Hand-checked figures, and the vectors of the study `perp-v2`, restated: single market, 100 units at 140."""

from dataclasses import replace

import pytest

from keeper.domain.outcome import Reason
from keeper.domain.position import Action
from keeper.domain.units import MAX_UINT256, Base, PositionId, TokenAmount
from keeper.protocols.perp_curie import rules
from keeper.protocols.perp_curie.contracts import PerpSnapshot, Stake, TakeOver, Valuation
from tests.unit.protocols.perp_curie_market import (
    DAY_S,
    HOUSE,
    Q96,
    TRADER,
    USDC,
    VAULT,
    WAD,
    WETH,
    base_of,
    base_token,
    perpetual,
    position,
    size_of,
    snapshot,
)

VECTORS = {  # account value: largest size, notional, penalty, the liquidator's fee
    875: None,
    874: (50, 7_000, 175, 87.5),
    400: (100, 14_000, 350, 175),
    -100: (100, 14_000, 350, 350),
}


def at_140() -> PerpSnapshot:
    return snapshot(perpetual(0, 140 * WAD))


@pytest.mark.parametrize("account_value", VECTORS)
def test_sizes_and_fees_are_those_of_the_vectors(account_value: int):
    # 100 units bought for 14,000: the account's value is its margin
    held, market = position(account_value * 10**6, {0: (100 * WAD, -14_000 * WAD)}), at_140()
    expected = VECTORS[account_value]
    found = rules.assess(held, market, market.head.moment, None)
    assert rules._account(held, market).requirement == 875 * WAD  # type: ignore[union-attr]
    if expected is None:
        assert (found.blocked, found.opportunities) == (Reason.NOT_LIQUIDATABLE, ())
        return
    size, notional, penalty, fee = expected
    (plan,) = found.opportunities
    assert size_of(plan) == size * WAD
    assert plan.seized_amount == int(fee * 10**6)
    assert rules.take_over(size * WAD, 140 * WAD, account_value, 25_000) == TakeOver(
        size * WAD, notional * WAD, penalty * WAD, int(fee * WAD)
    )
    assert plan.gross_profit_base == int(fee * 10**8)
    assert plan.protocol_fee_amount == int((penalty - fee) * 10**6)
    assert plan.repay_amount == int((notional - fee) * 10**5) + 1  # a tenth of the debt, and one unit for rounding
    assert (plan.repay.address, plan.seize.address, plan.target, plan.spender) == (VAULT, USDC, HOUSE, None)
    assert base_of(plan) == base_token(0)


def test_a_short_is_taken_over_with_the_whole_notional_as_debt():
    held, market = position(400 * 10**6, {0: (-100 * WAD, 14_000 * WAD)}), at_140()
    (plan,) = rules.assess(held, market, market.head.moment, None).opportunities
    assert size_of(plan) == 100 * WAD
    assert plan.repay_amount == 1_400 * 10**6 + 1
    assert plan.terms[32:] == (2**256 - 100 * WAD).to_bytes(32, "big")


def test_the_insurance_fund_gets_the_odd_unit_of_a_penalty():
    taken = rules.take_over(120, WAD, 1, 25_000)
    assert (taken.penalty, taken.fee, taken.fund_fee) == (3, 1, 2)


def test_a_market_that_is_not_open_is_left_alone_though_its_account_is_not_healthy():
    held, market = position(400 * 10**6, {0: (100 * WAD, -14_000 * WAD)}), at_140()
    shut = replace(market, perpetuals={base_token(0): perpetual(0, 140 * WAD, is_open=False)})
    for each in (shut, replace(market, is_paused=True)):
        found = rules.assess(held, each, market.head.moment, None)
        assert (found.blocked, found.health.is_liquidatable) == (Reason.PAUSED, True)


def test_a_health_is_the_value_over_the_requirement():
    held, market = position(1_750 * 10**6, {0: (100 * WAD, -14_000 * WAD)}), at_140()
    health = rules.health(held, market, market.head.moment)
    assert health.health_factor_wad == 2 * WAD
    assert (health.collateral_base, health.debt_base) == (1_750 * 10**8, 875 * 10**8)
    assert [(each.token.symbol, each.value_base) for each in health.collateral] == [
        ("USDC", 1_750 * 10**8),
        ("v0", 14_000 * 10**8),
    ]
    assert health.debt == ()


def test_without_a_requirement_an_account_is_healthy_unless_it_is_under_water():
    assert rules.reported(5, 0, None).health_factor_wad == MAX_UINT256
    assert not rules.reported(0, 0, None).is_liquidatable
    assert rules.reported(-1, 0, None).health_factor_wad == 0
    assert rules.reported(-1, 0, None).is_liquidatable


def test_funding_is_truncated_toward_zero_on_both_sides():
    stake = Stake(base_token(0), 3, 0, 0)
    assert rules.pending_funding(stake, Q96 * DAY_S) == 3
    assert rules.pending_funding(stake, Q96 * DAY_S // 2) == 1
    assert rules.pending_funding(stake, -Q96 * DAY_S // 2) == -1
    assert rules.pending_funding(replace(stake, size=-3), Q96 * DAY_S // 2) == -1
    assert rules.pending_funding(replace(stake, size=-1), Q96 * DAY_S // 2) == 0


def test_the_value_is_rounded_down_to_whole_units_of_the_settlement_token():
    held, market = position(875 * 10**6, {0: (100 * WAD, -14_000 * WAD)}, owed=-1), at_140()
    health = rules.health(held, market, market.head.moment)
    assert health.is_liquidatable
    assert health.collateral_base == 874_99999900


def test_collateral_counts_with_its_weight_and_small_tokens_with_theirs():
    held = position(0, {0: (100 * WAD, -14_000 * WAD)}, collaterals=((WETH, WAD),))
    market = at_140()
    assert rules._account(held, market).account_value == 1_400 * WAD  # type: ignore[union-attr]
    unpriced = replace(market, collaterals={WETH: replace(market.collaterals[WETH], price=None)})
    assert rules.assess(held, unpriced, market.head.moment, None).blocked is Reason.PRICE_UNKNOWN


@pytest.mark.parametrize(
    ("size", "value", "account", "expected"),
    [
        (1_000, 100 * WAD, (50, 100, 100 * WAD), 1_000),  # so small that all of it goes
        (1_000, 101 * WAD, (50, 100, 101 * WAD), 500),  # at half of the requirement still a part
        (1_000, 101 * WAD, (49, 100, 101 * WAD), 1_000),
        (-1_001, -101 * WAD, (50, 101, 101 * WAD), -500),  # toward zero; half of an odd requirement rounds down
        (1_000, 101 * WAD, (50, 100, 202 * WAD), 1_000),  # half of all is all of this one
        (1_000, 101 * WAD, (100, 100, 101 * WAD), 0),
        (0, 0, (1, 100, 101 * WAD), 0),
        (1_000, 101 * WAD, (60, 100, 101 * 34 * WAD), None),  # more than 24 bits: the contract reverts
    ],
)
def test_the_largest_size_is_the_contracts(size: int, value: int, account: tuple[int, int, int], expected: int | None):
    assert rules.largest_size(size, value, account) == expected


def test_a_size_of_less_than_ten_units_has_no_value_but_funding():
    market = snapshot(perpetual(0, 10**6 * WAD, growth_x96=Q96 * DAY_S))
    held = position(0, {0: (9, 0)})
    assert rules._exact_value(held, market) == -9
    assert rules._account(held, market).requirement == 0  # type: ignore[union-attr]
    assert len(rules.row(held, market)) == 1


def test_a_budget_cuts_the_size_and_an_empty_one_refuses():
    held, market = position(400 * 10**6, {0: (100 * WAD, -14_000 * WAD)}), at_140()
    moment = market.head.moment
    (plan,) = rules.assess(held, market, moment, {VAULT: TokenAmount(700 * 10**6)}).opportunities
    assert plan.repay_limit <= 700 * 10**6
    assert 48 * WAD < size_of(plan) < 51 * WAD
    for nothing in ({}, {VAULT: TokenAmount(0)}, {VAULT: TokenAmount(3)}, {USDC: TokenAmount(10**12)}):
        found = rules.assess(held, market, moment, nothing)
        assert (found.opportunities, found.blocked) == ((), Reason.INSUFFICIENT_INVENTORY)


def test_bad_debt_beyond_the_insurance_fund_is_left_alone():
    held, market = position(-100 * 10**6, {0: (100 * WAD, -14_000 * WAD)}), at_140()
    needed = 450 * 10**6  # what it is short of, and the penalty of 350
    assert rules.assess(held, replace(market, insurance=needed), market.head.moment, None).opportunities
    found = rules.assess(held, replace(market, insurance=needed - 1), market.head.moment, None)
    assert (found.opportunities, found.blocked) == ((), Reason.NO_COLLATERAL)


def test_an_account_with_orders_is_valued_by_the_contract_and_prepared_first():
    told = Valuation(400 * WAD, 875 * WAD, ((base_token(0), 100 * WAD),))
    held = position(0, {0: (0, 0)}, orders=(base_token(0),), valuation=told)
    market = at_140()
    (plan,) = rules.assess(held, market, market.head.moment, None).opportunities
    assert (plan.action, plan.repay_amount, plan.repay_limit) == (Action.PREPARE, 0, 0)
    assert plan.gross_profit_base == 175 * 10**8
    assert plan.terms == base_token(0).rjust(32, b"\0")
    newer = replace(market, valuations={PositionId(TRADER): replace(told, account_value=875 * WAD)})
    assert rules.assess(held, newer, market.head.moment, None).blocked is Reason.NOT_LIQUIDATABLE
    silent = replace(market, valuations={PositionId(TRADER): None})
    assert rules.assess(held, silent, market.head.moment, None).blocked is Reason.PRICE_UNKNOWN


def test_an_account_with_orders_weighs_what_the_contract_says_and_is_a_suspect_until_it_has_said_it():
    told = Valuation(400 * WAD, 875 * WAD, ((base_token(0), 100 * WAD),))
    held, market = position(0, {0: (0, 0)}, orders=(base_token(0),), valuation=told), at_140()
    ((column, amount),) = rules.row(held, market)
    cases: list[tuple[dict[PositionId, Valuation | None], int, int]] = [
        ({}, 0, 2**200),
        ({PositionId(TRADER): None}, 0, 2**200),
        ({PositionId(TRADER): told}, -475 * WAD, 0),
    ]
    for valuations, margin, slack in cases:
        (weight,) = rules.weights(replace(market, valuations=valuations), {column}, market.head.moment).values()
        assert (amount * weight.numerator, weight.denominator, weight.slack) == (margin, 1, slack)


def test_an_account_in_a_market_that_the_snapshot_does_not_have_yet_is_a_suspect_without_a_price():
    held, market = position(400 * 10**6, {7: (100 * WAD, -14_000 * WAD)}), at_140()
    ((column, _),) = rules.row(held, market)
    assert rules.weights(market, {column}, market.head.moment)[column].slack == 2**200
    assert rules.assess(held, market, market.head.moment, None).blocked is Reason.PRICE_UNKNOWN
    other = position(400 * 10**6, {0: (100 * WAD, -14_000 * WAD)}, collaterals=((HOUSE, 1),))
    assert rules.assess(other, market, market.head.moment, None).blocked is Reason.PRICE_UNKNOWN


def test_orders_in_a_market_that_is_not_open_do_not_hinder():
    told = Valuation(400 * WAD, 875 * WAD, ((base_token(0), 100 * WAD), (base_token(1), 0)))
    held = position(0, {0: (0, 0), 1: (0, 0)}, orders=(base_token(1),), valuation=told)
    market = snapshot(perpetual(0, 140 * WAD), perpetual(1, 140 * WAD, is_open=False))
    (plan,) = rules.assess(held, market, market.head.moment, None).opportunities
    assert plan.action is Action.LIQUIDATE


def test_what_nothing_prices_is_not_liquidatable_and_said_so():
    held = position(400 * 10**6, {0: (100 * WAD, -14_000 * WAD)})
    for market in (snapshot(perpetual(0, None)), snapshot(perpetual(0, 140 * WAD, growth_x96=None))):
        found = rules.assess(held, market, market.head.moment, None)
        assert (found.blocked, found.health.is_liquidatable) == (Reason.PRICE_UNKNOWN, False)
    market = replace(at_140(), prices={})
    found = rules.assess(held, market, market.head.moment, None)
    assert (found.blocked, found.health.is_liquidatable) == (Reason.PRICE_UNKNOWN, True)


def test_values_are_in_dollars_for_everything_that_can_be_paid_or_taken():
    market = replace(at_140(), prices={USDC: Base(99_000_000), WETH: Base(2_000 * 10**8)})
    assert market.value_base(VAULT, TokenAmount(10**6)) == 99_000_000
    assert market.value_base(USDC, TokenAmount(10**6)) == 99_000_000
    assert market.value_base(base_token(0), TokenAmount(WAD)) == 138_60000000
    assert market.value_base(WETH, TokenAmount(WAD // 2)) == 1_000 * 10**8
    assert market.value_base(HOUSE, TokenAmount(1)) is None
    assert market.targets == {HOUSE}
    assert [(each.token.address, each.spender, each.is_native) for each in market.payments] == [(VAULT, None, False)]

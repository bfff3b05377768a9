"""Sizing, refusals and columns, by hand."""

from dataclasses import replace

import pytest

from keeper.domain.outcome import Reason
from keeper.domain.units import MAX_UINT256, NATIVE, WAD, Address, TokenAmount
from keeper.protocols.morpho_blue import rules
from keeper.protocols.morpho_blue.contracts import Pair
from tests.unit.protocols.morpho_blue.market import (
    COLLATERAL,
    LOAN,
    NOW,
    PRICE,
    ROOT,
    contract,
    later,
    pair,
    position,
    snapshot,
    totals,
    without_interest,
)

USDC = 10**12
"""The shares that stand for one USDC in the plain pair: a million for each of its million units."""


def test_a_healthy_position_has_its_limit_divided_by_its_debt_as_health_factor():
    found = pair()
    health = rules.health(position(found, 1_600 * USDC), snapshot([found]), NOW)
    assert health.health_factor_wad == 1_720 * WAD // 1_600
    assert (health.collateral_base, health.debt_base) == (2_000 * 10**8, 1_600 * 10**8)
    assert [each.amount for each in health.collateral] == [10**18]
    assert [each.amount for each in health.debt] == [1_600 * 10**6]
    assert not health.is_liquidatable


def test_a_position_at_its_limit_is_healthy_and_one_unit_above_it_is_not():
    found = pair()
    market = snapshot([found])
    assert not rules.health(position(found, 1_720 * USDC), market, NOW).is_liquidatable
    assert rules.health(position(found, 1_720 * USDC + 1), market, NOW).is_liquidatable


def test_a_position_without_debt_is_infinitely_healthy():
    found = pair()
    health = rules.health(position(found, 0), snapshot([found]), NOW)
    assert (health.health_factor_wad, health.debt, health.is_liquidatable) == (MAX_UINT256, (), False)


def test_a_covered_debt_is_repaid_whole_and_an_uncovered_one_takes_all_collateral():
    found = pair()
    market = snapshot([found])
    (whole,) = rules.assess(position(found, 1_800 * USDC), market, NOW, None).opportunities
    assert whole.repay_amount == 1_800 * 10**6
    assert whole.seized_amount == 1_800 * 10**6 * rules.incentive(found.params.lltv_wad) // WAD * 10**36 // PRICE
    assert whole.gross_profit_base == pytest.approx(1_800 * 10**8 * 0.0438, rel=1e-2)
    assert (whole.spender, whole.target) == (ROOT, ROOT)
    (all_of_it,) = rules.assess(position(found, 2_200 * USDC), market, NOW, None).opportunities
    assert all_of_it.seized_amount == 10**18
    assert 1_910 * 10**6 < all_of_it.repay_amount < 1_920 * 10**6
    assert all_of_it.repay_limit > all_of_it.repay_amount * 1_005 // 1_000  # should the collateral become dearer


def test_between_the_two_a_part_is_repaid_that_survives_a_move_of_the_price():
    found = pair()
    for owed in (1_907, 1_916, 1_925):  # all of the collateral repays 1,916
        held = position(found, owed * USDC)
        (planned,) = rules.assess(held, snapshot([found]), NOW, None).opportunities
        assert 994 * 10**15 <= planned.seized_amount <= 995 * 10**15
        assert planned.seized_amount * 1_004 // 1_000 < held.collateral


def test_a_budget_is_never_exceeded_by_what_may_be_pulled():
    found = pair()
    market = snapshot([found])
    for owed in (1_800 * USDC, 2_300 * USDC):
        held = position(found, owed)
        (whole,) = rules.assess(held, market, NOW, None).opportunities
        for funds in (whole.repay_limit, whole.repay_limit - 1, 1_000 * 10**6, 7, 1, 0):
            assessment = rules.assess(held, market, NOW, {LOAN.address: TokenAmount(funds)})
            if not assessment.opportunities:
                assert (assessment.blocked, funds < 10) == (Reason.INSUFFICIENT_INVENTORY, True)
                continue
            (afforded,) = assessment.opportunities
            assert afforded.repay_amount < afforded.repay_limit <= funds
            assert (afforded == whole) is (funds == whole.repay_limit)
    assert rules.assess(position(found, 1_800 * USDC), market, NOW, {}).blocked is Reason.INSUFFICIENT_INVENTORY


def test_a_price_of_nothing_leaves_nothing_to_seize():
    found = pair(price=0)
    assessment = rules.assess(position(found, USDC), snapshot([found]), NOW, None)
    assert assessment.health.is_liquidatable
    assert (assessment.opportunities, assessment.blocked) == ((), Reason.NO_COLLATERAL)
    assert rules.assess(position(found, USDC, 0), snapshot([found]), NOW, None).blocked is Reason.NO_COLLATERAL


def test_a_debt_that_is_too_small_to_buy_a_unit_of_collateral_is_dust():
    found = pair(price=10**45)  # a unit of collateral is worth 10**9 units of the loan
    assessment = rules.assess(position(found, 8 * 10**14 * 10**6, 1), snapshot([found]), NOW, None)
    assert assessment.opportunities
    small = replace(found, params=replace(found.params, lltv_wad=1), price=10**45)
    assert rules.assess(position(small, 10**6, 1), snapshot([small]), NOW, None).blocked is Reason.DUST_RULE


@pytest.mark.parametrize(
    "found",
    [pair(price=None), pair(rate_at_target=None), pair(price=2**200)],
    ids=["oracle", "model", "overflow"],
)
def test_what_reverts_on_chain_has_no_value_and_is_no_opportunity(found: Pair):
    held = position(found, 2_200 * USDC)
    assessment = rules.assess(held, snapshot([found]), NOW, None)
    assert assessment.blocked is Reason.PRICE_UNKNOWN
    assert (assessment.health.debt_base, assessment.health.is_liquidatable) == (0, False)


def test_a_loan_token_without_a_price_is_liquidatable_but_cannot_be_weighed():
    found = pair()
    market = snapshot([found], prices={NATIVE: 10**8})
    assessment = rules.assess(position(found, 2_200 * USDC), market, NOW, None)
    assert (assessment.blocked, assessment.health.is_liquidatable) == (Reason.PRICE_UNKNOWN, True)
    assert (assessment.health.collateral_base, assessment.health.debt_base) == (0, 0)
    assert assessment.health.health_factor_wad < WAD


def test_collateral_that_only_a_strangers_oracle_prices_is_never_paid_for():
    """Anybody can make a pair of a token of his own and be lender, borrower and oracle in it."""
    found = pair()
    held, alone = position(found, 1_800 * USDC), snapshot([found], vouched=frozenset())
    assessment = rules.assess(held, alone, NOW, None)
    assert (assessment.opportunities, assessment.blocked) == ((), Reason.UNTRUSTED)
    by_request = rules.assess(held, replace(alone, acts_on_any=True), NOW, None)
    assert (by_request.opportunities, by_request.blocked) == ((), Reason.PRICE_UNKNOWN)
    assert assessment.health == rules.assess(held, snapshot([found]), NOW, None).health
    assert assessment.health.is_liquidatable
    healthy = rules.assess(position(found, 1_600 * USDC), alone, NOW, None)
    assert healthy.blocked is Reason.NOT_LIQUIDATABLE


@pytest.mark.parametrize(("sold", "is_vouched"), [(1_800, False), (1_800, True), (2_000, False), (2_500, False)])
def test_collateral_counts_at_the_lower_of_its_oracles_price_and_the_markets(sold: int, is_vouched: bool):
    found = pair()
    usd = {LOAN.address: 10**8, NATIVE: 2_000 * 10**8, COLLATERAL.address: sold * 10**8}
    market = snapshot([found], prices=usd)
    market = market if is_vouched else replace(market, vouched=frozenset(), acts_on_any=True)
    (planned,) = rules.assess(position(found, 1_800 * USDC), market, NOW, None).opportunities
    worth = planned.seized_amount * min(sold, 2_000) * 10**8 // 10**18
    assert 0 <= worth - planned.seized_base <= 10**2
    assert (planned.gross_profit_base > 0) is (sold >= 2_000)


def test_a_pre_liquidation_by_an_oracle_of_the_borrowers_own_choosing_is_not_planned():
    """It could raise its price once the payment is under way: the same repayment would then seize next to nothing."""
    found = pair()
    by = contract(found, oracle=Address(b"\x5a" * 20), incentives_wad=(105 * WAD // 100, 106 * WAD // 100))
    held, market = position(found, 1_660 * USDC, 10**18, by), snapshot([found], [by])
    assessment = rules.assess(held, market, NOW, None)
    assert (assessment.opportunities, assessment.blocked) == ((), Reason.PRICE_UNKNOWN)
    assert assessment.health.is_liquidatable
    both = contract(found, 1)
    held, market = position(found, 1_660 * USDC, 10**18, by, both), snapshot([found], [by, both])
    assert [each.target for each in rules.assess(held, market, NOW, None).opportunities] == [both.address]


def test_a_pair_that_is_not_watched_flags_nobody():
    found = pair()
    held, market = position(found, 2_200 * USDC), snapshot([])
    row = rules.row(held, market)
    weights = rules.weights(market, {column for column, _ in row}, NOW)
    assert all((each.numerator, each.denominator, each.slack) == (1, 1, 0) for each in weights.values())
    assert rules.assess(held, market, NOW, None).blocked is Reason.PRICE_UNKNOWN


def test_a_pair_without_interest_stands_still_and_any_other_grows():
    still, grown = without_interest(pair()), pair()
    assert rules.accrued(still, NOW.time_s + 3_600) == replace(still.totals, updated_s=NOW.time_s + 3_600)
    after = rules.accrued(grown, NOW.time_s + 3_600)
    assert after.borrow_assets - grown.totals.borrow_assets == after.supply_assets - grown.totals.supply_assets > 0
    assert rules.accrued(grown, NOW.time_s - 5) == grown.totals


def test_a_fee_mints_shares_and_takes_nothing_from_borrowers():
    free, taxed = pair(), pair(totals=totals(fee_wad=WAD // 4))
    one, other = (rules.accrued(each, NOW.time_s + 86_400) for each in (free, taxed))
    assert one.borrow_assets == other.borrow_assets
    assert other.supply_shares > one.supply_shares


@pytest.mark.parametrize(
    ("used", "rate", "expected"),
    [
        (9 * 10**11, 1_268_391_679, 1_268_391_679),  # at target
        (10**12, 1_268_391_679, 4 * 1_268_391_679),  # everything is lent
        (0, 1_268_391_679, 1_268_391_679 // 4),  # nothing is
        (9 * 10**11, 0, 1_268_391_679),  # before its first use
    ],
)
def test_the_curve_is_flat_below_and_steep_above_the_target(used: int, rate: int, expected: int):
    lent = totals(used, supply_assets=10**12)
    assert abs(rules.adaptive_rate(lent, rate, NOW.time_s) - expected) <= 4


def test_the_rate_at_target_stays_within_its_bounds_however_long_nobody_looks():
    full, empty = totals(10**12, supply_assets=10**12), totals(0, supply_assets=10**12)
    for years in (1, 10, 100):
        later_s = NOW.time_s + years * 31_536_000
        assert rules.adaptive_rate(full, 1_268_391_679, later_s) <= 4 * 2 * WAD // 31_536_000
        assert rules.adaptive_rate(empty, 1_268_391_679, later_s) >= WAD // 1_000 // 31_536_000 // 4


def test_a_pre_liquidation_takes_a_part_at_its_own_bonus():
    found = pair()
    by = contract(found)
    held = position(found, 1_660 * USDC, 10**18, by)
    assessment = rules.assess(held, snapshot([found], [by]), NOW, None)
    (planned,) = assessment.opportunities
    assert (planned.spender, planned.target) == (by.address, by.address)
    assert assessment.health.is_liquidatable
    assert assessment.health.health_factor_wad > WAD
    way = (83 - 80) / (86 - 80)
    assert planned.repay_amount < 1_660 * 10**6 * (0.1 + 0.4 * way)
    assert planned.repay_amount > 1_660 * 10**6 * (0.1 + 0.4 * (way - 0.08))  # room for a price that rises
    bonus = planned.seized_amount * PRICE // 10**36 / planned.repay_amount
    assert bonus == pytest.approx(1.02 + 0.01 * way, rel=1e-6)


def test_a_pre_liquidation_is_closed_to_who_did_not_allow_it_and_outside_its_range():
    found = pair()
    by = contract(found)
    market = snapshot([found], [by])
    assert rules.assess(position(found, 1_660 * USDC), market, NOW, None).blocked is Reason.NOT_LIQUIDATABLE
    assert not rules.health(position(found, 1_600 * USDC, 10**18, by), market, NOW).is_liquidatable
    assert rules.health(position(found, 1_600 * USDC + 1, 10**18, by), market, NOW).is_liquidatable
    at_the_limit = rules.assess(position(found, 1_720 * USDC, 10**18, by), market, NOW, None)
    assert [each.target for each in at_the_limit.opportunities] == [by.address]
    (only,) = rules.assess(position(found, 1_730 * USDC, 10**18, by), market, NOW, None).opportunities
    assert only.target == ROOT
    for broken in (replace(by, price=None), replace(by, price=2**250)):
        market = snapshot([found], [broken])
        assert not rules.health(position(found, 1_660 * USDC, 10**18, by), market, NOW).is_liquidatable


def test_a_pre_liquidation_that_leaves_the_position_unhealthy_is_not_planned():
    found = pair()
    few = (WAD // 20, WAD // 20)
    by = contract(found, price=PRICE * 105 // 100, close_factors_wad=few)  # its oracle is above that of the pair
    held = position(found, 1_760 * USDC, 10**18, by)
    assessment = rules.assess(held, snapshot([found], [by]), NOW, None)
    assert [each.target for each in assessment.opportunities] == [ROOT]
    case = rules._value(held, snapshot([found], [by]), NOW)
    assert case.armed == (by,)
    assert rules._Sizer(snapshot([found], [by]), held, found, case, NOW, None).pre_liquidation(by) is (
        Reason.NOT_LIQUIDATABLE
    )


def test_the_best_of_several_contracts_comes_first_and_a_budget_cuts_each():
    found = pair()
    mean, kind = contract(found, 1), contract(found, 2, incentives_wad=(105 * WAD // 100, 106 * WAD // 100))
    held = position(found, 1_660 * USDC, 10**18, mean, kind)
    market = snapshot([found], [mean, kind])
    assert [each.target for each in rules.assess(held, market, NOW, None).opportunities] == [kind.address, mean.address]
    cut = rules.assess(held, market, NOW, {LOAN.address: TokenAmount(50 * 10**6)}).opportunities
    assert [each.target for each in cut] == [kind.address, mean.address]
    assert all(each.repay_limit <= 50 * 10**6 for each in cut)
    none = rules.assess(held, market, NOW, {LOAN.address: TokenAmount(0)})
    assert (none.opportunities, none.blocked) == ((), Reason.INSUFFICIENT_INVENTORY)


def test_payments_and_targets_are_the_singleton_and_the_contracts():
    found = pair()
    by = contract(found)
    market = snapshot([found], [by])
    assert {(each.token, each.spender) for each in market.payments} == {(LOAN, ROOT), (LOAN, by.address)}
    assert market.targets == {ROOT, by.address}
    assert market.native_price_base == 2_000 * 10**8
    assert market.value_base(LOAN.address, TokenAmount(1_999_999)) == 199_999_900
    assert market.value_base(COLLATERAL.address, TokenAmount(1)) is None
    assert rules.settlements(ROOT, {}, market, NOW) == ()
    assert market.proceeds == ()


def test_interest_until_landing_decides():
    found = pair()
    held = position(found, 1_720 * USDC)
    market = snapshot([found])
    assert not rules.health(held, market, NOW).is_liquidatable
    assert rules.health(held, market, later(12)).is_liquidatable

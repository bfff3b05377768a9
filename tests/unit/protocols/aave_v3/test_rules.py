from dataclasses import replace
from typing import Any

import pytest

from keeper.domain.outcome import Reason
from keeper.domain.position import Action, Opportunity, Weight
from keeper.domain.units import MAX_UINT256, RAY, WAD, Base, TokenAmount
from keeper.protocols.aave_v3 import rules
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot, Category, Reserve, StableDebt
from tests.unit.protocols.aave_v3.market import (
    DIRECTED,
    HALF_UP,
    HELD,
    NOW,
    NOW_S,
    POOL,
    asset,
    later,
    pair,
    position,
    reserve,
    snapshot,
)

REVISIONS = (*HALF_UP, *DIRECTED)
DUSTLESS = tuple(each for each in REVISIONS if each >= 7)
ETHER, DOLLAR = 10**18, 10**6


def weth(price: int = 2_000, **changes: Any) -> Reserve:
    return reserve(0, price=price * 10**8, threshold_bps=8_300, **changes)


def usdc(**changes: Any) -> Reserve:
    return reserve(1, decimals=6, threshold_bps=7_800, bonus_bps=10_450, **changes)


def sinking(revision: int, *, owed: int = 17_000, **changes: Any) -> tuple[AavePosition, AaveSnapshot]:
    """Ten ether at 2,000 dollars, 83 % of which count, against 17,000 dollars: a health factor of 0.976."""
    return position({0: 10 * ETHER}, {1: owed * DOLLAR}), snapshot(revision, [weth(), usdc()], **changes)


def only(held: AavePosition, market: AaveSnapshot, budget: int | None = None) -> Opportunity:
    funds = None if budget is None else {asset(1): TokenAmount(budget)}
    assessment = rules.assess(held, market, NOW, funds)
    assert assessment.blocked is None
    (found,) = assessment.opportunities
    return found


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_opportunity_says_everything_that_the_sender_needs(revision: int):
    held, market = sinking(revision)
    found = only(held, market)
    assert (found.key.market, found.key.id) == ("aave", HELD)
    assert (found.repay.symbol, found.seize.symbol, found.spender, found.at) == ("T1", "T0", POOL, NOW)
    assert (found.target, found.terms, found.action) == (POOL, b"", Action.LIQUIDATE)
    assert found.repay_amount == 8_500 * DOLLAR
    assert found.repay_limit == 8_508_500_001
    assert found.seized_amount == 4_441_250_000_000_000_000
    assert found.protocol_fee_amount == 21_250_000_000_000_000
    assert found.repay_base == 8_500 * 10**8
    assert found.gross_profit_base == 38_250_000_000


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_budget_cuts_the_amount_and_leaves_no_room_above_it(revision: int):
    held, market = sinking(revision)
    found = only(held, market, 3_000 * DOLLAR)
    assert found.repay_amount == found.repay_limit == 3_000 * DOLLAR
    assert only(held, market, 8_504 * DOLLAR).repay_limit == 8_504 * DOLLAR
    assert only(held, market, 8_504 * DOLLAR).repay_amount == 8_500 * DOLLAR


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("budget", [{}, {asset(1): TokenAmount(0)}, {asset(0): TokenAmount(10**30)}])
def test_without_money_there_is_no_opportunity(revision: int, budget: dict[bytes, TokenAmount]):
    held, market = sinking(revision)
    assessment = rules.assess(held, market, NOW, budget)  # type: ignore[arg-type]
    assert (assessment.opportunities, assessment.blocked) == ((), Reason.INSUFFICIENT_INVENTORY)
    assert assessment.health.is_liquidatable


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_healthy_position_is_not_liquidatable_and_one_without_debt_never(revision: int):
    held, market = sinking(revision, owed=16_000)
    assessment = rules.assess(held, market, NOW, None)
    assert (assessment.opportunities, assessment.blocked) == ((), Reason.NOT_LIQUIDATABLE)
    free = rules.health(position({0: ETHER}, {}), market, NOW)
    assert (free.health_factor_wad, free.is_liquidatable) == (MAX_UINT256, False)
    assert not position({0: ETHER}, {1: 0}).has_debt


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("change", [{"is_paused": True}, {"is_active": False}])
def test_a_pause_of_either_reserve_stands_in_the_way(revision: int, change: dict[str, bool]):
    held, _ = sinking(revision)
    for reserves in ([weth(**change), usdc()], [weth(), usdc(**change)]):
        assessment = rules.assess(held, snapshot(revision, reserves), NOW, None)
        assert (assessment.opportunities, assessment.blocked) == ((), Reason.PAUSED)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_grace_period_ends_strictly_after_its_last_second(revision: int):
    held, _ = sinking(revision)
    for reserves in ([weth(grace_until_s=NOW_S), usdc()], [weth(), usdc(grace_until_s=NOW_S)]):
        market = snapshot(revision, reserves)
        expected = Reason.GRACE_PERIOD if revision >= 4 else None
        assert rules.assess(held, market, NOW, None).blocked is expected
        assert rules.assess(held, market, later(1), None).blocked is None


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_sentinel_protects_from_a_health_factor_of_ninety_five_hundredths_up(revision: int):
    held, market = sinking(revision, is_liquidation_allowed=False)
    assert rules.assess(held, market, NOW, None).blocked is (Reason.SENTINEL if revision < 11 else None)
    edge = position({0: 10 * ETHER}, {1: 17_473_684_210})
    assert 95 * WAD // 100 <= rules.health(edge, market, NOW).health_factor_wad < 95 * WAD // 100 + 10**9
    assert rules.assess(edge, market, NOW, None).blocked is (Reason.SENTINEL if revision < 11 else None)
    assert rules.assess(position({0: 10 * ETHER}, {1: 17_474 * DOLLAR}), market, NOW, None).blocked is None


@pytest.mark.parametrize("revision", REVISIONS)
def test_below_ninety_five_hundredths_all_debt_may_be_repaid(revision: int):
    held, market = sinking(revision, owed=17_600)
    assert only(held, market).repay_amount == 17_600 * DOLLAR


@pytest.mark.parametrize("revision", DUSTLESS)
def test_a_small_leg_may_be_closed_whole(revision: int):
    held = position({0: 8 * ETHER // 10}, {1: 1_350 * DOLLAR})
    assert only(held, snapshot(revision, [weth(), usdc()])).repay_amount == 1_350 * DOLLAR


@pytest.mark.parametrize("revision", DUSTLESS)
def test_half_of_all_debt_may_close_a_smaller_debt_whole(revision: int):
    third = reserve(2, decimals=6)
    market = snapshot(revision, [weth(), usdc(), third])
    held = position({0: 10 * ETHER}, {1: 14_000 * DOLLAR, 2: 3_000 * DOLLAR})
    assessment = rules.assess(held, market, NOW, None)
    small, large = pair(assessment, 2, 0), pair(assessment, 1, 0)
    assert small is not None
    assert large is not None
    assert (small.repay_amount, large.repay_amount) == (3_000 * DOLLAR, 8_500 * DOLLAR)


@pytest.mark.parametrize("revision", DUSTLESS)
def test_an_amount_that_would_leave_dust_is_shrunk_and_refused_where_none_is_legal(revision: int):
    held, market = sinking(revision, owed=17_600)
    assert only(held, market, 17_000 * DOLLAR).repay_amount == 16_590 * DOLLAR
    assert only(held, market, 16_600 * DOLLAR).repay_amount == 16_600 * DOLLAR
    tiny = position({0: 6 * ETHER // 10}, {1: 1_005 * DOLLAR})
    market = snapshot(revision, [weth(), usdc()])
    assessment = rules.assess(tiny, market, NOW, {asset(1): TokenAmount(500 * DOLLAR)})
    assert (assessment.opportunities, assessment.blocked) == ((), Reason.DUST_RULE)
    assert only(tiny, market).repay_amount == 1_005 * DOLLAR


@pytest.mark.parametrize("revision", DUSTLESS)
def test_what_would_leave_collateral_dust_is_shrunk_as_well(revision: int):
    held = position({0: 10 * ETHER}, {1: 30_000 * DOLLAR})
    market = snapshot(revision, [weth(), usdc()])
    found = only(held, market, 18_900 * DOLLAR)
    left = (10 * ETHER - found.seized_amount - found.protocol_fee_amount) * 2_000 // ETHER
    assert left == 1_010
    assert found.repay_amount < 18_900 * DOLLAR


@pytest.mark.parametrize("revision", REVISIONS)
def test_too_little_collateral_bounds_the_repayment(revision: int):
    held = position({0: ETHER}, {1: 1_200 * DOLLAR})
    found = only(held, snapshot(revision, [weth(1_000), usdc()]))
    assert found.seized_amount + found.protocol_fee_amount == ETHER
    assert found.repay_amount == (952_380_953 if revision >= 9 else 952_380_952)
    assert found.repay_limit > found.repay_amount


@pytest.mark.parametrize("revision", REVISIONS)
def test_nothing_to_seize_is_no_collateral(revision: int):
    market = snapshot(revision, [weth(), usdc(), reserve(2, threshold_bps=0, bonus_bps=0)])
    for collateral in ({}, {0: 0}, {2: 10**20}):
        assessment = rules.assess(position(collateral, {1: DOLLAR}), market, NOW, None)
        assert (assessment.opportunities, assessment.blocked) == ((), Reason.NO_COLLATERAL)


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_amount_whose_burn_would_be_of_nothing_is_not_offered(revision: int):
    market = snapshot(revision, [weth(liquidity_index_ray=5 * RAY), usdc(borrow_index_ray=5 * RAY)])
    held = position({0: 2 * ETHER}, {1: 4_000 * DOLLAR})
    assessment = rules.assess(held, market, NOW, {asset(1): TokenAmount(4)})
    assert (assessment.opportunities, assessment.blocked) == ((), Reason.DUST_RULE)


@pytest.mark.parametrize("revision", REVISIONS)
def test_reserves_that_are_not_listed_are_skipped_as_on_chain(revision: int):
    held, market = sinking(revision)
    wider = replace(held, collateral=(*held.collateral, (9, 10**30)), debt=(*held.debt, (8, 10**30)))
    assert rules.health(wider, market, NOW) == rules.health(held, market, NOW)
    row = rules.row(wider, market)
    weights = rules.weights(market, {column for column, _ in row}, NOW)
    assert sum(weight.numerator == 0 for weight in weights.values()) == 2


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_unknown_price_blocks_its_holder_and_counts_for_nothing(revision: int):
    held, market = sinking(revision)
    for missing in (weth(), usdc()):
        reserves = {**market.reserves, missing.id: replace(missing, price_base=None)}
        assessment = rules.assess(held, replace(market, reserves=reserves), NOW, None)
        assert (assessment.opportunities, assessment.blocked) == ((), Reason.PRICE_UNKNOWN)
        assert not assessment.health.is_liquidatable
        assert 0 in {assessment.health.collateral_base, assessment.health.debt_base}


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_mode_gives_its_threshold_and_bonus_to_its_own_collateral_only(revision: int):
    market = snapshot(revision, [weth(), usdc(), reserve(2)], {1: Category(9_500, 10_100, 0b001)})
    held = position({0: 10 * ETHER, 2: 10**20}, {1: 19_200 * DOLLAR}, category=1)
    assert rules.health(held, market, NOW).health_factor_wad < WAD
    found = pair(rules.assess(held, market, NOW, None), 1, 0)
    outside = pair(rules.assess(held, market, NOW, None), 1, 2)
    assert found is not None
    assert outside is not None
    repaid = found.repay_amount * 10**12 // 2_000
    assert found.seized_amount + found.protocol_fee_amount == repaid * 10_100 // 10_000
    assert outside.seized_amount + outside.protocol_fee_amount == 10**20
    assert not rules.health(replace(held, debt=((1, 19_000 * DOLLAR),)), market, NOW).is_liquidatable


@pytest.mark.parametrize("revision", [each for each in REVISIONS if each >= 10])
def test_from_3_6_a_mode_makes_collateral_of_what_is_none(revision: int):
    plain = weth(5, bonus_bps=0)
    market = snapshot(revision, [replace(plain, threshold_bps=0), usdc()], {1: Category(9_000, 10_200, 0b01)})
    held = position({0: ETHER}, {1: 4 * DOLLAR}, category=1)
    assert rules.health(held, market, NOW).health_factor_wad == 1_125 * 10**15
    older = rules.health(held, replace(market, revision=9), NOW)
    assert (older.collateral_base, older.is_liquidatable) == (0, True)


def test_up_to_3_1_a_mode_may_price_its_assets_and_every_debt_by_a_source_of_its_own():
    mode = Category(9_500, 10_100, 0b001, has_own_price=True, price_base=Base(1_900 * 10**8))
    market = snapshot(1, [weth(), usdc()], {1: mode})
    held = position({0: 10 * ETHER}, {1: 18_500 * DOLLAR}, category=1)
    health = rules.health(held, market, NOW)
    assert (health.collateral_base, health.debt_base) == (19_000 * 10**8, 18_500 * 10**8)
    found = only(held, market)  # the contract takes a debt's price from the mode even where the token is not of it
    assert found.seized_amount + found.protocol_fee_amount == 10 * ETHER
    assert found.seized_base == found.seized_amount * 2_000 * 10**8 // ETHER
    unknown = snapshot(1, [weth(), usdc()], {1: replace(mode, price_base=None)})
    assert rules.assess(held, unknown, NOW, None).blocked is Reason.PRICE_UNKNOWN
    unpriced = snapshot(1, [weth(), usdc()], {1: replace(mode, collateral_bits=0, price_base=None)})
    assert rules.assess(held, unpriced, NOW, None).blocked is Reason.PRICE_UNKNOWN


def test_stable_debt_grows_at_the_accounts_own_rate():
    year = 31_536_000
    market = snapshot(1, [weth(), usdc()])
    held = replace(
        position({0: 10 * ETHER}, {1: 1_000 * DOLLAR}),
        stable_debt=(StableDebt(1, 1_000 * DOLLAR, 6 * RAY // 100, NOW_S - year),),
    )
    assert rules.health(held, market, NOW).debt_base == 1_000 * 10**8 + 106_183_136_300
    assert replace(held, debt=()).has_debt


@pytest.mark.parametrize("revision", REVISIONS)
def test_interest_makes_a_position_liquidatable_at_a_foreseen_second(revision: int):
    held = position({0: 10 * ETHER}, {1: 16_599 * DOLLAR + 999_999})
    market = snapshot(revision, [weth(), usdc(borrow_rate_ray=RAY)])
    assert not rules.health(held, market, NOW).is_liquidatable
    assert rules.health(held, market, later(1_000)).is_liquidatable
    assert rules.health(held, market, later(1_000)).debt[0].amount > held.debt[0][1]


@pytest.mark.parametrize("revision", REVISIONS)
def test_columns_tell_reserve_side_and_mode_apart_and_rows_leave_out_nothings(revision: int):
    market = snapshot(revision, [weth(), usdc()])
    held = position({0: 5, 1: 0}, {0: 6, 1: 7}, category=3)
    row = rules.row(held, market)
    assert [amount for _, amount in row] == [5, 6, 7]
    assert len({column for column, _ in row}) == 3
    other = rules.row(replace(held, category=4), market)
    assert row[0] != other[0]
    assert (row[1] == other[1]) is (revision >= 6)


@pytest.mark.parametrize("revision", REVISIONS)
def test_collateral_whose_threshold_is_zero_weighs_nothing_or_all_by_how_it_counts(revision: int):
    market = snapshot(revision, [weth(), usdc()], {1: Category(0, 10_100, 0b01)})
    held = position({0: ETHER}, {1: DOLLAR}, category=1)
    column = rules.row(held, market)[0][0]
    weight = rules.weights(market, {column}, NOW)[column]
    assert weight.numerator == 0
    assert (weight.slack > 10**30) is (revision in HALF_UP)
    bare = snapshot(revision, [replace(weth(), threshold_bps=0), usdc()])
    column = rules.row(replace(held, category=0), bare)[0][0]
    assert rules.weights(bare, {column}, NOW)[column] == Weight(0, 1, 0) or revision in DIRECTED


def test_value_is_in_dollars():
    market = snapshot(10, [reserve(0, decimals=6, price=2 * 10**8), reserve(1, price=None)])
    assert market.value_base(asset(0), TokenAmount(1_500_000)) == 3 * 10**8
    assert market.value_base(asset(1), TokenAmount(1)) is None
    assert market.value_base(asset(2), TokenAmount(1)) is None


def test_of_several_obstacles_the_most_hopeful_is_named():
    market = snapshot(10, [weth(is_paused=True), usdc(), reserve(2)])
    held = position({0: 10 * ETHER, 2: 10**18}, {1: 17_600 * DOLLAR})
    assert rules.assess(held, market, NOW, {}).blocked is Reason.INSUFFICIENT_INVENTORY
    assert rules.assess(replace(held, collateral=((0, ETHER),)), market, NOW, {}).blocked is Reason.PAUSED

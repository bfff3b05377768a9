"""Liquidations against a plain transcription of the Solidity, which shares no code with the rules."""

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity
from keeper.domain.units import RAY, TokenAmount
from keeper.protocols.aave_v3 import rules
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot, Category, Reserve
from tests.unit.protocols.aave_v3.market import DIRECTED, HALF_UP, NOW, position, reserve, snapshot

REVISIONS = (*HALF_UP, *DIRECTED)
V3_3, V3_5, V3_6, V3_7 = 7, 9, 10, 11


def half_up(a: int, b: int) -> int:
    return (a + b // 2) // b


def ceil(a: int, b: int) -> int:
    return a // b + (a % b > 0)


@dataclass(frozen=True)
class Moved:
    """What `executeLiquidationCall` moves, with what it compares on the way."""

    repaid: int
    to_liquidator: int
    fee: int
    owed: int
    held: int
    is_dust: bool


def liquidation_call(  # noqa: C901 - one piece, as the Solidity is
    held: AavePosition, market: AaveSnapshot, debt_id: int, collateral_id: int, cover: int
) -> Moved:
    """Do what the contract does at `NOW`, where no interest is pending."""
    v = market.revision
    bits = market.categories[held.category].collateral_bits if held.category else 0

    def supplied(r: Reserve, scaled: int) -> int:
        return scaled * r.liquidity_index_ray // RAY if v >= V3_5 else half_up(scaled * r.liquidity_index_ray, RAY)

    def owed(r: Reserve, scaled: int) -> int:
        return ceil(scaled * r.borrow_index_ray, RAY) if v >= V3_5 else half_up(scaled * r.borrow_index_ray, RAY)

    def debt_value(r: Reserve, amount: int) -> int:
        value = amount * (r.price_base or 0)
        return ceil(value, 10**r.token.decimals) if v >= V3_5 else value // 10**r.token.decimals

    total_collateral = weighted = total_debt = 0
    for each, scaled in held.collateral:
        r = market.reserves[each]
        if r.threshold_bps == 0 and v < V3_6:
            continue
        value = supplied(r, scaled) * (r.price_base or 0) // 10**r.token.decimals
        total_collateral += value
        weighted += value * (market.categories[held.category].threshold_bps if bits & 1 << each else r.threshold_bps)
    for each, scaled in held.debt:
        total_debt += debt_value(market.reserves[each], owed(market.reserves[each], scaled))
    if v >= V3_5:
        health = half_up(weighted * 10**18, total_debt) // 10_000
    else:
        average = weighted // total_collateral if total_collateral else 0
        health = half_up(half_up(total_collateral * average, 10_000) * 10**18, total_debt)
    assert health < 10**18

    d, c = market.reserves[debt_id], market.reserves[collateral_id]
    d_price, c_price, d_unit, c_unit = d.price_base or 0, c.price_base or 0, 10**d.token.decimals, 10**c.token.decimals
    debt, balance = owed(d, dict(held.debt)[debt_id]), supplied(c, dict(held.collateral)[collateral_id])
    most = debt
    if v < V3_3:
        most = half_up(debt * (5_000 if health > 95 * 10**16 else 10_000), 10_000)
    elif (
        balance * c_price // c_unit >= 2_000 * 10**8
        and debt_value(d, debt) >= 2_000 * 10**8
        and health > 95 * 10**16
        and debt_value(d, debt) > half_up(total_debt * 5_000, 10_000)
    ):
        most = half_up(total_debt * 5_000, 10_000) * d_unit // d_price
    actual = min(cover, most)
    bonus_bps = market.categories[held.category].bonus_bps if bits & 1 << collateral_id else c.bonus_bps
    base = d_price * actual * c_unit // (c_price * d_unit)
    gross = base * bonus_bps // 10_000 if v >= V3_7 else half_up(base * bonus_bps, 10_000)
    if gross > balance:
        gross = balance
        needed = c_price * gross * d_unit // (d_price * c_unit) * 10_000
        actual = ceil(needed, bonus_bps) if v >= V3_5 else half_up(needed, bonus_bps)
    fee = 0
    if c.fee_bps:
        if v >= V3_7:
            fee = ceil((gross - gross * 10_000 // bonus_bps) * c.fee_bps, 10_000)
        else:
            fee = half_up((gross - half_up(gross * 10_000, bonus_bps)) * c.fee_bps, 10_000)
    is_dust = False
    if v >= V3_3 and actual < debt and gross < balance:
        is_dust = debt_value(d, debt - actual) < 1_000 * 10**8 or (balance - gross) * c_price // c_unit < 1_000 * 10**8
    return Moved(actual, gross - fee, fee, debt, balance, is_dust)


def draw(source: random.Random, revision: int) -> tuple[AavePosition, AaveSnapshot]:
    """Draw a position of a cent to a hundred million dollars, mostly around where close factor and dust rule bite."""
    reserves = [
        reserve(
            each,
            decimals=source.choice((2, 6, 8, 18)),
            price=int(10 ** source.uniform(4, 13)),
            threshold_bps=source.choice((0, 7_000, 8_300)),
            bonus_bps=source.choice((10_000, 10_050, 10_500, 11_500)),
            fee_bps=source.choice((0, 1_000, 2_000)),
            liquidity_index_ray=RAY + source.randrange(RAY),
            borrow_index_ray=RAY + source.randrange(RAY),
        )
        for each in range(source.randrange(2, 6))
    ]
    market = snapshot(revision, reserves, {1: Category(9_000, 10_100, source.getrandbits(6))})
    ids = list(market.reserves)

    def worth(each: int) -> int:
        usd = source.choice((source.uniform(-2, 8), source.uniform(2.9, 3.7)))
        return int(10**usd * 10**8) * market.reserves[each].unit // (market.reserves[each].price_base or 1) + 1

    collateral = {each: worth(each) for each in source.sample(ids, source.randrange(1, len(ids) + 1))}
    debt = {each: worth(each) for each in source.sample(ids, source.randrange(1, len(ids) + 1))}
    held = position(collateral, debt, category=source.choice((0, 1)))
    health = rules.health(held, market, NOW)
    if not health.is_liquidatable:  # owe a little more than is allowed
        aim = int(health.health_factor_wad / source.uniform(0.9, 0.9999))
        held = replace(held, debt=tuple((each, scaled * aim // 10**18 + 1) for each, scaled in held.debt))
    return held, market


def ids_of(market: AaveSnapshot, opportunity: Opportunity) -> tuple[int, int]:
    by_token = {each.token.address: each.id for each in market.reserves.values()}
    return by_token[opportunity.repay.address], by_token[opportunity.seize.address]


@pytest.mark.timeout(300)
@settings(max_examples=600)
@given(seed=st.integers(0, 2**64 - 1), revision=st.sampled_from(REVISIONS))
def test_what_is_planned_is_what_the_contract_would_move(seed: int, revision: int):
    source = random.Random(seed)
    for _ in range(10):
        held, market = draw(source, revision)
        whole = rules.assess(held, market, NOW, None)
        if not whole.health.is_liquidatable:
            assert whole.blocked is Reason.NOT_LIQUIDATABLE
            continue
        funds = {
            each.repay.address: TokenAmount(int(each.repay_amount * source.random())) for each in whole.opportunities
        }
        cut = rules.assess(held, market, NOW, funds)
        for opportunity in (*whole.opportunities, *cut.opportunities):
            moved = liquidation_call(held, market, *ids_of(market, opportunity), opportunity.repay_limit)
            assert opportunity.repay_amount == moved.repaid <= moved.owed
            assert opportunity.seized_amount == moved.to_liquidator
            assert opportunity.protocol_fee_amount == moved.fee
            assert moved.to_liquidator + moved.fee <= moved.held
            assert not moved.is_dust
        for opportunity in cut.opportunities:
            assert opportunity.repay_limit <= funds[opportunity.repay.address]


@settings(max_examples=200)
@given(seed=st.integers(0, 2**64 - 1), revision=st.sampled_from(REVISIONS))
def test_no_larger_legal_amount_is_left_but_for_the_room_above_the_dust(seed: int, revision: int):
    source = random.Random(seed)
    held, market = draw(source, revision)
    for opportunity in rules.assess(held, market, NOW, None).opportunities:
        debt_id, collateral_id = ids_of(market, opportunity)
        most = liquidation_call(held, market, debt_id, collateral_id, 2**128)
        if most.is_dust:
            shrunk = liquidation_call(held, market, debt_id, collateral_id, opportunity.repay_amount)
            owed = (shrunk.owed - shrunk.repaid) * (market.reserves[debt_id].price_base or 0)
            left = shrunk.held - shrunk.to_liquidator - shrunk.fee
            collateral = market.reserves[collateral_id]
            unit = market.reserves[debt_id].unit
            step = (market.reserves[debt_id].price_base or 0) // unit + 2
            step += 2 * (collateral.price_base or 0) // collateral.unit
            nearest = min(owed // unit, left * (collateral.price_base or 0) // collateral.unit)
            assert 1_010 * 10**8 <= nearest <= 1_010 * 10**8 + 2 * step
        else:
            assert opportunity.repay_amount == most.repaid


@settings(max_examples=200)
@given(seed=st.integers(0, 2**64 - 1), revision=st.sampled_from(REVISIONS))
def test_the_best_comes_first_and_health_never_rises_with_debt(seed: int, revision: int):
    source = random.Random(seed)
    held, market = draw(source, revision)
    assessment = rules.assess(held, market, NOW, None)
    profits = [each.gross_profit_base for each in assessment.opportunities]
    assert profits == sorted(profits, reverse=True)
    assert (assessment.blocked is None) is bool(profits)
    more = replace(held, debt=tuple((each, scaled + source.randrange(10**9)) for each, scaled in held.debt))
    assert rules.health(more, market, NOW).health_factor_wad <= assessment.health.health_factor_wad

"""The linear form against the exact rules: never a miss, exact for long and short, and tight."""

import random
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain.position import Row, Weight
from keeper.domain.units import Column, PositionId, TokenAmount
from keeper.engine.screen import Screen
from keeper.protocols.perp_curie import rules
from keeper.protocols.perp_curie.contracts import PerpPosition, PerpSnapshot, Stake
from tests.unit.protocols.perp_curie_market import (
    DAY_S,
    Q96,
    TRADER,
    VAULT,
    WAD,
    WETH,
    base_of,
    base_token,
    collateral,
    perpetual,
    position,
    size_of,
    snapshot,
)

SEEDS = st.integers(0, 2**64 - 1)
MOST_MARKETS = 4


def between(source: random.Random, low: float, high: float) -> int:
    """Draw a number between two powers of ten, all magnitudes alike."""
    return int(10 ** source.uniform(low, high))


def draw_market(source: random.Random) -> PerpSnapshot:
    perpetuals = [
        perpetual(
            each,
            between(source, 14, 23),
            growth_x96=source.choice((1, -1)) * between(source, 0, 9) * Q96 * source.randrange(1, 2 * DAY_S),
            is_open=source.random() < 0.9,
        )
        for each in range(MOST_MARKETS)
    ]
    found = snapshot(*perpetuals, decimals=source.choice((6, 6, 6, 8, 18)), mm_ratio=source.choice((62_500, 31_250)))
    token = replace(found.collaterals[WETH].token, decimals=source.choice((6, 8, 18, 20)))
    held = collateral(99, between(source, 15, 23), ratio=source.randrange(1, 10**6), token=token)
    return replace(found, collaterals={WETH: held}, insurance=between(source, 6, 30))


def draw_stake(source: random.Random, market: PerpSnapshot, number: int) -> Stake:
    token, sign = base_token(number), source.choice((1, -1))
    price, growth = market.perpetuals[token].price, market.perpetuals[token].growth_x96
    assert price is not None
    assert growth is not None
    size = sign * (source.randrange(1, 25) if source.random() < 0.1 else between(source, 12, 24))
    drift = source.randrange(-50, 51) * Q96 * source.randrange(1, 2 * DAY_S)
    paid = -size * price * source.randrange(900, 1_100) // (1_000 * WAD)
    return Stake(token, size, paid, growth - drift)


def draw_position(source: random.Random, market: PerpSnapshot) -> PerpPosition:
    """Draw an account, often with a margin so near to the requirement that roundings decide."""
    stakes = [draw_stake(source, market, each) for each in source.sample(range(MOST_MARKETS), source.randrange(1, 4))]
    held = ((WETH, between(source, 6, 22)),) if source.random() < 0.4 else ()
    drawn = replace(position(0, {}), stakes=tuple(stakes), collaterals=held, owed=source.randrange(-WAD, WAD))
    return with_margin(drawn, market, source.choice((source.randrange(-4, 5), between(source, 1, 26))))


def with_margin(held: PerpPosition, market: PerpSnapshot, spare: int) -> PerpPosition:
    """Set the balance and the owed profit so that the account value is that far above the requirement."""
    account = rules._account(held, market)
    exact = rules._exact_value(held, market)
    assert account is not None
    assert exact is not None
    missing = account.requirement + spare - exact
    return replace(held, balance=held.balance + missing // market.scale, owed=(held.owed or 0) + missing % market.scale)


def margin_and_slack(row: Row, weights: Mapping[Column, Weight]) -> tuple[Fraction, Fraction]:
    margin = sum((Fraction(amount * weights[c].numerator, weights[c].denominator) for c, amount in row), Fraction(0))
    return margin, Fraction(sum(weights[column].slack for column, _ in row))


def weigh(held: PerpPosition, market: PerpSnapshot) -> tuple[Fraction, Fraction]:
    row = rules.row(held, market)
    weights = rules.weights(market, {column for column, _ in row}, market.head.moment)
    return margin_and_slack(row, weights)


def is_suspect(held: PerpPosition, market: PerpSnapshot) -> bool:
    screen, row = Screen(), rules.row(held, market)
    screen.put(PositionId(TRADER), row)
    return bool(screen.suspects(rules.weights(market, {column for column, _ in row}, market.head.moment)))


@settings(max_examples=400)
@given(seed=SEEDS)
def test_whoever_can_be_liquidated_is_a_suspect_exactly_and_in_floats(seed: int):
    source = random.Random(seed)
    market = draw_market(source)
    held = draw_position(source, market)
    if rules.health(held, market, market.head.moment).is_liquidatable:
        margin, slack = weigh(held, market)
        assert margin <= slack
        assert is_suspect(held, market)


@settings(max_examples=400)
@given(seed=SEEDS)
def test_the_linear_form_is_the_exact_margin_but_for_its_slack_long_and_short(seed: int):
    source = random.Random(seed)
    market = draw_market(source)
    held = draw_position(source, market)
    account = rules._account(held, market)
    assert account is not None
    margin, slack = weigh(held, market)
    exact = account.account_value - account.requirement
    dust = sum(9 * (market.perpetuals[each.base_token].price or 0) for each in held.stakes) // WAD
    assert -slack - len(held.stakes) - dust <= exact - margin <= slack + len(held.stakes) + dust
    assert exact >= margin - slack
    assert slack <= 5 * (1 + len(held.stakes)) + (2 + len(held.stakes)) * market.scale


@settings(max_examples=200)
@given(seed=SEEDS)
def test_an_account_one_per_cent_from_liquidation_is_no_suspect(seed: int):
    source = random.Random(seed)
    market = draw_market(source)
    held = draw_position(source, market)
    account = rules._account(held, market)
    assert account is not None
    if account.requirement > 100 * market.scale * 10:
        healthy = with_margin(held, market, account.requirement // 100 + market.scale)
        assert not rules.health(healthy, market, market.head.moment).is_liquidatable
        if account.requirement > 10**3 * WAD:  # below, funding of other magnitudes may be all there is
            margin, slack = weigh(healthy, market)
            assert margin > slack


@settings(max_examples=200)
@given(seed=SEEDS)
def test_a_take_over_is_within_the_position_and_its_margin_within_the_budget(seed: int):
    source = random.Random(seed)
    market = draw_market(source)
    held = draw_position(source, market)
    sizes = {each.base_token: each.size for each in held.stakes}
    for plan in rules.assess(held, market, market.head.moment, None).opportunities:
        assert 0 < size_of(plan) <= abs(sizes[base_of(plan)])
        assert plan.gross_profit_base >= 0
        funds = TokenAmount(source.randrange(2 * plan.repay_limit))
        for lesser in rules.assess(held, market, market.head.moment, {VAULT: funds}).opportunities:
            assert lesser.repay_amount <= lesser.repay_limit <= funds
            if base_of(lesser) == base_of(plan):
                assert size_of(lesser) <= size_of(plan)


@settings(max_examples=200)
@given(seed=SEEDS)
def test_a_take_over_is_a_wash_but_for_the_penalty(seed: int):
    source = random.Random(seed)
    market = draw_market(source)
    stake = draw_stake(source, market, 0)
    price = market.perpetuals[stake.base_token].price or 0
    taken = rules.take_over(stake.size, price, source.choice((-1, 1)), market.penalty_ratio)
    assert taken.fee + taken.fund_fee == taken.penalty
    assert abs(Fraction(taken.size * price, WAD) - taken.notional) < 1
    assert taken.penalty * 10**6 <= abs(taken.notional) * market.penalty_ratio < (taken.penalty + 1) * 10**6

"""The screen never misses: whatever the exact rules call liquidatable, the linear form names too."""

import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain.position import Row, Weight
from keeper.domain.units import WAD, Column
from keeper.engine.screen import Screen
from keeper.protocols.morpho_blue import rules
from keeper.protocols.morpho_blue.contracts import MorphoPosition, MorphoSnapshot, Totals
from tests.unit.protocols.morpho_blue.market import NOW, NOW_S, contract, pair, position, snapshot

STEPS = (-3, -2, -1, 0, 1, 2, 3)


def between(source: random.Random, low: float, high: float) -> int:
    """Draw evenly on a logarithmic scale."""
    return int(10 ** source.uniform(low, high))


def draw(source: random.Random) -> tuple[MorphoPosition, MorphoSnapshot]:
    tba = between(source, 0, 30)
    totals = Totals(
        supply_assets=tba + between(source, 0, 29),
        supply_shares=between(source, 6, 36),
        borrow_assets=tba,
        borrow_shares=int(tba * 10**6 / source.uniform(1, 3)) + 1,
        updated_s=NOW_S - source.choice((0, 1, 12, source.randrange(31_536_000))),
        fee_wad=0,
    )
    lltv = source.choice((1, 385 * 10**15, 86 * 10**16, 98 * 10**16, WAD - 1))
    found = pair(lltv, price=between(source, 0, 50), totals=totals, rate_at_target=between(source, 7.6, 10.7))
    contracts = [
        contract(found, number, price=(found.price or 0) * source.randrange(90, 111) // 100, pre_lltv_wad=threshold)
        for number in range(source.choice((0, 0, 1, 3)))
        for threshold in (lltv * source.randrange(50, 100) // 100,)
    ]
    held = position(found, min(totals.borrow_shares, between(source, 0, 36)), 0, *contracts)
    return held, snapshot([found], contracts)


def brink(held: MorphoPosition, market: MorphoSnapshot) -> int | None:
    """Return the most collateral with which the position is liquidatable, in any way."""

    def is_liquidatable(amount: int) -> bool:
        return rules.health(replace(held, collateral=amount), market, NOW).is_liquidatable

    found = market.pairs[held.pair]
    row = rules.row(replace(held, collateral=1), market)
    factors = {column: each.numerator for column, each in rules.weights(market, {c for c, _ in row}, NOW).items()}
    if not factors[row[0][0]]:
        return None
    borrowed = rules.accrued(found, NOW.time_s).assets_up(held.borrow_shares)
    guess = borrowed * 10**36 * WAD // factors[row[0][0]]
    low, high = guess, guess + 1
    reach = 8
    while low > 0 and not is_liquidatable(low):
        low, reach = max(0, low - reach), reach * 8
    reach = 8
    while is_liquidatable(high):
        low, high, reach = high, high + reach, reach * 8
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_liquidatable(middle) else (low, middle)
    return low


def is_suspect_exactly(row: Row, weights: dict[Column, Weight]) -> bool:
    margin = allowance = Fraction(0)
    for column, amount in row:
        margin += amount * Fraction(weights[column].numerator, weights[column].denominator)
        allowance += weights[column].slack
    return margin <= allowance


def is_suspect(held: MorphoPosition, row: Row, weights: dict[Column, Weight]) -> bool:
    screen = Screen()
    screen.put(held.id, row)
    return bool(screen.suspects(weights))


@pytest.mark.timeout(300)
@settings(max_examples=400)
@given(seed=st.integers(0, 2**64 - 1))
def test_whatever_is_liquidatable_is_a_suspect_even_at_its_very_threshold(seed: int):
    source = random.Random(seed)
    for _ in range(5):
        held, market = draw(source)
        edge = brink(held, market)
        for step in STEPS if edge is not None else ():
            near = replace(held, collateral=max(0, (edge or 0) + step))
            row = rules.row(near, market)
            weights = dict(rules.weights(market, {column for column, _ in row}, NOW))
            if rules.health(near, market, NOW).is_liquidatable:
                assert is_suspect_exactly(row, weights)
                assert is_suspect(near, row, weights)


@settings(max_examples=300)
@given(seed=st.integers(0, 2**64 - 1))
def test_anything_at_all_that_is_liquidatable_is_a_suspect(seed: int):
    source = random.Random(seed)
    held, market = draw(source)
    any_amount = replace(held, collateral=between(source, 0, 38))
    row = rules.row(any_amount, market)
    weights = dict(rules.weights(market, {column for column, _ in row}, NOW))
    if rules.health(any_amount, market, NOW).is_liquidatable:
        assert is_suspect(any_amount, row, weights)


@settings(max_examples=300)
@given(seed=st.integers(0, 2**64 - 1))
def test_a_position_one_percent_above_its_lowest_threshold_is_no_suspect(seed: int):
    source = random.Random(seed)
    held, market = draw(source)
    edge = brink(held, market)
    borrowed = rules.accrued(market.pairs[held.pair], NOW.time_s).assets_up(held.borrow_shares)
    if edge is None or edge < 10**4 or borrowed < 10**4:
        return
    safe = replace(held, collateral=edge + edge // 100)
    if safe.collateral * (market.pairs[held.pair].price or 0) >= 2**256:  # the contract itself cannot value it
        return
    row = rules.row(safe, market)
    weights = dict(rules.weights(market, {column for column, _ in row}, NOW))
    assert not is_suspect(safe, row, weights)

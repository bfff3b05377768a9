"""The screen never misses: whatever the exact rules call liquidatable, the linear form names too."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain.chain import Moment
from keeper.domain.position import Row, Weight
from keeper.domain.units import RAY, Column, PositionId
from keeper.engine.screen import Screen
from keeper.protocols.aave_v3 import rules
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot, Category, StableDebt
from tests.unit.protocols.aave_v3.market import DIRECTED, HALF_UP, NOW, NOW_S, later, position, reserve, snapshot

FAMILIES = [pytest.param(HALF_UP, id="half_up"), pytest.param(DIRECTED, id="directed")]
YEAR_S = 31_536_000
GAMMA = 70.0 * 2.0**-53
STEPS = (-3, -2, -1, 0, 1, 2, 3)


def between(source: random.Random, low: float, high: float) -> int:
    """Draw evenly on a logarithmic scale."""
    return int(10 ** source.uniform(low, high))


def draw_market(source: random.Random, revision: int) -> AaveSnapshot:
    reserves = [
        reserve(
            each,
            decimals=source.choice((2, 6, 8, 18)),
            price=between(source, 0, 13.5),
            threshold_bps=source.choice((1, 50, source.randrange(2_000, 9_900))),
            liquidity_index_ray=RAY + source.randrange(2 * RAY),
            liquidity_rate_ray=source.randrange(RAY),
            borrow_index_ray=RAY + source.randrange(2 * RAY),
            borrow_rate_ray=source.randrange(RAY),
            updated_s=NOW_S - source.choice((0, 1, 12, source.randrange(YEAR_S))),
        )
        for each in range(source.choice((1, 2, 3, 4, 6, 25)))
    ]
    mode = Category(source.randrange(5_000, 9_800), 10_100, source.getrandbits(26))
    if revision <= 4 and source.random() < 0.5:
        mode = replace(mode, has_own_price=True, price_base=reserves[0].price_base)
    return snapshot(revision, reserves, {1: mode})


def draw_amount(source: random.Random, market: AaveSnapshot, reserve_id: int) -> int:
    """Draw an amount that is worth from a hundredth of a cent to a billion dollars."""
    listed = market.reserves[reserve_id]
    return between(source, 4, 17) * listed.unit // (listed.price_base or 1) + source.randrange(3)


def draw_position(source: random.Random, market: AaveSnapshot) -> AavePosition:
    ids = list(market.reserves)
    collateral = source.sample(ids, source.randrange(1, len(ids) + 1))
    debt = source.sample(ids, source.randrange(1, min(8, len(ids)) + 1))
    return position(
        {each: draw_amount(source, market, each) for each in collateral},
        {each: draw_amount(source, market, each) // source.choice((1, 10, 10**6)) for each in debt},
        category=source.choice((0, 1)),
    )


def owing(held: AavePosition, amount: int) -> AavePosition:
    (debt_id, _), *rest = held.debt
    return replace(held, debt=((debt_id, amount), *rest))


def brink(held: AavePosition, market: AaveSnapshot, at: Moment) -> int | None:
    """Return the smallest first debt with which the position is liquidatable."""

    def is_liquidatable(amount: int) -> bool:
        return rules.health(owing(held, amount), market, at).is_liquidatable

    if is_liquidatable(0):
        return None
    row = rules.row(owing(held, 1), market)
    weights = rules.weights(market, {column for column, _ in row}, at)
    factors = {column: Fraction(weight.numerator, weight.denominator) for column, weight in weights.items()}
    first = rules.row(owing(replace(held, collateral=()), 1), market)[0][0]
    guess = int(sum(amount * factors[column] for column, amount in row) / -factors[first])
    low, high, reach = 0, guess + 1, 8
    while not is_liquidatable(high):
        low, high = high, high + reach
        reach *= 8
    reach = 8
    while high - reach > low and is_liquidatable(high - reach):
        high -= reach
        reach *= 8
    low = max(low, high - reach)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_liquidatable(middle) else (middle, high)
    return high


def is_suspect_exactly(row: Row, weights: dict[Column, Weight]) -> bool:
    margin = allowance = Fraction(0)
    for column, amount in row:
        weight = weights[column]
        entry = amount * Fraction(weight.numerator, weight.denominator)
        margin += entry
        allowance += weight.slack + (abs(entry) / weight.relative_divisor if weight.relative_divisor else 0)
    return margin <= allowance


def is_suspect_in_floats(row: Row, weights: dict[Column, Weight]) -> bool:
    margin = allowance = 0.0
    for column, amount in row:
        weight = weights[column]
        entry = amount * (weight.numerator / weight.denominator)
        relative = GAMMA + (1.0 / weight.relative_divisor if weight.relative_divisor else 0.0)
        margin += entry
        allowance += abs(entry) * relative + float(weight.slack)
    return not margin > allowance


def cases(
    source: random.Random, revisions: Sequence[int], count: int
) -> Iterator[tuple[AavePosition, AaveSnapshot, Moment]]:
    """Draw positions and put each within a few units of its own threshold."""
    for _ in range(count):
        market = draw_market(source, source.choice(revisions))
        held, at = draw_position(source, market), later(source.choice((0, 12, 3_600)))
        edge = brink(held, market, at)
        for amount in [held.debt[0][1]] if edge is None else [max(0, edge + step) for step in STEPS]:
            yield owing(held, amount), market, at


@pytest.mark.timeout(300)
@pytest.mark.parametrize("revisions", FAMILIES)
@settings(max_examples=120)
@given(seed=st.integers(0, 2**64 - 1))
def test_no_liquidatable_position_escapes_the_screen(revisions: Sequence[int], seed: int):
    for held, market, at in cases(random.Random(seed), revisions, 15):
        row = rules.row(held, market)
        weights = dict(rules.weights(market, {column for column, _ in row}, at))
        is_liquidatable = rules.health(held, market, at).is_liquidatable
        assert is_suspect_exactly(row, weights) or not is_liquidatable
        assert is_suspect_in_floats(row, weights) or not is_liquidatable


@pytest.mark.parametrize("revisions", FAMILIES)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**64 - 1))
def test_the_engines_own_screen_names_them_all(revisions: Sequence[int], seed: int):
    source = random.Random(seed)
    market, screen = draw_market(source, source.choice(revisions)), Screen()
    liquidatable, columns = set(), set()
    for number in range(60):
        held = draw_position(source, market)
        edge = brink(held, market, NOW)
        held = replace(owing(held, edge or 1), id=PositionId(number.to_bytes(20, "big")))
        row = rules.row(held, market)
        columns |= {column for column, _ in row}
        screen.put(held.id, row)
        if rules.health(held, market, NOW).is_liquidatable:
            liquidatable.add(held.id)
    suspects = set(screen.suspects(rules.weights(market, columns, NOW)))
    assert liquidatable <= suspects


@pytest.mark.parametrize("revisions", FAMILIES)
def test_the_screen_lets_go_of_what_is_clearly_healthy(revisions: Sequence[int]):
    source = random.Random(1)
    for _ in range(200):
        market = snapshot(source.choice(revisions), [reserve(each, price=between(source, 6, 12)) for each in range(9)])
        collateral = {each: between(source, 18, 22) for each in range(4)}
        held = position(collateral, {each: between(source, 14, 18) for each in range(4, 9)})
        edge = brink(held, market, NOW)
        if edge is not None and edge > 10**9:
            held = owing(held, edge * 99 // 100)
            before = rules.health(held, market, NOW)
            if before.health_factor_wad > 1_001 * 10**15:
                row = rules.row(held, market)
                weights = dict(rules.weights(market, {column for column, _ in row}, NOW))
                assert not is_suspect_in_floats(row, weights)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**64 - 1))
def test_stable_debt_is_always_a_suspect_and_a_zero_threshold_that_counts_too(seed: int):
    source = random.Random(seed)
    market = draw_market(source, 1)
    held = draw_position(source, market)
    debt_id = held.debt[0][0]
    held = replace(held, stable_debt=(StableDebt(debt_id, source.randrange(1, 10**20), source.randrange(RAY), NOW_S),))
    market = replace(market, categories={1: replace(market.categories[1], threshold_bps=0, has_own_price=False)})
    row = rules.row(held, market)
    weights = dict(rules.weights(market, {column for column, _ in row}, NOW))
    assert is_suspect_exactly(row, weights)
    assert is_suspect_in_floats(row, weights)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**64 - 1), revision=st.sampled_from((*HALF_UP, *DIRECTED)))
def test_what_has_no_price_is_never_liquidatable_and_weighs_nothing(seed: int, revision: int):
    source = random.Random(seed)
    market = draw_market(source, revision)
    held = draw_position(source, market)
    chosen = source.choice([*held.collateral, *held.debt])[0]
    bare = {each.id: replace(each, price_base=None) if each.id == chosen else each for each in market.reserves.values()}
    market = replace(market, reserves=bare, categories={})
    assert not rules.health(held, market, NOW).is_liquidatable
    row = rules.row(held, market)
    for column, weight in rules.weights(market, {column for column, _ in row}, NOW).items():
        if column >> 10 == chosen:
            assert (weight.numerator, weight.slack) == (0, 0)

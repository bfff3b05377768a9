"""The screen never misses: whatever the exact rules call liquidatable, the linear form names too."""

import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain.chain import Moment
from keeper.domain.position import Row, Weight
from keeper.domain.units import WAD, Column, PositionId
from keeper.engine.screen import Screen
from keeper.protocols.compound_v2 import rules
from keeper.protocols.compound_v2.contracts import (
    VAI_ID,
    CompoundPosition,
    CompoundSnapshot,
    Entry,
    Kind,
    Terms,
    Vai,
    VaiDebt,
)
from tests.unit.protocols.test_compound_v2_rules import ACCOUNT, NOW, address, ctoken, snapshot

GAMMA = 70.0 * 2.0**-53
STEPS = (-2, -1, 0, 1, 2)
DECIMALS = (2, 6, 8, 18)


def between(source: random.Random, low: float, high: float) -> int:
    """Draw evenly on a logarithmic scale."""
    return int(10 ** source.uniform(low, high))


def draw_market(source: random.Random) -> CompoundSnapshot:
    tokens = []
    for number in range(source.choice((1, 2, 3, 5, 12))):
        decimals, borrows = source.choice(DECIMALS), between(source, 6, 26)
        rate = between(source, 14, 28)
        tokens.append(
            ctoken(
                number,
                price=between(source, 30 - decimals, 41 - decimals),
                borrows=borrows,
                cash=between(source, 6, 26),
                reserves=0,
                supply=max(1, borrows * WAD // rate),
                borrow_index=WAD + source.randrange(3 * WAD),
                accrued=NOW.block - source.choice((0, 1, 100, 10**6)),
                borrow_rate=between(source, 6, 12.5),
                exchange_rate=rate,
            )
        )
    stored = [
        replace(each, exchange_rate=(each.cash + each.borrows) * WAD // each.supply) for each in tokens
    ]  # what is stored is what the sums make
    terms = {
        (pool, each.id): Terms(source.choice((0, source.randrange(WAD))), WAD * 11 // 10)
        for pool in (0, 3)
        for each in stored
    }
    index, lag = WAD + source.randrange(WAD), source.choice((0, source.randrange(WAD // 10)))
    rate = between(source, 5, 11)
    vai = Vai(ctoken(0).underlying, address(51), index + lag, rate, NOW.block, False, None, lag)
    kind: Kind = source.choice(("compound", "venus"))
    market = snapshot(stored, kind=kind, terms=terms)
    return replace(market, vai=vai) if kind == "venus" else market


def draw_position(source: random.Random, market: CompoundSnapshot) -> CompoundPosition:
    entries: list[Entry] = []
    for token in market.tokens.values():
        unit = 10**36 // (token.price or 1)  # what a dollar buys
        debt = unit * between(source, 0, 9) // 100 if source.random() < 0.5 else 0
        receipts = unit * between(source, 0, 9) * WAD // (100 * token.exchange_rate) if source.random() < 0.7 else 0
        index = WAD + source.randrange(token.borrow_index - WAD + 1)
        is_entered = not entries or market.kind == "venus" or source.random() < 0.9
        entries.append(Entry(token.id, receipts, debt if is_entered else 0, index, is_entered))
    vai = None
    if market.vai is not None and source.random() < 0.5:
        minted = between(source, 12, 26)
        stored = market.vai.index - market.vai.lag
        vai = VaiDebt(minted, source.randrange(minted + 1), WAD + source.randrange(stored - WAD + 1))
    return CompoundPosition(ACCOUNT, tuple(entries), pool=source.choice((0, 3)), vai=vai)


def owing(held: CompoundPosition, amount: int) -> CompoundPosition:
    first, *rest = held.entries
    return replace(held, entries=(replace(first, debt=amount), *rest))


def brink(held: CompoundPosition, market: CompoundSnapshot, at: Moment) -> int | None:
    """Return the smallest first debt with which the position is liquidatable."""

    def is_liquidatable(amount: int) -> bool:
        return rules.health(owing(held, amount), market, at).is_liquidatable

    if is_liquidatable(0):
        return None
    low, high = 0, 1
    while not is_liquidatable(high):
        low, high = high, high * 4
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_liquidatable(middle) else (middle, high)
    return high


def is_suspect_exactly(row: Row, weights: dict[Column, Weight]) -> bool:
    margin = allowance = Fraction(0)
    for column, amount in row:
        weight = weights[column]
        margin += amount * Fraction(weight.numerator, weight.denominator)
        allowance += weight.slack
    return margin <= allowance


def is_suspect_in_floats(row: Row, weights: dict[Column, Weight]) -> bool:
    margin = allowance = 0.0
    for column, amount in row:
        weight = weights[column]
        entry = amount * (weight.numerator / weight.denominator)
        margin += entry
        allowance += abs(entry) * GAMMA + float(weight.slack)
    return not margin > allowance


def cases(source: random.Random, count: int) -> Iterator[tuple[CompoundPosition, CompoundSnapshot, Moment]]:
    """Draw positions and put each within a few units of its own threshold."""
    for _ in range(count):
        market = draw_market(source)
        held, at = draw_position(source, market), Moment(NOW.block + source.choice((0, 1, 300)), NOW.time_s)
        edge = brink(held, market, at)
        for amount in [held.entries[0].debt] if edge is None else [max(0, edge + step) for step in STEPS]:
            yield owing(held, amount), market, at


def weights_of(row: Row, market: CompoundSnapshot, at: Moment) -> dict[Column, Weight]:
    return dict(rules.weights(market, {column for column, _ in row}, at))


@pytest.mark.timeout(300)
@settings(max_examples=100)
@given(seed=st.integers(0, 2**64 - 1))
def test_no_liquidatable_position_escapes_the_screen(seed: int):
    for held, market, at in cases(random.Random(seed), 4):
        row = rules.row(held, market)
        weights = weights_of(row, market, at)
        if rules.health(held, market, at).is_liquidatable:
            assert is_suspect_exactly(row, weights)
            assert is_suspect_in_floats(row, weights)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**64 - 1))
def test_not_even_one_whose_debts_are_what_they_can_be_at_most(seed: int):
    """The rules take the lower end of what a debt may be; the contract may find the upper one."""
    for held, market, at in cases(random.Random(seed), 3):
        row = rules.row(held, market)
        weights, worst = weights_of(row, market, at), []
        for entry in held.entries:
            now = market.tokens[entry.token].accrue(at)
            debt = entry.owed(now.borrow_index) + entry.uncertainty(now.borrow_index)
            worst.append(Entry(entry.token, entry.receipts, debt, now.borrow_index, entry.is_entered))
        tokens = {
            key: replace(each, borrow_index=each.accrue(at).borrow_index, borrow_rate=0)
            for key, each in market.tokens.items()
        }
        if rules.health(replace(held, entries=tuple(worst)), replace(market, tokens=tokens), at).is_liquidatable:
            assert is_suspect_exactly(row, weights)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**64 - 1))
def test_the_engines_own_screen_names_them_all(seed: int):
    source = random.Random(seed)
    market, screen = draw_market(source), Screen()
    liquidatable, columns = set(), set()
    for number in range(40):
        held = draw_position(source, market)
        held = replace(owing(held, brink(held, market, NOW) or 1), id=PositionId(number.to_bytes(20, "big")))
        row = rules.row(held, market)
        columns |= {column for column, _ in row}
        screen.put(held.id, row)
        if rules.health(held, market, NOW).is_liquidatable:
            liquidatable.add(held.id)
    assert liquidatable <= set(screen.suspects(rules.weights(market, columns, NOW)))


def test_the_screen_lets_go_of_what_is_clearly_healthy():
    source, seen = random.Random(1), 0
    market = snapshot([ctoken(number) for number in range(6)])
    for _ in range(200):
        entries = [Entry(number, between(source, 10, 16), 0, WAD) for number in range(3)]
        entries += [Entry(number, 0, between(source, 15, 20), WAD) for number in range(3, 6)]
        held = CompoundPosition(ACCOUNT, (replace(entries[0], debt=1), *entries[1:]))
        edge = brink(held, market, NOW)
        if edge is not None and edge > 10**12:
            whole = rules.health(owing(held, edge), market, NOW).debt_base
            held = owing(held, edge * 98 // 100)
            if rules.health(held, market, NOW).debt_base < whole * 99 // 100:
                row = rules.row(held, market)
                assert not is_suspect_in_floats(row, weights_of(row, market, NOW))
                seen += 1
    assert seen > 20


@settings(max_examples=50)
@given(seed=st.integers(0, 2**64 - 1))
def test_debt_that_anybody_may_liquidate_is_always_a_suspect(seed: int):
    source = random.Random(seed)
    market = draw_market(source)
    held = owing(draw_position(source, market), 1)
    for forced in (
        (replace(held, forced=frozenset({0})), market),
        (held, replace(market, tokens={**market.tokens, 0: replace(market.tokens[0], is_forced=True)})),
    ):
        row = rules.row(*forced)
        assert is_suspect_in_floats(row, weights_of(row, forced[1], NOW))
    if market.vai is not None:
        held = replace(held, vai=VaiDebt(1 + source.randrange(10**26), 0, WAD), forced=frozenset())
        for forced in (
            (replace(held, forced=frozenset({VAI_ID})), market),
            (held, replace(market, vai=replace(market.vai, is_forced=True))),
        ):
            row = rules.row(*forced)
            assert rules.health(*forced, NOW).is_liquidatable
            assert is_suspect_in_floats(row, weights_of(row, forced[1], NOW))


@settings(max_examples=50)
@given(seed=st.integers(0, 2**64 - 1))
def test_what_has_no_price_is_not_liquidatable_and_weighs_nothing(seed: int):
    source = random.Random(seed)
    market = draw_market(source)
    held = owing(draw_position(source, market), 10**6)
    market = replace(market, tokens={**market.tokens, 0: replace(market.tokens[0], price=None)})
    assert not rules.health(held, market, NOW).is_liquidatable
    for column, weight in weights_of(rules.row(held, market), market, NOW).items():
        if column >> 3 & 0xFFFF == 0 and column & 7 < 2:
            assert (weight.numerator, weight.slack) == (0, 0)

"""A price that jumps is not acted upon until it has stood for a while, or is back where it was."""

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.position import Assessment, Health, Holding, Token
from keeper.domain.units import Address, Base, TokenAmount, Wad
from keeper.oracles.guard import Guard, GuardPolicy, PriceMove, Turn
from tests import toy

POLICY = GuardPolicy(max_rise=3, max_fall=10, window_s=600, settle_s=900)
COIN = Token(Address(bytes(19) + b"\x01"), "COIN", 18)
DOLLAR = Token(Address(bytes(19) + b"\x02"), "USD", 6)
PRICE = 2_200 * 10**8


class Prices:
    """A snapshot that only prices."""

    def __init__(self, prices: Mapping[Address, int | None]) -> None:
        self.prices = prices

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        price = self.prices.get(token)
        return None if price is None else Base(price)


def watched(*tokens: Token, policy: GuardPolicy = POLICY) -> Guard:
    guard = Guard(policy)
    guard.learn(tokens or (COIN,))
    return guard


def see(guard: Guard, at_s: int, price: int | None, token: Token = COIN) -> list[Turn]:
    moves = guard.watch(replace(toy.head(1), timestamp_s=at_s), Prices({token.address: price}))  # type: ignore[arg-type]
    assert all(each == PriceMove(token, each.turn, each.before_base, Base(price or 0)) for each in moves)
    return [each.turn for each in moves]


def holding(*, collateral: Token, debt: Token) -> Assessment:
    one = TokenAmount(1)
    health = Health(
        Wad(0), Base(1), Base(1), True, (Holding(collateral, one, Base(1)),), (Holding(debt, one, Base(1)),)
    )
    return Assessment(health, (), None)


@pytest.mark.parametrize("factor", [(3, 1), (1, 10), (101, 100), (1, 2)])
def test_a_market_move_is_believed(factor: tuple[int, int]) -> None:
    guard = watched()
    assert see(guard, 0, PRICE) == []
    assert see(guard, 12, PRICE * factor[0] // factor[1]) == []
    assert guard.doubted == {}


@pytest.mark.parametrize("price", [1, 112 * 10**6, PRICE * 10**6, PRICE * 3 + 1, PRICE // 10 - 1, 2**95, 2**255])
def test_a_jump_is_doubted_at_once_and_told_once(price: int) -> None:
    guard = watched()
    see(guard, 0, PRICE)
    assert see(guard, 12, price) == [Turn.JUMPED]
    assert see(guard, 24, price) == []
    assert guard.doubted == {COIN.address: COIN}


@pytest.mark.parametrize("price", [None, 0, -1])
def test_a_price_that_is_missing_or_nothing_changes_no_trust(price: int | None) -> None:
    guard = watched()
    assert see(guard, 0, price) == []
    see(guard, 1, PRICE)
    assert see(guard, 2, price) == []
    assert see(guard, 3, PRICE * 100) == [Turn.JUMPED]
    assert see(guard, 4, price) == []
    assert COIN.address in guard.doubted


def test_a_price_that_is_back_is_believed_at_once() -> None:
    guard = watched()
    see(guard, 0, PRICE)
    see(guard, 12, PRICE * 1_000)
    assert see(guard, 24, PRICE * 101 // 100) == [Turn.RESTORED]
    assert guard.doubted == {}


def test_a_price_that_stands_where_it_jumped_to_is_believed_in_the_end() -> None:
    guard = watched()
    see(guard, 0, PRICE)
    see(guard, 12, PRICE // 100)
    assert see(guard, 12 + 899, PRICE // 101) == []
    assert see(guard, 12 + 900, PRICE // 100) == [Turn.RESTORED]
    assert see(guard, 12 + 912, PRICE // 100) == []


def test_a_price_that_wanders_after_its_jump_starts_anew() -> None:
    guard = watched()
    see(guard, 0, PRICE)
    see(guard, 12, PRICE * 10)
    assert see(guard, 800, PRICE * 20) == []
    assert see(guard, 1_000, PRICE * 20) == []
    assert see(guard, 1_700, PRICE * 20) == [Turn.RESTORED]


def test_a_slow_rise_is_believed_and_a_fast_one_by_small_steps_is_not() -> None:
    slow, fast = watched(), watched()
    price, at_s = PRICE, 0
    for _ in range(40):
        assert see(slow, at_s, price) == []
        price, at_s = price * 110 // 100, at_s + 300
    turns = []
    for step in range(40):
        turns += see(fast, 12 * step, PRICE * 110**step // 100**step)
    assert turns[0] is Turn.JUMPED


def test_what_the_operator_vouches_for_is_believed() -> None:
    guard = watched(policy=GuardPolicy(vouched=frozenset({COIN.address})))
    see(guard, 0, PRICE)
    assert see(guard, 12, PRICE * 1_000) == []


def test_only_positions_with_a_doubted_token_are_held_back() -> None:
    guard = watched(COIN, DOLLAR)
    other = Token(Address(bytes(19) + b"\x03"), "OTHER", 18)
    assert guard.doubt(holding(collateral=COIN, debt=DOLLAR)) is None
    see(guard, 0, PRICE)
    see(guard, 12, PRICE * 1_000)
    assert guard.doubt(holding(collateral=COIN, debt=DOLLAR)) == COIN
    assert guard.doubt(holding(collateral=DOLLAR, debt=COIN)) == COIN
    assert guard.doubt(holding(collateral=DOLLAR, debt=other)) is None


@given(steps=st.lists(st.tuples(st.integers(0, 1_000), st.integers(-1, 2**256)), max_size=40))
def test_any_prices_at_any_times_are_taken(steps: list[tuple[int, int]]) -> None:
    guard = watched()
    turns = [turn for at_s, price in steps for turn in see(guard, at_s, price)]
    assert all(one is not other for one, other in itertools.pairwise(turns))
    assert bool(guard.doubted) == (bool(turns) and turns[-1] is Turn.JUMPED)

"""Quotes of Uniswap v3 against the contract's loop, one step after the other in fractions; nothing is shared but ticks' prices."""

import random
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keeper.domain.units import Address, TokenAmount
from keeper.errors import Invalid
from keeper.venues.ticks import MAX_PRICE, MAX_TICK, MIN_PRICE, MIN_TICK, price_at, tick_at
from keeper.venues.uniswap_v3_pool import SWAP_GAS, WORD_GAS, Ladder, Listing, UniswapV3Pool, stand

Q96 = 2**96
MILLION = 10**6
LOW, HIGH = Address(b"\x01" * 20), Address(b"\x02" * 20)
TIERS = ((100, 1), (500, 10), (3_000, 60), (10_000, 200))
WINDOW = 2_500

randoms = st.randoms(use_true_random=True)  # drawing number by number would keep to the simplest pools


@dataclass
class Contract:
    """A pool as its contract keeps it, where every tick of the world is known."""

    fee: int
    spacing: int
    nets: dict[int, int]
    price: int
    tick: int
    liquidity: int

    def stop(self, *, is_up: bool) -> int:
        """Look at one usable tick after the other until one is initialised, or is the last of its word."""
        place = self.tick // self.spacing + is_up
        while place * self.spacing not in self.nets and place % 256 != (255 if is_up else 0):
            place += 1 if is_up else -1
        return min(max(place * self.spacing, MIN_TICK), MAX_TICK)

    def swap(self, left: int, *, is_up: bool, is_exact_in: bool, edges: tuple[int, int]) -> int | None:
        """Swap, and return what came out, or what it took; None once the price is at an edge."""
        result = 0
        while left:
            stop, start = self.stop(is_up=is_up), self.price
            target = price_at(stop)
            self.price, paid, got = self.step(target, left, is_exact_in=is_exact_in)
            left -= paid if is_exact_in else got
            result += got if is_exact_in else paid
            if self.price == target:
                self.liquidity += self.nets.get(stop, 0) * (1 if is_up else -1)
                self.tick = stop if is_up else stop - 1
            elif self.price != start:
                self.tick = tick_at(self.price)
            if not edges[0] < self.price < edges[1]:
                return None
        return result

    def step(self, target: int, left: int, *, is_exact_in: bool) -> tuple[int, int, int]:
        """Go towards a target: the price then, what was paid with the fee, and what came out."""
        is_down, part = self.price >= target, Fraction(MILLION - self.fee, MILLION)
        paid, got = self.between(self.price, target, is_down=is_down)
        usable = floor(left * part)
        if (is_exact_in and usable >= ceil(paid)) or (not is_exact_in and left >= floor(got)):
            return target, ceil(Fraction(ceil(paid)) / part), floor(got)
        end = self.paid_to(usable, is_down=is_down) if is_exact_in else self.drained_to(left, is_down=is_down)
        paid, got = self.between(self.price, end, is_down=is_down)
        if is_exact_in:
            assert end != target
            return end, left, floor(got)
        return end, ceil(Fraction(ceil(paid)) / part), min(floor(got), left)

    def between(self, start: int, end: int, *, is_down: bool) -> tuple[Fraction, Fraction]:
        token0 = self.liquidity * Q96 * abs(Fraction(1, end) - Fraction(1, start))
        token1 = Fraction(self.liquidity * abs(end - start), Q96)
        return (token0, token1) if is_down else (token1, token0)

    def paid_to(self, amount: int, *, is_down: bool) -> int:
        virtual = self.liquidity * Q96
        if not is_down:
            return self.price + floor(Fraction(amount * Q96, self.liquidity))
        if amount == 0:
            return self.price
        if amount * self.price + virtual < 2**256:
            return ceil(1 / (Fraction(1, self.price) + Fraction(amount, virtual)))
        return ceil(Fraction(virtual, virtual // self.price + amount))

    def drained_to(self, amount: int, *, is_down: bool) -> int:
        if is_down:
            return self.price - ceil(Fraction(amount * Q96, self.liquidity))
        return ceil(1 / (Fraction(1, self.price) - Fraction(amount, self.liquidity * Q96)))


def contract_of(rng: random.Random) -> Contract:
    """Draw a pool with positions near its price and far from it, mostly one around it, mostly of like sizes."""
    fee, spacing = rng.choice(TIERS)
    tick = rng.randint(-250_000, 250_000)
    place, reach = tick // spacing, max(1, rng.choice((3, 300, 4_000)) // spacing)
    nets: dict[int, int] = {}
    liquidity, bits = 0, rng.randint(1, 118)
    for at in range(rng.randint(0, 10)):
        low, high = sorted((place + rng.randint(-reach, reach), place + rng.randint(-reach, reach)))
        if at == 0 and rng.randint(0, 7):
            low, high = place - rng.randint(0, reach), place + 1 + rng.randint(0, reach)
        ends = low * spacing, (high + (low == high)) * spacing
        size = rng.randint(1, 2 ** rng.choice((bits, bits, bits, rng.randint(1, 118))))
        nets[ends[0]], nets[ends[1]] = nets.get(ends[0], 0) + size, nets.get(ends[1], 0) - size
        liquidity += size if ends[0] <= tick < ends[1] else 0
    offset = rng.choice((0, rng.randrange(price_at(tick + 1) - price_at(tick))))
    return Contract(fee, spacing, nets, price_at(tick) + offset, tick, liquidity)


def pool_of(contract: Contract) -> UniswapV3Pool:
    listing = Listing("u", Address(b"\x0f" * 20), Address(b"\x10" * 20), LOW, HIGH, contract.fee, contract.spacing)
    span = contract.tick - WINDOW, contract.tick + WINDOW
    known = {tick: net for tick, net in contract.nets.items() if span[0] <= tick <= span[1]}
    ladder = Ladder(listing, span, known, (contract.tick, contract.liquidity))
    return stand(listing, ladder, contract.price, contract.tick)


def way(*, is_up: bool) -> tuple[Address, Address]:
    return (HIGH, LOW) if is_up else (LOW, HIGH)


def share_of(rng: random.Random) -> Fraction:
    return Fraction(rng.randint(0, 1_000), rng.choice((1_000, 3_000, 10**5, 10**12)))


def sized(contract: Contract, share: Fraction, *, is_up: bool, is_exact_in: bool = True) -> TokenAmount:
    """Return a share of what the liquidity at the price would make of the whole window."""
    edge = price_at(contract.tick + (WINDOW if is_up else -WINDOW))
    paid, got = contract.between(contract.price, edge, is_down=not is_up)
    return TokenAmount(1 + floor((paid if is_exact_in else got) * share))


def drawn(contract: Contract, rng: random.Random, *, is_up: bool, is_exact_in: bool) -> TokenAmount:
    """Draw an amount: mostly a share of the window, sometimes all but nothing to the next stop, few, or too much."""
    match rng.randint(0, 9):
        case 0:
            return TokenAmount(rng.randint(1, 1_000))
        case 1:
            return TokenAmount(rng.randint(1, 2 ** rng.randint(1, 255)))
        case 2 | 3:
            paid, got = contract.between(contract.price, price_at(contract.stop(is_up=is_up)), is_down=not is_up)
            whole = ceil(Fraction(ceil(paid) * MILLION, MILLION - contract.fee)) if is_exact_in else floor(got)
            return TokenAmount(max(1, whole + rng.randint(-2, 1)))
        case _:
            return sized(contract, share_of(rng), is_up=is_up, is_exact_in=is_exact_in)


@settings(max_examples=400)
@given(randoms)
def test_every_swap_and_what_it_leaves_are_the_contracts(rng: random.Random):
    contract = contract_of(rng)
    pool = pool_of(contract)
    edges = price_at(pool.ladder.low), price_at(pool.ladder.high)
    for _ in range(rng.randint(1, 6)):
        is_up, is_exact_in = rng.random() < 0.5, rng.random() < 0.5
        amount = drawn(contract, rng, is_up=is_up, is_exact_in=is_exact_in)
        quoted = (pool.swap if is_exact_in else pool.buy)(*way(is_up=is_up), amount)
        before = replace(contract)
        result = contract.swap(amount, is_up=is_up, is_exact_in=is_exact_in, edges=edges)
        if quoted is None:  # the very last unit that can be bought may lie beyond what is known, or not
            most = amount if is_exact_in else amount + 1
            assert before.swap(most, is_up=is_up, is_exact_in=is_exact_in, edges=edges) is None
            return
        assert isinstance(quoted.pool, UniswapV3Pool)
        pool = quoted.pool
        assert quoted.amount == result
        assert (pool.price, pool.tick, pool.liquidity) == (contract.price, contract.tick, contract.liquidity)


@given(randoms)
def test_giving_more_brings_no_less_and_ever_less_for_each(rng: random.Random):
    contract, is_up = contract_of(rng), rng.random() < 0.5
    pool, pair = pool_of(contract), way(is_up=is_up)
    first, second = (sized(contract, share_of(rng), is_up=is_up) for _ in range(2))
    both = pool.swap(*pair, TokenAmount(first + second))
    if both is None:
        return
    parts = [part for each in (first, second) if (part := pool.swap(*pair, each)) is not None]
    assert len(parts) == 2
    assert both.amount >= max(each.amount for each in parts)
    assert both.gas >= max(each.gas for each in parts)
    # each step rounds, and one unit less of what is given may be worth many of what is taken
    steps, price = 3 + (both.gas - SWAP_GAS) // WORD_GAS, Fraction(contract.price**2, Q96**2)
    worth = ceil(1 / price if is_up else price)
    assert both.amount <= sum(each.amount for each in parts) + 2 * steps * (1 + worth)


@given(randoms)
def test_what_has_to_be_given_brings_what_was_wanted(rng: random.Random):
    contract, is_up = contract_of(rng), rng.random() < 0.5
    pool, pair = pool_of(contract), way(is_up=is_up)
    wanted = drawn(contract, rng, is_up=is_up, is_exact_in=False)
    if (asked := pool.buy(*pair, wanted)) is not None and asked.amount:
        served = pool.swap(*pair, asked.amount)
        assert served is None or served.amount >= wanted


@given(randoms)
def test_there_and_back_never_pays(rng: random.Random):
    contract, is_up = contract_of(rng), rng.random() < 0.5
    pool, (give, take) = pool_of(contract), way(is_up=is_up)
    amount = drawn(contract, rng, is_up=is_up, is_exact_in=True)
    if (there := pool.swap(give, take, amount)) is not None:
        back = there.pool.swap(take, give, there.amount)
        assert back is None or back.amount <= amount


@given(st.integers(MIN_TICK, MAX_TICK))
@example(MIN_TICK)
@example(MAX_TICK)
def test_a_ticks_price_is_the_root_of_its_power(tick: int):
    with localcontext() as context:
        context.prec = 80
        exact = (Decimal("1.0001") ** tick).sqrt() * Q96
        assert abs(price_at(tick) - exact) <= 1 + exact / Decimal(10) ** 12


@given(st.integers(MIN_PRICE, MAX_PRICE - 1))
@example(MIN_PRICE)
@example(MAX_PRICE - 1)
def test_a_price_lies_between_its_tick_and_the_next(price: int):
    tick = tick_at(price)
    assert price_at(tick) <= price < price_at(tick + 1)


@given(st.integers(MIN_TICK, MAX_TICK - 1))
def test_a_ticks_own_price_is_its_own(tick: int):
    assert tick_at(price_at(tick)) == tick
    assert tick == MIN_TICK or tick_at(price_at(tick) - 1) == tick - 1


@given(randoms)
def test_liquidity_that_would_be_negative_is_nonsense(rng: random.Random):
    contract = contract_of(rng)
    within = contract.tick + 1 - WINDOW, contract.tick - 1 + WINDOW
    tick = rng.choice([each for each in range(*within) if each != contract.tick])
    everything = contract.liquidity + sum(map(abs, contract.nets.values())) + 1
    contract.nets[tick] = contract.nets.get(tick, 0) + (everything if tick < contract.tick else -everything)
    with pytest.raises(Invalid):
        pool_of(contract)

"""Routes through pools: found by way of base tokens, quoted hop by hop, and quoted anew once a pool was used."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from keeper.domain.program import StepKind
from keeper.domain.units import NATIVE, Address, Base, TokenAmount, Wei
from keeper.engine.exchange import Exchange, Route, quote
from keeper.engine.terms import Terms, Values
from tests.unit.engine.pools import Patient, Product
from tests.unit.protocols.aave_v3 import market as aave

GIVE, BASE, SECOND, TAKE = (aave.asset(each) for each in range(4))
STRANGER, VAULT = Address(b"\x77" * 20), Address(b"\x78" * 20)
WRAPPED = Address(b"\x0e" * 20)
MARKET = aave.snapshot(10, [aave.reserve(each) for each in range(4)])
DEEP = (10**24, 10**24)
AMOUNT = TokenAmount(10**18)


def terms(gas_price_wei: int = 0) -> Terms:
    return Terms(Wei(gas_price_wei), Base(2_000 * 10**8), Base(0), 101, aave.NOW_S + 60)


def values(gas_price_wei: int = 0) -> Values:
    return Values("aave", MARKET, terms(gas_price_wei), WRAPPED)


def numbers(routes: Sequence[Route]) -> list[list[bytes]]:
    return [[hop.pool.id for hop in route] for route in routes]


def pool(number: int, one: Address, other: Address, reserves: tuple[int, int] = DEEP, fee_bps: int = 30) -> Product:
    return Product(number, (one, other), reserves, fee_bps)


def test_nothing_has_to_be_swapped_where_the_token_is_the_same():
    assert Exchange([], []).routes(GIVE, GIVE, AMOUNT, values()) == ((),)
    made = quote((), AMOUNT)
    assert made is not None
    assert (made.amount, made.gas, made.pools) == (AMOUNT, 0, ())


def test_a_route_of_three_hops_is_found_through_bases_only():
    chain = [pool(1, GIVE, BASE), pool(2, BASE, SECOND), pool(3, SECOND, TAKE)]
    (route,) = Exchange(chain, [BASE, SECOND]).routes(GIVE, TAKE, AMOUNT, values())
    assert [(hop.give, hop.take) for hop in route] == [(GIVE, BASE), (BASE, SECOND), (SECOND, TAKE)]
    assert Exchange(chain, [BASE]).routes(GIVE, TAKE, AMOUNT, values()) == ()
    four = [pool(1, GIVE, BASE), pool(2, BASE, SECOND), pool(3, SECOND, STRANGER), pool(4, STRANGER, TAKE)]
    assert Exchange(four, [BASE, SECOND, STRANGER]).routes(GIVE, TAKE, AMOUNT, values()) == ()


def test_what_can_only_be_turned_into_its_asset_goes_by_way_of_it_though_it_is_no_base():
    unwrap = Product(1, (GIVE, VAULT), DEEP, is_one_way=True)
    (route,) = Exchange([unwrap, pool(2, VAULT, TAKE)]).routes(GIVE, TAKE, AMOUNT, values())
    assert [hop.take for hop in route] == [VAULT, TAKE]


def test_a_quote_is_what_the_pools_bring_one_after_another_and_leaves_them_moved():
    first, second = pool(1, GIVE, BASE, (10**20, 2 * 10**20)), pool(2, BASE, TAKE, (10**20, 10**20), 5)
    (route,) = Exchange([first, second], [BASE]).routes(GIVE, TAKE, AMOUNT, values())
    made = quote(route, AMOUNT)
    middle = 2 * 10**20 * (10**18 * 9_970) // (10**20 * 10_000 + 10**18 * 9_970)
    out = 10**20 * (middle * 9_995) // (10**20 * 10_000 + middle * 9_995)
    assert made is not None
    assert made.amounts == (middle, out)
    assert made.gas == first.gas + second.gas
    assert made.pools == (
        replace(first, reserves=(10**20 + 10**18, 2 * 10**20 - middle)),
        replace(second, reserves=(10**20 + middle, 10**20 - out)),
    )


def test_a_detour_is_taken_for_a_better_price_unless_its_gas_eats_the_difference():
    direct, there, back = (
        pool(1, GIVE, TAKE, fee_bps=100),
        pool(2, GIVE, BASE, fee_bps=1),
        pool(3, BASE, TAKE, fee_bps=1),
    )
    exchange = Exchange([direct, there, back], [BASE])
    assert numbers(exchange.routes(GIVE, TAKE, AMOUNT, values()))[0] == [there.id, back.id]
    dear = Exchange([direct, there, back], [BASE])
    assert numbers(dear.routes(GIVE, TAKE, AMOUNT, values(gas_price_wei=10**9)))[0] == [direct.id]


def test_a_thin_pool_is_the_first_choice_for_little_and_not_for_much():
    thin, deep = pool(1, GIVE, TAKE, (10**19, 10**19), 1), pool(2, GIVE, TAKE, fee_bps=30)
    exchange = Exchange([thin, deep])
    assert numbers(exchange.routes(GIVE, TAKE, 10**15, values()))[0] == [thin.id]
    assert numbers(exchange.routes(GIVE, TAKE, 10**19, values()))[0] == [deep.id]


def test_what_is_remembered_does_not_depend_on_which_amount_came_first():
    pools = [pool(1, GIVE, TAKE, (10**19, 10**19), 1), pool(2, GIVE, TAKE, fee_bps=30)]
    low, high = 1 << 56, (1 << 57) - 1
    one, other = Exchange(pools), Exchange(pools)
    assert numbers(one.routes(GIVE, TAKE, low, values())) == numbers(other.routes(GIVE, TAKE, high, values()))


def test_a_pool_that_was_used_is_quoted_as_it_then_stands_and_only_there():
    exchange = Exchange([pool(1, GIVE, TAKE, (10**19, 10**19)), pool(2, GIVE, BASE)])
    (route,) = exchange.routes(GIVE, TAKE, AMOUNT, values())
    kept = exchange.routes(GIVE, BASE, AMOUNT, values())
    used = quote(route, AMOUNT)
    assert used is not None
    after = exchange.after(used.pools)
    (again,) = after.routes(GIVE, TAKE, AMOUNT, values())
    less, same = quote(again, AMOUNT), quote(route, AMOUNT)
    assert less is not None
    assert less.amount < used.amount
    assert same == used
    assert after.routes(GIVE, BASE, AMOUNT, values()) == kept


def test_no_pool_is_used_twice_in_a_route():
    back = pool(1, GIVE, BASE)
    assert Exchange([back], [BASE, GIVE]).routes(GIVE, TAKE, AMOUNT, values()) == ()


def test_a_pool_that_pays_first_is_kept_among_the_candidates_however_bad():
    good = [pool(each, GIVE, TAKE, fee_bps=each) for each in range(1, 6)]
    patient = Patient(9, (GIVE, TAKE), DEEP, 100)
    found = Exchange([*good, patient]).routes(GIVE, TAKE, AMOUNT, values())
    assert numbers(found)[0] == [good[0].id]
    assert [patient.id] in numbers(found)


def test_native_currency_is_wrapped_one_for_one():
    exchange = Exchange([pool(1, WRAPPED, TAKE)], [], WRAPPED)
    (route,) = exchange.routes(NATIVE, TAKE, AMOUNT, values())
    made = quote(route, AMOUNT)
    assert made is not None
    assert made.amounts[0] == AMOUNT
    assert [hop.pool.step(hop.give, hop.take, 5, 4).kind for hop in route] == [
        StepKind.WRAP_NATIVE,
        StepKind.SWAP_UNISWAP_V2,
    ]
    (back,) = exchange.routes(TAKE, NATIVE, AMOUNT, values())
    step = back[-1].pool.step(WRAPPED, NATIVE, 5, 4)
    assert (step.kind, step.target, step.give, step.take) == (StepKind.UNWRAP_NATIVE, WRAPPED, WRAPPED, NATIVE)


@pytest.mark.parametrize("amount", [1, 2])
def test_an_amount_that_brings_nothing_has_no_quote(amount: int):
    (route,) = Exchange([pool(1, GIVE, TAKE)]).routes(GIVE, TAKE, AMOUNT, values())
    assert (quote(route, amount) is None) is (amount == 1)

"""The arithmetic of concentrated liquidity against the numbers in v3-core's own tests."""

from keeper.domain.units import WAD
from keeper.venues.ticks import (
    MAX_PRICE,
    MAX_TICK,
    MIN_PRICE,
    MIN_TICK,
    amount0_down,
    amount0_up,
    amount1_down,
    amount1_up,
    crossing,
    price_at,
    price_with_0,
    price_with_1,
    price_without_0,
    price_without_1,
    with_fee,
)

ONE = 2**96
ROOT_OF_1_01 = 79623317895830914510639640423
ROOT_OF_1_21 = 87150978765690771352898345369


def test_the_prices_of_ticks():  # TickMath.spec.ts
    assert price_at(MIN_TICK) == MIN_PRICE == 4295128739
    assert price_at(MIN_TICK + 1) == 4295343490
    assert price_at(0) == ONE
    assert price_at(MAX_TICK - 1) == 1461373636630004318706518188784493106690254656249
    assert price_at(MAX_TICK) == MAX_PRICE == 1461446703485210103287273052203988822378723970342


def test_the_price_after_an_amount():  # SqrtPriceMath.spec.ts
    tenth = WAD // 10
    assert price_with_0(ONE, WAD, tenth) == 72025602285694852357767227579
    assert price_with_1(ONE, WAD, tenth) == ROOT_OF_1_21
    assert price_without_0(ONE, WAD, tenth) == 88031291682515930659493278152
    assert price_without_1(ONE, WAD, tenth) == 71305346262837903834189555302
    assert price_with_0(ONE, 10 * WAD, 2**100) == 624999999995069620


def test_where_256_bits_do_not_hold_the_product_the_price_is_rounded_more_coarsely():
    price, liquidity, amount = 2**159 + 1, 2**127, 2**98
    assert amount * price > 2**256
    coarse = -(-(2**223) // (2**64 - 1 + 2**98))  # 2²²³ / price, rounded down, is 2⁶⁴ − 1
    assert price_with_0(price, liquidity, amount) == coarse > 2**223 * price // (2**223 + amount * price) + 1
    assert price_with_0(1, 1, 2**255) == 1  # SqrtPriceMath.spec.ts
    assert price_with_0(ONE, 1, (2**256 - 1) // 2) == 1  # likewise


def test_what_lies_between_two_prices():  # SqrtPriceMath.spec.ts
    assert amount0_up(ONE, ROOT_OF_1_21, WAD) == 90909090909090910
    assert amount0_down(ONE, ROOT_OF_1_21, WAD) == 90909090909090909
    assert amount1_up(ONE, ROOT_OF_1_21, WAD) == 100000000000000000
    assert amount1_down(ONE, ROOT_OF_1_21, WAD) == 99999999999999999
    assert amount0_up(ONE, ROOT_OF_1_21, 0) == amount1_up(ONE, ONE, WAD) == 0


def test_a_step_that_reaches_its_target():  # SwapMath.spec.ts
    assert crossing(ONE, ROOT_OF_1_01, 2 * WAD, 600) == (9975124224178055 + 5988667735148, 9925619580021728)
    assert with_fee(9975124224178055, 600) == 9975124224178055 + 5988667735148

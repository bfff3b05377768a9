"""The arithmetic of concentrated liquidity, to the wei: square root prices, ticks, and what lies between two prices.

A price is the square root of token1 per token0 in 96 binary places. It falls where token0 is given, and rises where
token1 is. Source of all: Uniswap v3-core 1.0.1, contracts/libraries.
"""

from functools import lru_cache
from typing import Final

from keeper.domain.units import MAX_UINT256

MIN_TICK: Final = -887_272
MAX_TICK: Final = 887_272
MIN_PRICE: Final = 4_295_128_739
MAX_PRICE: Final = 1_461_446_703_485_210_103_287_273_052_203_988_822_378_723_970_342
FEE_UNIT: Final = 10**6
PLACES: Final = 96
WORD_TICKS: Final = 256
"""How many usable ticks share a word of a pool's bitmap: no step of a swap goes beyond its word."""

_REMEMBERED: Final = 1 << 16
_ONE: Final = 1 << 128
_LOW_32: Final = (1 << 32) - 1
_POWERS: Final = (
    0xFFFCB933BD6FAD37AA2D162D1A594001,
    0xFFF97272373D413259A46990580E213A,
    0xFFF2E50F5F656932EF12357CF3C7FDCC,
    0xFFE5CACA7E10E4E61C3624EAA0941CD0,
    0xFFCB9843D60F6159C9DB58835C926644,
    0xFF973B41FA98C081472E6896DFB254C0,
    0xFF2EA16466C96A3843EC78B326B52861,
    0xFE5DEE046A99A2A811C461F1969C3053,
    0xFCBE86C7900A88AEDCFFC83B479AA3A4,
    0xF987A7253AC413176F2B074CF7815E54,
    0xF3392B0822B70005940C7A398E4B70F3,
    0xE7159475A2C29B7443B29C7FA6E889D9,
    0xD097F3BDFD2022B8845AD8F792AA5825,
    0xA9F746462D870FDF8A65DC1F90E061E5,
    0x70D869A156D2A1B890BB3DF62BAF32F7,
    0x31BE135F97D08FD981231505542FCFA6,
    0x9AA508B5B7A84E1C677DE54F3E99BC9,
    0x5D6AF8DEDB81196699C329225EE604,
    0x2216E584F5FA1EA926041BEDFE98,
    0x48A170391F7DC42444E8FA2,
)
"""For each bit of a tick, 1.0001 to the power of minus half of it, in 128 binary places."""


@lru_cache(_REMEMBERED)
def price_at(tick: int) -> int:
    """Return the square root price of a tick.

    Rounding: up.
    Source: TickMath.getSqrtRatioAtTick
    """
    bits = abs(tick)
    ratio = _ONE
    for place, power in enumerate(_POWERS):
        if bits >> place & 1:
            ratio = ratio * power >> 128
    if tick > 0:
        ratio = MAX_UINT256 // ratio
    return (ratio >> 32) + (ratio & _LOW_32 != 0)


def tick_at(price: int) -> int:
    """Return the greatest tick whose price is not above one.

    Source: TickMath.getTickAtSqrtRatio, which finds the same by a logarithm.
    """
    low, high = MIN_TICK, MAX_TICK
    while high - low > 1:
        middle = (low + high) // 2
        if price_at(middle) <= price:
            low = middle
        else:
            high = middle
    return low


def amount0_up(low: int, high: int, liquidity: int) -> int:
    """Return how much token0 lies between two prices.

    Rounding: up; dividing by one price after the other rounds as dividing by both.
    Source: SqrtPriceMath.getAmount0Delta
    """
    return -(-(liquidity << PLACES) * (high - low) // (high * low))


def amount0_down(low: int, high: int, liquidity: int) -> int:
    """Return how much token0 lies between two prices.

    Rounding: down.
    Source: SqrtPriceMath.getAmount0Delta
    """
    return (liquidity << PLACES) * (high - low) // (high * low)


def amount1_up(low: int, high: int, liquidity: int) -> int:
    """Return how much token1 lies between two prices.

    Rounding: up.
    Source: SqrtPriceMath.getAmount1Delta
    """
    return -(-liquidity * (high - low) >> PLACES)


def amount1_down(low: int, high: int, liquidity: int) -> int:
    """Return how much token1 lies between two prices.

    Rounding: down.
    Source: SqrtPriceMath.getAmount1Delta
    """
    return liquidity * (high - low) >> PLACES


def price_with_0(price: int, liquidity: int, amount: int) -> int:
    """Return the price after so much token0 came in.

    Rounding: up; more coarsely where 256 bits do not hold the products.
    Source: SqrtPriceMath.getNextSqrtPriceFromAmount0RoundingUp
    """
    scaled = liquidity << PLACES
    product = amount * price
    if product + scaled <= MAX_UINT256:
        return -(-scaled * price // (scaled + product))
    return -(-scaled // (scaled // price + amount))


def price_with_1(price: int, liquidity: int, amount: int) -> int:
    """Return the price after so much token1 came in.

    Rounding: down.
    Source: SqrtPriceMath.getNextSqrtPriceFromAmount1RoundingDown
    """
    return price + (amount << PLACES) // liquidity


def price_without_0(price: int, liquidity: int, amount: int) -> int:
    """Return the price after so much token0 went out, which must be there.

    Rounding: up.
    Source: SqrtPriceMath.getNextSqrtPriceFromAmount0RoundingUp
    """
    scaled = liquidity << PLACES
    return -(-scaled * price // (scaled - amount * price))


def price_without_1(price: int, liquidity: int, amount: int) -> int:
    """Return the price after so much token1 went out, which must be there.

    Rounding: down.
    Source: SqrtPriceMath.getNextSqrtPriceFromAmount1RoundingDown
    """
    return price - -(-(amount << PLACES) // liquidity)


def with_fee(amount: int, fee: int) -> int:
    """Return what must be given for an amount to remain when the fee is taken.

    Rounding: up.
    Source: SwapMath.computeSwapStep, a step that reaches its target
    """
    return -(-amount * FEE_UNIT // (FEE_UNIT - fee))


def crossing(start: int, end: int, liquidity: int, fee: int) -> tuple[int, int]:
    """Return what moving the price from a start to an end takes, with the fee, and what it brings.

    Source: SwapMath.computeSwapStep, a step that reaches its target
    """
    if end < start:
        given, out = amount0_up(end, start, liquidity), amount1_down(end, start, liquidity)
    else:
        given, out = amount1_up(start, end, liquidity), amount0_down(start, end, liquidity)
    return with_fee(given, fee), out

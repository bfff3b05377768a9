"""Prices of pools: what two assets cost in each other, however many decimals they have."""

import pytest

from keeper.devnet.assets import DevAsset
from keeper.devnet.uniswap_market import DevPool, raw_price, sqrt_price_x96, worth

PRICES = {"ETH": 3_000 * 10**8, "USD": 10**8, "BTC": 90_000 * 10**8, "CENT": 10**8}
DECIMALS = {"ETH": 18, "USD": 6, "BTC": 8, "CENT": 2}


def asset(symbol: str) -> DevAsset:
    nobody = "0x" + "00" * 20
    return DevAsset(symbol=symbol, decimals=DECIMALS[symbol], token=nobody, feed=nobody, aggregator=nobody)


def test_a_dollar_value_is_turned_into_units():
    assert worth(asset("ETH"), 6_000, PRICES) == 2 * 10**18
    assert worth(asset("BTC"), 45_000, PRICES) == 5 * 10**7
    assert worth(asset("CENT"), 7, PRICES) == 700


@pytest.mark.parametrize(("one", "other"), [("ETH", "USD"), ("USD", "ETH"), ("BTC", "ETH"), ("CENT", "BTC")])
def test_a_pools_price_says_what_a_unit_costs_in_units(one: str, other: str):
    numerator, denominator = raw_price(asset(one), asset(other), PRICES)
    whole = numerator / denominator * 10.0 ** (DECIMALS[one] - DECIMALS[other])
    assert whole == pytest.approx(PRICES[one] / PRICES[other])
    assert (sqrt_price_x96((numerator, denominator)) / 2**96) ** 2 == pytest.approx(numerator / denominator)


def test_the_square_root_price_is_rounded_down_to_the_unit():
    assert sqrt_price_x96((1, 1)) == 2**96
    assert sqrt_price_x96((4, 1)) == 2**97
    root = sqrt_price_x96((2, 1))
    assert root**2 <= 2 << 192 < (root + 1) ** 2


def test_pools_of_one_pair_have_names_of_their_own():
    pools = [
        DevPool(version=3, symbol0="A", symbol1="B", fee=500, address=""),
        DevPool(version=3, symbol0="A", symbol1="B", fee=3_000, address=""),
        DevPool(version=2, symbol0="A", symbol1="B", fee=0, address=""),
    ]
    assert [each.name for each in pools] == ["v3 A/B 500", "v3 A/B 3000", "v2 A/B 0"]

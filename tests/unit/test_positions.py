"""`keeper positions`: exact as JSON, readable as a table, whatever the tokens call themselves."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from keeper.domain.position import Health, Holding, PositionKey, Token
from keeper.domain.units import MAX_UINT256, WAD, Base, PositionId, TokenAmount, Wad
from keeper.positions import Line, Listing, as_json, as_table
from tests.toy import account, address, head

HUGE = 2**200 + 1
WEI = Token(address(0xE), "WETH", 18)
USD = Token(address(0xD), "USDC", 6)


def line(
    number: int, factor: int, *, market: str = "aave", collateral: int = 10**18, debt: int = 10**6, token: Token = WEI
) -> Line:
    return Line(
        PositionKey(market, account(number)),
        Health(
            health_factor_wad=Wad(factor),
            collateral_base=Base(2_000 * 10**8),
            debt_base=Base(debt * 100),
            is_liquidatable=factor < WAD,
            collateral=(Holding(token, TokenAmount(collateral), Base(2_000 * 10**8)),),
            debt=(Holding(USD, TokenAmount(debt), Base(debt * 100)),),
        ),
    )


def drawn(listing: Listing) -> str:
    stream = io.StringIO()
    Console(file=stream, width=240, no_color=True).print(as_table(listing))
    return stream.getvalue()


def test_json_has_exact_strings_beside_readable_texts_in_a_fixed_order() -> None:
    text = as_json(Listing(head(123), (line(1, 99_999 * WAD // 100_000, collateral=HUGE),)))
    document = json.loads(text)
    assert list(document) == ["block", "positions"]
    assert document["block"] == {"number": 123, "hash": "0x" + head(123).hash.hex()}
    assert document["positions"] == [
        {
            "market": "aave",
            "account": "0x0000000000000000000000000000000000000001",
            "part": None,
            "health_factor_wad": "999990000000000000",
            "health_factor": "0.9999",
            "is_liquidatable": True,
            "distance_bps": 0,
            "distance": "0.00%",
            "collateral_base": "200000000000",
            "collateral_usd": "$2,000.00",
            "debt_base": "100000000",
            "debt_usd": "$1.00",
            "collateral": [
                {
                    "symbol": "WETH",
                    "token": "0x000000000000000000000000000000000000000E",
                    "decimals": 18,
                    "amount": str(HUGE),
                    "amount_text": "1,606,938,044,258,990,275,541,962,092,341,162,602,522,202.993782",
                    "value_base": "200000000000",
                    "value_usd": "$2,000.00",
                }
            ],
            "debt": [
                {
                    "symbol": "USDC",
                    "token": "0x000000000000000000000000000000000000000d",
                    "decimals": 6,
                    "amount": "1000000",
                    "amount_text": "1",
                    "value_base": "100000000",
                    "value_usd": "$1.00",
                }
            ],
        }
    ]
    assert text.index('"block"') < text.index('"positions"')
    assert list(document["positions"][0])[:4] == ["market", "account", "part", "health_factor_wad"]
    assert list(document["positions"][0])[4] == "health_factor"


def test_an_accounts_positions_in_one_market_are_told_apart() -> None:
    plain = line(1, WAD - 1)
    listing = Listing(head(), (plain, replace(plain, key=PositionKey("aave", PositionId(account(1) + b"\xab" * 32)))))
    first, second = json.loads(as_json(listing))["positions"]
    assert first["account"] == second["account"]
    assert (first["part"], second["part"]) == (None, "0x" + "ab" * 32)
    assert "0xabababab…" in drawn(listing)


def test_a_bankrupt_account_and_one_without_debt_can_be_written() -> None:
    document = json.loads(as_json(Listing(head(), (line(1, 0), line(2, MAX_UINT256)))))
    assert [each["distance_bps"] for each in document["positions"]] == [0, None]
    assert [each["health_factor"] for each in document["positions"]] == ["0.0000", "∞"]


def test_positions_are_chosen_by_health_market_and_number() -> None:
    listing = Listing(
        head(), (line(1, WAD - 1), line(2, WAD, market="other"), line(3, WAD), line(4, 2 * WAD), line(5, 3 * WAD))
    )

    def numbers(**choice: object) -> list[int]:
        asked = {"below_wad": None, "market": None, "limit": None, **choice}
        chosen = listing.chosen(**asked)  # type: ignore[arg-type]
        assert chosen.head == listing.head
        return [int.from_bytes(each.key.account) for each in chosen.lines]

    assert numbers() == [1, 2, 3, 4, 5]
    assert numbers(below_wad=WAD) == [1]
    assert numbers(below_wad=WAD + 1) == [1, 2, 3]
    assert numbers(market="other") == [2]
    assert numbers(market="aave", limit=2) == [1, 3]
    assert numbers(below_wad=3 * WAD, market="aave", limit=9) == [1, 3, 4]


def test_the_table_shows_each_position() -> None:
    text = drawn(Listing(head(7), (line(1, WAD - 1), line(2, 101 * WAD // 100), line(3, 2 * WAD))))
    rows = [each for each in text.splitlines() if "0x" in each]
    assert "positions at block 7" in text
    assert ["now" in each for each in rows] == [True, False, False]
    assert "0.9999" in rows[0]
    assert "0.99%" in rows[1]
    assert "50.00%" in rows[2]
    assert "1 WETH ($2,000.00)" in rows[2]


@pytest.mark.parametrize("symbol", ["[red]x[/red]", "[/]", "[link=file:/x]", "a\\", "[[", "]", ":smile:", "[bold"])
def test_a_hostile_symbol_does_not_break_the_table(symbol: str) -> None:
    text = drawn(Listing(head(), (line(1, 2 * WAD, token=Token(address(9), symbol, 18)),)))
    assert f"1 {symbol} ($2,000.00)" in text

"""Exact integers as people read them."""

import pytest

from keeper.domain.position import Health, PositionKey
from keeper.domain.units import MAX_UINT256, WAD, Address, Base, PositionId, Wad
from keeper.text import address_text, amount_text, distance_bps, distance_text, health_text, position_text, usd_text


def health(factor_wad: int) -> Health:
    return Health(Wad(factor_wad), Base(0), Base(1), factor_wad < WAD, (), ())


@pytest.mark.parametrize(
    ("amount", "decimals", "text"),
    [
        (0, 18, "0"),
        (1, 0, "1"),
        (1_234_567, 0, "1,234,567"),
        (1_500_000, 6, "1.5"),
        (1_234_567_899_999, 6, "1,234,567.899999"),
        (10**18, 18, "1"),
        (1_999_999_999_999_999_999, 18, "1.999999"),
        (1, 18, "0"),
        (-1_500_000, 6, "-1.5"),
        (123_456, 2, "1,234.56"),
        (2**256 - 1, 77, "1.15792"),
    ],
)
def test_an_amount_is_cut_and_never_rounded(amount: int, decimals: int, text: str) -> None:
    assert amount_text(amount, decimals) == text


def test_an_amount_has_as_many_places_as_asked_for() -> None:
    assert amount_text(1_234_567, 6, 4) == "1.2345"
    assert amount_text(1_000_067, 6, 4) == "1"


@pytest.mark.parametrize(
    ("base", "text"),
    [
        (0, "$0.00"),
        (10**8, "$1.00"),
        (123_456_789_012, "$1,234.56"),
        (-(10**8) - 999_999, "-$1.00"),
        (999_999, "$0.00"),
    ],
)
def test_dollars_are_cut_toward_zero(base: int, text: str) -> None:
    assert usd_text(base) == text


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (WAD, "1.0000"),
        (WAD - 1, "0.9999"),
        (99_999 * WAD // 100_000, "0.9999"),
        (12_345_678 * WAD // 10**7, "1.2345"),
        (0, "0.0000"),
        (MAX_UINT256, "∞"),
    ],
)
def test_a_health_factor_below_one_never_reads_as_one(factor: int, text: str) -> None:
    assert health_text(factor) == text


@pytest.mark.parametrize(
    ("factor", "bps", "text"),
    [
        (MAX_UINT256, None, "∞"),
        (WAD, 0, "0.00%"),
        (WAD - 1, 0, "0.00%"),
        (0, 0, "0.00%"),
        (2 * WAD, 5_000, "50.00%"),
        (125 * WAD // 100, 2_000, "20.00%"),
        (WAD + 1, 0, "0.00%"),
        (10_005 * WAD // 10_000, 4, "0.04%"),
    ],
)
def test_the_distance_is_what_all_collateral_may_fall_rounded_down(factor: int, bps: int | None, text: str) -> None:
    assert distance_bps(health(factor)) == bps
    assert distance_text(health(factor)) == text


def test_a_position_is_told_by_its_account_and_the_beginning_of_its_part() -> None:
    owner = bytes.fromhex("ca11bde05977b3631167028862be2a173976ca11")
    whole, part = (PositionKey("toy", PositionId(owner + each)) for each in (b"", b"\x12\x34\x56\x78\x9a" * 6))
    assert position_text(whole) == "0xcA11bde05977b3631167028862bE2a173976CA11"
    assert position_text(part) == "0xcA11bde05977b3631167028862bE2a173976CA11 0x12345678…"


def test_an_address_has_its_checksum() -> None:
    raw = Address(bytes.fromhex("ca11bde05977b3631167028862be2a173976ca11"))
    assert address_text(raw) == "0xcA11bde05977b3631167028862bE2a173976CA11"

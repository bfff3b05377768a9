"""Revert data: a protocol's own words first, then tokens', and junk never more than a short line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.abi import number_word, selector
from keeper.domain.outcome import Reason
from keeper.domain.reverts import MAX_TEXT, decode

STRINGS = {
    "45": (Reason.NOT_LIQUIDATABLE, "HEALTHY"),
    "HEALTHY": (Reason.NOT_LIQUIDATABLE, "HEALTHY"),
    "transfer paused": (Reason.PAUSED, "MARKET"),
}
OWN = selector("Healthy(uint256)")
ERRORS = {OWN: (Reason.NOT_LIQUIDATABLE, "Healthy"), selector("EnforcedPause()"): (Reason.PAUSED, "EnforcedPause")}


def string(text: bytes, *, length: int | None = None, offset: int = 32) -> bytes:
    raw = text.ljust(-(-len(text) // 32) * 32, b"\0")
    return selector("Error(string)") + number_word(offset) + number_word(len(text) if length is None else length) + raw


def read(data: bytes) -> tuple[Reason, str]:
    return decode(data, strings=STRINGS, errors=ERRORS)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", (Reason.REVERTED, "reverted without a reason")),
        (string(b"45"), (Reason.NOT_LIQUIDATABLE, "45: HEALTHY")),
        (string(b"HEALTHY"), (Reason.NOT_LIQUIDATABLE, "HEALTHY")),
        (string(b"transfer paused"), (Reason.PAUSED, "transfer paused: MARKET")),
        (OWN + number_word(5), (Reason.NOT_LIQUIDATABLE, "Healthy")),
        (selector("EnforcedPause()"), (Reason.PAUSED, "EnforcedPause")),
        (string(b"Pausable: paused"), (Reason.TOKEN_BLOCKED, "Pausable: paused")),
        (string(b"ERC20: transfer amount EXCEEDS BALANCE"), None),
        (string(b"out of luck"), (Reason.REVERTED, "out of luck")),
        (string(b""), (Reason.REVERTED, "reverted with an empty reason")),
        (selector("Panic(uint256)") + number_word(0x11), (Reason.REVERTED, "panic 0x11: overflow")),
        (selector("Panic(uint256)") + number_word(0x99), (Reason.REVERTED, "panic 0x99: unnamed")),
    ],
)
def test_a_revert_is_named_by_the_protocol_before_the_token(data: bytes, expected: tuple[Reason, str] | None) -> None:
    named = expected or (Reason.INSUFFICIENT_INVENTORY, "ERC20: transfer amount EXCEEDS BALANCE")
    assert read(data) == named


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("ERC20InsufficientBalance(address,uint256,uint256)", Reason.INSUFFICIENT_INVENTORY),
        ("ERC20InsufficientAllowance(address,uint256,uint256)", Reason.INSUFFICIENT_INVENTORY),
        ("ERC20InvalidReceiver(address)", Reason.TOKEN_BLOCKED),
        ("ERC20InvalidSender(address)", Reason.TOKEN_BLOCKED),
    ],
)
def test_the_standard_errors_of_tokens_are_known_to_every_protocol(signature: str, reason: Reason) -> None:
    assert read(selector(signature) + bytes(96)) == (reason, signature.partition("(")[0])


@pytest.mark.parametrize(
    "data",
    [
        string(b"cut")[:-40],
        string(b"x", length=2**255),
        string(b"x", length=33),
        string(b"x", offset=2**255),
        string(b"x", offset=64),
        selector("Error(string)"),
        selector("Error(string)") + b"\x01",
        selector("Panic(uint256)") + b"\x01",
        b"\x01\x02",
        bytes(4) + b"\xff" * 500,
    ],
)
def test_what_is_no_string_and_no_known_error_is_unknown_and_shown_in_short(data: bytes) -> None:
    reason, text = read(data)
    assert reason is Reason.UNKNOWN
    assert text == f"unknown revert data {data[:64].hex()}, {len(data)} bytes"


def test_a_long_or_unprintable_message_is_cut_and_cleaned() -> None:
    assert read(string(b"\x1b[31m\xff")) == (Reason.REVERTED, "?[31m?")
    assert read(string(b"a" * 5_000)) == (Reason.REVERTED, "a" * MAX_TEXT)


@given(st.binary(max_size=400), st.sampled_from([b"", OWN, selector("Error(string)"), selector("Panic(uint256)")]))
def test_junk_is_never_an_error_of_ours_and_its_text_is_short_and_printable(body: bytes, name: bytes) -> None:
    _, text = read(name + body)
    assert 0 < len(text) <= MAX_TEXT
    assert text.isascii()
    assert text.isprintable()

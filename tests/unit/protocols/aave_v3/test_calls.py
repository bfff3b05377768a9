import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.outcome import Reason
from keeper.domain.units import MAX_UINT256
from keeper.protocols.aave_v3 import calls, rules
from keeper.protocols.aave_v3.contracts import CUSTOM_ERRORS, STRING_ERRORS
from tests.unit.protocols.aave_v3.market import BORROWER, NOW, POOL, asset, position, reserve, snapshot


def error(signature: str, types: list[str] | None = None, *values: object) -> bytes:
    return keccak(text=signature)[:4] + encode(types or [], values)


def said(message: str) -> bytes:
    return error("Error(string)", ["string"], message)


def test_a_liquidation_names_both_tokens_the_borrower_and_the_limit():
    held = position({0: 10**18}, {1: 3_000 * 10**6})
    market = snapshot(10, [reserve(0, price=2_000 * 10**8), reserve(1, decimals=6)])
    (opportunity,) = rules.assess(held, market, NOW, None).opportunities
    call = calls.liquidation(opportunity)
    assert (call.to, call.value_wei) == (POOL, 0)
    assert call.data[:4].hex() == "00a718a9"
    arguments = decode(["address", "address", "address", "uint256", "bool"], call.data[4:])
    collateral, debt, borrower = ("0x" + each.hex() for each in (asset(0), asset(1), BORROWER))
    assert arguments == (collateral, debt, borrower, opportunity.repay_limit, False)


@pytest.mark.parametrize(
    ("string", "name", "reason"),
    [
        ("27", "ReserveInactive", Reason.PAUSED),
        ("29", "ReservePaused", Reason.PAUSED),
        ("45", "HealthFactorNotBelowThreshold", Reason.NOT_LIQUIDATABLE),
        ("46", "CollateralCannotBeLiquidated", Reason.NO_COLLATERAL),
        ("47", "SpecifiedCurrencyNotBorrowedByUser", Reason.NOT_LIQUIDATABLE),
        ("59", "PriceOracleSentinelCheckFailed", Reason.SENTINEL),
        ("97", "LiquidationGraceSentinelCheckFailed", Reason.GRACE_PERIOD),
        ("103", "MustNotLeaveDust", Reason.DUST_RULE),
        (None, "SelfLiquidation", Reason.SELF_LIQUIDATION),
    ],
)
def test_both_dialects_of_a_refusal_mean_the_same(string: str | None, name: str, reason: Reason):
    assert calls.decode_revert(error(f"{name}()")) == (reason, name)
    if string is not None:
        assert calls.decode_revert(said(string)) == (reason, f"{string}: {name}")


@pytest.mark.parametrize(
    ("data", "reason", "text"),
    [
        (b"", Reason.REVERTED, "without a reason"),
        (said(""), Reason.REVERTED, "empty reason"),
        (said("ERC20: transfer amount exceeds balance"), Reason.INSUFFICIENT_INVENTORY, "exceeds balance"),
        (said("SafeERC20: low allowance"), Reason.INSUFFICIENT_INVENTORY, "allowance"),
        (said("Blacklistable: account is blacklisted"), Reason.TOKEN_BLOCKED, "blacklisted"),
        (said("Pausable: paused"), Reason.TOKEN_BLOCKED, "paused"),
        (said("GPv2: failed transferFrom"), Reason.REVERTED, "failed transferFrom"),
        (error("Panic(uint256)", ["uint256"], 0x11), Reason.REVERTED, "0x11: overflow"),
        (error("Panic(uint256)", ["uint256"], MAX_UINT256), Reason.REVERTED, "unnamed"),
        (
            error(
                "ERC20InsufficientBalance(address,uint256,uint256)",
                ["address", "uint256", "uint256"],
                "0x" + "11" * 20,
                5,
                9,
            ),
            Reason.INSUFFICIENT_INVENTORY,
            "ERC20InsufficientBalance",
        ),
        (error("Unheard()"), Reason.UNKNOWN, error("Unheard()").hex()),
        (b"\x08\xc3\x79\xa0", Reason.UNKNOWN, "08c379a0"),
        (b"\x08\xc3\x79\xa0" + b"\xff" * 64, Reason.UNKNOWN, "68 bytes"),
        (b"\x4e\x48\x7b\x71\x01", Reason.UNKNOWN, "4e487b71"),
        (b"\x01", Reason.UNKNOWN, "01"),
    ],
)
def test_tokens_panics_and_junk_are_told_apart(data: bytes, reason: Reason, text: str):
    found = calls.decode_revert(data)
    assert found[0] is reason
    assert text in found[1]


def is_printable(text: str) -> bool:
    return 0 < len(text) <= 256 and text.isascii() and text.isprintable()


@given(st.binary(max_size=2_000), st.sampled_from([b"", *CUSTOM_ERRORS, said("")[:4], error("Panic(uint256)")[:4]]))
def test_any_bytes_become_a_short_printable_text(junk: bytes, name: bytes):
    _, text = calls.decode_revert(name + junk)
    assert is_printable(text)


@given(st.text(max_size=600))
def test_any_message_becomes_a_short_printable_text(message: str):
    reason, text = calls.decode_revert(said(message))
    assert is_printable(text)
    if message in STRING_ERRORS:
        assert reason is STRING_ERRORS[message][0]

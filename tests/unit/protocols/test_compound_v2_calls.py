"""What is sent, what logs report, and what refusals mean."""

from dataclasses import replace

import pytest

from keeper.domain.abi import address_word, number_word, selector, topic
from keeper.domain.chain import Log
from keeper.domain.outcome import Reason
from keeper.domain.position import Action, Token
from keeper.domain.units import NATIVE, Address, BlockHash, PositionId, TokenAmount, TxHash
from keeper.errors import Invalid
from keeper.protocols.compound_v2 import calls, rules
from keeper.protocols.compound_v2.calls import Layout
from keeper.protocols.compound_v2.contracts import Kind, Listing
from tests.unit.protocols.test_compound_v2_rules import (
    ACCOUNT,
    LIQUIDATOR_CONTRACT,
    NOW,
    address,
    ctoken,
    sinking,
    snapshot,
)

WHO = address(77)
TX = TxHash(b"t" * 32)


def log(where: Address, name: str, *arguments: bytes, indexed: int = 0, index: int = 0) -> Log:
    topics = (topic(name), *arguments[:indexed])
    return Log(where, topics, b"".join(arguments[indexed:]), 5, BlockHash(b"b" * 32), index, TX)


def layout(*, liquidator: Address | None = None) -> Layout:
    tokens = [ctoken(0), ctoken(1)]
    listings = {each.receipt.address: Listing(each.id, each.receipt, each.underlying, each.pays) for each in tokens}
    kind: Kind = "compound" if liquidator is None else "venus"
    return Layout(address(1), kind, address(2), liquidator, None, None, listings, {}, {})


def liquidated(who: Address, gross: int) -> Log:
    words = (
        address_word(who),
        address_word(Address(ACCOUNT)),
        number_word(50),
        address_word(address(201)),
        number_word(gross),
    )
    return log(address(200), "LiquidateBorrow(address,address,uint256,address,uint256)", *words, index=9)


def transfer(source: Address, target: Address, amount: int, *, index: int) -> Log:
    words = address_word(source), address_word(target), number_word(amount)
    return log(address(201), "Transfer(address,address,uint256)", *words, indexed=2, index=index)


def test_a_liquidation_is_called_on_the_borrowed_token():
    (found,) = rules.assess(*sinking(), NOW, None).opportunities
    call = calls.liquidation(found)
    words = address_word(Address(ACCOUNT)) + number_word(found.repay_limit) + address_word(address(201))
    assert (call.to, call.value_wei) == (address(200), 0)
    assert call.data == selector("liquidateBorrow(address,uint256,address)") + words


def test_native_debt_is_sent_along():
    (found,) = rules.assess(*sinking(), NOW, None).opportunities
    call = calls.liquidation(replace(found, repay=Token(NATIVE, "native", 18), spender=None))
    assert int(call.value_wei) == int(found.repay_limit)
    assert call.data[:4] == selector("liquidateBorrow(address,address)")
    assert call.data[:4] in calls.PAYABLE <= calls.SELECTORS


def test_venus_is_called_through_its_liquidator():
    held, market = sinking(kind="venus", liquidator=LIQUIDATOR_CONTRACT)
    (found,) = rules.assess(held, market, NOW, None).opportunities
    call = calls.liquidation(found)
    assert call.to == LIQUIDATOR_CONTRACT
    assert call.data[:4] == selector("liquidateBorrow(address,address,uint256,address)")
    assert call.data[4:36] == address_word(address(200))


def test_receipts_are_redeemed_by_number():
    token = ctoken(0)
    (found,) = rules.settlements(WHO, {token.receipt.address: TokenAmount(5)}, snapshot([token]), NOW)
    call = calls.liquidation(found)
    assert (call.to, call.data) == (token.receipt.address, selector("redeem(uint256)") + number_word(5))


def test_a_liquidation_is_reported_with_what_the_liquidator_got():
    seized = liquidated(WHO, 1_000)
    logs = [
        transfer(Address(ACCOUNT), WHO, 972, index=7),
        transfer(Address(ACCOUNT), address(201), 28, index=8),
        seized,
    ]
    (found,) = calls.taken("m", layout(), logs)
    assert (found.key.id, found.liquidator, found.action) == (ACCOUNT, WHO, Action.LIQUIDATE)
    assert (found.realised.repaid_amount, found.realised.seized_amount) == (50, 972)
    assert (found.repay_token, found.seize_token) == (address(100), address(201))
    assert calls.taken("m", layout(), [seized])[0].realised.seized_amount == 1_000


def test_venus_liquidations_are_reported_once_and_as_the_caller_saw_them():
    words = (address_word(WHO), address_word(Address(ACCOUNT)), address_word(address(201)), number_word(50),
             address_word(address(200)), number_word(45), number_word(955))  # fmt: skip
    name = "LiquidateBorrowedTokens(address,address,uint256,address,address,uint256,uint256)"
    split = log(LIQUIDATOR_CONTRACT, name, *words, indexed=3, index=12)
    (found,) = calls.taken("m", layout(liquidator=LIQUIDATOR_CONTRACT), [liquidated(LIQUIDATOR_CONTRACT, 1_000), split])
    assert (found.liquidator, found.realised.repaid_amount, found.realised.seized_amount) == (WHO, 50, 955)


@pytest.mark.parametrize("name", ["Redeem(address,uint256,uint256)", "Redeem(address,uint256,uint256,uint256)"])
def test_a_redemption_is_a_settlement(name: str):
    words = [address_word(WHO), number_word(30), number_word(7), number_word(0)]
    (found,) = calls.taken("m", layout(), [log(address(201), name, *words)])
    assert (found.action, found.key.id) == (Action.SETTLE, PositionId(WHO + address(201)))
    assert (found.realised.repaid_amount, found.realised.seized_amount) == (7, 30)
    assert (found.repay_token, found.seize_token) == (address(201), address(101))


def test_a_call_that_failed_without_reverting_reports_nothing():
    failure = log(address(200), "Failure(uint256,uint256,uint256)", number_word(3), number_word(19), number_word(3))
    assert calls.taken("m", layout(), [failure]) == []


def test_what_other_contracts_emit_is_ignored():
    stranger = replace(liquidated(WHO, 1_000), address=address(999))
    assert calls.taken("m", layout(), [stranger]) == []


def test_a_log_that_is_cut_short_is_invalid():
    with pytest.raises(Invalid):
        calls.taken("m", layout(), [replace(liquidated(WHO, 1), data=bytes(64))])


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        ("LiquidateComptrollerRejection(uint256)", 3, Reason.NOT_LIQUIDATABLE),
        ("LiquidateComptrollerRejection(uint256)", 17, Reason.NOT_LIQUIDATABLE),
        ("LiquidateComptrollerRejection(uint256)", 13, Reason.PRICE_UNKNOWN),
        ("LiquidateComptrollerRejection(uint256)", 9, Reason.PAUSED),
        ("LiquidateComptrollerRejection(uint256)", 1, Reason.REVERTED),
        ("LiquidationFailed(uint256)", 3, Reason.NOT_LIQUIDATABLE),
        ("LiquidationFailed(uint256)", 2**255, Reason.REVERTED),
    ],
)
def test_an_error_with_a_code_is_named(error: str, code: int, reason: Reason):
    found, text = calls.decode_revert(selector(error) + number_word(code))
    assert found is reason
    assert text.startswith(error.split("(", maxsplit=1)[0])
    assert len(text) <= 256


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("LIQUIDATE_SEIZE_TOO_MUCH", Reason.NO_COLLATERAL),
        ("liquidateBorrow failed (03)", Reason.NOT_LIQUIDATABLE),
        ("action is paused", Reason.PAUSED),
        ("ERC20: transfer amount exceeds balance", Reason.INSUFFICIENT_INVENTORY),
    ],
)
def test_a_string_is_classified(text: str, reason: Reason):
    raw = text.encode()
    data = selector("Error(string)") + number_word(32) + number_word(len(raw)) + raw.ljust(64, b"\0")
    assert calls.decode_revert(data)[0] is reason


def test_errors_and_junk_are_told_apart():
    assert calls.decode_revert(selector("VAIDebtTooHigh(uint256,uint256)") + bytes(64))[0] is Reason.NOT_LIQUIDATABLE
    assert calls.decode_revert(selector("LiquidationFailed(uint256)"))[0] is Reason.UNKNOWN
    assert calls.decode_revert(b"\x01\x02\x03\x04")[0] is Reason.UNKNOWN
    assert calls.decode_revert(b"")[0] is Reason.REVERTED

"""Calldata by hand, and reverts by their names."""

import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from keeper.domain.outcome import Reason
from keeper.domain.units import WAD
from keeper.protocols.morpho_blue import calls, rules
from keeper.protocols.morpho_blue import contracts as morpho
from tests.unit.protocols.morpho_blue.market import (
    BORROWER,
    COLLATERAL,
    IRM,
    LOAN,
    NOW,
    ORACLE,
    ROOT,
    contract,
    pair,
    position,
    snapshot,
)

LIQUIDATE = ["(address,address,address,address,uint256)", "address", "uint256", "uint256", "bytes"]
PRE_LIQUIDATE = ["address", "uint256", "uint256", "bytes"]


def text(address: bytes) -> str:
    return "0x" + address.hex()


@pytest.mark.parametrize("data", [b"", b"\x07", b"x" * 32, b"y" * 45])
def test_all_shares_are_repaid_by_a_call_that_solidity_decodes(data: bytes):
    found = pair()
    (planned,) = rules.assess(position(found, 1_750 * 10**12), snapshot([found]), NOW, None).opportunities
    call = calls.liquidation_with_callback(planned, data)
    assert (call.to, call.value_wei, call.data[:4]) == (ROOT, 0, bytes.fromhex("d8eabcb8"))
    params, borrower, seized, shares, passed = decode(LIQUIDATE, call.data[4:])
    assert params == (text(LOAN.address), text(COLLATERAL.address), text(ORACLE), text(IRM), 86 * WAD // 100)
    assert (borrower, seized, shares, passed) == (text(BORROWER), 0, 1_750 * 10**12, data)
    assert call.data[4:] == encode(LIQUIDATE, (params, borrower, seized, shares, passed))
    assert calls.liquidation(planned) == calls.liquidation_with_callback(planned, b"")
    assert call.data[:4] in calls.SELECTORS


def test_all_collateral_is_seized_where_it_does_not_cover_the_debt():
    found = pair()
    (planned,) = rules.assess(position(found, 2_500 * 10**12), snapshot([found]), NOW, None).opportunities
    _, _, seized, shares, _ = decode(LIQUIDATE, calls.liquidation(planned).data[4:])
    assert (seized, shares) == (10**18, 0)


@pytest.mark.parametrize("data", [b"", b"z" * 33])
def test_a_pre_liquidation_goes_to_its_contract(data: bytes):
    found = pair()
    by = contract(found)
    held = position(found, 1_650 * 10**12, 10**18, by)
    (planned,) = rules.assess(held, snapshot([found], [by]), NOW, None).opportunities
    call = calls.liquidation_with_callback(planned, data)
    assert (call.to, call.data[:4]) == (by.address, bytes.fromhex("3078f50a"))
    borrower, seized, shares, passed = decode(PRE_LIQUIDATE, call.data[4:])
    assert (borrower, seized, passed) == (text(BORROWER), 0, data)
    assert 0 < shares < 1_650 * 10**12 // 2
    assert call.data[4:] == encode(PRE_LIQUIDATE, (borrower, seized, shares, passed))


def error(text_: str) -> bytes:
    return bytes.fromhex("08c379a0") + encode(["string"], [text_])


@pytest.mark.parametrize(
    ("data", "reason", "name"),
    [
        (error("position is healthy"), Reason.NOT_LIQUIDATABLE, "position is healthy"),
        (error("transferFrom reverted"), Reason.INSUFFICIENT_INVENTORY, "transferFrom reverted"),
        (error("transfer reverted"), Reason.TOKEN_BLOCKED, "transfer reverted"),
        (error("unauthorized"), Reason.NOT_LIQUIDATABLE, "unauthorized"),
        (error("negative answer"), Reason.REVERTED, "negative answer"),
        (bytes.fromhex("0bb9a651"), Reason.NOT_LIQUIDATABLE, "NotPreLiquidatablePosition"),
        (bytes.fromhex("f78266a2"), Reason.NOT_LIQUIDATABLE, "LiquidatablePosition"),
        (bytes.fromhex("44bb1e75") + bytes(64), Reason.REVERTED, "PreLiquidationTooLarge"),
        (bytes.fromhex("4e487b71") + (0x11).to_bytes(32, "big"), Reason.REVERTED, "panic 0x11: overflow"),
        (b"", Reason.REVERTED, "reverted without a reason"),
    ],
)
def test_a_revert_is_named(data: bytes, reason: Reason, name: str):
    assert calls.decode_revert(data) == (reason, name)


def test_the_healthy_verdict_is_recognised_by_its_bytes():
    assert error("position is healthy") == morpho.IS_HEALTHY


def test_the_names_on_chain_are_the_published_ones():
    assert morpho.CREATE_MARKET.hex() == "ac4b2400f169220b0c0afdde7a0b32e775ba727ea1cb30b35f935cdaab8683ac"
    assert morpho.LIQUIDATION.hex() == "a4946ede45d0c6f06a0f5ce92c9ad3b4751452d2fe0e25010783bcab57a67e41"
    assert morpho.SET_AUTHORIZATION.hex() == "d5e969f01efe921d3f766bdebad25f0a05e3f237311f56482bf132d0326309c0"
    assert morpho.CREATE_PRE_LIQUIDATION.hex() == "c36ddf254f2ae7c3a2c82dc525fed9a804cdaf8102b19b3caa5aeda5afcca382"
    assert morpho.PRE_LIQUIDATION.hex() == "d5b01f148b35d6069b626af105bf8881bc2e30ee1ce3de4630903abab0ba8580"
    assert [each.hex()[:4] for each in morpho.BORROWER_PLACE] == ["5709", "52ac", "a3b9", "e80e", "a494"]
    assert pair().params.id == keccak(pair().params.encoded)

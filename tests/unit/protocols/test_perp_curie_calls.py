"""Calldata, reverts and logs of Perpetual Protocol v2."""

from dataclasses import replace

import pytest
from eth_abi.abi import encode

from keeper.domain import abi
from keeper.domain.chain import Log, ViewResult
from keeper.domain.outcome import Reason
from keeper.domain.position import Action, Token
from keeper.domain.units import ZERO_ADDRESS, Address, BlockHash, TxHash
from keeper.errors import Invalid
from keeper.protocols.perp_curie import calls, rules
from keeper.protocols.perp_curie import contracts as perp
from keeper.protocols.perp_curie.contracts import Layout, Part, Stake
from tests.unit.protocols.perp_curie_market import (
    DAY_S,
    HOUSE,
    LIQUIDATOR,
    Q96,
    TRADER,
    USDC,
    VAULT,
    WAD,
    base_token,
    perpetual,
    position,
    snapshot,
)

LAYOUT = Layout(
    root=HOUSE,
    vault=VAULT,
    exchange=Address(b"\x01" * 20),
    order_book=Address(b"\x02" * 20),
    account_balance=Address(b"\x03" * 20),
    insurance_fund=Address(b"\x04" * 20),
    config=Address(b"\x05" * 20),
    registry=Address(b"\x06" * 20),
    collateral_manager=Address(b"\x07" * 20),
    settlement=Token(USDC, "USDC", 6),
    im_ratio=100_000,
    perpetuals={base_token(0): Part(0, Token(base_token(0), "v0", 18))},
    collaterals={},
)


def log(event: bytes, *named: Address, data: tuple[int, ...] = (), tx: int = 1) -> Log:
    return Log(
        address=HOUSE,
        topics=(event, *(abi.address_word(each) for each in named)),
        data=b"".join(map(abi.number_word, data)),
        block_number=100,
        block_hash=BlockHash(bytes(32)),
        index=0,
        tx_hash=TxHash(tx.to_bytes(32, "big")),
    )


def changed(who: Address, size: int = 0, notional: int = 0, tx: int = 1) -> Log:
    return log(perp.POSITION_CHANGED, who, base_token(0), data=(size, notional, 0, 0, 0, 0), tx=tx)


def removed(who: Address, liquidity: int = -5, tx: int = 1) -> Log:
    named = (who, base_token(0), USDC)
    return log(perp.LIQUIDITY_CHANGED, *named, data=(0, 0, 0, 0, liquidity, 0), tx=tx)


def liquidated(size: int, notional: int, penalty: int) -> Log:
    liquidator = int.from_bytes(LIQUIDATOR, "big")
    return log(perp.POSITION_LIQUIDATED, TRADER, base_token(0), data=(notional, size, penalty, liquidator))


def test_the_call_names_the_trader_the_market_and_the_signed_size():
    market = snapshot(perpetual(0, 140 * WAD))
    held = position(400 * 10**6, {0: (-100 * WAD, 14_000 * WAD)})
    (plan,) = rules.assess(held, market, market.head.moment, None).opportunities
    call = calls.liquidation(plan)
    assert (call.to, call.value_wei) == (HOUSE, 0)
    assert call.data[:4] == perp.LIQUIDATE
    arguments = encode(["address", "address", "int256"], ["0x" + TRADER.hex(), "0x" + base_token(0).hex(), -100 * WAD])
    assert call.data[4:] == arguments
    prepare = replace(plan, action=Action.PREPARE, terms=abi.address_word(base_token(0)))
    assert calls.liquidation(prepare).data == perp.CANCEL_ORDERS + arguments[:64]
    assert {call.data[:4], perp.CANCEL_ORDERS} == calls.SELECTORS
    assert frozenset() == calls.PAYABLE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CH_EAV", Reason.NOT_LIQUIDATABLE),
        ("CH_CLWTISO", Reason.NOT_LIQUIDATABLE),
        ("CH_MNO", Reason.PAUSED),
        ("Pausable: paused", Reason.PAUSED),
        ("CH_IIC", Reason.NO_COLLATERAL),
        ("CH_NEFCI", Reason.INSUFFICIENT_INVENTORY),
        ("something else", Reason.REVERTED),
    ],
)
def test_reverts_are_classified_by_their_short_strings(text: str, reason: Reason):
    found, said = calls.decode_revert(abi.selector("Error(string)") + encode(["string"], [text]))
    assert found is reason
    assert said.startswith(text)


@pytest.mark.parametrize(("side", "fee", "locked"), [(1, 175, 1_382_500_001), (-1, 175, 1_400_000_001)])
def test_a_take_over_tells_the_margin_that_it_locked_by_the_liquidators_own_change(side: int, fee: int, locked: int):
    size, notional = 100 * WAD, 14_000 * WAD
    logs = [
        changed(TRADER, -side * size, side * notional),
        changed(LIQUIDATOR, side * size, -side * notional + fee * WAD),
        liquidated(size, notional, 2 * fee * WAD),
    ]
    (taken,) = calls.take_overs(LAYOUT, "perp", logs)
    assert (taken.key.account, taken.liquidator, taken.action) == (TRADER, LIQUIDATOR, Action.LIQUIDATE)
    assert (taken.repay_token, taken.seize_token) == (VAULT, USDC)
    assert (taken.realised.repaid_amount, taken.realised.seized_amount) == (locked, fee * 10**6)


def test_a_take_over_without_the_liquidators_change_is_impossible():
    with pytest.raises(Invalid):
        list(calls.take_overs(LAYOUT, "perp", [changed(TRADER, -1, 1), liquidated(1, 1, 0)]))
    with pytest.raises(Invalid):
        list(calls.take_overs(LAYOUT, "perp", [changed(LIQUIDATOR, 1, -1, tx=2), liquidated(1, 1, 0)]))


def test_a_cancellation_is_told_from_what_a_maker_removes_itself_by_the_order_of_the_logs():
    cancelled = [removed(TRADER), removed(TRADER), changed(TRADER)]
    (taken,) = calls.cancellations(LAYOUT, "perp", cancelled)
    assert (taken.key.account, taken.liquidator, taken.action) == (TRADER, ZERO_ADDRESS, Action.PREPARE)
    own = [changed(TRADER), removed(TRADER), changed(TRADER), removed(TRADER)]
    assert list(calls.cancellations(LAYOUT, "perp", own)) == []
    assert list(calls.cancellations(LAYOUT, "perp", [removed(TRADER, 5), changed(TRADER)])) == []
    assert list(calls.cancellations(LAYOUT, "perp", [removed(TRADER, tx=1), changed(TRADER, tx=2)])) == []
    assert list(calls.cancellations(LAYOUT, "perp", [removed(TRADER), changed(LIQUIDATOR)])) == []


def answer(*numbers: int) -> ViewResult:
    return ViewResult(ok=True, data=b"".join(map(abi.number_word, numbers)))


REVERTED = ViewResult(ok=False, data=b"")
NO_ORDERS = answer(32, 0)


@pytest.mark.parametrize("size", [10**21, -(10**21), 3 * 10**17])
@pytest.mark.parametrize("grown", [0, 1, -1, 7 * Q96 * DAY_S // 3, -5 * Q96 * DAY_S, 10**40, -(10**40)])
def test_the_growth_explains_the_payment_that_it_was_found_by_and_every_smaller_one_to_a_unit(size: int, grown: int):
    def paid(held: int, last: int) -> int:
        stake = Stake(base_token(0), held, 0, last)
        return rules.pending_funding(stake, last + grown)

    last = -(10**38)
    found = perp.growth([(answer(size, 5, last), NO_ORDERS, answer(paid(size, last)))])
    assert found is not None
    for held in (size, -size, size // 3, 11, -7):
        stake = Stake(base_token(0), held, 0, last)
        error = abs(rules.pending_funding(stake, found) - paid(held, last))
        assert error == 0 if abs(held) == abs(size) else error <= 1


def test_the_growth_is_told_by_the_largest_account_without_orders_or_not_at_all():
    small, large = (answer(5, 0, 0), NO_ORDERS, answer(1)), (answer(10**21, 0, 7), NO_ORDERS, answer(0))
    assert perp.growth([small, large]) == 7
    ordered = (answer(10**21, 0, 7), answer(32, 1, 99), answer(0))
    closed, silent = (answer(0, 0, 7), NO_ORDERS, answer(0)), (answer(10**21, 0, 7), NO_ORDERS, REVERTED)
    assert perp.growth([ordered, closed, silent]) is None
    assert perp.growth([]) is None


def test_a_market_has_the_price_of_its_status():
    part = LAYOUT.perpetuals[base_token(0)]

    def price(is_open: int, is_closed: int, mark: ViewResult) -> int | None:
        return perp.perpetual(part, [answer(is_open), answer(is_closed), answer(1), answer(2), mark], 0).price

    assert price(1, 0, answer(3)) == 3
    assert price(0, 0, REVERTED) == 1
    assert price(0, 1, REVERTED) == 2
    assert price(1, 0, REVERTED) is None
    assert price(1, 0, answer(0)) is None


def test_a_collateral_without_a_feed_has_no_price():
    part = Part(1, Token(USDC, "T", 8))
    config = answer(1, 700_000, 0, 0)
    assert perp.collateral(part, [answer(5), answer(8), config]).value(10**8) == 5 * 10**10
    assert perp.collateral(part, [REVERTED, REVERTED, config]).value(10**8) is None


def test_the_margin_goes_by_the_vault_with_a_name_of_at_most_sixteen_characters():
    assert LAYOUT.margin == Token(VAULT, "USDC margin", 6)
    long = replace(LAYOUT, settlement=Token(USDC, "ABCDEFGHIJKLMNOP", 18))
    assert (long.margin.symbol, long.scale) == ("ABCDEFGHI margin", 1)

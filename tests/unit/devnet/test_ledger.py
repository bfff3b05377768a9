"""The statement of an executor's work adds up only where every party has what the events say."""

from dataclasses import replace

import pytest

from keeper.devnet.ledger import Balances, FlashStatement, Standing

CASH, GOLD = "0x" + "0c" * 20, "0x" + "0d" * 20


def held(cash: int = 0, gold: int = 0, *, native_wei: int = 0) -> Balances:
    return Balances(7, native_wei, {CASH: cash, GOLD: gold})


BEFORE = Standing(account=held(native_wei=1_000), owner=held(cash=50, native_wei=9), executor=held())
AFTER = Standing(account=held(native_wei=930), owner=held(cash=75, gold=3, native_wei=9), executor=held())


def statement(after: Standing = AFTER, *, traded: dict[str, int] | None = None) -> FlashStatement:
    made = FlashStatement(BEFORE, after, gas_wei=70)
    made.profits.update({CASH: 25, GOLD: 3})
    made.traded.update(made.profits if traded is None else traded)
    return made


def test_what_was_earned_and_what_gas_cost_explain_every_balance():
    assert statement().difference() == {}


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (replace(AFTER, owner=held(cash=74, gold=3, native_wei=9)), {("owner", CASH): -1}),
        (replace(AFTER, owner=held(cash=75, gold=3, native_wei=8)), {("owner", ""): -1}),
        (replace(AFTER, account=held(native_wei=929)), {("account", ""): -1}),
        (replace(AFTER, account=held(cash=1, native_wei=930)), {("account", CASH): 1}),
        (replace(AFTER, executor=held(gold=1)), {("executor", GOLD): 1}),
        (replace(AFTER, executor=held(native_wei=1)), {("executor", ""): 1}),
    ],
)
def test_a_unit_too_much_or_too_little_anywhere_is_found(after: Standing, found: dict[tuple[str, str], int]):
    assert statement(after).difference() == found


def test_profit_that_was_never_traded_is_found():
    assert statement(traded={CASH: 25}).difference() == {("events", GOLD): 3}

"""Nonces: used by others, left as gaps, blocked by the first of the line, raced for, and asked for by many at once."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.domain.outcome import Reason, Result
from keeper.domain.units import Address
from keeper.execution.verdicts import Accepted, Skipped
from tests.faults import rules
from tests.faults.recovery import Recovery
from tests.faults.world import PATIENT, POLICY, Scene, allowance, scene_of
from tests.unit.execution.desk import ALICE, BOB, CAROL

SEND = "eth_sendRawTransaction"
WITHIN_BLOCKS = 3
BEHIND = 10


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3") as scene:
        yield scene


async def test_txl_09_a_nonce_that_another_wallet_took_is_flagged_told_to_the_gate_and_ends_the_plan(
    scene: Scene, recovery: Recovery
) -> None:
    async with scene.keeper() as one:
        await one.sent(ALICE)
        await scene.stranger_uses(0)
        blocks = await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.reason) == (Result.FAILED, Reason.FOREIGN_NONCE)
        assert one.gate.intruders == [0]
        assert [(each["nonce"], each["is_ours"]) for each in one.named("tx.foreign_nonce")] == [(0, False)]
        await one.sent(BOB)
        await one.until_over()
        assert one.results[-1] is Result.WON
    await scene.check()
    recovery("TXL-09", blocks=blocks)


async def test_txl_09_a_stranger_beyond_our_nonces_is_flagged_at_the_next_head_and_never_absorbed(scene: Scene) -> None:
    async with scene.keeper() as one:
        await one.sent(ALICE)
        await one.mine()
        await scene.stranger_uses(1)
        await scene.stranger_uses(2)
        await one.mine()
        assert one.gate.intruders == [1]
        assert [(each["nonce"], each["last_nonce"]) for each in one.named("tx.foreign_nonce")] == [(1, 2)]
        await one.sent(BOB)
        await one.until_over()
        assert one.results == [Result.WON, Result.WON]
        assert await scene.nonce() == 4
    await scene.check()


async def test_txl_09_an_operator_who_wants_it_so_is_halted_by_the_stranger(scene: Scene) -> None:
    async with scene.keeper() as one:
        one.gate.halts_when_intruded = True
        await one.sent(ALICE)
        await scene.stranger_uses(0)
        await one.until_over()
        sent = len(scene.arrivals)
        (verdict,) = await one.submit(BOB)
        assert isinstance(verdict, Skipped)
        await one.mine(2)
        assert len(scene.arrivals) == sent
    await scene.check()


def lose(scene: Scene, nonce: int) -> None:
    """Forget a nonce, as a restored file or a lost page would."""
    with sqlite3.connect(scene.path) as connection:
        connection.execute("delete from attempt where nonce = ?", (nonce,))
        connection.execute("delete from intent where nonce = ?", (nonce,))
    connection.close()


async def test_txl_10_a_gap_is_filled_within_three_blocks_and_what_waits_behind_it_is_mined(
    scene: Scene, recovery: Recovery
) -> None:
    async with scene.keeper() as one:
        await one.submit(ALICE, BOB, approvals=[allowance()])
    lose(scene, 0)
    await scene.world.cheat("anvil_dropAllTransactions")
    scene.pool.seen.clear()
    scene.arrivals.clear()
    async with scene.keeper() as other:
        blocks = 0
        while await scene.nonce() < 3:
            blocks += 1
            await other.mine()
            assert blocks <= WITHIN_BLOCKS
        assert [each["nonce"] for each in other.named("tx.gap_filled")] == [0]
        await other.until_over()
        assert other.results == [Result.WON, Result.WON]
    await scene.check()
    recovery("TXL-10", blocks=blocks)


async def test_txl_10_a_gap_in_a_running_process_is_filled_within_three_blocks(scene: Scene) -> None:
    async with scene.keeper() as one:
        await one.submit(ALICE, BOB)
        lose(scene, 0)
        del one.sender._lane.slots[0]  # as if it had never been taken over
        await scene.world.cheat("anvil_dropAllTransactions")
        scene.pool.seen.clear()
        scene.arrivals.clear()
        await one.mine(WITHIN_BLOCKS)
        assert await scene.nonce() == 2
        await one.until_over()
    await scene.check()


async def test_txl_10_a_nonce_that_something_given_up_has_used_is_no_gap(scene: Scene) -> None:
    async with scene.keeper() as one:
        await one.submit(ALICE, BOB)
        await scene.block()
    with sqlite3.connect(scene.path) as connection:
        connection.execute("update intent set state = 'void' where nonce = 0")
        connection.execute("update attempt set state = 'void' where nonce = 0")
    connection.close()
    sent = len(scene.arrivals)
    for view in scene.views:  # nodes whose count lags behind their receipts
        view.add(rules.lie("eth_getTransactionCount", lambda _call, _result: "0x0"))
    async with scene.keeper(is_recovering=False) as other:
        await other.sender.recover(await scene.head())
        for _ in range(WITHIN_BLOCKS):
            await other.mine()
        assert other.named("tx.gap_filled") == []
        assert {each.nonce for each in scene.arrivals[sent:]} <= {1}


async def test_txl_19_only_the_first_of_a_line_is_outbid_and_all_behind_it_follow(scene: Scene) -> None:
    accounts = [Address(number.to_bytes(20)) for number in range(1_000, 1_001 + BEHIND)]
    for account in accounts:
        await scene.set_liquidatable(account)
    await scene.block(base_fee_gwei=1)
    async with scene.keeper(POLICY) as one:
        verdicts = await one.submit(*accounts)
        assert all(isinstance(each, Accepted) for each in verdicts)
        for fee in (30, 60, 120):  # each beyond the bid before
            await one.mine(base_fee_gwei=fee)
        assert await scene.nonce() == 0
        bids = {nonce: {each.tx_hash for each in scene.arrivals if each.nonce == nonce} for nonce in range(1 + BEHIND)}
        assert len(bids[0]) == 4
        assert {len(bids[nonce]) for nonce in range(1, 1 + BEHIND)} == {1}
        await one.until_over()
        assert one.results == [Result.WON] * (1 + BEHIND)
    await scene.check()


async def test_txl_22_when_the_original_beats_its_cancellation_the_receipt_decides(scene: Scene) -> None:
    async with scene.keeper(replace(PATIENT, stale_after_blocks=1)) as one:
        original = await one.sent(ALICE)
        for view in scene.views:
            view.add(rules.drop(methods=(SEND,)))
        await one.mine(base_fee_gwei=20)
        assert one.named("tx.replaced")[-1]["kind"] == "cancel"
        await scene.block(base_fee_gwei=1)
        for view in scene.views:
            del view.faults[1:]
        await one.follow()
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.tx_hash) == (Result.WON, original)
    await scene.check()


async def test_txl_22_when_the_cancellation_wins_the_outcome_says_so_and_why(scene: Scene) -> None:
    async with scene.keeper(replace(PATIENT, stale_after_blocks=1)) as one:
        original = await one.sent(ALICE)
        await one.mine(base_fee_gwei=20)
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.reason) == (Result.CANCELLED, Reason.CANCELLED)
        assert "superseded" in outcome.detail
        assert outcome.tx_hash != original
    assert await scene.logs() == []
    await scene.check()


async def test_txl_24_concurrent_opportunities_of_one_account_use_one_nonce_and_pay_once(scene: Scene) -> None:
    async with scene.keeper() as one:
        found = await asyncio.gather(
            *(one.submit(*accounts) for accounts in [(ALICE,), (ALICE, BOB), (BOB, ALICE)] * 2)
        )
        verdicts = [each for verdicts in found for each in verdicts]
        accepted = [each for each in verdicts if isinstance(each, Accepted)]
        assert sorted(each.nonce for each in accepted) == [0, 1]
        assert {each.key.account for each in accepted} == {ALICE, BOB}
        assert {each.reason for each in verdicts if isinstance(each, Skipped)} == {Reason.IN_FLIGHT}
        assert {each.nonce for each in scene.arrivals} == {0, 1}
        await asyncio.gather(one.submit(CAROL), one.mine(), one.submit(CAROL))
        await one.until_over()
        assert one.results.count(Result.WON) == 3
    await scene.check()

"""The sender from batch to outcome, on a fake chain with geth's pool rules and a real journal file."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from keeper.chain.phrases import SendVerdict
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Realised
from keeper.domain.units import TokenAmount, TxHash
from keeper.errors import Unsafe
from keeper.execution.verdicts import Accepted, Skipped
from keeper.store.faults import Fault, StoreFailed
from keeper.store.outcomes import Outcomes
from keeper.store.records import IntentState, Purpose
from tests.unit.execution.desk import ALICE, BOB, CAROL, desk, new_chain, patient
from tests.unit.execution.fake_chain import GAS, GWEI, RIVAL, Tx, approval, batch_of, plan_of


async def test_a_plan_is_sent_mined_confirmed_and_ends_won_with_what_it_realised(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        plan = plan_of(chain, ALICE)
        (verdict,) = await one.sender.submit(batch_of(chain, plan))
        assert isinstance(verdict, Accepted)
        assert (verdict.plan_id, verdict.nonce) == (plan.id, 0)
        assert one.sender.in_flight == {plan.key}
        await one.head()
        assert one.outcomes == []  # one of two confirmations
        await one.head()
        (outcome,) = one.outcomes
        assert outcome.result is Result.WON
        assert outcome.realised == Realised(TokenAmount(1_000), TokenAmount(11))
        assert outcome.tx_hash == verdict.tx_hash
        assert outcome.gas_cost_wei == GAS * 11 * GWEI
        assert one.sender.in_flight == frozenset()
        assert await Outcomes(one.database).latest() == (outcome,)
        assert {"sim.ok", "intent.created", "tx.signed", "tx.accepted", "tx.mined"} <= set(one.told.names)


async def test_an_account_may_be_planned_for_again_once_its_liquidation_has_landed(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, policy=patient(confirmations=4)) as one:
        plan = plan_of(chain, ALICE)
        await one.sender.submit(batch_of(chain, plan))
        assert one.sender.in_flight == {plan.key}
        await one.head()
        assert one.sender.in_flight == frozenset()
        assert one.outcomes == []  # landed, and not final yet
        chain.reorg(1)
        await one.head(is_empty=True)
        assert one.sender.in_flight == {plan.key}
        await one.heads(5)
        assert one.results == [Result.WON]


async def test_an_idle_sender_asks_nothing_and_a_busy_one_asks_once_a_head(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        chain.requests.clear()
        await one.heads(3)
        assert chain.requests == []
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        chain.requests.clear()
        await one.head()
        assert chain.requests == ["standing"]


async def test_allowances_go_first_and_plans_follow_in_order_of_their_nonces(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    chain.state.allowance = 0
    async with desk(chain) as one:
        batch = batch_of(chain, plan_of(chain, ALICE), plan_of(chain, BOB), approvals=[approval()])
        first, second = await one.sender.submit(batch)
        assert isinstance(first, Accepted)
        assert isinstance(second, Accepted)
        assert (first.nonce, second.nonce) == (1, 2)
        await one.heads(2)
        assert one.results == [Result.WON, Result.WON]
        assert [(await one.journal.entries_at(nonce))[0].intent.purpose for nonce in range(3)] == [
            Purpose.APPROVAL,
            Purpose.LIQUIDATION,
            Purpose.LIQUIDATION,
        ]


async def test_a_token_that_refuses_to_change_an_allowance_is_reset_first(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    chain.state.allowance, chain.is_strict_token = 5, True
    async with desk(chain) as one:
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE), approvals=[approval()]))
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 2
        amounts = [int.from_bytes(tx.data[36:68]) for tx in chain.seen[:2]]
        assert amounts == [0, 10**6]
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_a_rollups_fee_for_data_is_weighed_before_and_counted_afterwards(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    chain.data_fee = 55 * 10**14
    async with desk(chain) as one:
        rich, poor = plan_of(chain, ALICE, profit_usd=100), plan_of(chain, BOB, profit_usd=12)
        accepted, skipped = await one.sender.submit(batch_of(chain, rich, poor))
        assert isinstance(accepted, Accepted)
        assert isinstance(skipped, Skipped)
        assert skipped.reason is Reason.UNPROFITABLE
        await one.heads(2)
        (outcome,) = one.outcomes
        assert outcome.gas_cost_wei == GAS * 11 * GWEI + chain.data_fee
    chain.data_fee = 0
    chain.state.liquidatable.add(BOB)
    async with desk(chain) as again:
        (verdict,) = await again.sender.submit(batch_of(chain, plan_of(chain, BOB, profit_usd=12)))
        assert isinstance(verdict, Accepted)  # the fee alone had made it too dear


async def test_a_blocked_token_drops_the_plan_and_its_allowance(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    chain.state.allowance, chain.is_token_blocked = 0, True
    async with desk(chain) as one:
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE), approvals=[approval()]))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.TOKEN_BLOCKED
        assert chain.seen == []


async def test_without_sequences_the_allowance_is_mined_first_and_the_plan_waits(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    chain.state.allowance, chain.has_sequences = 0, False
    async with desk(chain) as one:
        plan = plan_of(chain, ALICE)
        (verdict,) = await one.sender.submit(batch_of(chain, plan, approvals=[approval()]))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.SIMULATION_FAILED
        again = await one.sender.submit(batch_of(chain, plan, approvals=[approval()]))
        assert isinstance(again[0], Skipped)
        assert len(chain.seen) == 1  # the allowance in flight is not sent twice
        await one.head()
        (verdict,) = await one.sender.submit(batch_of(chain, plan))
        assert isinstance(verdict, Accepted)
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_reverted_and_unprofitable_plans_are_dropped_with_their_reasons(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, CAROL)
    async with desk(chain) as one:
        plans = plan_of(chain, ALICE, profit_usd=2), plan_of(chain, BOB), plan_of(chain, CAROL)
        poor, healthy, good = await one.sender.submit(batch_of(chain, *plans))
        assert isinstance(poor, Skipped)
        assert isinstance(healthy, Skipped)
        assert poor.reason is Reason.UNPROFITABLE
        assert healthy.reason is Reason.NOT_LIQUIDATABLE
        assert isinstance(good, Accepted)
        assert good.nonce == 0


async def test_txl_24_one_account_is_in_flight_at_most_once(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        plan = plan_of(chain, ALICE)
        batch = batch_of(chain, plan)
        verdicts = [each[0] for each in await asyncio.gather(*(one.sender.submit(batch) for _ in range(5)))]
        assert sum(isinstance(each, Accepted) for each in verdicts) == 1
        assert all(each.reason is Reason.IN_FLIGHT for each in verdicts if isinstance(each, Skipped))
        assert len(chain.seen) == 1


async def test_txl_14_without_gas_money_nothing_is_signed_and_the_top_up_is_named(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    chain.state.balance = 10**12
    async with desk(chain) as one:
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.INSUFFICIENT_GAS_MONEY
        assert "top up" in verdict.detail
        assert chain.seen == []
        assert await one.journal.highest_nonce() is None


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (SendVerdict.INSUFFICIENT_FUNDS, Reason.INSUFFICIENT_GAS_MONEY),
        (SendVerdict.EXCEEDS_CAP, Reason.FEE_CAP),
        (SendVerdict.FEE_TOO_LOW, Reason.BROADCAST_FAILED),
        (SendVerdict.INVALID, Reason.BROADCAST_FAILED),
    ],
)
async def test_txl_10_what_every_node_refuses_leaves_no_gap(tmp_path: Path, refusal: SendVerdict, reason: Reason):
    chain = new_chain(tmp_path, ALICE, BOB)
    async with desk(chain) as one:
        chain.refuse = refusal
        verdicts = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE), plan_of(chain, BOB)))
        assert [each.reason for each in verdicts if isinstance(each, Skipped)] == [reason, reason]
        assert one.sender.in_flight == frozenset()
        chain.refuse = None
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 0
        states = [entry.intent.state for entry in await one.journal.entries_at(0)]
        assert sorted(states) in ([IntentState.LIVE], [IntentState.LIVE, IntentState.VOID])
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_txl_06_a_lost_answer_counts_as_sent_and_the_same_bytes_go_again(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        chain.swallow = True
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Accepted)
        chain.swallow = False
        await one.head(is_empty=True)
        assert len({tx.hash for tx in chain.seen}) == 1
        assert "tx.known" in one.told.names
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_txl_11_a_dropped_transaction_is_sent_again_within_two_blocks(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        chain.pool.clear()
        await one.head()
        assert len({tx.hash for tx in chain.seen}) == 1
        assert "tx.dropped" in one.told.names
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_a_stuck_transaction_is_outbid_by_the_rule_and_won(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        chain.base_fee = 30 * GWEI
        await one.heads(3)
        first, second = chain.seen[0], chain.seen[-1]
        assert second.nonce == first.nonce == 0
        assert 1000 * second.max_fee >= 1125 * first.max_fee
        assert 1000 * second.tip >= 1125 * first.tip
        assert second.gas == first.gas
        await one.heads(2)
        assert one.results == [Result.WON]
        assert len(chain.receipts) == 1


async def test_txl_19_only_the_head_of_the_line_is_outbid(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE), plan_of(chain, BOB)))
        await one.heads(3, is_empty=True)
        fees = {nonce: {tx.max_fee for tx in chain.seen if tx.nonce == nonce} for nonce in (0, 1)}
        assert len(fees[0]) == 2
        assert len(fees[1]) == 1


async def test_a_plan_whose_profit_cannot_pay_a_higher_fee_is_cancelled_and_says_so(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE, profit_usd=8)))
        chain.base_fee = 100 * GWEI
        await one.heads(4)
        (outcome,) = one.outcomes
        assert outcome.result is Result.CANCELLED
        assert outcome.reason is Reason.CANCELLED
        assert "unprofitable" in outcome.detail
        assert chain.state.nonce == 1
        assert chain.state.liquidatable == {ALICE}


async def test_a_plan_that_a_rival_took_is_cancelled_before_it_can_revert(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        await one.head(rivals=[ALICE], is_empty=True)
        assert chain.seen[-1].data == b""
        await one.heads(2)
        (outcome,) = one.outcomes
        assert outcome.result is Result.CANCELLED
        assert "not_liquidatable" in outcome.detail
        assert outcome.gas_cost_wei < GAS * 11 * GWEI


async def test_txl_15_a_revert_after_a_rival_in_the_same_block_is_a_lost_race(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        await one.head(rivals=[ALICE])
        await one.head()
        (outcome,) = one.outcomes
        assert outcome.result is Result.LOST
        assert outcome.reason is Reason.LOST_RACE
        assert RIVAL.hex() in outcome.detail
        assert outcome.gas_cost_wei == GAS * 11 * GWEI


async def test_txl_18_a_revert_without_a_rival_carries_the_decoded_reason(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        chain.state.liquidatable.clear()  # repaid
        await one.heads(2)
        (outcome,) = one.outcomes
        assert outcome.result is Result.REVERTED
        assert outcome.reason is Reason.NOT_LIQUIDATABLE


async def test_txl_09_a_nonce_used_by_somebody_else_is_flagged_and_ends_the_plan(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        chain.pool.clear()
        await one.heads(3, foreign=1, is_empty=True)
        await one.heads(2)
        (outcome,) = one.outcomes
        assert outcome.result is Result.FAILED
        assert outcome.reason is Reason.FOREIGN_NONCE
        assert "tx.foreign_nonce" in one.told.names
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, BOB)))
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 3
        await one.heads(2)
        assert one.results[-1] is Result.WON


async def test_a_stale_plan_is_cancelled(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, policy=patient(stale_after_blocks=3, bump_after_blocks=50)) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        await one.heads(3, is_empty=True)
        assert chain.seen[-1].data == b""
        await one.heads(2)
        assert one.results == [Result.CANCELLED]


async def test_txl_22_when_the_original_beats_its_cancellation_the_receipt_decides(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, policy=patient(stale_after_blocks=1)) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        original = dict(chain.pool)
        await one.head(is_empty=True)
        assert chain.seen[-1].data == b""
        chain.pool = original
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_chn_02_a_reorg_takes_the_receipt_back_and_the_same_bytes_are_sent_again(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, policy=patient(confirmations=4)) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        await one.heads(2)
        assert one.outcomes == []
        chain.reorg(2)
        await one.heads(3)
        assert "tx.reorged" in one.told.names
        assert len({tx.hash for tx in chain.seen}) == 1
        await one.heads(4)
        assert one.results == [Result.WON]


async def test_chn_03_after_a_reorg_the_new_receipt_counts(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, policy=patient(confirmations=3)) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        held = dict(chain.pool)
        await one.head()
        chain.reorg(1)
        chain.pool = held
        await one.head(rivals=[ALICE])
        await one.heads(3)
        (outcome,) = one.outcomes
        assert outcome.result is Result.LOST


async def test_txl_23_a_receipt_from_a_block_that_is_not_ours_proves_nothing(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, policy=patient(confirmations=1)) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        ours = chain.mine()
        spoofed = chain.blocks[-1]
        chain.reorg(1)
        real = chain.mine(is_empty=True)
        chain.blocks[-1].receipts.update(spoofed.receipts)
        assert ours.number == real.number
        await one.sender.on_head(real)
        assert one.outcomes == []


async def test_shd_after_stopping_nothing_new_leaves_and_what_is_in_flight_is_waited_for(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        drained = asyncio.create_task(one.sender.drain(30))
        await asyncio.sleep(0)
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, BOB)))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.STOPPING
        await one.heads(3, is_empty=True)
        assert len({tx.hash for tx in chain.seen}) == 1  # neither bumped nor cancelled
        await one.heads(2)
        assert await drained == frozenset()
        assert one.results == [Result.WON]


async def test_shd_what_outlives_the_drain_is_named_and_found_again(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        plan = plan_of(chain, ALICE)
        await one.sender.submit(batch_of(chain, plan))
        assert await one.sender.drain(0) == {plan.key}
    async with desk(chain) as other:
        assert other.sender.in_flight == {plan.key}
        await other.heads(2)
        assert other.results == [Result.WON]


async def test_nothing_is_sent_before_the_sender_has_recovered(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, recover=False) as one:
        with pytest.raises(Unsafe):
            await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))


@pytest.mark.parametrize("method", ["simulate", "fee_history", "funds"])
async def test_a_network_that_fails_before_the_commit_skips_the_plans(tmp_path: Path, method: str):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        one.wire.fail.add(method)
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.SIMULATION_FAILED


async def test_a_head_whose_request_fails_changes_nothing(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        one.wire.fail.add("standing")
        await one.heads(2)
        assert one.outcomes == []
        one.wire.fail.clear()
        await one.head()
        assert one.results == [Result.WON]


async def test_sto_01_a_full_disk_sends_nothing_and_passes(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        one.journal.fault = Fault.FULL
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.STORAGE
        assert chain.seen == []
        assert "storage.full" in one.told.names
        one.journal.fault = None
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 0
        assert "storage.recovered" in one.told.names
        one.journal.fault = Fault.FULL
        await one.heads(4)
        assert one.outcomes == []  # an outcome that cannot be stored is not told
        one.journal.fault = None
        await one.head()
        assert one.results == [Result.WON]


async def test_a_journal_that_cannot_be_trusted_stops_the_sender(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        one.journal.fault = Fault.CORRUPT
        with pytest.raises(StoreFailed):
            await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert chain.seen == []


async def test_sto_10_an_old_backup_of_the_journal_is_noticed_and_its_plans_end(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    assert chain.journal is not None
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
    backup = chain.journal.read_bytes()
    async with desk(chain) as one:
        await one.heads(2)
        await one.sender.submit(batch_of(chain, plan_of(chain, BOB)))
        await one.heads(2)
        assert one.results == [Result.WON, Result.WON]
    chain.journal.write_bytes(backup)
    async with desk(chain) as one:
        assert "tx.foreign_nonce" in one.told.names
        assert one.results == [Result.WON]
        chain.state.liquidatable.add(ALICE)
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 2


async def test_a_gap_left_by_a_lost_journal_row_is_filled_within_three_blocks(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    assert chain.journal is not None
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE), plan_of(chain, BOB)))
    with sqlite3.connect(chain.journal) as connection:
        connection.execute("delete from attempt where nonce = 0")
        connection.execute("delete from intent where nonce = 0")
    connection.close()
    chain.pool.clear()
    async with desk(chain) as one:
        assert "tx.gap_filled" in one.told.names
        await one.heads(3)
        assert chain.state.nonce == 2
        assert one.results == [Result.WON]


async def test_a_caller_that_is_cancelled_does_not_interrupt_a_half_done_send(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        plan = plan_of(chain, ALICE)
        one.journal.is_committing = asyncio.Event()
        submitting = asyncio.create_task(one.sender.submit(batch_of(chain, plan)))
        await one.journal.is_committing.wait()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        await one.sender.on_head(chain.head)  # waits its turn
        assert len(chain.seen) == 1
        assert one.sender.in_flight == {plan.key}
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_a_foreign_transaction_in_the_pool_is_outbid_or_waited_out(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    stranger = Tx(TxHash(b"\x01" * 32), 0, GWEI, 20 * GWEI, 21_000, ALICE, b"")
    chain.pool[0] = stranger
    async with desk(chain) as one:
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Accepted)
        await one.heads(4, is_empty=True)
        assert chain.pool[0].hash != stranger.hash
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_replacements_are_bounded_and_end_in_a_cancellation_under_the_cap(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    policy = patient(max_replacements=3, bump_after_blocks=1, stale_after_blocks=1_000)
    async with desk(chain, policy=policy) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE, profit_usd=100_000)))
        await one.heads(60, is_empty=True)
        sends = {tx.hash for tx in chain.seen if tx.data}
        cancels = {tx.hash for tx in chain.seen if not tx.data}
        assert len(sends) == 4
        assert len(cancels) < 40
        assert max(tx.max_fee for tx in chain.seen) <= policy.fees.max_fee_wei
        assert "limit.tripped" in one.told.names


async def test_rpc_08_a_receipt_that_one_answer_lacks_is_unknown_and_not_absent(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, policy=patient(confirmations=1)) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        chain.hides_receipts = True
        await one.head()
        assert one.outcomes == []
        chain.hides_receipts = False
        await one.head()
        assert one.results == [Result.WON]
        assert "tx.foreign_nonce" not in one.told.names


async def test_a_drained_sender_touches_neither_the_chain_nor_the_journal_any_more(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await one.sender.drain(0)
        chain.requests.clear()
        one.gate.refresh = None  # type: ignore[assignment,method-assign] # nothing reads the store either
        await one.sender.on_head(chain.mine())
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.STOPPING
        assert chain.requests == []

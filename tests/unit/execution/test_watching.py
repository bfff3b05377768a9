"""What the chain says of a nonce, where nodes lag, lie or contradict each other, and where others use the key."""

import sqlite3
from pathlib import Path

from keeper.chain.transactions import Standing
from keeper.domain.chain import BlockHead, Receipt
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Outcome
from keeper.domain.units import Wei
from keeper.execution.finality import KEPT_BLOCKS
from keeper.execution.lane import Slot
from keeper.execution.settle import Phase, look, mined, outcome
from keeper.execution.simulate import Simulator
from keeper.execution.verdicts import Accepted, Skipped
from keeper.store.faults import Fault
from keeper.store.records import AttemptState, Entry, IntentState
from tests.unit.execution.desk import ALICE, BOB, Desk, FarSigner, Switch, desk, new_chain, patient
from tests.unit.execution.fake_chain import GWEI, FakeChain, Wire, batch_of, markets, plan_of
from tests.unit.execution.guarded import guarded


async def sent(one: Desk) -> Slot:
    """Send a plan for Alice and return its slot."""
    (verdict,) = await one.sender.submit(batch_of(one.chain, plan_of(one.chain, ALICE)))
    assert isinstance(verdict, Accepted)
    return one.sender._lane.slots[0]


def receipt_of(slot: Slot, head: BlockHead, *, succeeded: bool = True, gas_used: int = 100_000) -> Receipt:
    tx_hash = slot.entry.attempts[0].tx_hash
    return Receipt(tx_hash, head.number, head.hash, succeeded, gas_used, Wei(GWEI), (), Wei(0))


async def test_a_receipt_proves_nothing_where_the_same_answer_says_that_the_nonce_is_free(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        slot = await sent(one)
        receipt = receipt_of(slot, chain.head)
        receipts = {receipt.tx_hash: receipt}
        assert look(slot, Standing(0, receipts), {}).phase is Phase.PENDING
        assert look(slot, Standing(1, receipts), {}).receipt == receipt
        assert look(slot, Standing(1, {}), {}).phase is Phase.USED


async def test_a_node_that_lags_behind_a_block_on_our_chain_un_mines_nothing(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, policy=patient(confirmations=3)) as one:
        await sent(one)
        await one.head()
        assert "tx.mined" in one.told.names
        chain.hides_receipts, chain.state.nonce = True, 0
        await one.head()
        assert "tx.reorged" not in one.told.names
        assert one.sender._lane.slots[0].entry.intent.state is IntentState.MINED
        chain.hides_receipts, chain.state.nonce = False, 1
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_a_receipt_that_a_second_node_denies_at_the_end_is_un_mined_and_looked_for_again(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        slot = await sent(one)
        await one.head()
        chain.disputed.add(slot.entry.attempts[0].tx_hash)
        await one.head()
        assert one.outcomes == []
        assert slot.entry.intent.state is IntentState.LIVE
        assert "rpc.inconsistent" in one.told.names
        chain.disputed.clear()
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_an_end_that_cannot_be_confirmed_waits_for_the_next_head(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await sent(one)
        await one.head()
        one.wire.fail.add("confirmed")
        await one.head()
        assert one.outcomes == []
        one.wire.fail.clear()
        await one.head()
        assert one.results == [Result.WON]


async def test_a_reorganisation_during_heads_that_were_missed_does_not_make_ours_a_strangers(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await sent(one)
        pool = dict(chain.pool)
        await one.heads(2, is_empty=True)
        chain.reorg(2)
        chain.pool = pool
        for _ in range(4):
            chain.mine()  # mined at a height that we knew by another hash
        await one.sender.on_head(chain.head)
        await one.heads(2)
        assert one.results == [Result.WON]
        assert "tx.foreign_nonce" not in one.told.names


async def test_a_stranger_at_a_nonce_that_we_hold_is_told_to_the_gate(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await sent(one)
        chain.pool.clear()
        await one.head(foreign=1, is_empty=True)
        assert one.gate.intruders == []  # one head alone proves nothing
        await one.heads(3, is_empty=True)
        assert one.gate.intruders == [0]
        assert [each.reason for each in one.outcomes] == [Reason.FOREIGN_NONCE]


async def test_what_we_had_given_up_ourselves_is_no_intrusion(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    async with desk(chain) as one:
        slot = await sent(one)
        raw_hash = slot.entry.attempts[0].tx_hash
        pool = dict(chain.pool)
        await one.journal.commit_void(slot.entry)
        one.sender._lane.void_tail([0])
        chain.pool.clear()
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, BOB)))
        assert isinstance(verdict, Accepted)
        chain.pool = pool
        await one.heads(4)
        assert raw_hash in chain.receipts
        assert one.gate.intruders == []
        assert [fields["is_ours"] for name, fields in one.told.events if name == "tx.foreign_nonce"] == [True]


async def test_a_gap_that_something_of_ours_has_used_is_not_filled(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE), plan_of(chain, BOB)))
        chain.mine()
    assert chain.journal is not None
    with sqlite3.connect(chain.journal) as connection:
        connection.execute("update intent set state = 'void' where nonce = 0")
        connection.execute("update attempt set state = 'void' where nonce = 0")
    connection.close()
    chain.state.nonce = 0  # a count that lags behind the receipts
    async with desk(chain) as other:
        await other.sender.on_head(chain.head)
        await other.sender.on_head(chain.head)
        assert "tx.gap_filled" not in other.told.names
        assert other.sender._lane.claimed == {0}


def ended(slot: Slot, receipt: Receipt, revert: tuple[Reason, str] | None) -> Outcome:
    entry = Entry(mined(slot.entry.intent, receipt), slot.entry.attempts)
    found = outcome(entry, receipt, None, None, revert)
    assert found is not None
    return found


async def test_gas_that_ran_out_is_told_from_a_call_that_works_again(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        slot = await sent(one)
        limit = slot.entry.intent.gas_limit
        all_used = ended(slot, receipt_of(slot, chain.head, succeeded=False, gas_used=limit), None)
        nearly = ended(slot, receipt_of(slot, chain.head, succeeded=False, gas_used=limit * 63 // 64), None)
        little = ended(slot, receipt_of(slot, chain.head, succeeded=False, gas_used=limit // 2), None)
        named = receipt_of(slot, chain.head, succeeded=False, gas_used=limit * 63 // 64)
        assert all_used.detail == "out of gas"
        assert nearly.detail.startswith("out of gas inside")
        assert "works again" in little.detail
        assert ended(slot, named, (Reason.PAUSED, "paused")).reason is Reason.PAUSED


def test_a_revert_in_a_market_that_left_the_chain_file_is_told_in_hexadecimal():
    simulator = Simulator(Wire(FakeChain(ALICE)), {}, ALICE)
    key = plan_of(FakeChain(ALICE), ALICE).key
    assert simulator.explain(key, b"\x12\x34") == (Reason.SIMULATION_REVERTED, "0x1234")
    assert Simulator(Wire(FakeChain(ALICE)), markets(), ALICE).explain(key, b"healthy")[0] is Reason.NOT_LIQUIDATABLE


async def test_a_switch_that_is_set_between_two_heads_counts_for_the_next_batch(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        one.gate.is_paused_at_refresh = True
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.OPERATOR_PAUSED
        assert chain.seen == []


async def test_intents_whose_signatures_could_not_be_stored_are_void_and_their_nonces_are_used_again(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    far = FarSigner(chain.journal)
    async with desk(chain, signatory=far) as one:
        one.journal.fault_from = 1  # the intents are stored, and then the disk is full
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Skipped)
        assert (verdict.reason, verdict.detail) == (Reason.STORAGE, Fault.FULL.value)
        assert (len(far.asked), chain.seen) == (1, [])
        one.journal.fault, one.journal.fault_from = None, None
        chain.base_fee = 11 * GWEI  # another bid, so another intent at the same nonce
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, BOB)))
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 0
        states = {each.intent.state for each in await one.journal.entries_at(0)}
        assert states == {IntentState.VOID, IntentState.LIVE}
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_a_remote_signer_that_falls_silent_in_a_batch_sends_what_was_signed_and_voids_the_rest(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    far = FarSigner(chain.journal)
    async with desk(chain, signatory=far) as one:
        far.silent_from = 1
        first, second = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE), plan_of(chain, BOB)))
        assert isinstance(first, Accepted)
        assert isinstance(second, Skipped)
        assert second.reason is Reason.SIGNER_FAILED
        assert [each.intent.state for each in await one.journal.entries_at(1)] == [IntentState.VOID]
        far.silent_from = None
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, BOB)))
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 1
        await one.heads(2)
        assert one.results == [Result.WON, Result.WON]


async def test_a_filler_whose_signature_could_not_be_stored_is_void_and_the_gap_is_filled_at_the_next_head(
    tmp_path: Path,
):
    chain = new_chain(tmp_path, ALICE, BOB)
    assert chain.journal is not None
    far = FarSigner(chain.journal)
    async with desk(chain, signatory=far) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE), plan_of(chain, BOB)))
        with sqlite3.connect(chain.journal) as connection:
            connection.execute("delete from attempt where nonce = 0")
            connection.execute("delete from intent where nonce = 0")
        connection.close()
        del one.sender._lane.slots[0]
        chain.pool.clear()
        await one.head(is_empty=True)
        one.journal.fault_from, asked = 1, len(far.asked)
        await one.head(is_empty=True)
        assert len(far.asked) == asked + 1
        assert "tx.gap_filled" not in one.told.names
        one.journal.fault, one.journal.fault_from = None, None
        chain.base_fee = 11 * GWEI  # another bid, so another intent at the same nonce
        await one.heads(3)
        assert "tx.gap_filled" in one.told.names
        assert chain.state.nonce == 2
        assert one.results == [Result.WON]


class Lock(Switch):
    """A gate that shuts for good when finality is violated, until somebody opens it."""

    def __init__(self) -> None:
        super().__init__()
        self.violations: list[str] = []

    async def violated(self, head: BlockHead, detail: str) -> None:
        del head
        self.violations.append(detail)
        self.is_halted = True


async def won(one: Desk) -> Slot:
    """Liquidate Alice for good, two blocks deep."""
    slot = await sent(one)
    await one.heads(2)
    assert one.results == [Result.WON]
    return slot


def violations(one: Desk) -> list[dict[str, object]]:
    return [fields for name, fields in one.told.events if name == "chain.finality_violation"]


async def test_nothing_is_asked_about_what_is_final_as_long_as_every_head_follows_the_last(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await won(one)
        before = len(chain.requests)
        await one.heads(3)
        assert chain.requests[before:] == []
        await one.sender.on_head(chain.head)  # told of twice
        assert chain.requests[before:] == []
        chain.mine()
        await one.head()  # one was missed: what was in it is unknown
        assert chain.requests[before:] == ["standing"]
        await one.heads(2)
        assert chain.requests[before:] == ["standing"]
        assert "tx.reorged" not in one.told.names


async def test_what_was_final_and_is_in_another_block_now_is_no_violation_and_its_books_say_where(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    gate = Lock()
    async with desk(chain, gate=gate) as one:
        slot = await sent(one)
        pool = dict(chain.pool)
        await one.heads(2)
        chain.reorg(2)
        chain.pool = pool
        await one.head(is_empty=True)
        assert violations(one) == []
        await one.heads(3)
        assert [fields["nonce"] for name, fields in one.told.events if name == "tx.reorged"] == [0]
        assert (violations(one), gate.violations, one.results) == ([], [], [Result.WON])
        (entry,) = await one.journal.entries_at(0)
        receipt = chain.receipts[slot.entry.attempts[0].tx_hash]
        assert entry.intent.inclusion is not None
        assert entry.intent.inclusion.block_hash == receipt.block_hash
        assert entry.intent.state is IntentState.FINAL


async def test_what_was_final_and_is_gone_is_told_once_and_shuts_the_gate_until_somebody_opens_it(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    gate = Lock()
    async with desk(chain, gate=gate) as one:
        slot = await won(one)
        sent_before = len(chain.seen)
        chain.reorg(2)
        await one.head(is_empty=True)
        assert violations(one) == []  # one head alone proves nothing
        await one.heads(5, is_empty=True)
        ((violation,), (detail,)) = violations(one), gate.violations
        assert violation["depth"] == 2
        assert violation["tx_hash"] == "0x" + slot.entry.attempts[0].tx_hash.hex()
        assert str(violation["tx_hash"]) in detail
        assert len(chain.seen) == sent_before
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Skipped)
        assert len(chain.seen) == sent_before
        gate.is_halted = False
        await one.heads(3)
        assert "tx.gap_filled" in one.told.names
        assert chain.state.nonce == 1
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Accepted)
        await one.heads(2)
        assert one.results == [Result.WON, Result.WON]
        assert len(violations(one)) == len(gate.violations) == 1


async def test_a_violation_while_nobody_watched_is_found_at_the_start_and_not_again_at_the_next(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await won(one)
    chain.reorg(2)
    chain.mine(is_empty=True)
    gate = Lock()
    async with desk(chain, gate=gate) as other:
        sent_before = len(chain.seen)
        await other.heads(3, is_empty=True)
        assert len(violations(other)) == len(gate.violations) == 1
        assert len(chain.seen) == sent_before
        (entry,) = await other.journal.entries_at(0)
        assert {each.state for each in entry.attempts} == {AttemptState.REPLACED}
    async with desk(chain, gate=Lock()) as third:
        await third.heads(4)
        assert violations(third) == []
        assert chain.state.nonce == 1  # the gap is filled


async def test_a_node_that_knows_its_receipts_late_shuts_nothing_where_the_chains_count_has_the_nonce(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    gate = Lock()
    async with desk(chain, gate=gate) as one:
        await won(one)
        chain.hides_receipts = True
        chain.mine()
        await one.heads(10)
        assert gate.violations == []
        chain.hides_receipts = False
        await one.heads(2)
        assert (gate.violations, one.sender._watch.is_doubtful) == ([], False)


async def test_a_nonce_whose_receipt_nobody_ever_finds_again_is_a_violation_in_the_end(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    gate = Lock()
    async with desk(chain, gate=gate) as one:
        await won(one)
        chain.reorg(2)
        await one.head(is_empty=True, foreign=1)
        await one.heads(20, is_empty=True)
        assert len(gate.violations) == 1


async def test_an_end_that_is_another_one_after_a_deep_reorganisation_is_a_violation(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    gate = Lock()
    async with desk(chain, gate=gate) as one:
        slot = await sent(one)
        pool = dict(chain.pool)
        await one.heads(2)
        chain.reorg(2)
        chain.state.liquidatable.clear()  # now it reverts
        chain.pool = pool
        await one.heads(4)
        assert (len(gate.violations), len(violations(one))) == (1, 1)
        (entry,) = await one.journal.entries_at(0)
        assert entry.intent.inclusion is not None
        assert entry.intent.inclusion.tx_hash == slot.entry.attempts[0].tx_hash


async def test_a_violation_is_told_once_though_the_store_fails_and_the_nodes_fall_silent_meanwhile(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    gate = Lock()
    async with desk(chain, gate=gate) as one:
        await won(one)
        chain.reorg(2)
        one.wire.fail.add("funds")
        await one.heads(3, is_empty=True)
        assert gate.violations == []
        one.wire.fail.clear()
        one.journal.fault = Fault.FULL
        await one.heads(2, is_empty=True)
        assert len(violations(one)) == 1
        one.journal.fault = None
        await one.heads(3, is_empty=True)
        assert len(violations(one)) == 1
        assert not one.sender._watch.is_doubtful


async def test_what_lies_deeper_than_any_reorganisation_is_forgotten(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await won(one)
        for _ in range(KEPT_BLOCKS):
            chain.mine()
        await one.head()
        assert not one.sender._watch.is_doubtful
    async with desk(chain) as other:
        assert not other.sender._watch.is_doubtful


async def test_the_gate_halts_whatever_the_policy_and_a_restart_forgets_nothing_until_the_operator_resumes(
    tmp_path: Path,
):
    chain = new_chain(tmp_path)
    async with guarded(chain) as one:
        await one.win(ALICE)
        chain.reorg(3)
        await one.heads(2, is_empty=True)
        assert one.warden.is_halted
        switches = await one.control.read()
        assert switches.reason.startswith("finality_violation: 0x")
        assert one.told_of("keeper.paused", "reason") == [switches.reason]
    async with guarded(chain) as other:
        assert other.warden.is_halted
        (verdict,) = await other.submit(ALICE)
        assert isinstance(verdict, Skipped)
        await other.control.set_halted(False, reason="", at_s=1)
        await other.head(is_empty=True)
        (verdict,) = await other.submit(ALICE)
        assert isinstance(verdict, Accepted)
        await other.heads(5)
        assert other.results == [Result.WON]
        assert chain.state.nonce == 2

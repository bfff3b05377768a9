"""The private route: what is hidden, from whom, until when, and what becomes of it then."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.domain.outcome import Result
from keeper.domain.units import Address
from keeper.execution.relay import Word
from keeper.execution.route import Fallback, PrivateMethod, PrivatePolicy
from keeper.execution.verdicts import Accepted, Skipped
from keeper.store.faults import Fault
from keeper.store.outcomes import Outcomes
from keeper.store.records import Attempt, AttemptKind, AttemptState, IntentState, Route
from tests.unit.execution.desk import ALICE, BOB, FarSigner, desk, new_chain, patient
from tests.unit.execution.fake_chain import GWEI, FakeChain, Fuse, Killed, approval, batch_of, plan_of
from tests.unit.execution.hidden import HIDDEN, FakeRelays, HiddenDesk, hidden_desk

CANCEL = replace(HIDDEN, fallback=Fallback.CANCEL)
BUNDLE = replace(HIDDEN, method=PrivateMethod.BUNDLE)


def world(tmp_path: Path, *accounts: Address) -> tuple[FakeChain, FakeRelays]:
    chain = new_chain(tmp_path, *accounts)
    return chain, FakeRelays(chain)


async def submit(one: HiddenDesk, account: Address = ALICE) -> Accepted:
    (verdict,) = await one.sender.submit(batch_of(one.chain, plan_of(one.chain, account)))
    assert isinstance(verdict, Accepted)
    return verdict


async def attempts_at(one: HiddenDesk, nonce: int = 0) -> tuple[Attempt, ...]:
    (entry,) = await one.journal.entries_at(nonce)
    return entry.attempts


@pytest.mark.parametrize("private", [HIDDEN, BUNDLE], ids=["transaction", "bundle"])
async def test_a_liquidation_is_shown_to_relays_alone_and_won(tmp_path: Path, private: PrivatePolicy):
    chain, relays = world(tmp_path, ALICE)
    relays.includes = True
    async with hidden_desk(chain, relays, private=private) as one:
        verdict = await submit(one)
        assert chain.seen == []
        (attempt,) = await attempts_at(one)
        assert (attempt.route, attempt.expires_block) == (Route.PRIVATE, chain.head.number + 3)
        assert attempt.state is AttemptState.ACCEPTED
        await one.heads(2)
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == verdict.tx_hash
        assert chain.seen == []


async def test_an_allowance_is_public_and_a_bundle_holds_it_too(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE, BOB)
    chain.state.allowance = 0
    async with hidden_desk(chain, relays, private=BUNDLE) as one:
        plans = (plan_of(chain, ALICE), plan_of(chain, BOB))
        await one.sender.submit(batch_of(chain, *plans, approvals=[approval()]))
        assert [tx.nonce for tx in chain.seen] == [0]
        assert sorted([tx.nonce for tx in parcel.txs] for parcel in relays.parcels) == [[0, 1], [0, 1, 2]]
        assert {parcel.block for parcel in relays.parcels} == {chain.head.number + 1}
        await one.head()
        assert [[tx.nonce for tx in parcel.txs] for parcel in relays.parcels[2:]] == [[1], [1, 2]]
        relays.includes = True
        await one.heads(2)
        assert one.results == [Result.WON] * 2
        assert {tx.nonce for tx in chain.seen} == {0}


async def test_relays_are_asked_again_at_every_head_until_the_expiry_and_then_every_node(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays, policy=patient(resend_after_blocks=5)) as one:
        verdict = await submit(one)
        await one.heads(2)
        assert [tx.hash for tx in relays.seen] == [verdict.tx_hash] * 3
        assert chain.seen == []
        await one.head()
        assert len(relays.seen) == 3
        assert chain.seen == [], "its last block may still be reorganised, but it is not over before it is on the chain"
        await one.head()
        assert [tx.hash for tx in chain.seen] == [verdict.tx_hash]
        assert "tx.unhidden" in one.told.names
        (attempt,) = await attempts_at(one)
        assert (attempt.route, attempt.state) == (Route.PUBLIC, AttemptState.ACCEPTED)
        assert attempt.expires_block == chain.head.number - 1
        await one.heads(2)
        assert one.results == [Result.WON]
        assert len(relays.seen) == 3


async def test_what_no_longer_fits_is_replaced_in_public_and_both_attempts_are_kept(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays, private=replace(HIDDEN, blocks=1)) as one:
        verdict = await submit(one)
        await one.head()
        chain.base_fee = 40 * GWEI
        await one.head()
        first, second = await attempts_at(one)
        assert (first.route, second.route) == (Route.PRIVATE, Route.PUBLIC)
        assert second.expires_block is None
        assert second.max_fee_wei > 40 * GWEI
        assert [tx.hash for tx in chain.seen] == [second.tx_hash]
        await one.heads(2)
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == second.tx_hash != verdict.tx_hash
        assert [each.state for each in await attempts_at(one)] == [AttemptState.REPLACED, AttemptState.MINED]


async def test_a_relay_that_includes_after_all_is_seen_by_the_receipt(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays, private=replace(HIDDEN, blocks=1)) as one:
        verdict = await submit(one)
        await one.head()
        chain.base_fee = 40 * GWEI
        await one.head()
        (parcel,) = relays.parcels
        parcel.last_block = 10**9
        chain.base_fee = 10 * GWEI
        relays.includes = True
        await one.heads(2)
        assert one.outcomes[0].tx_hash == verdict.tx_hash
        assert one.results == [Result.WON]
        assert [each.state for each in await attempts_at(one)] == [AttemptState.MINED, AttemptState.REPLACED]
        assert chain.state.nonce == 1


async def test_by_policy_it_is_cancelled_instead_of_shown(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays, private=CANCEL) as one:
        await submit(one)
        await one.heads(4)
        assert [tx.data for tx in chain.seen] == [b""]
        first, second = await attempts_at(one)
        assert (first.route, second.route, second.kind) == (Route.PRIVATE, Route.PUBLIC, AttemptKind.CANCEL)
        assert relays.withdrawn == [first.tx_hash]
        await one.heads(2)
        (outcome,) = one.outcomes
        assert outcome.result is Result.CANCELLED
        assert "no relay had it included" in outcome.detail
        await submit(one)
        assert {tx.nonce for tx in relays.seen} == {0, 1}


async def test_when_no_relay_can_be_reached_every_node_sees_it_at_once(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE, BOB)
    relays.word = Word.UNREACHED
    async with hidden_desk(chain, relays) as one:
        plans = (plan_of(chain, ALICE), plan_of(chain, BOB))
        verdicts = await one.sender.submit(batch_of(chain, *plans))
        assert all(isinstance(verdict, Accepted) for verdict in verdicts)
        assert sorted(tx.nonce for tx in chain.seen) == [0, 1]
        for nonce in (0, 1):
            (attempt,) = await attempts_at(one, nonce)
            assert (attempt.route, attempt.state) == (Route.PUBLIC, AttemptState.ACCEPTED)
        await one.heads(2)
        assert one.results == [Result.WON] * 2


async def test_when_no_relay_can_be_reached_a_nonce_that_may_not_be_shown_is_given_back(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    relays.word = Word.UNREACHED
    async with hidden_desk(chain, relays, private=CANCEL) as one:
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Skipped)
        assert "relay-1: unreached" in verdict.detail
        assert one.sender.in_flight == frozenset()
        relays.word, relays.includes = Word.TAKEN, True
        verdict = await submit(one)
        assert verdict.nonce == 0
        await one.heads(2)
        assert one.results == [Result.WON]
        assert chain.seen == []


@pytest.mark.parametrize("word", [Word.UNSURE, Word.REFUSED])
async def test_what_a_relay_may_have_seen_stays_hidden_until_it_expires_whatever_the_relay_says(
    tmp_path: Path, word: Word
):
    chain, relays = world(tmp_path, ALICE)
    relays.word = word
    async with hidden_desk(chain, relays) as one:
        verdict = await submit(one)
        relays.word = Word.UNREACHED
        await one.heads(3)
        assert chain.seen == []
        await one.head()
        assert [tx.hash for tx in chain.seen] == [verdict.tx_hash]
        await one.heads(2)
        assert one.results == [Result.WON]


async def test_what_all_relays_refuse_is_looked_at_again_and_cancelled_when_it_has_no_point(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    relays.word = Word.REFUSED
    async with hidden_desk(chain, relays) as one:
        verdict = await submit(one)
        chain.state.liquidatable.clear()
        await one.head()
        assert [(tx.nonce, tx.data) for tx in chain.seen] == [(0, b"")]
        assert relays.withdrawn == [verdict.tx_hash]
        await one.heads(2)
        assert one.results == [Result.CANCELLED]


async def test_a_hidden_bid_is_raised_only_when_the_next_block_asks_more_and_stays_hidden(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays, policy=patient(bump_after_blocks=1)) as one:
        await submit(one)
        await one.head()
        assert "tx.replaced" not in one.told.names
        chain.base_fee = 40 * GWEI
        chain.mine()
        await one.sender.on_head(chain.head)
        first, second = await attempts_at(one)
        assert (second.route, second.expires_block) == (Route.PRIVATE, first.expires_block)
        assert relays.withdrawn == [first.tx_hash]
        assert relays.seen[-1].hash == second.tx_hash
        relays.includes = True
        await one.heads(2)
        assert one.outcomes[0].tx_hash == second.tx_hash
        assert chain.seen == []


async def test_a_hidden_bid_that_cannot_be_raised_waits_and_is_not_cancelled(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays) as one:
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE, profit_usd=20)))
        assert isinstance(verdict, Accepted)
        chain.base_fee = 200 * GWEI  # more than the profit allows, less than a cancellation may cost
        await one.heads(2)
        assert len(await attempts_at(one)) == 1
        chain.base_fee, relays.includes = 10 * GWEI, True
        await one.heads(2)
        assert one.outcomes[0].tx_hash == verdict.tx_hash
        assert one.results == [Result.WON]


async def test_a_bundle_is_not_withdrawn_by_its_own_replacement(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays, private=BUNDLE) as one:
        await submit(one)
        chain.base_fee = 40 * GWEI
        await one.heads(2)
        assert len(await attempts_at(one)) == 2
        assert relays.withdrawn == []
        chain.state.liquidatable.clear()
        await one.heads(3)
        assert len(relays.withdrawn) == 1


@pytest.mark.parametrize("word", list(Word))
async def test_a_restart_goes_on_hiding_whatever_relays_say(tmp_path: Path, word: Word):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays) as one:
        verdict = await submit(one)
    relays.word = word
    async with hidden_desk(chain, relays) as other:
        await other.heads(3)
        assert chain.seen == []
        assert {tx.hash for tx in relays.seen} == {verdict.tx_hash}
        await other.heads(3)
        assert {tx.hash for tx in chain.seen} == {verdict.tx_hash}
        assert other.results == [Result.WON]


async def test_a_restart_without_relays_shows_nothing_before_the_expiry(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays) as one:
        verdict = await submit(one)
    async with hidden_desk(chain, None) as other:
        await other.heads(3)
        assert chain.seen == []
        await other.heads(3)
        assert {tx.hash for tx in chain.seen} == {verdict.tx_hash}
        assert other.results == [Result.WON]


async def test_a_restart_after_the_expiry_shows_what_still_has_a_point_and_cancels_the_rest(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE, BOB)
    async with hidden_desk(chain, relays) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE), plan_of(chain, BOB)))
    for _ in range(4):
        chain.mine()
    chain.state.liquidatable.discard(BOB)
    async with hidden_desk(chain, relays) as other:
        assert sorted((tx.nonce, bool(tx.data)) for tx in chain.seen) == [(0, True), (1, False)]
        await other.heads(2)
        assert sorted(other.results) == [Result.CANCELLED, Result.WON]


async def test_a_hidden_transaction_whose_block_is_gone_is_hidden_again_or_shown_if_it_has_expired(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    relays.includes = True
    async with hidden_desk(chain, relays, policy=patient(confirmations=9)) as one:
        verdict = await submit(one)
        await one.head()
        chain.reorg(1)
        relays.includes = False
        await one.head()
        assert chain.seen == []
        await one.heads(3)
        assert [tx.hash for tx in chain.seen] == [verdict.tx_hash]


async def test_while_stopping_nothing_that_was_hidden_is_shown(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    async with hidden_desk(chain, relays) as one:
        await submit(one)
        draining = asyncio.create_task(one.sender.drain(30))
        await asyncio.sleep(0)
        await one.heads(6)
        assert chain.seen == []
        relays.parcels[0].last_block, relays.includes = 10**9, True
        await one.heads(2)
        assert await draining == frozenset()
        assert one.results == [Result.WON]


async def test_what_the_journal_cannot_note_as_shown_stays_hidden_until_it_expires(tmp_path: Path):
    chain, relays = world(tmp_path, ALICE)
    relays.word = Word.UNREACHED
    async with hidden_desk(chain, relays) as one:
        relays.on_take = lambda: setattr(one.journal, "fault", Fault.LOCKED)
        verdict = await submit(one)
        assert chain.seen == []
        assert one.sender.in_flight == {verdict.key}
        assert "storage.error" in one.told.names
        one.journal.fault, relays.on_take = None, None
        await one.heads(3)
        assert chain.seen == []
        await one.heads(3)
        assert {tx.hash for tx in chain.seen} == {verdict.tx_hash}
        assert one.results == [Result.WON]


async def live(tmp_path: Path, fuse: Fuse) -> int:
    """Hide, expire, show, win, with one death where the fuse says; return how often it could have died."""
    chain, relays = world(tmp_path, ALICE, BOB)
    outcomes: list[object] = []
    for attempt in (fuse, Fuse(0)):
        try:
            async with hidden_desk(chain, relays, fuse=attempt) as one:
                for _ in range(8):
                    if chain.head.number == 100 and not one.sender.in_flight:
                        plans = [plan_of(chain, account) for account in (ALICE, BOB)]
                        await one.sender.submit(batch_of(chain, *plans))
                    if chain.head.number < 103:
                        assert chain.seen == [], "shown before it expired"
                    await one.head()
                assert await one.journal.open_entries() == ()
                summary = await Outcomes(one.database).summary()
                assert summary.results == {Result.WON: 2}
                for nonce in (0, 1):
                    entries = await one.journal.entries_at(nonce)
                    assert [entry.intent.state for entry in entries] == [IntentState.FINAL]
                assert chain.state.nonce == 2
                return fuse.burnt
        except Killed:
            outcomes.clear()
    raise AssertionError("died twice")


async def test_n10_death_at_any_instant_of_a_hidden_life_ends_in_the_same_place(
    tmp_path_factory: pytest.TempPathFactory,
):
    instants = await live(tmp_path_factory.mktemp("whole"), Fuse(0))
    assert instants > 20
    for first in range(1, instants + 1, 8):
        await asyncio.gather(
            *(
                live(tmp_path_factory.mktemp("dead"), Fuse(instant))
                for instant in range(first, min(first + 8, instants + 1))
            )
        )


async def two_gaps(tmp_path: Path) -> FakeChain:
    """Leave the first two of three nonces to nobody."""
    chain = new_chain(tmp_path, ALICE, BOB, Address(b"\x09" * 20))
    assert chain.journal is not None
    async with desk(chain) as one:
        plans = [plan_of(chain, account) for account in sorted(chain.state.liquidatable)]
        await one.sender.submit(batch_of(chain, *plans))
    with sqlite3.connect(chain.journal) as connection:
        connection.execute("delete from attempt where nonce < 2")
        connection.execute("delete from intent where nonce < 2")
    connection.close()
    chain.pool.clear()
    return chain


@pytest.mark.parametrize("silent_from", [0, 1])
async def test_fillers_that_a_remote_signer_does_not_sign_are_void_and_the_next_head_fills_their_gaps(
    tmp_path: Path, silent_from: int
):
    chain = await two_gaps(tmp_path)
    far = FarSigner(chain.journal)
    far.silent_from = silent_from
    async with desk(chain, signatory=far) as one:
        assert [entry.intent.state for entry in await one.journal.entries_at(1)] == [IntentState.VOID]
        assert ("tx.gap_filled" in one.told.names) == (silent_from == 1)
        far.silent_from = None
        await one.heads(4)
        assert chain.state.nonce == 3
        assert await one.journal.open_entries() == ()
        assert one.results == [Result.WON]


async def test_fillers_whose_signatures_could_not_be_kept_do_not_stand_in_the_way_of_the_next(tmp_path: Path):
    chain = await two_gaps(tmp_path)
    far = FarSigner(chain.journal)
    far.silent_from = 0
    async with desk(chain, signatory=far) as one:
        far.silent_from = None
        far.fuse = Once(lambda: setattr(one.journal, "fault", Fault.LOCKED))
        while "storage.error" not in one.told.names:
            await one.head()
        one.journal.fault = None
        chain.base_fee += GWEI  # so that the next filler is another one
        await one.heads(4)
        assert chain.state.nonce == 3
        assert await one.journal.open_entries() == ()


class Once(Fuse):
    """Does something instead of killing, the first time that it burns."""

    def __init__(self, deed: Callable[[], None]) -> None:
        super().__init__(0)
        self._deed: Callable[[], None] | None = deed

    def burn(self) -> None:
        deed, self._deed = self._deed, None
        if deed is not None:
            deed()

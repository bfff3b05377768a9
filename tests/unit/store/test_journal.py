"""The journal gives back exactly what it was given, and keeps every signer's nonces apart."""

from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from keeper.domain.outcome import Reason, Result
from keeper.domain.units import Address
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.outcomes import Outcomes
from keeper.store.records import AttemptState, Changes, Ending, Entry, IntentState
from tests.unit.store.values import HUGE, SENDER, entry, opportunity, outcome


async def test_it_gives_back_what_it_was_given(database: Database):
    journal = Journal(database, SENDER)
    live, mined = entry(3, attempts=3), entry(4, state=IntentState.MINED)
    await journal.commit(Changes((mined, live)))
    assert await journal.open_entries() == (live, mined)
    assert await journal.entries_at(3) == (live,)
    assert await journal.entries_of_plan("plan-4") == (mined,)


async def test_a_second_commit_replaces_the_first(database: Database):
    journal = Journal(database, SENDER)
    first = entry(3)
    await journal.commit(Changes((first,)))
    attempts = (replace(first.attempts[0], state=AttemptState.MINED),)
    final = Entry(replace(first.intent, state=IntentState.FINAL), attempts)
    await journal.commit(Changes((final,), (Ending(final.intent.id, outcome(3)),)))
    assert await journal.open_entries() == ()
    assert await journal.entries_at(3) == (final,)


async def test_the_highest_nonce_ignores_what_was_voided(database: Database):
    journal = Journal(database, SENDER)
    assert await journal.highest_nonce() is None
    await journal.commit(Changes((entry(3, state=IntentState.FINAL), entry(4, state=IntentState.VOID))))
    assert await journal.highest_nonce() == 3


async def test_a_voided_nonce_can_be_used_again(database: Database):
    journal = Journal(database, SENDER)
    voided = entry(4, state=IntentState.VOID, name="first", attempts=0)
    again = entry(4, name="second")
    await journal.commit(Changes((voided,)))
    await journal.commit(Changes((again,)))
    assert await journal.open_entries() == (again,)
    assert len(await journal.entries_at(4)) == 2


async def test_another_signers_rows_are_not_seen(database: Database):
    await Journal(database, SENDER).commit(Changes((entry(3),)))
    other = Journal(database, Address(b"\x07" * 20))
    assert await other.open_entries() == ()
    assert await other.highest_nonce() is None


async def test_an_intent_ends_once(database: Database):
    journal = Journal(database, SENDER)
    ended = entry(3, state=IntentState.FINAL)
    await journal.commit(Changes((ended,), (Ending(ended.intent.id, outcome()),)))
    with pytest.raises(IntegrityError):
        await journal.commit(Changes((), (Ending(ended.intent.id, outcome()),)))


async def test_a_summary_adds_up_what_ended(database: Database):
    journal = Journal(database, SENDER)
    ended = [entry(nonce, state=IntentState.FINAL) for nonce in range(3)]
    outcomes = (
        outcome(0),
        outcome(1, result=Result.LOST, reason=Reason.LOST_RACE),
        outcome(2),
    )
    endings = tuple(Ending(each.intent.id, how) for each, how in zip(ended, outcomes, strict=True))
    await journal.commit(Changes(tuple(ended), endings))
    store = Outcomes(database)
    assert await store.latest() == outcomes[::-1]
    assert await store.of_account(opportunity().key.account) == outcomes[::-1]
    total = await store.summary()
    assert total.results == {Result.WON: 2, Result.LOST: 1}
    assert total.reasons == {Reason.LOST_RACE: 1}
    assert total.gas_wei == 3 * HUGE
    assert total.repaid == {opportunity().repay: 2 * HUGE}
    assert total.seized == {opportunity().seize: 6}
    assert (await store.summary(102, 200)).results == {Result.WON: 1}

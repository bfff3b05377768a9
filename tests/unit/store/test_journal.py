"""The journal gives back exactly what it was given, and keeps every signer's nonces apart."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from keeper.domain.outcome import Reason, Result
from keeper.domain.units import Address, BlockHash, Wei
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.outcomes import Outcomes
from keeper.store.records import (
    AttemptKind,
    AttemptState,
    Changes,
    Ending,
    Entry,
    Inclusion,
    IntentState,
    Purpose,
    Route,
)
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


async def test_an_intent_is_kept_before_anything_is_signed_for_it(database: Database):
    journal = Journal(database, SENDER)
    unsigned = entry(3, attempts=0, name="asked for")
    await journal.commit(Changes((unsigned,)))
    assert await journal.open_entries() == (unsigned,)
    signed = replace(unsigned, attempts=entry(3, attempts=1).attempts)
    await journal.commit(Changes((signed,)))
    assert await journal.open_entries() == (signed,)


async def test_an_attempt_keeps_its_route_and_when_the_relay_gives_it_up(database: Database):
    journal = Journal(database, SENDER)
    public, private = entry(3, attempts=2).attempts
    sent = Entry(entry(3).intent, (replace(private, route=Route.PRIVATE, expires_block=125), public))
    await journal.commit(Changes((sent,)))
    assert await journal.open_entries() == (sent,)


async def test_attempts_come_back_in_the_order_in_which_they_were_last_kept(database: Database):
    journal = Journal(database, SENDER)
    first, second, third = entry(3, attempts=3).attempts
    await journal.commit(Changes((Entry(entry(3).intent, (first, second, third)),)))
    moved = Entry(entry(3).intent, (first, third, second))
    await journal.commit(Changes((moved,)))
    assert await journal.entries_at(3) == (moved,)


async def test_what_was_begun_since_a_time_is_counted_whatever_became_of_it(database: Database):
    journal = Journal(database, SENDER)
    states = (IntentState.FINAL, IntentState.VOID, IntentState.LIVE)
    begun = [entry(nonce, state=state) for nonce, state in enumerate(states)]
    times = (90, 120, 100)
    kept = [replace(each, intent=replace(each.intent, created_s=at)) for each, at in zip(begun, times, strict=True)]
    await journal.commit(Changes(tuple(kept)))
    assert await journal.begun_since(100) == ((100, None), (120, kept[1].intent.reason))
    assert await Journal(database, Address(b"\x07" * 20)).begun_since(0) == ()


def used(nonce: int, *, settled_s: int | None = 100, **changes: Any) -> Entry:
    """Return an entry that ended with its first attempt mined."""
    ended = entry(nonce, state=IntentState.FINAL)
    mined = Inclusion(ended.attempts[0].tx_hash, 101, BlockHash(bytes(32)), Wei(HUGE + nonce))
    changes = {"inclusion": mined, "settled_s": settled_s, "reason": None} | changes
    return replace(ended, intent=replace(ended.intent, **changes))


async def test_a_loss_is_gas_that_bought_nothing(database: Database):
    journal = Journal(database, SENDER)
    won, lost, gap, approval, futile, cancelled = (
        used(0),
        used(1, settled_s=130),
        used(2, purpose=Purpose.GAP, opportunity=None, plan_id=None),
        used(3, purpose=Purpose.APPROVAL, opportunity=None, plan_id=None),
        used(4, purpose=Purpose.APPROVAL, opportunity=None, plan_id=None, reason=Reason.REVERTED),
        used(5, settled_s=120),
    )
    cancelled = replace(cancelled, attempts=(replace(cancelled.attempts[0], kind=AttemptKind.CANCEL),))
    foreign = used(6, inclusion=Inclusion(None, 101, BlockHash(bytes(32))))
    before, unsettled = used(7, settled_s=99, purpose=Purpose.GAP), used(8, settled_s=None, purpose=Purpose.GAP)
    endings = (
        Ending(won.intent.id, outcome(0)),
        Ending(lost.intent.id, outcome(1, result=Result.LOST, reason=Reason.LOST_RACE)),
        Ending(cancelled.intent.id, outcome(5, result=Result.CANCELLED, reason=Reason.CANCELLED)),
        Ending(foreign.intent.id, outcome(6, result=Result.FAILED, reason=Reason.FOREIGN_NONCE)),
    )
    entries = (won, lost, gap, approval, futile, cancelled, foreign, before, unsettled)
    await journal.commit(Changes(entries, endings))
    losses = [each for each in await journal.settled_since(100) if each.is_loss]
    assert tuple((each.settled_s, each.cost_wei) for each in losses) == (
        (100, HUGE + 2),
        (100, HUGE + 4),
        (120, HUGE + 5),
        (130, HUGE + 1),
    )
    assert await Journal(database, Address(b"\x07" * 20)).settled_since(0) == ()

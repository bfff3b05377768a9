"""The books of the journal: what balances, and every way in which they would not."""

from dataclasses import replace

import pytest

from keeper.domain.outcome import Result
from keeper.domain.units import Address, TxHash
from keeper.store.audit import Audit
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.records import AttemptState, Changes, Ending, Entry, Inclusion, IntentState, Purpose
from tests.unit.store.values import SENDER, attempt, entry, intent, outcome


def used(
    nonce: int, *states: AttemptState, state: IntentState = IntentState.FINAL, purpose: Purpose | None = None
) -> Entry:
    """Return an entry with an attempt in each state, whose intent says that the last one was mined."""
    attempts = tuple(replace(attempt(nonce, number), state=each) for number, each in enumerate(states))
    owner = intent(nonce, state=state)
    if owner.inclusion is not None:
        mined = [each.tx_hash for each in attempts if each.state is AttemptState.MINED]
        owner = replace(owner, inclusion=replace(owner.inclusion, tx_hash=mined[-1] if mined else None))
    if purpose is not None:
        owner = replace(owner, purpose=purpose, plan_id=None, opportunity=None)
    return Entry(owner, attempts)


async def test_every_attempt_has_one_fate_and_they_add_up(database: Database):
    won = used(0, AttemptState.REPLACED, AttemptState.MINED)
    lost = used(1, AttemptState.MINED)
    approval = used(2, AttemptState.MINED, purpose=Purpose.APPROVAL)
    foreign = used(3, AttemptState.REPLACED)
    void = used(4, AttemptState.VOID, state=IntentState.VOID)
    live = used(5, AttemptState.ACCEPTED, AttemptState.SIGNED, state=IntentState.LIVE)
    endings = [
        Ending(won.intent.id, outcome(0)),
        Ending(lost.intent.id, outcome(1, result=Result.LOST)),
        Ending(foreign.intent.id, outcome(3, result=Result.FAILED)),
    ]
    await Journal(database, SENDER).commit(Changes((won, lost, approval, foreign, void, live), tuple(endings)))
    found = await Audit(database, SENDER).balance()
    assert found.faults == ()
    assert found.fates == {"won": 1, "lost": 1, "done": 1, "replaced": 2, "expired": 1, "live": 2}
    assert sum(found.fates.values()) == found.attempts == 8


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (used(0, AttemptState.MINED, AttemptState.MINED), "2 attempts count as mined"),
        (used(0, AttemptState.MINED), "ended without an outcome"),
        (used(0, AttemptState.ACCEPTED), "an attempt is accepted, its intent final"),
        (used(0, AttemptState.VOID, state=IntentState.LIVE), "an attempt is void, its intent live"),
        (used(0, AttemptState.ACCEPTED, state=IntentState.VOID), "an attempt is accepted, its intent void"),
        (Entry(intent(0), (attempt(1),)), "an attempt at nonce 1 is counted to it"),
    ],
)
async def test_n11_what_does_not_add_up_is_named(database: Database, broken: Entry, says: str):
    await Journal(database, SENDER).commit(Changes((broken,)))
    faults = (await Audit(database, SENDER).balance()).faults
    assert any(says in fault for fault in faults), faults


async def test_a_receipt_of_another_attempt_than_the_intent_says_is_named(database: Database):
    entry_ = used(0, AttemptState.MINED, purpose=Purpose.APPROVAL)
    assert entry_.intent.inclusion is not None
    other = Inclusion(TxHash(b"\x09" * 32), 101, entry_.intent.inclusion.block_hash)
    await Journal(database, SENDER).commit(Changes((replace(entry_, intent=replace(entry_.intent, inclusion=other)),)))
    (fault,) = (await Audit(database, SENDER).balance()).faults
    assert "another attempt was mined" in fault


async def test_n2_two_intents_at_one_nonce_and_an_early_outcome_are_named(database: Database):
    first = used(0, AttemptState.MINED, purpose=Purpose.GAP)
    second = replace(first, intent=replace(first.intent, id="another"), attempts=())
    early = entry(1)
    ending = Ending(early.intent.id, outcome(1))
    await Journal(database, SENDER).commit(Changes((first, second, early), (ending,)))
    faults = (await Audit(database, SENDER).balance()).faults
    assert faults == ("nonce 0: 2 intents hold it", "nonce 1: an outcome before its end")


async def test_another_signers_rows_are_not_looked_at(database: Database):
    await Journal(database, SENDER).commit(Changes((used(0, AttemptState.MINED),)))
    found = await Audit(database, Address(b"\x07" * 20)).balance()
    assert (found.attempts, found.faults) == (0, ())

"""The ledger: one row for as long as a decision stands, whatever the number of heads."""

import pytest
from sqlalchemy import func, select

from keeper.domain.outcome import Reason
from keeper.store.database import Database
from keeper.store.decisions import Decisions, Span
from keeper.store.faults import Fault, StoreFailed
from keeper.store.schema import decision as table
from tests.unit.store.values import address, decision


async def rows(database: Database) -> int:
    query = select(func.count()).select_from(table)
    return int(await database.run(lambda connection: connection.execute(query).scalar_one()))


async def test_dust_that_stays_for_a_thousand_heads_is_one_row(database: Database):
    ledger = Decisions(database)
    for block in range(1_000):
        ledger.record(block, [decision(block)])
        if block % 100 == 50:
            await ledger.flush()
    await ledger.flush()
    assert await rows(database) == 1
    assert await ledger.latest() == (Span(0, 1_000, decision(999)),)


async def test_another_reason_or_another_plan_starts_another_span(database: Database):
    ledger = Decisions(database)
    ledger.record(1, [decision(1)])
    ledger.record(2, [decision(2, reason=Reason.IN_FLIGHT)])
    ledger.record(3, [decision(3, plan_id="a")])
    ledger.record(4, [decision(4, plan_id="b")])
    await ledger.flush()
    spans = await ledger.of_account(address(1))
    assert [(span.first_block, span.heads, span.last.plan_id) for span in spans] == [
        (4, 1, "b"),
        (3, 1, "a"),
        (2, 1, None),
        (1, 1, None),
    ]


async def test_a_head_without_the_decision_ends_the_span(database: Database):
    ledger = Decisions(database)
    ledger.record(1, [decision(1)])
    ledger.record(2, [])
    ledger.record(3, [decision(3)])
    await ledger.flush()
    assert [(span.first_block, span.last.block) for span in await ledger.latest()] == [(3, 3), (1, 1)]


async def test_heads_may_be_skipped_as_long_as_none_was_seen_between(database: Database):
    ledger = Decisions(database)
    ledger.record(1, [decision(1)])
    ledger.record(9, [decision(9)])
    await ledger.flush()
    assert await ledger.latest() == (Span(1, 2, decision(9)),)


async def test_accounts_do_not_mix(database: Database):
    ledger = Decisions(database)
    ledger.record(1, [decision(1, address(1)), decision(1, address(2))])
    ledger.record(2, [decision(2, address(1))])
    await ledger.flush()
    assert await ledger.of_account(address(2)) == (Span(1, 1, decision(1, address(2))),)
    assert await ledger.of_account(address(1)) == (Span(1, 2, decision(2, address(1))),)


async def test_a_flush_that_fails_loses_nothing(database: Database, monkeypatch: pytest.MonkeyPatch):
    ledger = Decisions(database)
    ledger.record(1, [decision(1, address(1)), decision(1, address(2))])
    await ledger.flush()
    ledger.record(2, [decision(2, address(1)), decision(2, address(3))])

    async def fail(*_: object) -> None:
        raise StoreFailed(Fault.FULL, database.path)

    with monkeypatch.context() as patch:
        patch.setattr(database, "run", fail)
        with pytest.raises(StoreFailed):
            await ledger.flush()
    ledger.record(3, [decision(3, address(3))])
    await ledger.flush()
    assert await rows(database) == 3
    assert await ledger.of_account(address(3)) == (Span(2, 2, decision(3, address(3))),)
    assert await ledger.of_account(address(1)) == (Span(1, 2, decision(2, address(1))),)


async def test_a_new_process_goes_on_with_new_rows(database: Database):
    for block in (1, 2):
        ledger = Decisions(database)
        ledger.record(block, [decision(block)])
        await ledger.flush()
    assert await rows(database) == 2


async def test_two_processes_on_one_store_overwrite_nothing_of_each_other(database: Database):
    one, other = Decisions(database), Decisions(database)
    for block in (1, 2):
        for ledger, who in ((one, 1), (other, 2)):
            ledger.record(block, [decision(block, address(who), plan_id=str(block))])
            await ledger.flush()
    assert await rows(database) == 4
    assert {span.last.key.account for span in await one.latest()} == {address(1), address(2)}


async def test_old_spans_are_pruned_by_their_last_block(database: Database):
    ledger = Decisions(database)
    for block in range(1, 6):
        ledger.record(block, [decision(block, address(1)), decision(block, address(2), plan_id=str(block))])
    await ledger.flush()
    assert await ledger.prune(4) == 3
    assert {span.last.block for span in await ledger.latest()} == {4, 5}

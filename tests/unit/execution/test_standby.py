"""The understudy: it sends nothing until the lease is its own, takes over what the journal knows, and stops when fenced."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keeper.domain.outcome import Reason, Result
from keeper.errors import Fenced
from keeper.execution.standby import Understudy
from keeper.execution.verdicts import Accepted, Skipped
from keeper.store.faults import Fault, StoreFailed
from tests.unit.execution.desk import ALICE, Desk, desk, new_chain
from tests.unit.execution.fake_chain import approval, batch_of, plan_of

TERM_S = 4


class Row:
    """The database's one row about the lease."""

    holder = ""
    epoch = 0


class Tenure:
    """A lease on a row that tests write: what the real one does is shown against a real server."""

    def __init__(self, row: Row, holder: str) -> None:
        self._row = row
        self._holder = holder
        self.epoch = 0
        self.fault: Fault | None = None

    async def acquire(self) -> bool:
        if self.fault is not None:
            raise StoreFailed(self.fault, Path("lease"))
        if self._row.holder in {"", self._holder}:
            self._row.holder = self._holder
            self._row.epoch += 1
            self.epoch = self._row.epoch
        return self._row.holder == self._holder

    async def hold(self) -> None:
        while self._row.holder == self._holder:  # noqa: ASYNC110 - the row belongs to another process
            await asyncio.sleep(1)
        raise Fenced("somebody else has it")

    async def release(self) -> None:
        if self._row.holder == self._holder:
            self._row.holder = ""


@asynccontextmanager
async def understudy(one: Desk, row: Row, name: str) -> AsyncIterator[tuple[Understudy, Tenure, asyncio.Task[None]]]:
    lease = Tenure(row, name)
    stand_in = Understudy(one.sender, lease, one.told, term_s=TERM_S)
    task = asyncio.create_task(stand_in.run())
    try:
        yield stand_in, lease, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def batch(one: Desk):
    return batch_of(one.chain, plan_of(one.chain, ALICE), approvals=[approval()])


@pytest.mark.looptime
async def test_who_finds_the_lease_free_sends_at_once(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    chain.state.allowance = 0
    async with desk(chain, recover=False) as one, understudy(one, Row(), "a") as (leader, _, _):
        await leader.recover(chain.head)
        (verdict,) = await leader.submit(batch(one))
        assert isinstance(verdict, Accepted)
        assert leader.in_flight
        assert "lease.acquired" in one.told.names


@pytest.mark.looptime
async def test_who_waits_skips_every_plan_and_sends_nothing(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    row = Row()
    row.holder = "another"
    async with desk(chain, recover=False) as one, understudy(one, row, "b") as (waiting, _, _):
        await waiting.recover(chain.head)
        (verdict,) = await waiting.submit(batch(one))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.STANDBY
        await waiting.on_head(chain.mine())
        assert await waiting.drain(1) == frozenset()
        assert chain.seen == []


@pytest.mark.looptime
async def test_a_standby_takes_over_within_a_term_and_ends_what_the_dead_leader_began(tmp_path: Path):
    chain, row = new_chain(tmp_path, ALICE), Row()
    chain.state.allowance = 0
    async with desk(chain, recover=False) as one, understudy(one, row, "a") as (leader, _, _):
        await leader.recover(chain.head)
        await leader.submit(batch(one))
    async with desk(chain, recover=False) as other, understudy(other, row, "b") as (standby, _, _):
        await standby.recover(chain.head)
        assert not standby.is_leading
        row.holder = ""  # the leader died, and its time is up
        await asyncio.sleep(TERM_S)
        assert standby.is_leading
        for _ in range(3):
            head = chain.mine()
            await standby.on_head(head, chain.taken_at(head))
        assert other.results == [Result.WON]
        assert chain.state.nonce == 2


@pytest.mark.looptime
async def test_who_is_fenced_ends_the_process(tmp_path: Path):
    chain, row = new_chain(tmp_path), Row()
    async with desk(chain, recover=False) as one, understudy(one, row, "a") as (leader, _, running):
        await leader.recover(chain.head)
        await asyncio.sleep(TERM_S)
        row.holder = "b"
        with pytest.raises(Fenced):
            await asyncio.wait_for(running, TERM_S)


@pytest.mark.looptime
async def test_a_passing_fault_of_the_store_is_waited_out_and_any_other_ends_the_process(tmp_path: Path):
    chain, row = new_chain(tmp_path), Row()
    row.holder = "another"
    async with desk(chain, recover=False) as one, understudy(one, row, "b") as (waiting, lease, running):
        await waiting.recover(chain.head)
        lease.fault = Fault.LOCKED
        await asyncio.sleep(TERM_S)
        assert not running.done()
        assert "keeper.degraded" in one.told.names
        lease.fault, row.holder = None, ""
        await asyncio.sleep(TERM_S)
        assert waiting.is_leading
    async with desk(chain, recover=False) as one, understudy(one, Row(), "c") as (waiting, lease, running):
        lease.fault = Fault.LOCKED
        with pytest.raises(StoreFailed):
            await waiting.recover(chain.head)
        lease.fault = Fault.CORRUPT
        with pytest.raises(StoreFailed):
            await asyncio.wait_for(running, TERM_S)


@pytest.mark.looptime
async def test_a_drained_leader_lets_the_next_one_in_at_once(tmp_path: Path):
    chain, row = new_chain(tmp_path), Row()
    async with desk(chain, recover=False) as one, understudy(one, row, "a") as (leader, _, running):
        await leader.recover(chain.head)
        await leader.drain(1)
        assert row.holder == ""
        await asyncio.wait_for(running, TERM_S)  # it was given away, not lost

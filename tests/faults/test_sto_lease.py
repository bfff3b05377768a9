"""Two keepers with one key on two hosts: at most one of them can send, whatever happens to the other."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keeper.errors import ExitCode, Fenced
from keeper.store.database import Database
from keeper.store.faults import StoreFailed
from keeper.store.journal import Journal
from keeper.store.lease import Lease
from keeper.store.records import Changes
from tests.faults.leader import SystemClock, stand_by
from tests.faults.postgres import Cable, PostgresServer, running_postgres
from tests.faults.recovery import Recovery
from tests.unit.store.values import CHAIN_ID, SENDER, entry

ROOT = Path(__file__).parents[2]
TTL_S = 2
PATIENCE_S = 40


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as running:
        yield running


@dataclass
class Leader:
    """One keeper process and what it said, with the time of each line."""

    process: Process
    lines: list[tuple[float, list[str]]] = field(default_factory=list)

    async def listen(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append((time.monotonic(), line.decode().split()))

    def said(self, *words: str) -> list[tuple[float, list[str]]]:
        return [(at, line) for at, line in self.lines if line[: len(words)] == list(words)]

    async def until(self, *words: str, count: int = 1) -> float:
        """Wait for a line to come `count` times, and return when it first did."""
        until = time.monotonic() + PATIENCE_S
        while len(self.said(*words)) < count:
            assert time.monotonic() < until, f"never said {words}: {self.lines[-5:]}"
            await asyncio.sleep(0.02)
        return self.said(*words)[0][0]

    @property
    def nonces(self) -> list[int]:
        return [int(line[1]) for _, line in self.said("sent")]


@asynccontextmanager
async def leader(url: str, name: str) -> AsyncIterator[Leader]:
    program = [sys.executable, "-m", "tests.faults.leader", name, str(TTL_S)]
    process = await asyncio.create_subprocess_exec(*program, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    running = Leader(process)
    listening = asyncio.create_task(running.listen())
    try:
        assert process.stdin is not None
        process.stdin.write(f"{url}\n".encode())
        process.stdin.close()
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()
        await listening


@asynccontextmanager
async def pair(server: PostgresServer, first_url: str, url: str) -> AsyncIterator[tuple[Leader, Leader]]:
    """Start one that leads and one that stands by."""
    async with leader(first_url, "first") as first:
        await first.until("sent", count=3)
        async with leader(url, "second") as second:
            await second.until("standing")
            await first.until("sent", count=6)
            assert not second.said("leading")
            yield first, second


async def assert_one_at_a_time(url: str, first: Leader, second: Leader) -> None:
    """Compare what was sent with the rows: nothing by the first after the second led, and no nonce twice."""
    led = second.said("leading")[0][0]
    assert all(at < led for at, _ in first.said("sent"))
    assert not set(first.nonces) & set(second.nonces)
    sent = {*first.nonces, *second.nonces}
    database = await Database.open(url, CHAIN_ID)
    rows = await Journal(database, SENDER).open_entries()
    await database.close()
    nonces = [each.intent.nonce for each in rows]
    assert len(nonces) == len(set(nonces))
    assert sent <= set(nonces)


async def test_sto_07_a_standby_takes_over_within_seconds_from_a_leader_that_was_killed(
    server: PostgresServer, recovery: Recovery
):
    url = server.new_database()
    async with pair(server, url, url) as (first, second):
        first.process.kill()
        killed = time.monotonic()
        took_s = await second.until("sent") - killed
        recovery("STO-07", seconds=round(took_s, 1))
        await assert_one_at_a_time(url, first, second)


async def test_sto_07_a_leader_that_was_paused_can_neither_commit_nor_send_afterwards(server: PostgresServer):
    url = server.new_database()
    async with pair(server, url, url) as (first, second):
        os.kill(first.process.pid, signal.SIGSTOP)
        await second.until("sent", count=3)
        os.kill(first.process.pid, signal.SIGCONT)
        await first.until("fenced")
        await first.until("refused", "renew")
        assert first.said("refused", "commit")
        assert first.said("refused", "check")
        assert await first.process.wait() == ExitCode.ALREADY_RUNNING
        await assert_one_at_a_time(url, first, second)


async def test_sto_07_a_leader_that_was_cut_off_stops_by_its_own_clock(server: PostgresServer):
    url = server.new_database()
    async with Cable(server.port) as cable:
        far = url.replace(f":{server.port}/", f":{cable.port}/")
        async with pair(server, far, url) as (first, second):
            cable.hold_up()
            await first.until("fenced")  # nobody could tell it
            await second.until("sent", count=3)
            cable.let_through()
            assert await first.process.wait() == ExitCode.ALREADY_RUNNING
            assert first.said("refused", "commit")
            await assert_one_at_a_time(url, first, second)


# ------------------------------------------------------------------------------------- what the two processes stand on


class Wrist(SystemClock):
    """A clock that can be turned back: what a machine's pause looks like from inside."""

    behind_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() - self.behind_s


@dataclass
class Pair:
    old: Lease
    new: Lease
    wrist: Wrist
    journal: Journal
    database: Database


@pytest.fixture
async def two(server: PostgresServer) -> AsyncIterator[Pair]:
    url = server.new_database()
    here, there = await Database.open(url, CHAIN_ID), await Database.open(url, CHAIN_ID)
    wrist = Wrist()
    old = Lease(here, SENDER, "old", 1, clock=wrist)
    yield Pair(old, Lease(there, SENDER, "new", 30, clock=SystemClock()), wrist, Journal(here, SENDER, old), there)
    await here.close()
    await there.close()


async def test_a_lease_is_held_by_one_and_every_tenure_has_a_higher_number(two: Pair):
    assert await two.old.acquire()
    assert not await two.new.acquire()
    assert (two.old.epoch, two.new.epoch) == (1, 0)
    await two.old.release()
    assert await two.new.acquire()
    assert two.new.epoch == 2


async def test_sto_07_the_stores_epoch_fences_even_a_leader_whose_own_clock_stood_still(two: Pair):
    assert await two.old.acquire()
    await two.journal.commit(Changes((entry(1),)))
    began = two.wrist.monotonic_s()
    await stand_by(two.new, 1)
    for refused in (two.old.check, two.old.renew, lambda: two.journal.commit(Changes((entry(2),)))):
        two.wrist.behind_s += two.wrist.monotonic_s() - began
        two.old._until_s = began + 1
        assert two.old.is_current
        with pytest.raises(Fenced, match="taken over"):
            await refused()
    assert [each.intent.nonce for each in await Journal(two.database, SENDER).open_entries()] == [1]


async def test_sto_07_a_lease_that_ran_out_is_lost_though_nobody_took_it(two: Pair):
    assert await two.old.acquire()
    await asyncio.sleep(1.1)
    with pytest.raises(Fenced):
        await two.journal.commit(Changes((entry(1),)))
    assert await Journal(two.database, SENDER).open_entries() == ()
    assert await two.old.acquire()
    await two.journal.commit(Changes((entry(1),)))


async def test_nothing_is_committed_before_the_lease_is_held(two: Pair):
    with pytest.raises(Fenced):
        await two.journal.commit(Changes((entry(1),)))
    with pytest.raises(Fenced):
        await two.old.check()


async def test_nobody_takes_over_in_the_middle_of_a_commit(server: PostgresServer, two: Pair):
    assert await two.old.acquire()
    loop, is_inside = asyncio.get_running_loop(), asyncio.Event()

    def slow(connection: object) -> float:
        two.old.guard(connection)  # type: ignore[arg-type]
        loop.call_soon_threadsafe(is_inside.set)
        time.sleep(1.5)  # longer than the lease
        return time.monotonic()

    working = asyncio.create_task(two.journal._database.run(slow))
    await is_inside.wait()
    await stand_by(two.new, 1)
    assert time.monotonic() >= await working


async def test_a_process_that_died_is_followed_at_once_where_it_was(server: PostgresServer, two: Pair):
    assert await two.new.acquire()
    again = Lease(two.database, SENDER, "new", 30, clock=SystemClock())
    assert await again.acquire()
    assert again.epoch == 2
    with pytest.raises(Fenced):
        await two.new.check()


async def test_a_short_outage_of_the_store_costs_no_lease(server: PostgresServer):
    url = server.new_database()
    async with Cable(server.port) as cable:
        far = url.replace(f":{server.port}/", f":{cable.port}/")
        database = await Database.open(far, CHAIN_ID)
        lease = Lease(database, SENDER, "only", 6, clock=SystemClock())
        assert await lease.acquire()
        holding = asyncio.create_task(lease.hold())
        cable.is_refusing = True
        cable.cut()
        with pytest.raises(StoreFailed):
            await lease.check()
        await asyncio.sleep(2.5)  # past one renewal
        cable.is_refusing = False
        await asyncio.sleep(4.5)  # past the end of what was held when the way was cut
        await lease.check()
        assert not holding.done()
        holding.cancel()
        await lease.release()
        await database.close()

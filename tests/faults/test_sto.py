"""The file under every fault of its disk: what was committed stays, what cannot be committed is not sent."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import text

from keeper.domain.outcome import Reason, Result
from keeper.execution.verdicts import Accepted, Skipped
from keeper.store import reserve as module
from keeper.store.bookshelf import Bookshelf, Page, open_shelf
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed
from keeper.store.instance import InstanceLock
from keeper.store.journal import Journal
from keeper.store.migration import STEPS
from keeper.store.records import Changes
from tests.faults.postgres import NOBODY
from tests.unit.execution.desk import ALICE, BOB, Desk, desk, new_chain
from tests.unit.execution.fake_chain import FakeChain, batch_of, plan_of
from tests.unit.store.test_bookshelf import PLACE, changed, held, trail
from tests.unit.store.test_migration import VERSION_1
from tests.unit.store.values import CHAIN_ID, SENDER, entry

ROOT = Path(__file__).parents[2]
DISK_BYTES = 12 * 2**20


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("ab") as file:
            size = 2**16
            while size:
                try:
                    os.write(file.fileno(), b"x" * size)
                except OSError:
                    size //= 2

    def free(self) -> None:
        self._filler.unlink()

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True, timeout=30)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk; the unit tests fill a file by SQLite's own limit instead")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, timeout=30)


def in_a_child(program: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Start a program of a few lines that finds the keeper and the tests' values."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


@contextmanager
def child(program: str, *arguments: object, **options: object) -> Iterator[subprocess.Popen[str]]:
    running = in_a_child(program, *arguments, **options)
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


# ------------------------------------------------------------------------------------------------------ STO-01, STO-02


async def test_sto_01_on_a_full_disk_nothing_is_sent_and_all_goes_on_when_there_is_space(disk: Disk):
    chain = new_chain(disk.folder, ALICE, BOB)
    async with desk(chain) as one:
        await fill_up(disk, one)
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.STORAGE
        assert chain.seen == []
        assert await one.journal.open_entries() == ()
        disk.free()
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 0
        await one.heads(3)
        assert one.results == [Result.WON]


async def fill_up(disk: Disk, one: Desk) -> None:
    """Fill the disk, and what the write-ahead log still has of room, with rows of another key."""
    disk.fill()
    journal = Journal(one.database, SENDER)

    async def commit_without_end() -> None:
        for nonce in itertools.count():
            await journal.commit(Changes((entry(nonce),)))

    with pytest.raises(StoreFailed) as failed:
        await commit_without_end()
    assert failed.value.fault is Fault.FULL


async def test_sto_02_the_space_that_was_kept_lets_what_is_in_flight_be_noted(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MIN_FREE_BYTES", 0)
    path = disk.folder / "1.sqlite3"
    database = await Database.open(path, CHAIN_ID)
    kept = disk.folder / "1.sqlite3.reserve"
    assert kept.stat().st_blocks * 512 >= module.RESERVE_BYTES
    disk.fill()
    assert not database.is_short_of_space
    journal = Journal(database, SENDER)
    nonce = 0
    while kept.exists():
        await journal.commit(Changes((entry(nonce),)))
        nonce += 1
    assert database.is_short_of_space
    await journal.commit(Changes((entry(nonce),)))
    assert len(await journal.open_entries()) == nonce + 1
    await database.close()
    disk.free()
    await (await Database.open(path, CHAIN_ID)).close()
    assert kept.stat().st_size == module.RESERVE_BYTES


async def test_sto_02_a_saved_book_without_space_costs_the_journal_nothing(disk: Disk):
    path = disk.folder / "1.sqlite3"
    database, cache = await Database.open(path, CHAIN_ID), await open_shelf(path, CHAIN_ID)
    shelf = Bookshelf(cache)
    await shelf.save(PLACE, Page(trail(7), changed(held(1))))
    kept = disk.folder / "ballast"
    kept.write_bytes(bytes(2**20))
    disk.fill()
    with pytest.raises(StoreFailed) as failed:
        await shelf.save(PLACE, Page(trail(7, 8), changed(*(held(each) for each in range(30_000)))))
    assert failed.value.fault is Fault.FULL
    kept.unlink()
    await Journal(database, SENDER).commit(Changes((entry(0),)))
    disk.free()
    await shelf.save(PLACE, Page(trail(7, 9), changed(*(held(each) for each in range(3_000)))))
    found = await shelf.load(PLACE, 9)
    assert found is not None
    assert len(found.positions) == 3_000
    await cache.close()
    await database.close()


async def test_sto_02_no_space_is_kept_where_there_is_little(disk: Disk):
    await (await Database.open(disk.folder / "1.sqlite3", CHAIN_ID)).close()
    assert {each.name for each in disk.folder.iterdir()} == {"1.sqlite3"}


# -------------------------------------------------------------------------------------------------------------- STO-03


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_a_header(content: bytes) -> bytes:
    return bytes(100) + content[100:]


def with_noise(content: bytes) -> bytes:
    noise = Random(7).randbytes
    return b"".join(
        content[at : at + 4096] if at < 4096 or at % 8192 else noise(4096) for at in range(0, len(content), 4096)
    )


@pytest.mark.parametrize("damaged", [cut_short, without_a_header, with_noise, lambda _: b""])
async def test_sto_03_a_damaged_journal_is_refused_and_left_as_it_is(tmp_path: Path, damaged: Callable[[bytes], bytes]):
    path = tmp_path / "1.sqlite3"
    database = await Database.open(path, CHAIN_ID)
    await Journal(database, SENDER).commit(Changes(tuple(entry(nonce) for nonce in range(200))))
    await database.close()
    content = damaged(path.read_bytes())
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoreFailed) as failed:
            await Database.open(path, CHAIN_ID)
        assert failed.value.fault in {Fault.CORRUPT, Fault.NOT_A_DATABASE}
        assert not failed.value.is_passing
    assert path.read_bytes() == content


async def test_sto_03_a_page_that_goes_bad_under_a_running_keeper_stops_it(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    assert chain.journal is not None
    async with desk(chain) as one:
        await Journal(one.database, SENDER).commit(Changes(tuple(entry(nonce) for nonce in range(200))))
        await one.database.run(lambda connection: connection.execute(text("SELECT count(*) FROM intent")).all())
        with sqlite3.connect(chain.journal) as beside:
            beside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        beside.close()
        with chain.journal.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (chain.journal.stat().st_size - 4096))
        with pytest.raises(StoreFailed) as failed:
            await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert failed.value.fault is Fault.CORRUPT
        assert chain.seen == []


# -------------------------------------------------------------------------------------------------------------- STO-04

COMMITS = f"""
import asyncio, sys
from pathlib import Path
from sqlalchemy import text
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.records import Changes
from tests.unit.store.values import SENDER, entry
async def main():
    database = await Database.open(Path(sys.argv[1]), {CHAIN_ID})
    await database.run(lambda connection: connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 1"))
    journal = Journal(database, SENDER)
    nonce = (await journal.highest_nonce() or 0) + 1
    while True:
        await journal.commit(Changes((entry(nonce, attempts=3),)))
        print(nonce, flush=True)
        nonce += 1
asyncio.run(main())
"""


async def test_sto_04_no_kill_in_a_commit_or_a_checkpoint_loses_what_was_committed(tmp_path: Path):
    path = tmp_path / "1.sqlite3"
    told: list[int] = []
    for last in Random(4).sample(range(5, 40), 3):
        with child(COMMITS, path) as running:
            assert running.stdout is not None
            told += [int(running.stdout.readline()) for _ in range(last)]
            running.send_signal(signal.SIGKILL)  # every commit is followed by a checkpoint: it is in either
            told += [int(line) for line in running.stdout if line.endswith("\n")]
        database = await Database.open(path, CHAIN_ID)
        found = await Journal(database, SENDER).open_entries()
        await database.close()
        nonces = [each.intent.nonce for each in found]
        assert set(told) <= set(nonces)
        assert len(nonces) - len(told) <= 3  # at most the one that was under way, each time
        assert {len(each.attempts) for each in found} == {3}


# -------------------------------------------------------------------------------------------------------------- STO-05


async def test_sto_05_a_volume_that_may_not_be_written_is_refused_at_the_start(disk: Disk):
    path = disk.folder / "1.sqlite3"
    await (await Database.open(path, CHAIN_ID)).close()
    disk.remount("ro")
    with pytest.raises(StoreFailed) as failed:
        await Database.open(path, CHAIN_ID)
    assert failed.value.fault is Fault.READ_ONLY
    with pytest.raises(StoreFailed) as failed:
        InstanceLock.acquire(disk.folder, CHAIN_ID)
    assert failed.value.fault is Fault.READ_ONLY
    disk.remount("rw")
    await (await Database.open(path, CHAIN_ID)).close()


async def test_sto_05_a_volume_that_turns_read_only_stops_the_sender(disk: Disk):
    chain = new_chain(disk.folder, ALICE)
    async with desk(chain) as one:
        with sqlite3.connect(str(chain.journal)) as beside:
            beside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        beside.close()
        await one.database.run(lambda connection: connection.exec_driver_sql("PRAGMA query_only = ON"))
        with pytest.raises(StoreFailed) as failed:
            await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert failed.value.fault is Fault.READ_ONLY
        assert chain.seen == []


OPENS = f"""
import asyncio, os, sys
from pathlib import Path
from keeper.store.database import Database
from keeper.store.faults import StoreFailed
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
try:
    asyncio.run(Database.open(Path(sys.argv[1]), {CHAIN_ID}))
except StoreFailed as failed:
    print(failed.fault)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o755, 0o644), (0o755, 0o600), (0o700, 0o644)])
async def test_sto_05_another_owners_file_is_refused(disk: Disk, folder_mode: int, file_mode: int):
    for folder in disk.folder.parents[:3]:
        folder.chmod(0o755)
    path = disk.folder / "1.sqlite3"
    await (await Database.open(path, CHAIN_ID)).close()
    path.chmod(file_mode)
    disk.folder.chmod(folder_mode)
    with child(OPENS, path) as running:
        assert running.stdout is not None
        told = running.stdout.read().strip()
    assert told in {Fault.READ_ONLY, Fault.CANNOT_OPEN}


# -------------------------------------------------------------------------------------------------------------- STO-08


async def test_sto_08_a_second_keeper_with_a_journal_of_its_own_is_noticed_before_the_next_send(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    ours = chain.journal
    async with desk(chain) as one:
        one.gate.halts_when_intruded = True
        await one.head()
        await send_by_another(chain, tmp_path / "elsewhere.sqlite3")
        chain.journal = ours
        await one.head()
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, BOB)))
        assert "tx.foreign_nonce" in one.told.names
        assert one.gate.intruders == [0]
        assert isinstance(verdict, Skipped)
        assert len(chain.seen) == 1


async def send_by_another(chain: FakeChain, journal: Path) -> None:
    """Liquidate by a keeper that has the same key and knows nothing of ours."""
    chain.journal = journal
    async with desk(chain) as other:
        (verdict,) = await other.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        assert isinstance(verdict, Accepted)


# -------------------------------------------------------------------------------------------------------------- STO-09

DIES = f"""
import asyncio, os, sys
from pathlib import Path
from keeper.store.database import Database
asyncio.run(Database.open(Path(sys.argv[1]), {CHAIN_ID}, reached=lambda step: os._exit(137)))
"""


async def test_sto_09_a_kill_in_the_middle_of_a_migration_leaves_the_old_file_whole(tmp_path: Path):
    path = tmp_path / "1.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
    connection.close()
    before = schema_of(path)
    for _ in range(2):
        with child(DIES, path) as running:
            assert running.wait(60) == 137
        assert schema_of(path) == before
    await (await Database.open(path, CHAIN_ID)).close()
    assert schema_of(path)[0] == [(len(STEPS),)]


async def test_sto_09_a_kill_while_a_new_file_is_made_leaves_none(tmp_path: Path):
    path = tmp_path / "1.sqlite3"
    with child(DIES, path) as running:
        assert running.wait(60) == 137
    assert not path.exists()
    await (await Database.open(path, CHAIN_ID)).close()


def schema_of(path: Path) -> tuple[list[object], list[object]]:
    with sqlite3.connect(path) as connection:
        version = connection.execute("SELECT version FROM schema_version").fetchall()
        tables = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    return version, tables


# -------------------------------------------------------------------------------------------------------------- STO-10


async def test_sto_10_a_keeper_on_a_backup_from_before_its_first_send_reconciles_before_it_sends(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    assert chain.journal is not None
    async with desk(chain):
        pass
    backup = chain.journal.read_bytes()
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        await one.heads(3)
        assert one.results == [Result.WON]
    chain.journal.write_bytes(backup)
    async with desk(chain, recover=False) as one:
        await one.sender.recover(chain.head)
        assert "tx.foreign_nonce" not in one.told.names  # nothing tells it from a key that was used before
        (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, BOB)))
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 1
        await one.heads(3)
        assert one.results == [Result.WON]
    assert [tx.nonce for tx in chain.seen] == [0, 1]

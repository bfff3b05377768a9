"""The file: whole or not there, durable at once, and every way in which it can be wrong has its name and its cure."""

# ruff: noqa: ASYNC240 - these tests look at a small local file

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, insert, select, text
from sqlalchemy.exc import IntegrityError

from keeper.errors import ExitCode, StorageFailed
from keeper.store import sqlite as module
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed, naming_faults
from keeper.store.journal import Journal
from keeper.store.migration import STEPS, migrate, read_version
from keeper.store.records import Changes
from keeper.store.schema import meta
from tests.unit.store.values import CHAIN_ID, SENDER, entry

ROOT = Path(__file__).parents[3]


async def opening(path: Path, chain_id: int = CHAIN_ID, *, is_read_only: bool = False) -> StoreFailed:
    """Return how opening fails."""
    with pytest.raises(StoreFailed) as failed:
        await Database.open(path, chain_id, is_read_only=is_read_only)
    assert str(path) in str(failed.value)
    assert failed.value.exit_code == ExitCode.STORAGE
    assert isinstance(failed.value, StorageFailed)
    return failed.value


async def test_a_commit_is_on_the_disk_when_it_returns(database: Database):
    assert await database.run(lambda connection: connection.execute(text("PRAGMA synchronous")).scalar_one()) == 2
    assert await database.run(lambda connection: connection.execute(text("PRAGMA journal_mode")).scalar_one()) == "wal"
    assert await database.run(lambda connection: connection.execute(text("PRAGMA foreign_keys")).scalar_one()) == 1


def test_sto_04_what_was_committed_survives_a_kill(path: Path):
    program = f"""
import asyncio, os, signal
from pathlib import Path
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.records import Changes
from tests.unit.store.values import CHAIN_ID, SENDER, entry
async def main():
    database = await Database.open(Path({str(path)!r}), CHAIN_ID)
    await Journal(database, SENDER).commit(Changes((entry(4),)))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    rows = sqlite3.connect(path).execute("select nonce from intent").fetchall()
    assert rows == [(4,)]


async def test_a_failed_transaction_leaves_nothing(database: Database):
    def work(connection: Connection) -> None:
        connection.execute(insert(meta).values(name="a", value="b"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await database.run(work)
    query = select(meta.c.name).where(meta.c.name == "a")
    assert await database.run(lambda connection: connection.execute(query).all()) == []


async def test_two_open_intents_may_not_share_a_nonce(database: Database):
    journal = Journal(database, SENDER)
    await journal.commit(Changes((entry(4),)))
    with pytest.raises(IntegrityError):
        await journal.commit(Changes((entry(4, name="another", attempts=0),)))


async def test_a_new_file_is_built_beside_its_place_so_that_a_crash_leaves_no_half(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "claim_chain", dies)
        with pytest.raises(KeyboardInterrupt):
            module._create(path, CHAIN_ID)
    assert not path.exists()
    await (await Database.open(path, CHAIN_ID)).close()


async def test_sto_03_an_empty_file_is_a_lost_journal_not_a_new_one(path: Path):
    path.touch()
    assert (await opening(path)).fault is Fault.CORRUPT


async def test_sto_03_a_file_of_something_else_is_refused(path: Path):
    path.write_bytes(b"not a database at all" * 100)
    assert (await opening(path)).fault is Fault.NOT_A_DATABASE


async def test_sto_03_a_damaged_page_is_refused(path: Path):
    database = await Database.open(path, CHAIN_ID)
    await Journal(database, SENDER).commit(Changes(tuple(entry(nonce) for nonce in range(40))))
    await database.close()
    whole = bytearray(path.read_bytes())
    for page in range(2, len(whole) // 4096):
        whole[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(whole)
    failed = await opening(path)
    assert failed.fault is Fault.CORRUPT
    assert "restore a backup" in str(failed)


async def test_sto_01_a_full_disk_is_named_and_passes(database: Database):
    pages = await database.run(lambda connection: connection.execute(text("PRAGMA page_count")).scalar_one())
    await database.run(lambda connection: connection.execute(text(f"PRAGMA max_page_count = {pages}")).all())
    journal = Journal(database, SENDER)
    with pytest.raises(StoreFailed) as failed:
        await journal.commit(Changes(tuple(entry(nonce) for nonce in range(200))))
    assert failed.value.fault is Fault.FULL
    assert failed.value.is_passing
    assert await journal.highest_nonce() is None
    await database.run(lambda connection: connection.execute(text("PRAGMA max_page_count = 100000")).all())
    await journal.commit(Changes((entry(0),)))
    assert await journal.highest_nonce() == 0


async def test_a_file_held_by_another_program_is_named_and_passes(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", 20)
    database = await Database.open(path, CHAIN_ID)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed) as failed:
        await Journal(database, SENDER).commit(Changes((entry(0),)))
    assert failed.value.fault is Fault.LOCKED
    assert failed.value.is_passing
    other.execute("ROLLBACK")
    other.close()
    await Journal(database, SENDER).commit(Changes((entry(0),)))
    await database.close()


async def test_a_reader_sees_what_a_running_keeper_commits_and_can_write_nothing(path: Path, database: Database):
    reader = await Database.open(path, CHAIN_ID, is_read_only=True)
    await Journal(database, SENDER).commit(Changes((entry(7),)))
    assert await Journal(reader, SENDER).highest_nonce() == 7
    with pytest.raises(StoreFailed) as failed:
        await Journal(reader, SENDER).commit(Changes((entry(8),)))
    assert failed.value.fault is Fault.READ_ONLY
    assert not failed.value.is_passing
    await reader.close()


async def test_a_reader_creates_nothing(path: Path):
    assert (await opening(path, is_read_only=True)).fault is Fault.MISSING
    assert not path.exists()


async def test_a_missing_directory_is_named(tmp_path: Path):
    assert (await opening(tmp_path / "nowhere" / "1.sqlite3")).fault is Fault.CANNOT_OPEN


async def test_another_chains_file_is_refused(path: Path):
    await (await Database.open(path, CHAIN_ID)).close()
    failed = await opening(path, 1)
    assert failed.fault is Fault.OTHER_CHAIN
    assert "8453" in str(failed)


async def test_sto_09_an_older_program_refuses_a_newer_file(path: Path):
    await (await Database.open(path, CHAIN_ID)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("update schema_version set version = version + 1")
    connection.close()
    assert (await opening(path)).fault is Fault.SCHEMA
    assert (await opening(path, is_read_only=True)).fault is Fault.SCHEMA


def test_sto_09_a_migration_that_dies_leaves_the_old_version_whole(path: Path):
    def grow(connection: Connection) -> None:
        connection.execute(text("alter table meta add column more text"))

    def die(connection: Connection) -> None:
        connection.execute(text("create table half (x)"))
        raise KeyboardInterrupt

    module._create(path, CHAIN_ID)
    connection = module._connect(path, "rw")
    with pytest.raises(KeyboardInterrupt), connection.begin():
        migrate(connection, path, (*STEPS, grow, die))
    with connection.begin():
        assert read_version(connection) == len(STEPS)
        tables = connection.execute(text("select name from sqlite_master where name = 'half'")).all()
        columns = connection.execute(text("select name from pragma_table_info('meta')")).scalars().all()
    assert tables == []
    assert columns == ["name", "value"]
    with connection.begin():
        migrate(connection, path, (*STEPS, grow))
        assert read_version(connection) == len(STEPS) + 1
    module._discard(connection)


def test_an_error_that_is_not_the_files_stays_what_it_is(path: Path):
    engine = create_engine("sqlite://")
    with pytest.raises(StoreFailed) as failed, naming_faults(path), engine.connect() as connection:
        connection.execute(text("select * from nothing"))
    assert failed.value.fault is Fault.INPUT_OUTPUT
    engine.dispose()

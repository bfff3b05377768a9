"""PostgreSQL as the store: the same promises as a file's, and those that only a server on a network can break."""

# ruff: noqa: ASYNC240 - these tests look at a small local file

import asyncio
import inspect
import itertools
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from keeper.errors import ConfigurationError, ExitCode, KeeperError
from keeper.store import postgres as module
from keeper.store.bookshelf import open_shelf
from keeper.store.control import Control
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed
from keeper.store.journal import Journal
from keeper.store.migration import STEPS
from keeper.store.records import Changes
from keeper.store.sqlstates import connecting
from tests.faults.postgres import Cable, PostgresServer, running_postgres
from tests.faults.recovery import Recovery
from tests.unit.store import test_bookshelf, test_control, test_decisions, test_findings, test_journal
from tests.unit.store.values import CHAIN_ID, SENDER, entry

ANOTHER_CHAIN = 10
_chains = itertools.count(1_000_000)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as running:
        yield running


@pytest.fixture(scope="module")
def shared(server: PostgresServer) -> str:
    """Return a database that the tests of the next fixture share, each as another chain."""
    return server.new_database()


@pytest.fixture
async def database(shared: str) -> AsyncIterator[Database]:
    database = await Database.open(shared, next(_chains))
    yield database
    await database.close()


def of_any_store(*modules: ModuleType) -> dict[str, Any]:
    """Return the tests of a file's store that ask for nothing but an open database: they hold for a server's too."""
    return {
        f"{name}_on_a_server": test
        for each in modules
        for name, test in vars(each).items()
        if name.startswith("test_")
        and "database" in (asked := inspect.signature(test).parameters)
        and not {"path", "monkeypatch"} & asked.keys()
    }


globals().update(of_any_store(test_bookshelf, test_control, test_decisions, test_findings, test_journal))


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.new_database()


def through(cable: Cable, url: str, server: PostgresServer) -> str:
    return url.replace(f":{server.port}/", f":{cable.port}/")


async def opening(url: str, chain_id: int = CHAIN_ID, *, is_read_only: bool = False) -> StoreFailed:
    with pytest.raises(StoreFailed) as failed:
        await Database.open(url, chain_id, is_read_only=is_read_only)
    assert failed.value.exit_code == ExitCode.STORAGE
    return failed.value


async def nonces(database: Database) -> list[int]:
    return [each.intent.nonce for each in await Journal(database, SENDER).open_entries()]


# ---------------------------------------------------------------------------------------------------- what it promises


async def test_two_chains_in_one_database_see_nothing_of_each_other(url: str):
    one, other = await Database.open(url, CHAIN_ID), await Database.open(url, ANOTHER_CHAIN)
    await Journal(one, SENDER).commit(Changes((entry(4),)))
    await Journal(other, SENDER).commit(Changes((entry(4),)))
    await Control(one).set_paused(True, reason="", at_s=1)
    assert not (await Control(other).read()).paused
    assert await nonces(other) == [4]
    await one.close()
    await other.close()


async def test_two_open_intents_may_not_share_a_nonce_on_a_server(database: Database):
    await Journal(database, SENDER).commit(Changes((entry(4),)))
    with pytest.raises(IntegrityError):
        await Journal(database, SENDER).commit(Changes((entry(4, name="another", attempts=0),)))
    assert await nonces(database) == [4]


async def test_a_failed_transaction_leaves_nothing_on_a_server(database: Database):
    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO meta (name, value) VALUES ('a', 'b')"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await database.run(work)
    found = await database.run(lambda connection: connection.execute(text("SELECT name FROM meta")).scalars().all())
    assert "a" not in found


async def test_sto_04_a_commit_is_durable_whatever_the_database_is_set_to(server: PostgresServer, url: str):
    server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    database = await Database.open(url, CHAIN_ID)
    shown = text("SHOW synchronous_commit")
    assert await database.run(lambda connection: connection.execute(shown).scalar_one()) == "on"
    await database.close()


async def test_a_reader_sees_what_is_committed_and_can_write_nothing(url: str):
    assert (await opening(url, is_read_only=True)).fault is Fault.MISSING
    database = await Database.open(url, CHAIN_ID)
    reader = await Database.open(url, CHAIN_ID, is_read_only=True)
    await Journal(database, SENDER).commit(Changes((entry(7),)))
    assert await nonces(reader) == [7]
    with pytest.raises(StoreFailed) as failed:
        await Journal(reader, SENDER).commit(Changes((entry(8),)))
    assert failed.value.fault is Fault.READ_ONLY
    await reader.close()
    await database.close()


async def test_a_session_leaves_no_mark_behind(server: PostgresServer, url: str):
    database = await Database.open(url, CHAIN_ID)
    marks = f"SELECT name FROM keeper_{CHAIN_ID}.meta WHERE name LIKE 'commit:%'"
    assert len(server.execute(marks, url)) == 1
    await database.close()
    assert server.execute(marks, url) == []


# ------------------------------------------------------------------------------------------------------------ versions


async def test_sto_09_an_older_program_refuses_a_newer_schema(server: PostgresServer, url: str):
    await (await Database.open(url, CHAIN_ID)).close()
    server.execute(f"UPDATE keeper_{CHAIN_ID}.schema_version SET version = version + 1", url)
    assert (await opening(url)).fault is Fault.SCHEMA
    assert (await opening(url, is_read_only=True)).fault is Fault.SCHEMA
    server.execute(f"UPDATE keeper_{CHAIN_ID}.schema_version SET version = {len(STEPS)}", url)
    await (await Database.open(url, CHAIN_ID)).close()


async def test_sto_09_a_crash_in_the_middle_of_a_migration_leaves_nothing(server: PostgresServer, url: str):
    def reached(step: str) -> None:
        assert step == "mid_migration"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await Database.open(url, CHAIN_ID, reached=reached)
    assert server.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'keeper%'", url) == []
    await (await Database.open(url, CHAIN_ID)).close()


async def test_two_keepers_that_start_at_once_make_one_schema(server: PostgresServer, url: str):
    for database in await asyncio.gather(*(Database.open(url, CHAIN_ID) for _ in range(4))):
        await database.close()
    assert len(server.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'keeper%'", url)) == 1


# ------------------------------------------------------------------------------------------------------- what can fail


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ("53100", Fault.FULL),
        ("25006", Fault.READ_ONLY),
        ("55P03", Fault.LOCKED),
        ("40P01", Fault.LOCKED),
        ("57014", Fault.LOCKED),
        ("58030", Fault.INPUT_OUTPUT),
        ("XX001", Fault.CORRUPT),
        ("42501", Fault.REFUSED),
    ],
)
async def test_sto_01_a_servers_complaint_has_a_name_and_nothing_is_stored(
    database: Database, state: str, fault: Fault
):
    complaint = text(f"DO $$ BEGIN RAISE EXCEPTION 'canary' USING ERRCODE = '{state}'; END $$")

    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO meta (name, value) VALUES ('a', 'b')"))
        connection.execute(complaint)

    with pytest.raises(StoreFailed) as failed:
        await database.run(work)
    assert failed.value.fault is fault
    assert failed.value.is_passing is (fault in {Fault.FULL, Fault.LOCKED})
    assert "canary" not in str(failed.value)
    await Journal(database, SENDER).commit(Changes((entry(1),)))
    assert await nonces(database) == [1]


async def test_a_connection_that_the_server_ended_is_made_anew_without_a_word(server: PostgresServer, url: str):
    database = await Database.open(url, CHAIN_ID)
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keeper'")
    await Journal(database, SENDER).commit(Changes((entry(1),)))
    assert await nonces(database) == [1]
    await database.close()


async def test_sto_01_nothing_is_stored_while_the_server_is_away_and_all_goes_on_when_it_is_back(
    server: PostgresServer, url: str, recovery: Recovery
):
    database = await Database.open(url, CHAIN_ID)
    journal = Journal(database, SENDER)
    await journal.commit(Changes((entry(1),)))
    await asyncio.to_thread(server.crash)
    try:
        for _ in range(2):
            with pytest.raises(StoreFailed) as failed:
                await journal.commit(Changes((entry(2),)))
            assert failed.value.fault is Fault.UNREACHABLE
            assert failed.value.is_passing
    finally:
        await asyncio.to_thread(server.start)
    began = time.monotonic()
    assert await nonces(database) == [1]
    await journal.commit(Changes((entry(2),)))
    recovery("STO-01", seconds=round(time.monotonic() - began, 1))
    assert await nonces(database) == [1, 2]
    await database.close()


@pytest.mark.parametrize("is_forwarded", [True, False])
async def test_sto_04_a_commit_whose_answer_was_lost_is_looked_up_and_stored_once(
    server: PostgresServer, url: str, *, is_forwarded: bool
):
    async with Cable(server.port) as cable:
        database = await Database.open(through(cable, url, server), CHAIN_ID)
        cable.cut_at(b"COMMIT", is_forwarded=is_forwarded)
        runs = []

        def work(connection: Connection) -> str:
            runs.append(connection)
            connection.execute(text("INSERT INTO meta (name, value) VALUES ('once', '1')"))
            return "done"

        assert await database.run(work) == "done"
        assert len(runs) == (1 if is_forwarded else 2)
        assert server.execute(f"SELECT value FROM keeper_{CHAIN_ID}.meta WHERE name = 'once'", url) == [("1",)]
        await database.close()


async def test_sto_04_a_commit_of_which_nobody_can_tell_the_fate_stops_the_keeper(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "IN_DOUBT_S", 1)
    async with Cable(server.port) as cable:
        database = await Database.open(through(cable, url, server), CHAIN_ID)
        cable.cut_at(b"COMMIT", is_forwarded=True)
        cable.refuse_after_cut = True
        with pytest.raises(StoreFailed) as failed:
            await Journal(database, SENDER).commit(Changes((entry(1),)))
        assert failed.value.fault is Fault.IN_DOUBT
        assert not failed.value.is_passing
        await database.close()
    again = await Database.open(url, CHAIN_ID)
    assert await nonces(again) == [1]  # which is what a restart reads
    await again.close()


async def test_a_server_that_is_not_heard_any_more_is_given_up_in_bounded_time(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "TRANSACTION_S", 1)
    monkeypatch.setattr(module, "CONNECT_S", 2)
    monkeypatch.setattr(module, "IN_DOUBT_S", 1)
    async with Cable(server.port) as cable:
        database = await Database.open(through(cable, url, server), CHAIN_ID)
        cable.hold_up()
        async with asyncio.timeout(40):
            with pytest.raises(StoreFailed) as failed:
                await nonces(database)
        assert failed.value.fault is Fault.UNREACHABLE
        cable.let_through()
        assert await nonces(database) == []
        await database.close()


async def test_a_transaction_that_stands_still_keeps_its_locks_for_seconds_only(server: PostgresServer, url: str):
    database = await Database.open(url, CHAIN_ID)
    idle = text("SHOW idle_in_transaction_session_timeout")
    assert await database.run(lambda connection: connection.execute(idle).scalar_one()) == "3s"
    await database.close()


async def test_sto_05_a_server_that_loses_what_it_has_committed_is_refused(server: PostgresServer, url: str):
    server.stop()
    try:
        server.start(fsync="off")
        assert (await opening(url)).fault is Fault.NOT_DURABLE
    finally:
        server.stop()
        server.start()
    await (await Database.open(url, CHAIN_ID)).close()


# ------------------------------------------------------------------------------------------------------------- secrets


async def test_no_failure_repeats_the_address_the_role_or_the_password(server: PostgresServer, url: str):
    password = server.password
    wrong = [
        url.replace(password, "canary-wrong"),
        url + "x",
        url.replace("keeper:", "nobody:"),
        url.replace(f":{server.port}/", ":1/"),
        url + "?sslmode=require",
        f"{url}?canary=1",
        f"postgresql://keeper:{password}@[::1/x",
    ]
    for each in wrong:
        with pytest.raises(KeeperError) as failed:
            await Database.open(each, CHAIN_ID)
        assert isinstance(failed.value, StoreFailed | ConfigurationError)
        told = "".join(traceback.format_exception(failed.value)) + repr(failed.value)
        for secret in ("canary", password, "127.0.0.1", str(server.port)):
            assert secret not in told.replace("test_sto_postgres", ""), told
    assert (await opening(wrong[0])).fault is Fault.REFUSED
    assert (await opening(wrong[3])).fault is Fault.UNREACHABLE


@pytest.mark.parametrize("said", ["canary: it is complicated", 'failed to resolve host "canary"'])
def test_no_words_of_the_driver_are_repeated(said: str):
    failed = connecting(psycopg.OperationalError(said), "PostgreSQL")
    assert failed.fault is Fault.UNREACHABLE
    assert "canary" not in str(failed)


async def test_another_kind_of_url_is_refused_without_repeating_it():
    with pytest.raises(ConfigurationError) as failed:
        await Database.open("mysql://keeper:canary@host/db", CHAIN_ID)
    assert "canary" not in str(failed.value)


async def test_a_file_may_be_named_by_its_url(tmp_path: Path):
    await (await Database.open(f"sqlite:///{tmp_path}/1.sqlite3", 1)).close()
    await (await open_shelf(f"sqlite:///{tmp_path}/1.sqlite3", 1)).close()
    assert {each.name for each in tmp_path.glob("*.sqlite3")} == {"1.sqlite3", "1.book.sqlite3"}

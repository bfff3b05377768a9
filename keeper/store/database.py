"""One SQLite file behind one worker thread. Every call is one transaction; a commit is on the disk when it returns."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from keeper.store.faults import Fault, StoreFailed, naming_faults
from keeper.store.schema import check_pages, claim_chain, migrate, require_current

BUSY_TIMEOUT_MS: Final = 5_000

T = TypeVar("T")


class Database:
    """The only holder of the connection. Close it in the end."""

    def __init__(self, path: Path, connection: Connection, worker: ThreadPoolExecutor) -> None:
        """Take over an open connection and the thread it lives in; use `open` to make one."""
        self.path = path
        self._connection = connection
        self._worker = worker

    @classmethod
    async def open(cls, path: Path, chain_id: int, *, is_read_only: bool = False) -> Self:
        """Open or create a chain's database.

        Raises: StoreFailed, naming the fault and the cure.
        """
        worker = ThreadPoolExecutor(1, thread_name_prefix="store")
        work = _open_to_read if is_read_only else _open_to_write
        try:
            connection = await asyncio.get_running_loop().run_in_executor(worker, work, path, chain_id)
        except BaseException:
            worker.shutdown(wait=False)
            raise
        return cls(path, connection, worker)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction: all of it is stored, or nothing.

        Raises: StoreFailed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._transact, work)

    async def close(self) -> None:
        """Finish what is queued, close the file and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._release)
        self._worker.shutdown(wait=False)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        with naming_faults(self.path), self._connection.begin():
            return work(self._connection)

    def _release(self) -> None:
        engine = self._connection.engine
        self._connection.close()
        engine.dispose()


def _open_to_write(path: Path, chain_id: int) -> Connection:
    with naming_faults(path):
        _refuse_empty(path)
        if not path.exists():
            _create(path, chain_id)
        connection = _connect(path, "rw")
        try:
            with connection.begin():
                migrate(connection, path)
                claim_chain(connection, path, chain_id)
                check_pages(connection, path)
        except BaseException:
            _discard(connection)
            raise
        return connection


def _open_to_read(path: Path, chain_id: int) -> Connection:
    with naming_faults(path):
        _refuse_empty(path)
        if not path.exists():
            raise StoreFailed(Fault.MISSING, path)
        connection = _connect(path, "ro")
        try:
            with connection.begin():
                require_current(connection, path)
                claim_chain(connection, path, chain_id)
        except BaseException:
            _discard(connection)
            raise
        return connection


def _refuse_empty(path: Path) -> None:
    """Refuse a file of no bytes: `_create` never leaves one, so it once held a journal."""
    if path.exists() and path.stat().st_size == 0:
        raise StoreFailed(Fault.CORRUPT, path, "the file is empty")


def _create(path: Path, chain_id: int) -> None:
    """Build the file beside its place and move it there whole, so that a crash leaves all of it or nothing."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    connection = _connect(draft, "rwc")
    with connection.begin():
        migrate(connection, path)
        claim_chain(connection, path, chain_id)
    _discard(connection)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connect(path: Path, mode: str) -> Connection:
    """Open one connection whose transactions are begun by us: the driver's own begin would leave DDL outside."""
    address = f"file:{quote(str(path.absolute()))}?mode={mode}"
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(
            address, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000, check_same_thread=False
        ),
        poolclass=StaticPool,
    )
    begin = "BEGIN" if mode == "ro" else "BEGIN IMMEDIATE"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    event.listen(engine, "connect", _harden)
    if mode == "rw":
        event.listen(engine, "connect", _log_ahead)
    return engine.connect()


def _harden(raw: sqlite3.Connection, _record: object) -> None:
    for pragma in ("foreign_keys = ON", "synchronous = FULL", f"busy_timeout = {BUSY_TIMEOUT_MS}"):
        raw.execute(f"PRAGMA {pragma}")


def _log_ahead(raw: sqlite3.Connection, _record: object) -> None:
    raw.execute("PRAGMA journal_mode = WAL")


def _discard(connection: Connection) -> None:
    engine = connection.engine
    connection.close()
    engine.dispose()

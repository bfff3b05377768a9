"""One SQLite file, written ahead and synchronised in full, so that a commit is on the disk when it returns."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from keeper.store.faults import Fault, StoreFailed, naming_faults
from keeper.store.migration import Reached, check_pages, claim_chain, migrate, require_current
from keeper.store.reserve import Reserve

T = TypeVar("T")

BUSY_TIMEOUT_MS: Final = 5_000


class SqliteSession:
    """The connection to a file."""

    def __init__(self, path: Path, connection: Connection, reserve: Reserve | None = None) -> None:
        """Take over an open connection; use `open` to make one."""
        self.place = path
        self._connection = connection
        self._reserve = reserve
        self.is_short_of_space = False

    @classmethod
    def open(cls, path: Path, chain_id: int, *, is_read_only: bool, is_cache: bool, reached: Reached | None) -> Self:
        """Open the file, or create it where it is to be written.

        Raises: StoreFailed.
        """
        if is_read_only:
            return cls(path, _open_to_read(path, chain_id))
        connection = _open_to_write(path, chain_id, reached)
        return cls(path, connection, None if is_cache else Reserve.beside(path))

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction; on a full disk once more, in the space that was kept for it.

        Raises: StoreFailed, with nothing stored.
        """
        try:
            done = self._once(work)
        except StoreFailed as failed:
            if failed.fault is not Fault.FULL or self._reserve is None or not self._reserve.give_up():
                raise
            self.is_short_of_space = True
            return self._once(work)
        if self.is_short_of_space and self._reserve is not None:
            self.is_short_of_space = not self._reserve.renew()
        return done

    def close(self) -> None:
        """Close the file."""
        _discard(self._connection)

    def _once(self, work: Callable[[Connection], T]) -> T:
        with naming_faults(self.place), self._connection.begin():
            return work(self._connection)


def _open_to_write(path: Path, chain_id: int, reached: Reached | None) -> Connection:
    with naming_faults(path):
        _refuse_empty(path)
        if not path.exists():
            _create(path, chain_id, reached)
        elif not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            raise StoreFailed(Fault.READ_ONLY, path)  # SQLite itself only says that it cannot open something
        connection = _connect(path, "rw")
        try:
            with connection.begin():
                migrate(connection, path, reached=reached)
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


def _create(path: Path, chain_id: int, reached: Reached | None = None) -> None:
    """Build the file beside its place and move it there whole, so that a crash leaves all of it or nothing."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    connection = _connect(draft, "rwc")
    try:
        with connection.begin():
            migrate(connection, path, reached=reached)
            claim_chain(connection, path, chain_id)
    finally:
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

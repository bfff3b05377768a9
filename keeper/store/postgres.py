"""One schema of a PostgreSQL database for each chain. A commit whose answer was lost is looked up, never guessed.

No message holds the address, the role or the password. A pooler between the keeper and the server has to keep sessions
apart (session mode): the settings made here belong to a session.
"""

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import dup
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from keeper.errors import ConfigurationError
from keeper.store.faults import Fault, StoreFailed
from keeper.store.migration import Reached, claim_chain, migrate, require_current
from keeper.store.sqlstates import connecting, is_our_defect, named

T = TypeVar("T")

CONNECT_S: Final = 5
STATEMENT_S: Final = 6
LOCK_S: Final = 4
IDLE_S: Final = 3
"""How long a transaction may do nothing: a keeper that is stopped in the middle of one must not keep its locks."""
TRANSACTION_S: Final = 8
"""When our own side cuts a connection from which nothing is heard."""
MIGRATION_S: Final = 600
"""How long it may take to bring a store up to date."""
IN_DOUBT_S: Final = 20
"""How long the fate of a commit is asked for."""
_PAUSE_S: Final = 0.2
_MARK: Final = "commit:"

_SETTINGS: Final = {
    "statement_timeout": f"{STATEMENT_S}s",
    "lock_timeout": f"{LOCK_S}s",
    "idle_in_transaction_session_timeout": f"{IDLE_S}s",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
}
_KEEPALIVE: Final[dict[str, Any]] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class PostgresSession:
    """The connection to a chain's schema, made anew where it breaks."""

    is_short_of_space = False
    """What a server keeps of its disk is its own affair."""

    def __init__(self, url: str, chain_id: int, *, is_read_only: bool) -> None:
        """Connect to nothing yet; use `open` to make one."""
        self.schema = f"keeper_{chain_id}"
        self.place = f"PostgreSQL schema {self.schema}"
        self._url = _checked(url)
        self._is_read_only = is_read_only
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=self._dial,
            poolclass=NullPool,
            hide_parameters=True,
            use_native_hstore=False,
        )
        self._connection: Connection | None = None
        self._raw: psycopg.Connection[Any] | None = None
        self._mark = _MARK + secrets.token_hex(8)
        self._commits = 0
        self._is_marked = False

    @classmethod
    def open(cls, url: str, chain_id: int, *, is_read_only: bool, reached: Reached | None) -> Self:
        """Connect, and create the chain's schema or bring it up to date where it is to be written.

        Raises: StoreFailed, ConfigurationError.
        """
        session = cls(url, chain_id, is_read_only=is_read_only)
        try:
            session._once(lambda connection: session._prepare(connection, chain_id, reached), MIGRATION_S)
            if not is_read_only:
                row = {"name": session._mark}
                session.transact(lambda connection: connection.execute(text(_BEGIN_MARK), row))
                session._is_marked = True
        except BaseException:
            session._drop()
            raise
        return session

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, again on a new connection where an idle one turns out to be dead.

        Raises: StoreFailed, with nothing stored unless it says that this is in doubt.
        """
        was_idle, began = self._connection is not None, time.monotonic()
        try:
            return self._once(work)
        except StoreFailed as failed:
            is_late = time.monotonic() - began > CONNECT_S
            if failed.fault is not Fault.UNREACHABLE or not was_idle or is_late:
                raise
            return self._once(work)

    def close(self) -> None:
        """Strike off this session's mark and close the connection."""
        if self._is_marked and self._connection is not None:
            with suppress(StoreFailed):
                self._once(lambda connection: connection.execute(text(_END_MARK), {"name": self._mark}))
        self._drop()
        self._engine.dispose()

    # ----------------------------------------------------------------------------------------------- one transaction

    def _once(self, work: Callable[[Connection], T], limit_s: float | None = None) -> T:
        connection = self._connected()
        with self._watched(limit_s):
            transaction = connection.begin()
            try:
                result = work(connection)
                is_written = self._is_marked and self._count(connection)
            except DBAPIError as error:
                with suppress(DBAPIError):
                    transaction.rollback()
                raise self._failure(error) from None
            except BaseException:
                with suppress(DBAPIError):
                    transaction.rollback()
                if self._is_broken:
                    self._drop()
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                failure = self._failure(error)
                if self._connection is not None or not is_written:
                    raise failure from None
            else:
                return result
        if self._was_stored():
            return result
        raise StoreFailed(Fault.UNREACHABLE, self.place, "the connection broke in a commit that was not stored")

    def _count(self, connection: Connection) -> bool:
        """Give the transaction a number, by which its fate can be read, if it has written; return whether it has."""
        self._commits += 1
        row = {"name": self._mark, "value": str(self._commits)}
        return connection.execute(text(_COUNT), row).rowcount == 1

    def _was_stored(self) -> bool:
        """Read on a new connection whether the last transaction was committed; its row stays locked while it may be.

        Raises: StoreFailed when nobody can tell.
        """
        until = time.monotonic() + IN_DOUBT_S
        while time.monotonic() < until:
            try:
                connection = self._connected()
                with self._watched(), connection.begin():
                    found = connection.execute(text(_READ_MARK), {"name": self._mark}).scalar_one_or_none()
            except DBAPIError as error:
                self._failure(error)
                time.sleep(_PAUSE_S)
            except StoreFailed:
                time.sleep(_PAUSE_S)
            else:
                if found is None:
                    break  # another server, or an older backup of it
                return str(found) == str(self._commits)
        raise StoreFailed(Fault.IN_DOUBT, self.place)

    def _failure(self, error: DBAPIError) -> Exception:
        """Name what went wrong; a broken constraint is our own defect and stays what it is."""
        is_broken = self._is_broken
        if is_broken:
            self._drop()
        origin = error.orig
        if not isinstance(origin, psycopg.Error) or (is_our_defect(origin) and not is_broken):
            return error
        return named(origin, self.place, is_broken=is_broken)

    # ------------------------------------------------------------------------------------------------- the connection

    @property
    def _is_broken(self) -> bool:
        return self._raw is None or self._raw.closed

    def _connected(self) -> Connection:
        if self._connection is not None and self._is_broken:
            self._drop()
        if self._connection is None:
            try:
                self._connection = self._engine.connect()
            except (DBAPIError, psycopg.Error) as error:
                origin = error.orig if isinstance(error, DBAPIError) else error
                self._drop()
                raise connecting(origin, self.place) from None
        return self._connection

    def _dial(self) -> psycopg.Connection[Any]:
        raw: psycopg.Connection[Any] = psycopg.connect(
            self._url, connect_timeout=CONNECT_S, application_name="keeper", autocommit=True, **_KEEPALIVE
        )
        try:
            settings = _SETTINGS | {"search_path": self.schema}
            if self._is_read_only:
                settings["default_transaction_read_only"] = "on"
            for name, value in settings.items():
                raw.execute("SELECT set_config(%s, %s, false)", (name, value))
            self._require_durable(raw)
            raw.autocommit = False
        except BaseException:
            raw.close()
            raise
        self._raw = raw
        return raw

    def _require_durable(self, raw: psycopg.Connection[Any]) -> None:
        """Have a commit on the server's disk when it returns, whatever more the server is set to wait for."""
        if raw.execute("SHOW fsync").fetchone() != ("on",):
            raise StoreFailed(Fault.NOT_DURABLE, self.place, "fsync is off")
        if raw.execute("SHOW synchronous_commit").fetchone() == ("off",):
            raw.execute("SET synchronous_commit = on")

    def _drop(self) -> None:
        connection, raw = self._connection, self._raw
        self._connection = self._raw = None
        if raw is not None:
            raw.close()
        if connection is not None:
            with suppress(DBAPIError):
                connection.invalidate()
                connection.close()

    @contextmanager
    def _watched(self, limit_s: float | None = None) -> Iterator[None]:
        """Cut the connection where nothing is heard for too long: the server's own limits do not reach us then."""
        raw = self._raw
        timer = threading.Timer(limit_s or TRANSACTION_S, lambda: _cut(raw))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _prepare(self, connection: Connection, chain_id: int, reached: Reached | None) -> None:
        """Make the schema what this program needs; one process at a time."""
        exists = connection.execute(text(_HAS_SCHEMA), {"schema": self.schema}).scalar_one()
        if self._is_read_only:
            if not exists:
                raise StoreFailed(Fault.MISSING, self.place)
            require_current(connection, self.place)
        else:
            connection.execute(text(f"SET LOCAL statement_timeout = '{MIGRATION_S}s'"))
            connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_S}s'"))
            connection.execute(text(_ONE_AT_A_TIME), {"schema": self.schema})
            if not exists:
                connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {self.schema}"))
            migrate(connection, self.place, reached=reached)
        claim_chain(connection, self.place, chain_id)


_HAS_SCHEMA: Final = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :schema)"
_ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtext(:schema))"
_BEGIN_MARK: Final = "INSERT INTO meta (name, value) VALUES (:name, '0')"
_END_MARK: Final = "DELETE FROM meta WHERE name = :name"
_COUNT: Final = "UPDATE meta SET value = :value WHERE name = :name AND pg_current_xact_id_if_assigned() IS NOT NULL"
_READ_MARK: Final = "SELECT value FROM meta WHERE name = :name FOR UPDATE"


def _checked(url: str) -> str:
    """Return the URL as the driver takes it.

    Raises: ConfigurationError, which does not repeat it.
    """
    try:
        conninfo_to_dict(url)
    except psycopg.Error:
        raise ConfigurationError(
            "KEEPER_DATABASE_URL: not a PostgreSQL URL: postgresql://user:password@host/db"
        ) from None
    return url


def _cut(raw: psycopg.Connection[Any] | None) -> None:
    """End a connection's traffic from another thread, so that whoever waits for it wakes up."""
    with suppress(OSError, psycopg.Error):
        if raw is not None and not raw.closed:
            with socket.socket(fileno=dup(raw.fileno())) as handle:
                handle.shutdown(socket.SHUT_RDWR)

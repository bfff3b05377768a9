"""The durable store behind one worker thread. Every call is one transaction; a commit is durable when it returns."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

from sqlalchemy import Connection

from keeper.errors import ConfigurationError
from keeper.store.faults import Place
from keeper.store.migration import Reached
from keeper.store.sqlite import SqliteSession

T = TypeVar("T")

_SQLITE: Final = "sqlite:///"
_POSTGRESQL: Final = ("postgresql://", "postgres://")


class Session(Protocol):
    """One dialect's connection. It lives in the worker thread and is used by nobody else."""

    @property
    def place(self) -> Place:
        """Return what messages call the store."""
        ...

    @property
    def is_short_of_space(self) -> bool:
        """Return whether the space that was kept for the worst case is used up."""
        ...

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction.

        Raises: StoreFailed, with nothing stored unless it says that this is in doubt.
        """
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class Database:
    """The only holder of the connection. Close it in the end."""

    def __init__(self, session: Session, worker: ThreadPoolExecutor) -> None:
        """Take over an open session and the thread it lives in; use `open` to make one."""
        self._session = session
        self._worker = worker

    @classmethod
    async def open(
        cls,
        location: Path | str,
        chain_id: int,
        *,
        is_read_only: bool = False,
        is_cache: bool = False,
        reached: Reached | None = None,
    ) -> Self:
        """Open or create a chain's database: a file, or what a `sqlite:///` or `postgresql://` URL names.

        `is_cache`: what a file holds can be built again, so no space is kept for it.

        Raises: StoreFailed, naming the fault and the cure; ConfigurationError.
        """
        worker = ThreadPoolExecutor(1, thread_name_prefix="store")

        def work() -> Session:
            if is_server(location):
                from keeper.store.postgres import PostgresSession  # noqa: PLC0415 - a driver that few starts need

                return PostgresSession.open(str(location), chain_id, is_read_only=is_read_only, reached=reached)
            path = file_of(location)
            return SqliteSession.open(path, chain_id, is_read_only=is_read_only, is_cache=is_cache, reached=reached)

        try:
            session = await asyncio.get_running_loop().run_in_executor(worker, work)
        except BaseException:
            worker.shutdown(wait=False)
            raise
        return cls(session, worker)

    @property
    def path(self) -> Place:
        """Return the file, or what messages call a store that is no file."""
        return self._session.place

    @property
    def is_short_of_space(self) -> bool:
        """Return whether the disk was full and only the space that was kept for that lets anything be stored."""
        return self._session.is_short_of_space

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction: all of it is stored, or nothing.

        `work` may be run again where a connection turns out to be dead before anything was committed.
        Raises: StoreFailed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._session.transact, work)

    async def close(self) -> None:
        """Finish what is queued, close the store and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._session.close)
        self._worker.shutdown(wait=False)


def is_server(location: Path | str) -> bool:
    """Return whether the store is a PostgreSQL server's."""
    return isinstance(location, str) and location.startswith(_POSTGRESQL)


def file_of(location: Path | str) -> Path:
    """Return the file of a SQLite database.

    Raises: ConfigurationError, without the address, which may hold a password.
    """
    if isinstance(location, Path):
        return location
    if not location.startswith(_SQLITE):
        raise ConfigurationError("KEEPER_DATABASE_URL: begin it with sqlite:/// or postgresql://")
    return Path(location.removeprefix(_SQLITE))

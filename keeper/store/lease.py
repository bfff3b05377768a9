"""One sender per key and chain among hosts that share a PostgreSQL database.

A lease runs out by the database's clock, and earlier by our own: ours starts before the request that took or renewed it.
Each time that it is taken it gets a higher epoch. A commit checks the epoch in its own transaction, where the row's lock
keeps everybody else from taking over before the commit is done.
"""

import asyncio
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Connection, Executable, and_, cast, extract, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from keeper.domain.ports import Clock
from keeper.domain.units import Address
from keeper.errors import Fenced
from keeper.store.database import Database
from keeper.store.faults import StoreFailed
from keeper.store.schema import lease

DEFAULT_TTL_S: Final = 6
"""Longer than a pause that nobody wants a takeover for, short enough for a standby to act within ten seconds."""
_RENEWALS: Final = 3
_POLL_S: Final = 0.5
_LEAST_WAIT_S: Final = 1
_TRIES: Final = 3

_NOW_MS: Final = cast(extract("epoch", func.clock_timestamp()) * 1_000, BigInteger)


class Lease:
    """The right to send with a key on a chain. `acquire` first, `hold` beside the work, `release` in the end.

    `holder` names a place where at most one process runs, which the instance lock sees to: a process that died there
    is followed at once, another host's only when its time is up.
    """

    def __init__(
        self, database: Database, sender: Address, holder: str, ttl_s: int = DEFAULT_TTL_S, *, clock: Clock
    ) -> None:
        """Hold nothing yet. `database` is the journal's own, so that a commit and a renewal never wait for each other."""
        self._database = database
        self._clock = clock
        self._ttl_s = ttl_s
        self._sender = sender
        self._holder = holder
        self._until_s: float | None = None
        self.epoch = 0
        """The number of this tenure, 0 before the first."""

    @property
    def is_current(self) -> bool:
        """Return whether our own clock still allows to send; no request is made."""
        return self._until_s is not None and self._clock.monotonic_s() < self._until_s

    async def acquire(self) -> bool:
        """Take the lease where it is free, run out, or was held from this place; return whether it is ours now.

        It is taken once more where the answer was so long in coming that little of it would be left: whoever is stopped
        in the middle of a commit keeps the row locked until the server ends that.
        Raises: StoreFailed.
        """
        for _ in range(_TRIES):
            asked_s = self._clock.monotonic_s()
            epoch = await self._database.run(self._take)
            if epoch is None:
                return False
            if self._clock.monotonic_s() - asked_s < self._ttl_s / 2:
                self.epoch = epoch
                self._until_s = asked_s + self._ttl_s
                return True
        return False

    def _take(self, connection: Connection) -> int | None:
        ends_ms = _NOW_MS + self._ttl_s * 1_000
        taken = (
            insert(lease)
            .values(sender=self._sender, holder=self._holder, epoch=1, expires_ms=ends_ms)
            .on_conflict_do_update(
                index_elements=["sender"],
                set_={"holder": self._holder, "epoch": lease.c.epoch + 1, "expires_ms": ends_ms},
                where=or_(lease.c.expires_ms <= _NOW_MS, lease.c.holder == self._holder),
            )
            .returning(lease.c.epoch)
        )
        epoch = connection.execute(taken).scalar_one_or_none()
        return None if epoch is None else int(epoch)

    async def renew(self) -> None:
        """Begin the lease's time anew.

        Raises: Fenced when it is not ours any more; StoreFailed while that cannot be told.
        """
        asked_s = self._clock.monotonic_s()
        self._require_current()
        renewed = await self._ask(update(lease).where(self._ours).values(expires_ms=_NOW_MS + self._ttl_s * 1_000))
        if not renewed:
            raise self._fenced("it was taken over, or has run out")
        self._until_s = asked_s + self._ttl_s

    async def hold(self) -> None:
        """Renew until cancelled.

        Raises: Fenced, also when the store was out of reach for as long as the lease lasts; StoreFailed.
        """
        while True:
            await asyncio.sleep(self._ttl_s / _RENEWALS)
            try:
                await self.renew()
            except StoreFailed as failed:
                if not failed.is_passing:
                    raise

    async def check(self) -> None:
        """Ask the store whether the lease is ours: before anything leaves the process.

        Raises: Fenced; StoreFailed, which also forbids to send.
        """
        self._require_current()
        if not await self._ask(select(lease.c.epoch).where(self._ours)):
            raise self._fenced("it was taken over, or has run out")
        self._require_current()  # the answer may have been long in coming

    def guard(self, connection: Connection) -> None:
        """Check the lease inside a transaction, and keep others from taking it over before that ends.

        Raises: Fenced.
        """
        self._require_current()
        if connection.execute(select(lease.c.epoch).where(self._ours).with_for_update(read=True)).first() is None:
            raise self._fenced("it was taken over, or has run out")

    async def release(self) -> None:
        """Let the next one in at once.

        Raises: StoreFailed, after which the lease runs out by itself.
        """
        if self.is_current:
            await self._ask(update(lease).where(self._ours).values(expires_ms=0))
            self._until_s = None

    @property
    def _ours(self) -> ColumnElement[bool]:
        """Find our row as long as it is ours."""
        return and_(
            lease.c.sender == self._sender,
            lease.c.holder == self._holder,
            lease.c.epoch == self.epoch,
            lease.c.expires_ms > _NOW_MS,
        )

    async def _ask(self, statement: Executable) -> bool:
        """Run a statement and return whether it found our row."""
        left_s = 0.0 if self._until_s is None else self._until_s - self._clock.monotonic_s()
        try:
            async with asyncio.timeout(max(left_s, _LEAST_WAIT_S)):
                return await self._database.run(lambda connection: connection.execute(statement).rowcount == 1)
        except TimeoutError:
            raise self._fenced("the store gave no answer for as long as it lasted") from None
        except StoreFailed:
            self._require_current()
            raise

    def _require_current(self) -> None:
        if not self.is_current:
            raise self._fenced("it ran out while this process was paused or cut off")

    def _fenced(self, why: str) -> Fenced:
        """Give the lease up for good: only another `acquire` can bring it back."""
        self._until_s = None
        return Fenced(f"the lease on this key and chain (epoch {self.epoch}) is lost: {why}")

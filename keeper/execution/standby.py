"""A sender that waits its turn: it sends once the lease is its own, and never again once somebody else has it."""

import asyncio
from collections.abc import Sequence, Set
from typing import Protocol

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Reason
from keeper.domain.plan import Batch
from keeper.domain.ports import Taken
from keeper.domain.position import PositionKey
from keeper.errors import Fenced, KeeperError, Stale, Transient
from keeper.execution.ports import Observer
from keeper.execution.sender import Sender
from keeper.execution.verdicts import Verdict, skip
from keeper.store.faults import StoreFailed

_LOOKS_PER_TERM = 4
"""How often within a term whoever waits for it looks."""


class Lease(Protocol):
    """The right to send with a key, for a term that has to be renewed."""

    @property
    def epoch(self) -> int:
        """Return the number of this term of office: it grows with every change of hands."""
        ...

    async def acquire(self) -> bool:
        """Take it where it is free, and say whether it is ours, as it may have been before.

        Raises: StoreFailed.
        """
        ...

    async def hold(self) -> None:
        """Keep it, for ever.

        Raises: Fenced, where it is somebody else's; StoreFailed.
        """
        ...

    async def release(self) -> None:
        """Let the next one in without waiting for the term to end.

        Raises: StoreFailed.
        """
        ...


class Understudy:
    """Stands where the sender does, knows what the journal holds only once it leads. `run` beside everything else."""

    def __init__(self, sender: Sender, lease: Lease, observer: Observer, *, term_s: int) -> None:
        """Lead with `sender` as soon as `lease`, which lasts `term_s` without being renewed, is ours."""
        self._sender = sender
        self._lease = lease
        self._observer = observer
        self._head: BlockHead | None = None
        self._turn = asyncio.Lock()
        self._pause_s = max(1, term_s // _LOOKS_PER_TERM)
        self._is_over = False
        self.is_leading = False

    @property
    def in_flight(self) -> Set[PositionKey]:
        """Return the positions whose plans have no outcome yet: none before we lead."""
        return self._sender.in_flight if self.is_leading else frozenset()

    async def recover(self, head: BlockHead) -> None:
        """Take the lease where it is free; otherwise wait for it, which is no failure.

        Raises: Transient, Stale, StoreFailed.
        """
        async with self._turn:
            self._head = head
            if not self.is_leading:
                await self._try(head)

    async def run(self) -> None:
        """Look whether the lease has become free, and then keep it, for ever.

        Raises: Fenced, after which this process must not send any more; StoreFailed.
        """
        while not self.is_leading:
            await asyncio.sleep(self._pause_s)
            try:
                async with self._turn:
                    if self._head is not None and not self.is_leading:
                        await self._try(self._head)
            except StoreFailed as error:
                if not error.is_passing:
                    raise
                self._tell_doubt(error)
            except (Transient, Stale) as error:
                self._tell_doubt(error)
        try:
            await self._lease.hold()
        except Fenced:
            if not self._is_over:
                raise

    async def submit(self, batch: Batch) -> Sequence[Verdict]:
        """Send where we lead, and skip every plan where we do not."""
        async with self._turn:
            if self.is_leading:
                return await self._sender.submit(batch)
        return [skip(plan, Reason.STANDBY, "another keeper holds the lease") for plan in batch.plans]

    async def on_head(self, head: BlockHead, taken: Sequence[Taken] = ()) -> None:
        """Follow what is in flight where we lead."""
        async with self._turn:
            self._head = head
            if self.is_leading:
                await self._sender.on_head(head, taken)

    async def drain(self, timeout_s: int) -> Set[PositionKey]:
        """End what is in flight, and let the next one in."""
        if not self.is_leading:
            return frozenset()
        left = await self._sender.drain(timeout_s)
        self._is_over = True
        try:
            await self._lease.release()
        except StoreFailed as error:
            self._tell_doubt(error)
        return left

    async def _try(self, head: BlockHead) -> None:
        """Take over what the journal knows, once the lease is ours, and only then lead."""
        if not await self._lease.acquire():
            return
        await self._sender.recover(head)
        self.is_leading = True
        self._observer.event("lease.acquired", epoch=self._lease.epoch, block=head.number)

    def _tell_doubt(self, error: KeeperError) -> None:
        self._observer.event("keeper.degraded", reason="lease_in_doubt", detail=str(error)[:256])

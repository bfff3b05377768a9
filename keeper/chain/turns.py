"""Turns: who may ask a node next. A budget of calls per second, a bound on requests in flight, and priorities."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Final

from asyncio_throttle.throttler import Throttler

from keeper.chain.observer import lasting

_PERIOD_S: Final = 1.0
"""The window that the budget counts in: an ordinary block's few calls go out at once."""
_THROTTLE_STEP_S: Final = 0.005
_SLOWEST: Final = 32
_RECOVERY_CALLS: Final = 64
"""Unpaused calls after which a lowered budget grows again."""


class Priority(IntEnum):
    """Who goes first when calls wait."""

    SEND = 0
    RECEIPT = 1
    HEAD = 2
    READ = 3
    BACKFILL = 4


class Turns:
    """Hands out turns at one node, best priority first.

    One dispatcher waits on the throttle for everybody: a throttle with many waiters is slow and unfair.
    A SEND never waits (the others pay for it afterwards, a second's budget at most), and BACKFILL leaves half of the
    places to others.
    """

    def __init__(self, *, calls_per_s: int, max_in_flight: int) -> None:
        """Take the budget; the dispatcher starts with the first turn."""
        self._period_s = _PERIOD_S
        self._throttle = Throttler(rate_limit=calls_per_s, period=self._period_s, retry_interval=_THROTTLE_STEP_S)
        self._most_debt = calls_per_s
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._debt = 0
        self._unpaused = 0
        self._queue: list[tuple[Priority, int, int, asyncio.Future[None]]] = []
        self._order = 0
        self._changed = asyncio.Event()
        self._dispatcher: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Return how many requests are under way."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Return how many requests wait for their turn."""
        return len(self._queue)

    async def close(self) -> None:
        """Stop handing out turns."""
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            await asyncio.gather(self._dispatcher, return_exceptions=True)
            self._dispatcher = None
        for _, _, _, turn in self._queue:
            turn.cancel()
        self._queue.clear()

    def slow_down(self) -> None:
        """Halve the budget after the node asked for a pause; it grows back with time."""
        self._throttle.period = min(self._throttle.period * 2, self._period_s * _SLOWEST)
        self._unpaused = 0

    @asynccontextmanager
    async def turn(self, priority: Priority, calls: int) -> AsyncIterator[None]:
        """Wait for a turn that is worth `calls` calls, and hold it."""
        if priority is Priority.SEND:
            self._debt = min(self._debt + calls, self._most_debt)
            self._in_flight += 1
        else:
            await self._wait(priority, calls)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, priority: Priority, calls: int) -> None:
        if self._dispatcher is None:
            self._dispatcher = lasting(asyncio.create_task(self._dispatch(), name="turns"))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._queue, (priority, self._order, calls, turn))
        self._changed.set()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        self._in_flight -= 1
        self._changed.set()

    def _is_grantable(self) -> bool:
        """Return whether the best waiting request may go, dropping those whose caller has gone."""
        while self._queue and self._queue[0][3].done():
            heapq.heappop(self._queue)
        if not self._queue:
            return False
        places = self._max_in_flight // 2 if self._queue[0][0] is Priority.BACKFILL else self._max_in_flight
        return self._in_flight < max(places, 1)

    async def _dispatch(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._is_grantable():
                await self._throttle.acquire()
                if self._debt:
                    self._debt -= 1
                elif self._is_grantable():
                    _, _, calls, turn = heapq.heappop(self._queue)
                    self._in_flight += 1
                    self._debt = min(self._debt + calls - 1, self._most_debt)
                    turn.set_result(None)
                    self._recover(calls)

    def _recover(self, calls: int) -> None:
        self._unpaused += calls
        if self._throttle.period > self._period_s and self._unpaused >= _RECOVERY_CALLS:
            self._unpaused = 0
            self._throttle.period = max(self._throttle.period * 0.8, self._period_s)

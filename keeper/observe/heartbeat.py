"""The heartbeat: shows that the event loop turns, and how late."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from keeper.domain.ports import Clock
from keeper.observe.health import Health


def ignore(_count: float) -> None:
    """Leave the number of tasks alone."""


async def beat(
    health: Health,
    *,
    clock: Clock,
    lag: Callable[[float], object],
    tasks: Callable[[float], object] = ignore,
    interval_s: float = 1.0,
) -> NoReturn:
    """Beat for ever, reporting each time by how many seconds the loop was late, and how many tasks it has."""
    while True:
        health.beat()
        tasks(len(asyncio.all_tasks()))
        before_s = clock.monotonic_s()
        await asyncio.sleep(interval_s)
        lag(max(0.0, clock.monotonic_s() - before_s - interval_s))

"""Asking several nodes for the same read: one after the other, overlapping when one is slow."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from keeper.chain.endpoint import Endpoint
from keeper.chain.failures import BlockUnknown, NodeFailure
from keeper.chain.observer import Observer
from keeper.domain.ports import Clock

T = TypeVar("T")


async def race(
    nodes: Sequence[Endpoint],
    attempt: Callable[[Endpoint], Awaitable[T]],
    *,
    hedge_s: float | None,
    clock: Clock,
    observer: Observer,
) -> T:
    """Return the first good answer; start the next node when one fails, or is silent for `hedge_s`.

    Raises: NodeFailure when every node failed: BlockUnknown only when all of them said so.
    """
    waiting = deque(nodes)
    running: dict[asyncio.Future[T], tuple[Endpoint, float]] = {}
    failures: list[NodeFailure] = []
    try:
        while waiting or running:
            if waiting:
                node = waiting.popleft()
                running[asyncio.ensure_future(_of(attempt(node)))] = (node, clock.monotonic_s())
            done, _ = await asyncio.wait(
                running, timeout=hedge_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                slow = ", ".join(endpoint.alias for endpoint, _ in running.values())
                observer.event("rpc.hedged", node=slow, next=waiting[0].alias)
            for task in done:
                endpoint, _ = running.pop(task)
                try:
                    value = task.result()
                except NodeFailure as failure:
                    failures.append(failure)
                    continue
                _judge(endpoint, failures, nodes)
                return value
    finally:
        await _cancel(running, clock)
    raise next((each for each in failures if not isinstance(each, BlockUnknown)), failures[0])


async def _of(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _judge(winner: Endpoint, failures: Sequence[NodeFailure], nodes: Sequence[Endpoint]) -> None:
    """Note which nodes lack a block that the winner has."""
    behind = {failure.node for failure in failures if isinstance(failure, BlockUnknown)}
    for node in nodes:
        if node.alias in behind:
            node.note_lag(f"lacks a block that {winner.alias} has")


async def _cancel(running: dict[asyncio.Future[T], tuple[Endpoint, float]], clock: Clock) -> None:
    """Stop the slower requests and remember that they were slower."""
    for task, (endpoint, started_s) in running.items():
        if task.cancel():
            endpoint.note_outrun(clock.monotonic_s() - started_s)
    if running:
        await asyncio.wait(running)

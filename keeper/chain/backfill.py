"""Logs of long ranges: as wide as each node allows, complete, in order, and never empty without proof."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

from keeper.chain.ancestry import BlockRange
from keeper.chain.endpoint import Endpoint
from keeper.chain.failures import (
    AnswerTooLarge,
    BadResponse,
    NodeFailure,
    RangeTooWide,
    RpcError,
    TimedOut,
    Unreachable,
)
from keeper.chain.logs import filter_fields, matching
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Request, head_of, logs_of, present
from keeper.domain.chain import Log, LogFilter

_FIRST_WIDTH: Final = 2_000
_WIDEST: Final = 100_000
_AT_ONCE: Final = 3
_ASK_TIMEOUT_S: Final = 20.0
_FAST_S: Final = 2.0
_PATIENCE_S: Final = 60.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_CALM_PIECES: Final = 8
_METHODS: Final[Sequence[Request]] = (("eth_getLogs", ()),)
_SUSPICIOUS_COUNTS: Final = frozenset({1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000})
"""Round numbers at which providers cut an answer short without saying so."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scan is."""

    done: BlockRange
    whole: BlockRange
    logs: int


class RangeScan:
    """Scans one range of blocks for one filter; node limits that it learns stay with the nodes."""

    def __init__(self, rpc: Rpc, wanted: LogFilter, *, patience_s: float = _PATIENCE_S) -> None:
        """Take what to look for. `patience_s`: how long one piece may fail before the scan gives up."""
        self._rpc = rpc
        self._wanted = wanted
        self._query = filter_fields(wanted)
        self._patience_s = patience_s
        self._width = _FIRST_WIDTH
        self._ceiling = _WIDEST
        self._calm = 0

    async def run(
        self, whole: BlockRange, on_progress: Callable[[Progress], None] | None = None
    ) -> AsyncGenerator[tuple[BlockRange, list[Log]], None]:
        """Yield every piece of the range in order, each exactly once, with its logs.

        Raises: Transient when a piece cannot be read for `patience_s`; what was yielded before stays valid.
        """
        running: deque[tuple[BlockRange, asyncio.Task[list[Log]]]] = deque()
        begin = whole.first
        count = 0
        try:
            while begin <= whole.last or running:
                while begin <= whole.last and len(running) < _AT_ONCE:
                    piece = BlockRange(begin, min(whole.last, begin + self._width - 1))
                    running.append((piece, asyncio.create_task(self._piece(piece), name="backfill")))
                    begin = piece.last + 1
                piece, task = running[0]
                logs = await task
                running.popleft()
                count += len(logs)
                if on_progress is not None:
                    on_progress(Progress(BlockRange(whole.first, piece.last), whole, count))
                yield piece, logs
        finally:
            for _, task in running:
                task.cancel()
            await asyncio.gather(*(task for _, task in running), return_exceptions=True)

    async def _piece(self, piece: BlockRange) -> list[Log]:
        """Read a piece from any node, in parts where it is too much for one answer."""
        end_s = self._rpc.clock.monotonic_s() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            failure: NodeFailure = Unreachable("rpc", "no usable node for eth_getLogs")
            for endpoint in self._rpc.usable(_METHODS):
                allowed = endpoint.learnt.log_range or len(piece)
                if allowed < len(piece):
                    return await self._parts(piece, allowed)
                outcome = await self._asked(endpoint, piece)
                if isinstance(outcome, list):
                    return outcome
                if len(piece) > 1 and isinstance(outcome, (RangeTooWide, AnswerTooLarge, TimedOut)):
                    return await self._parts(piece, self._narrow(endpoint, piece, outcome))
                failure = outcome
            if self._rpc.clock.monotonic_s() >= end_s:
                raise failure
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _parts(self, piece: BlockRange, width: int) -> list[Log]:
        """Read a piece part by part."""
        logs: list[Log] = []
        for first in range(piece.first, piece.last + 1, width):
            logs += await self._piece(BlockRange(first, min(piece.last, first + width - 1)))
        return logs

    async def _asked(self, endpoint: Endpoint, piece: BlockRange) -> list[Log] | NodeFailure:
        """Ask one node for a piece, together with the piece's last block, which proves that the node has it."""
        span = {"fromBlock": hex(piece.first), "toBlock": hex(piece.last)}
        requests: list[Request] = [
            ("eth_getLogs", ({**span, **self._query},)),
            ("eth_getBlockByNumber", (hex(piece.last), False)),
        ]
        started_s = self._rpc.clock.monotonic_s()
        try:
            logs, count = await endpoint.ask(
                requests, partial(_proven, piece, self._wanted), priority=Priority.BACKFILL, timeout_s=_ASK_TIMEOUT_S
            )
        except NodeFailure as failure:
            return failure
        except RpcError as refused:
            if refused.is_too_heavy:
                return RangeTooWide(endpoint.alias, str(refused))
            return BadResponse(endpoint.alias, str(refused))
        if count in _SUSPICIOUS_COUNTS and len(piece) > 1:
            return RangeTooWide(endpoint.alias, f"exactly {count} logs, which may be a cut answer")
        self._widen(len(piece), self._rpc.clock.monotonic_s() - started_s)
        return logs

    def _narrow(self, endpoint: Endpoint, piece: BlockRange, refused: NodeFailure) -> int:
        """Return how wide to ask from now on; a limit that the node names is remembered."""
        limit = refused.limit if isinstance(refused, RangeTooWide) else None
        width = limit if limit is not None and limit < len(piece) else len(piece) // 2
        if limit == width:
            endpoint.learnt.log_range = limit
            capability = {"node": endpoint.alias, "capability": "log_range", "limit": limit}
            self._rpc.observer.event("rpc.capability", **capability)
        self._width = max(1, min(self._width, width))
        self._ceiling = self._width
        self._calm = 0
        return width

    def _widen(self, size: int, seconds: float) -> None:
        """Take an answered piece: double the width where it was quick, and with care where it was once too wide."""
        self._calm += 1
        if self._calm >= _CALM_PIECES:
            self._ceiling = _WIDEST
            self._calm = 0
        if size >= self._width and seconds < _FAST_S:
            self._width = min(self._width * 2, self._ceiling)


def _proven(piece: BlockRange, wanted: LogFilter, answers: Sequence[Answer]) -> tuple[list[Log], int]:
    """Check the answer to a piece; return its logs and how many the node sent."""
    last = head_of(present(answers[1]))
    if last.number != piece.last:
        raise ValueError("another block than asked for")
    sent = logs_of(present(answers[0]))
    hashes = {last.number: last.hash}
    for log in sent:
        if not piece.first <= log.block_number <= piece.last:
            raise ValueError("a log from outside the range")
        if hashes.setdefault(log.block_number, log.block_hash) != log.block_hash:
            raise ValueError("logs of two blocks with one number")
    return matching(sent, wanted), len(sent)


async def scan_range(
    rpc: Rpc,
    wanted: LogFilter,
    from_block: int,
    to_block: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> AsyncGenerator[tuple[BlockRange, list[Log]], None]:
    """Yield the pieces of a range of blocks in order, each with all of the filter's logs in it.

    Raises: Transient when a piece cannot be read for a minute; what was yielded before stays valid.
    """
    if from_block > to_block:
        return
    async with aclosing(RangeScan(rpc, wanted).run(BlockRange(from_block, to_block), on_progress)) as pieces:
        async for piece in pieces:
            yield piece

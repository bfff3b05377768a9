"""New heads, newest wins: pushed where a websocket is configured, polled otherwise and under a silent socket."""

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from keeper.chain.endpoint import Node
from keeper.chain.failures import NodeFailure, RpcError
from keeper.chain.newheads import HeadSubscription
from keeper.chain.observer import lasting
from keeper.chain.pace import Pace
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Request, head_of, is_null, only, present
from keeper.domain.chain import BlockHead
from keeper.domain.units import BlockHash
from keeper.errors import Transient

_LATEST: Final[Request] = ("eth_getBlockByNumber", ("latest", False))
_KNOWN_HEADS: Final = 256
_DOWN_PAUSE_S: Final = 1.0
_LOOK_ELSEWHERE_EVERY: Final = 3
_CONFIRMATIONS: Final = 3
_LEAST_ROLLBACK_S: Final = 1.5
_ROLLBACK_BLOCKS: Final = 2
_STALLED_AFTER_S: Final = 60.0
_SOCKET_GRACE: Final = 0.5
"""How much of a block's time a subscribed head may be late before a poll looks for it."""
_LEAST_GRACE_S: Final = 0.25
"""As much at least: so long may the loop be busy, or a block of a fast chain be late, without a poll."""
_USUAL_INTERVAL_S: Final = 1.0
_FIRST_GRACE_S: Final = 1.0
"""As much while the block's time is not known yet."""
_READING_S: Final = 0.02
"""How long to read what a socket holds before a poll, where the loop itself was late."""


class Heads:
    """An async iterator of block heads; `async with` it to open its subscriptions.

    A slow consumer gets only the newest head. A head at or below the last one's height, or one that does not follow
    it, is confirmed by the nodes before it is handed out: a lagging node is no reorganisation.
    """

    def __init__(self, rpc: Rpc, *, poll_interval_s: float = 1.0) -> None:
        """Watch through a started pool."""
        self._rpc = rpc
        self._clock = rpc.clock
        self._observer = rpc.observer
        self._pace = Pace(poll_interval_s)
        self._slot: BlockHead | None = None
        self._filled = asyncio.Event()
        self._last: BlockHead | None = None
        self._last_at_s = self._clock.monotonic_s()
        self._known: deque[BlockHash] = deque(maxlen=_KNOWN_HEADS)
        self._doubts: dict[BlockHash, tuple[int, float]] = {}
        self._misses = 0
        self._source = ""
        """Which node the last polled head came from."""
        self._is_stall_told = False
        self._subscriptions = [self._subscription(node) for node in rpc.socket_nodes]
        self._tasks: list[asyncio.Task[None]] = []

    def _subscription(self, node: Node) -> HeadSubscription:
        return HeadSubscription(
            node,
            chain_id=self._rpc.chain_id,
            observer=self._observer,
            on_head=self._offer,
            interval_s=lambda: self._pace.interval_s,
        )

    async def __aenter__(self) -> Self:
        """Open the subscriptions."""
        self._tasks = [lasting(asyncio.create_task(each.run(), name="heads")) for each in self._subscriptions]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the subscriptions."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def __aiter__(self) -> Self:
        """Return itself: there is one stream."""
        return self

    async def __anext__(self) -> BlockHead:
        """Wait for the next new head; while no node answers, keep waiting."""
        while True:
            pushed = await self._pushed()
            head = pushed or await self._polled()
            self._tell_stall()
            if head is not None and await self._is_news(head):
                self._take(head, is_polled=pushed is None)
                return head
            if head is not None and pushed is None:
                self._pace.missed(self._clock.monotonic_s())

    def _offer(self, head: BlockHead) -> None:
        """Put a pushed head into the slot, where the newest wins."""
        if self._slot is None or head.number >= self._slot.number:
            self._slot = head
        self._filled.set()

    async def _pushed(self) -> BlockHead | None:
        """Return a pushed head, or None when it is time to poll."""
        wait_s = self._pace.due_s - self._clock.monotonic_s()
        if self._misses == 0 and any(each.is_alive for each in self._subscriptions):
            wait_s = max(wait_s + self._grace_s(), _READING_S)
        if self._slot is None and wait_s > 0:
            self._filled.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._filled.wait()
            except TimeoutError:
                return None
        head, self._slot = self._slot, None
        return head

    def _grace_s(self) -> float:
        """Return how long after it is due a subscribed head is waited for."""
        if not self._pace.is_known:
            return _FIRST_GRACE_S
        return max(_SOCKET_GRACE * self._pace.interval_s, _LEAST_GRACE_S)

    async def _polled(self) -> BlockHead | None:
        """Ask for the latest head; where it is overdue, ask every node now and then, as ours may have stopped."""
        try:
            if self._misses % _LOOK_ELSEWHERE_EVERY == _LOOK_ELSEWHERE_EVERY - 1:
                head = await self._polled_everywhere()
            else:
                self._source, head = await self._rpc.told([_LATEST], _one_head, priority=Priority.HEAD)
        except (Transient, RpcError):
            head = None
        self._misses += 1
        if head is None:
            self._pace.failed(self._clock.monotonic_s(), _DOWN_PAUSE_S)
        return head

    async def _polled_everywhere(self) -> BlockHead | None:
        found = await self._rpc.everywhere([_LATEST], _one_head)
        heads = {alias: head for alias, head in found.items() if isinstance(head, BlockHead)}
        self._source = max(heads, key=lambda alias: heads[alias].number, default="")
        best = heads.get(self._source)
        if best is not None and self._last is not None and best.number > self._last.number:
            for alias, head in heads.items():
                if head.number <= self._last.number and head.number + 1 < best.number:
                    self._rpc.endpoint(alias).note_lag(f"{best.number - head.number} blocks behind")
        return best

    async def _is_news(self, head: BlockHead) -> bool:
        last = self._last
        if last is None:
            return True
        if head.hash in self._known:
            if head.hash == last.hash:
                self._doubts.clear()  # whoever lacked it has it now
            return False
        follows = head.number == last.number + 1 and head.parent_hash == last.hash
        return follows or head.number > last.number + 1 or await self._is_confirmed(head, last)

    async def _is_confirmed(self, head: BlockHead, last: BlockHead) -> bool:
        """Ask every node whether the chain really left our last head for this one."""
        requests = [("eth_getBlockByNumber", (hex(number), False)) for number in (head.number, last.number)]
        found = await self._rpc.everywhere(requests, _heads_or_null)
        proven: list[str] = []
        hinted: list[str] = []
        against: list[str] = []
        for alias, told in found.items():
            if isinstance(told, (NodeFailure, RpcError)):
                continue
            at_head, at_last = told
            if at_last is not None and at_last.hash == last.hash:
                against.append(alias)
            elif at_head is not None and at_head.hash == head.hash:
                (hinted if at_last is None else proven).append(alias)
        now_s = self._clock.monotonic_s()
        count, since_s = self._doubts.get(head.hash, (0, now_s))
        self._doubts[head.hash] = (0, now_s) if against else (count + 1, since_s)
        is_settled = count + 1 >= _CONFIRMATIONS and now_s >= since_s + self._rollback_s() and not against
        is_news = len(proven) > len(against) or (bool(hinted) and is_settled)
        if is_news or against:
            self._note_minority(against if is_news else [*proven, *hinted])
        return is_news

    def _rollback_s(self) -> float:
        """Return how long the last head must be unknown everywhere before the chain counts as rolled back."""
        return max(_LEAST_ROLLBACK_S, _ROLLBACK_BLOCKS * self._pace.interval_s)

    def _note_minority(self, aliases: Sequence[str]) -> None:
        for alias in aliases:
            self._rpc.endpoint(alias).note_lag("is behind or on another fork")

    def _take(self, head: BlockHead, *, is_polled: bool) -> None:
        now_s = self._clock.monotonic_s()
        self._pace.arrived(head.number, head.timestamp_s, now_s, is_polled=is_polled)
        interval_s = self._pace.interval_s if self._pace.is_known else _USUAL_INTERVAL_S
        self._rpc.saw(head, source=self._source if is_polled else "", interval_s=interval_s)
        self._last, self._last_at_s = head, now_s
        self._known.append(head.hash)
        self._doubts.clear()
        self._misses = 0
        self._is_stall_told = False

    def _tell_stall(self) -> None:
        """Report once that no new head has come for long."""
        silent_s = self._clock.monotonic_s() - self._last_at_s
        if silent_s > max(_STALLED_AFTER_S, 5 * self._pace.interval_s) and not self._is_stall_told:
            self._is_stall_told = True
            number = self._last.number if self._last else None
            self._observer.event("chain.stalled", block=number, seconds=round(silent_s, 1))


def _one_head(answers: Sequence[Answer]) -> BlockHead:
    return head_of(only(answers))


def _heads_or_null(answers: Sequence[Answer]) -> list[BlockHead | None]:
    found = [present(answer) for answer in answers]
    return [None if is_null(raw) else head_of(raw) for raw in found]

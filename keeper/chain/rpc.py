"""The door to the network: a pool of nodes behind one call."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from keeper.chain.broadcast import SendReport, broadcast
from keeper.chain.endpoint import Endpoint, Node
from keeper.chain.failures import (
    BadResponse,
    BlockUnknown,
    MethodMissing,
    NodeFailure,
    RpcError,
    TimedOut,
    Unreachable,
)
from keeper.chain.lookout import Lookout
from keeper.chain.observer import Observer, SilentObserver
from keeper.chain.patrol import Patrol
from keeper.chain.quorum import CHAIN, Quorum, Witness, first, itself
from keeper.chain.race import race
from keeper.chain.transport import MayLeave
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Decode, Request, json_of, only
from keeper.domain.chain import BlockHead
from keeper.domain.ports import Clock
from keeper.errors import Transient, Unsafe

T = TypeVar("T")


_SPARE_S: Final = 0.2
"""How much later than its own deadline a decision is cut off from outside: it has a verdict to give then."""
_WITNESS_PATIENCE_S: Final = 0.3
"""How long a node that is asked for its word may take to get the block."""
_DECISION_S: Final = 3.0
"""How long a decisive read may take; the second node's word is not waited for as long where the first one was quick."""
_DEADLINES_S: Final[Mapping[Priority, float]] = {
    Priority.SEND: 3.0,
    Priority.RECEIPT: 5.0,
    Priority.HEAD: 4.0,
    Priority.READ: 8.0,
    Priority.BACKFILL: 60.0,
}
_HEDGE_S: Final = 0.4
_UNKNOWN_BLOCK_PATIENCE_S: Final = 0.6
"""How long to ask again for a block that no node has: it may be on its way, or gone for good."""
_EXECUTING: Final = frozenset(
    {"eth_call", "eth_estimateGas", "eth_simulateV1", "eth_createAccessList", "debug_traceCall", "trace_call"}
)
"""Methods whose refusal may be the contract's word, which every honest node repeats."""


class Rpc:
    """Asks the best node first and the next one when it fails, within a deadline. `start` before use."""

    def __init__(
        self, nodes: Sequence[Node], *, clock: Clock, observer: Observer | None = None, hedge_s: float = _HEDGE_S
    ) -> None:
        """Take the nodes, in the operator's order of preference.

        Websocket nodes serve subscriptions only, unless there are no others. `hedge_s`: how long a read waits for
        one node before the next one is asked as well.
        """
        self.clock = clock
        self.observer: Observer = observer or SilentObserver()
        self._hedge_s = hedge_s
        requesting = [node for node in nodes if not node.is_socket] or list(nodes)
        self.socket_nodes: tuple[Node, ...] = tuple(node for node in nodes if node.is_socket)
        """Where heads can be subscribed to."""
        self.endpoints: tuple[Endpoint, ...] = tuple(
            Endpoint(node, clock=clock, observer=self.observer) for node in requesting
        )
        """Every node that requests go to, whatever its state."""
        self._lookout = Lookout(self.endpoints, clock=clock, observer=self.observer)
        self._patrol = Patrol(
            self.endpoints,
            clock=clock,
            observer=self.observer,
            tip=lambda: (self._lookout.tip, self._lookout.most_behind),
        )

    @property
    def chain_id(self) -> int:
        """Return the chain that the pool was started for."""
        return self._patrol.chain_id

    async def start(self, chain_id: int) -> None:
        """Dial every node and check its chain; then keep checking in the background until `close`.

        Raises: Unsafe naming each node and what it answered, when none is on the chain.
        """
        await self._patrol.start(chain_id)

    async def close(self) -> None:
        """Stop the checks and close every connection."""
        await self._lookout.close()
        await self._patrol.close()
        await asyncio.gather(*(endpoint.close() for endpoint in self.endpoints))

    def usable(self, requests: Sequence[Request] = (), *, is_pinned: bool = False) -> list[Endpoint]:
        """Return the nodes that may be asked these calls now, best first."""
        found = [
            each
            for each in self.endpoints
            if each.is_usable()
            and not each.lacks(requests)
            and not (is_pinned and each.learnt.is_pinned_exact is not True)
        ]
        return sorted(found, key=lambda each: each.health.rank())

    async def call(
        self,
        method: str,
        params: Sequence[Any] = (),
        *,
        priority: Priority = Priority.READ,
        deadline_s: float | None = None,
    ) -> Any:
        """Make one call and return its result as a JSON value.

        Raises: Transient; RpcError when the node executed and refused it.
        """
        return await self.ask(
            [(method, params)], lambda found: json_of(only(found)), priority=priority, deadline_s=deadline_s
        )

    async def batch(
        self, requests: Sequence[Request], *, priority: Priority = Priority.READ, deadline_s: float | None = None
    ) -> list[Any]:
        """Make calls in one HTTP POST to one node; each item is a JSON value or the RpcError of that call.

        Raises: Transient.
        """
        return await self.ask(requests, _values, priority=priority, deadline_s=deadline_s)

    async def ask(
        self,
        requests: Sequence[Request],
        decode: Decode[T],
        *,
        priority: Priority = Priority.READ,
        deadline_s: float | None = None,
        is_pinned: bool = False,
    ) -> T:
        """Make calls in one HTTP POST to one node and decode the answers.

        An answer that `decode` refuses with ValueError counts as that node's failure and the next node is asked; so
        does an RpcError from `decode` where no contract is executed, as nothing but that node can be the cause.
        `is_pinned`: the calls name a block hash and decide something, so only nodes that honour it are asked.
        Raises: Transient when no node answers within the deadline, BlockUnknown among it when all say so;
        RpcError when `decode` raises it of an executed call; Unsafe when no node can serve pinned calls.
        """
        _, value = await self.told(requests, decode, priority=priority, deadline_s=deadline_s, is_pinned=is_pinned)
        return value

    async def told(
        self,
        requests: Sequence[Request],
        decode: Decode[T],
        *,
        priority: Priority = Priority.READ,
        deadline_s: float | None = None,
        is_pinned: bool = False,
    ) -> tuple[str, T]:
        """Do what `ask` does, and name the node that answered."""
        self._check(requests, is_pinned=is_pinned)
        limit_s = _DEADLINES_S[priority] if deadline_s is None else deadline_s
        once = self._attempt(requests, decode, priority, self.clock.monotonic_s() + limit_s)

        async def attempt(endpoint: Endpoint) -> tuple[str, T]:
            return endpoint.alias, await once(endpoint)

        async def one_round() -> tuple[str, T]:
            return await self._round(requests, attempt, priority, is_pinned=is_pinned)

        return await self._persist(one_round, limit_s)

    async def agreed(
        self,
        requests: Sequence[Request],
        decode: Decode[T],
        *,
        priority: Priority = Priority.READ,
        deadline_s: float = _DECISION_S,
        is_pinned: bool = False,
        alike: Callable[[T], Hashable] = itself,
        pick: Callable[[Sequence[T]], T] = first,
    ) -> T:
        """Make calls that decide about money, and return what two nodes say alike; with one node, do what `ask` does.

        A node that fails, or lacks the block for a short while, has no word; where only one has, that one counts. Where
        two contradict each other the rest are asked, and those outvoted are put aside. Nodes that are behind are asked
        only where no other can be, those put aside never. Each is asked for its chain as well. What is asked must not
        differ from node to node: name a block. `alike` gives equal keys to values that count as equal, `pick` chooses
        among them.
        Raises: Contradiction without a majority, and all that `ask` raises.
        """
        if len(self.endpoints) == 1:
            return await self.ask(requests, decode, priority=priority, deadline_s=deadline_s, is_pinned=is_pinned)
        self._check(requests, is_pinned=is_pinned)
        end_s = self.clock.monotonic_s() + deadline_s
        witness = Witness(self.chain_id, self.clock, patience_s=_WITNESS_PATIENCE_S)
        once = self._attempt([*requests, CHAIN], witness.decoding(decode), priority, end_s)

        async def one_round() -> Sequence[T]:
            quorum = Quorum(
                self._witnesses(requests, is_pinned=is_pinned),
                partial(witness.hear, once),
                alike=alike,
                subject=requests[0][0],
                clock=self.clock,
                observer=self.observer,
            )
            return await quorum.decide(hedge_s=self._hedge_s, timeout_s=end_s - self.clock.monotonic_s())

        return pick(await self._persist(one_round, deadline_s + _SPARE_S))

    def _witnesses(self, requests: Sequence[Request], *, is_pinned: bool) -> list[Endpoint]:
        """Return the nodes whose word counts.

        Raises: Transient when there are none.
        """
        found = [each for each in self.usable(requests, is_pinned=is_pinned) if not each.health.is_quarantined]
        if not found:
            raise self._nobody(requests)
        return [each for each in found if each.health.is_fit] or found

    def _attempt(
        self,
        requests: Sequence[Request],
        decode: Decode[T],
        priority: Priority,
        end_s: float,
    ) -> Callable[[Endpoint], Awaitable[T]]:
        """Return how one node is asked once, until a time."""
        is_executed = any(method in _EXECUTING for method, _ in requests)

        async def attempt(endpoint: Endpoint) -> T:
            left_s = max(end_s - self.clock.monotonic_s(), 0.001)
            try:
                return await endpoint.ask(requests, decode, priority=priority, timeout_s=left_s)
            except RpcError as refused:
                if is_executed:
                    raise
                raise BadResponse(endpoint.alias, f"{requests[0][0]}: refused: {refused}") from None

        return attempt

    def saw(self, head: BlockHead, *, source: str, interval_s: float) -> None:
        """Take a new head and who delivered it, so that the other nodes are compared with it in the background."""
        self._lookout.saw(head, chain_id=self.chain_id, source=source, interval_s=interval_s)

    def _check(self, requests: Sequence[Request], *, is_pinned: bool) -> None:
        _refuse_sending(requests)
        if is_pinned and all(each.learnt.is_pinned_exact is False for each in self.endpoints):
            raise Unsafe("no node answers reads that are pinned to a block hash; configure one that does")

    async def everywhere(
        self,
        requests: Sequence[Request],
        decode: Decode[T],
        *,
        priority: Priority = Priority.HEAD,
        deadline_s: float = 2.0,
    ) -> dict[str, T | NodeFailure | RpcError]:
        """Ask every usable node once, at the same time; each answers with a value or with how it failed.

        Nodes that contradicted the others are asked only where there are no others.
        """
        _refuse_sending(requests)

        async def one(endpoint: Endpoint) -> T | NodeFailure | RpcError:
            try:
                return await endpoint.ask(requests, decode, priority=priority, timeout_s=deadline_s)
            except (NodeFailure, RpcError) as failure:
                return failure

        usable = self.usable(requests)
        asked = [each for each in usable if not each.health.is_quarantined] or usable
        found = await asyncio.gather(*(one(endpoint) for endpoint in asked))
        return {endpoint.alias: value for endpoint, value in zip(asked, found, strict=True)}

    async def send_raw(self, raw: bytes, *, deadline_s: float = _DEADLINES_S[Priority.SEND]) -> SendReport:
        """Broadcast a signed transaction to every usable node, once each, and report what each said. Never retried."""
        return await broadcast(self._verified(), raw, deadline_s=deadline_s, observer=self.observer)

    def guard_sends(self, may_send: MayLeave) -> None:
        """Let raw transactions leave only while `may_send` says so, which is asked as each of them is written."""
        for each in self.endpoints:
            each.may_send = may_send

    def endpoint(self, alias: str) -> Endpoint:
        """Return the node of that name."""
        return next(each for each in self.endpoints if each.alias == alias)

    def _verified(self) -> list[Endpoint]:
        """Return the nodes to send to: those that can be asked, or any that was on our chain when all are down."""
        return self.usable() or [each for each in self.endpoints if each.health.is_verified]

    async def _round(
        self,
        requests: Sequence[Request],
        attempt: Callable[[Endpoint], Awaitable[T]],
        priority: Priority,
        *,
        is_pinned: bool,
    ) -> T:
        """Ask each usable node until one answers; those that are behind or put aside only after all others failed."""
        nodes = self.usable(requests, is_pinned=is_pinned)
        if not nodes:
            raise self._nobody(requests)
        fit = [each for each in nodes if each.health.is_fit]
        rest = [each for each in nodes if not each.health.is_fit]
        if not fit or not rest:
            return await self._race(nodes, attempt, priority)
        try:
            return await self._race(fit, attempt, priority)
        except NodeFailure as failure:
            failed = failure
        try:
            return await self._race(rest, attempt, priority)
        except NodeFailure as failure:
            raise (failure if isinstance(failed, BlockUnknown) else failed) from None

    async def _race(
        self, nodes: Sequence[Endpoint], attempt: Callable[[Endpoint], Awaitable[T]], priority: Priority
    ) -> T:
        if len(nodes) == 1:
            return await attempt(nodes[0])
        hedge_s = None if priority is Priority.BACKFILL else self._hedge_s
        return await race(nodes, attempt, hedge_s=hedge_s, clock=self.clock, observer=self.observer)

    async def _persist(self, one_round: Callable[[], Awaitable[T]], limit_s: float) -> T:
        """Repeat rounds that a repetition can cure, with random growing pauses, until the deadline."""
        failures: list[NodeFailure] = []
        try:
            async with asyncio.timeout(limit_s):
                try:
                    return await one_round()
                except NodeFailure as failure:
                    failures.append(failure)
                return await self._repeat(one_round, limit_s, failures)
        except TimeoutError:
            pass
        raise failures[-1] if failures else TimedOut("rpc", f"no node answered within {limit_s:.3g} s")

    async def _repeat(self, one_round: Callable[[], Awaitable[T]], limit_s: float, failures: list[NodeFailure]) -> T:
        """Go on after a failed round, which counts as the first attempt; a round that succeeds at once never comes here."""
        started_s = self.clock.monotonic_s()

        def is_worth_it(error: BaseException) -> bool:
            if not isinstance(error, NodeFailure) or not error.is_retried:
                return False
            return not isinstance(error, BlockUnknown) or self._since(started_s) < _UNKNOWN_BLOCK_PATIENCE_S

        async for attempt in AsyncRetrying(
            stop=stop_after_delay(limit_s),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            retry=retry_if_exception(is_worth_it),
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise failures[-1]
                try:
                    return await one_round()
                except NodeFailure as failure:
                    failures.append(failure)
                    raise
        raise failures[-1]

    def _since(self, started_s: float) -> float:
        return self.clock.monotonic_s() - started_s

    def _nobody(self, requests: Sequence[Request]) -> Transient:
        """Return why no node can be asked."""
        lacking = [each for each in self.endpoints if each.is_usable() and each.lacks(requests)]
        if lacking:
            return MethodMissing("rpc", f"no usable node offers {', '.join(sorted({name for name, _ in requests}))}")
        states = "; ".join(f"{each.alias} {each.health.state} ({each.health.reason})" for each in self.endpoints)
        return Unreachable("rpc", f"no usable node: {states}")


def _values(answers: Sequence[Answer]) -> list[Any]:
    return [answer if isinstance(answer, RpcError) else json_of(answer) for answer in answers]


def _refuse_sending(requests: Sequence[Request]) -> None:
    """Keep raw transactions off every path that may repeat a request."""
    if any(method == "eth_sendRawTransaction" for method, _ in requests):
        raise ValueError("a raw transaction goes through send_raw, which never repeats it")

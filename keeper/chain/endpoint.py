"""One node: its connection, its turns, its health. The address never leaves this module's transport."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from keeper.chain.failures import (
    Absent,
    AnswerTooLarge,
    BadResponse,
    BatchTooLarge,
    BlockUnknown,
    MethodMissing,
    NodeFailure,
    RateLimited,
    TimedOut,
    Unreachable,
)
from keeper.chain.health import Health, Learnt, NodeState, result_label
from keeper.chain.mask import Mask
from keeper.chain.observer import Observer
from keeper.chain.refusals import refusal
from keeper.chain.transport import MayLeave, WsTransport, transport_of
from keeper.chain.turns import Priority, Turns
from keeper.chain.wire import Answer, Decode, Envelope, Request, frame, is_null
from keeper.domain.ports import Clock

T = TypeVar("T")

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
_MAX_BATCH: Final = 500
RAW_SEND: Final = "eth_sendRawTransaction"
_MIXED: Final = "batch"
_ASK_AGAIN_S: Final = 600.0
"""After how long a method that was missing is tried again."""
_UNREADABLE: Final = "an answer whose fields cannot be right"


@dataclass(frozen=True, slots=True)
class Node:
    """Where a node is and how much it may be asked. Rendering it shows the alias only."""

    alias: str
    url: str = field(repr=False)
    calls_per_s: int = 200
    max_in_flight: int = 16
    max_answer_bytes: int = MAX_ANSWER_BYTES

    @property
    def is_socket(self) -> bool:
        """Return whether the address is a websocket."""
        return self.url.startswith(("ws://", "wss://"))


def nodes_of(urls: Sequence[str], *, calls_per_s: int = 200) -> tuple[Node, ...]:
    """Name addresses rpc-1, rpc-2, … in their order."""
    return tuple(Node(f"rpc-{place}", url, calls_per_s) for place, url in enumerate(urls, 1))


class Endpoint:
    """Sends requests to one node and keeps account of how it answers."""

    def __init__(self, node: Node, *, clock: Clock, observer: Observer) -> None:
        """Open nothing yet."""
        self.node = node
        self.health = Health()
        self.learnt = Learnt()
        self.mask = Mask(node.url)
        self.is_lone = False
        """Whether no other node answers at present."""
        self.may_send: MayLeave | None = None
        """Whether a raw transaction may still leave, asked as it is written; None: always."""
        self.changed = asyncio.Event()
        """Set when the state changed, for whoever schedules checks."""
        self._clock = clock
        self._observer = observer
        self._turns = Turns(calls_per_s=node.calls_per_s, max_in_flight=node.max_in_flight)
        self._transport = transport_of(
            node.alias, node.url, max_answer_bytes=node.max_answer_bytes, max_in_flight=node.max_in_flight
        )
        self._next_id = 1
        self._told = self.health.state

    def __repr__(self) -> str:
        """Name the node by its alias."""
        return f"Endpoint({self.alias}, {self.health.state})"

    @property
    def alias(self) -> str:
        """Return the only name of the node that is ever shown."""
        return self.node.alias

    @property
    def in_flight(self) -> int:
        """Return how many requests are under way."""
        return self._turns.in_flight

    @property
    def socket(self) -> WsTransport | None:
        """Return the websocket, where the node is one."""
        return self._transport if isinstance(self._transport, WsTransport) else None

    @property
    def max_batch(self) -> int:
        """Return how many calls to put into one request."""
        return self.learnt.batch_size or _MAX_BATCH

    def is_usable(self) -> bool:
        """Return whether the node may be asked now."""
        is_usable = self.health.is_usable(self._clock.monotonic_s())
        self.tell()
        return is_usable

    def lacks(self, requests: Sequence[Request]) -> bool:
        """Return whether the node is known not to offer one of the methods."""
        missing = self.learnt.missing_methods
        if not missing:
            return False
        now_s = self._clock.monotonic_s()
        return any(missing.get(method, now_s) > now_s for method, _ in requests)

    async def send(self, requests: Sequence[Request], *, priority: Priority, timeout_s: float) -> list[Answer]:
        """Make the calls in one HTTP POST and return their answers in order.

        Raises: NodeFailure.
        """
        return await self.ask(requests, list, priority=priority, timeout_s=timeout_s)

    async def ask(self, requests: Sequence[Request], decode: Decode[T], *, priority: Priority, timeout_s: float) -> T:
        """Make the calls in one HTTP POST and decode their answers; what cannot be decoded is the node's failure.

        Raises: NodeFailure; RpcError when `decode` raises it.
        """
        failure: NodeFailure
        try:
            async with asyncio.timeout(timeout_s):
                async with self._turns.turn(priority, len(requests)):
                    return await self._exchange(requests, decode)
        except TimeoutError:
            failure = TimedOut(self.alias, f"{_name(requests)}: no answer within {timeout_s:.3g} s")
        self._fail(failure)
        raise failure

    def note_outrun(self, seconds: float) -> None:
        """Take a request of which another node was faster."""
        self.health.outrun(seconds)

    def note_silence(self, detail: str) -> None:
        """Take a request that was given up while others had been answered: the node is checked before it is asked again."""
        self._fail(Unreachable(self.alias, detail))

    def note_lag(self, reason: str) -> None:
        """Ask this node last until it has caught up."""
        self.health.lag(reason, self._clock.monotonic_s())
        self.tell()

    def keeps_up(self) -> None:
        """Take a newest block that agrees with the others'."""
        self.health.agrees(self._clock.monotonic_s())
        self.tell()

    def unopposed(self) -> None:
        """Take a passed check while no other node's word counts."""
        self.health.unopposed(self._clock.monotonic_s())
        self.tell()

    def quarantine(self, reason: str, sentence_s: float) -> None:
        """Ask this node only where no other answers, until it agrees with them again."""
        self.health.quarantine(reason, sentence_s, self._clock.monotonic_s())
        self.tell()

    def convict(self, reason: str) -> None:
        """Put aside a node whose word about a fact was outvoted."""
        self.health.convict(reason, self._clock.monotonic_s())
        self.tell()

    def refuse(self, state: NodeState, reason: str) -> None:
        """Stop using the node."""
        self.health.refuse(state, reason, self._clock.monotonic_s())
        self.tell()

    def check_failed(self, reason: str) -> None:
        """Take a failed check."""
        self.health.check_failed(reason, self._clock.monotonic_s())
        self.tell()

    def verified(self) -> None:
        """Take a passed check."""
        self.health.verified(self._clock.monotonic_s())
        self.tell()

    def tell(self) -> None:
        """Report the node's state where it changed."""
        state = self.health.state
        if state is not self._told:
            self._told = state
            self.changed.set()
            self._observer.event("rpc.node_state", node=self.alias, state=state.value, reason=self.health.reason)

    async def close(self) -> None:
        """Close the connections."""
        await self._turns.close()
        await self._transport.close()

    async def _exchange(self, requests: Sequence[Request], decode: Decode[T]) -> T:
        failure: NodeFailure
        try:
            value = decode(await self._answered(requests))
        except NodeFailure as caught:
            failure = caught
        except Absent:
            failure = BlockUnknown(self.alias, f"{_name(requests)}: null instead of an answer")
        except (ValueError, RecursionError):
            failure = BadResponse(self.alias, f"{_name(requests)}: {_UNREADABLE}")
        else:
            return value
        self._fail(failure)
        raise failure

    async def _answered(self, requests: Sequence[Request]) -> list[Answer]:
        """Post the calls, in several requests only where the node takes no more at once."""
        answers: list[Answer] = []
        name = _name(requests)
        most = min(self.max_batch, self.learnt.answer_calls.get(name, _MAX_BATCH))
        while rest := requests[len(answers) :]:
            part = rest[:most]
            try:
                answers += await self._post(part)
            except BatchTooLarge as refused:
                if len(part) == 1:
                    raise
                most = len(part) // 2
                if not isinstance(refused, AnswerTooLarge):
                    self.learnt.batch_size = most
                elif name != _MIXED:
                    self.learnt.answer_calls[name] = most
        return answers

    async def _post(self, requests: Sequence[Request]) -> list[Answer]:
        first_id = self._next_id
        self._next_id += len(requests)
        started_s = self._clock.monotonic_s()
        label = "cancelled"
        try:
            guard = self.may_send if any(method == RAW_SEND for method, _ in requests) else None
            found = await self._transport.exchange(frame(requests, first_id), first_id, guard)
            answers = self._answers(requests, found, first_id)
        except NodeFailure as failure:
            label = failure.label
            raise
        else:
            self.health.succeeded(self._clock.monotonic_s() - started_s)
            label = result_label(answers)
            return answers
        finally:
            self._observer.request(
                node=self.alias,
                method=_name(requests),
                result=label,
                seconds=self._clock.monotonic_s() - started_s,
                requests=len(requests),
            )

    def _answers(self, requests: Sequence[Request], found: list[Envelope], first_id: int) -> list[Answer]:
        """Put the answers into the order of the calls; each id must be there exactly once."""
        if len(requests) > 1 and len(found) == 1 and not is_null(found[0].error):
            whole = refusal(found[0].error, node=self.alias, method="", mask=self.mask)
            raise whole if isinstance(whole, NodeFailure) else BatchTooLarge(self.alias, str(whole))
        if len(found) != len(requests):
            raise BadResponse(self.alias, f"{_name(requests)}: {len(found)} answers to {len(requests)} calls")
        by_id = {item.id: item for item in found if isinstance(item.id, int)}
        if len(requests) == 1 and found[0].id is None and not is_null(found[0].error):
            by_id = {first_id: found[0]}
        answers = []
        for place, (method, _) in enumerate(requests):
            item = by_id.get(first_id + place)
            if item is None:
                raise BadResponse(self.alias, f"{_name(requests)}: an answer with a wrong id")
            answers.append(self._answer(item, method))
        return answers

    def _answer(self, item: Envelope, method: str) -> Answer:
        if is_null(item.error):
            if len(memoryview(item.result)) == 0:
                raise BadResponse(self.alias, f"{method}: neither a result nor an error")
            return item.result
        outcome = refusal(item.error, node=self.alias, method=method, mask=self.mask)
        if isinstance(outcome, MethodMissing):
            self.learnt.missing_methods[method] = self._clock.monotonic_s() + _ASK_AGAIN_S
        if isinstance(outcome, NodeFailure):
            raise outcome
        return outcome

    def _fail(self, failure: NodeFailure) -> None:
        self.health.failed(failure, self._clock.monotonic_s(), is_lone=self.is_lone)
        if isinstance(failure, RateLimited):
            self._turns.slow_down()
            self._observer.event("rpc.rate_limited", node=self.alias, retry_after_s=failure.retry_after_s)
        self.tell()


def _name(requests: Sequence[Request]) -> str:
    """Return the one method of a request, or that there are several."""
    methods = Counter(method for method, _ in requests)
    return next(iter(methods)) if len(methods) == 1 else _MIXED

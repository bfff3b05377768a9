"""Decisive reads: what two nodes say alike, before money is spent on it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from keeper.chain.endpoint import Endpoint
from keeper.chain.failures import BadResponse, BlockUnknown, NodeFailure, RpcError, TimedOut
from keeper.chain.health import NodeState
from keeper.chain.observer import Observer
from keeper.chain.wire import Answer, Decode, Request, present, quantity_of
from keeper.domain.ports import Clock
from keeper.errors import Transient

T = TypeVar("T")

CHAIN: Final[Request] = ("eth_chainId", ())
_AT_FIRST: Final = 2
_ASK_AGAIN_S: Final = 0.1
_LEAST_PATIENCE_S: Final = 0.5
_PATIENCE: Final = 3
"""How long to wait for a second word, against how long the first one took."""


class Contradiction(Transient):
    """Nodes contradict each other about a fact of one block, and no majority settles it."""


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """What a node answers that turned out to be on another chain."""

    chain_id: int


def itself(value: Any) -> Hashable:
    """Return a value whose equality is what agreement means."""
    return value  # type: ignore[no-any-return] # what is decoded is frozen


def first(values: Sequence[T]) -> T:
    """Return any of values that say the same."""
    return values[0]


class Witness:
    """Takes one node's word: not that of a node on another chain, and not before it had time to get the block."""

    def __init__(self, chain_id: int, clock: Clock, *, patience_s: float) -> None:
        """Take the chain that each answer must be of."""
        self._chain_id = chain_id
        self._clock = clock
        self._patience_s = patience_s

    def decoding(self, decode: Decode[T]) -> Decode[T | _Elsewhere]:
        """Return how to decode answers of which the last one is of `CHAIN`: to that chain's number where it is not ours."""

        def decoded(answers: Sequence[Answer]) -> T | _Elsewhere:
            told = quantity_of(present(answers[-1]))
            return decode(answers[:-1]) if told == self._chain_id else _Elsewhere(told)

        return decoded

    async def hear(self, once: Callable[[Endpoint], Awaitable[T | _Elsewhere]], node: Endpoint) -> T:
        """Ask a node, and again for a short while where it lacks the block, which may be on its way there."""
        end_s = self._clock.monotonic_s() + self._patience_s
        while True:
            try:
                word = await once(node)
            except BlockUnknown:
                if self._clock.monotonic_s() >= end_s:
                    raise
                await asyncio.sleep(_ASK_AGAIN_S)
                continue
            if isinstance(word, _Elsewhere):
                node.refuse(NodeState.WRONG_CHAIN, f"is on chain {word.chain_id}, not {self._chain_id}")
                raise BadResponse(node.alias, node.health.reason)
            return word


@dataclass(slots=True)
class _Camp(Generic[T]):
    """The nodes that say the same."""

    nodes: list[Endpoint] = field(default_factory=list)
    values: list[T] = field(default_factory=list)
    refusal: RpcError | None = None


class Quorum(Generic[T]):
    """Asks nodes for one fact: two at once, another one for each that fails or is slow, all when two contradict."""

    def __init__(
        self,
        nodes: Sequence[Endpoint],
        attempt: Callable[[Endpoint], Awaitable[T]],
        *,
        alike: Callable[[T], Hashable],
        subject: str,
        clock: Clock,
        observer: Observer,
    ) -> None:
        """Take the nodes, best first. `alike` gives equal keys to values that say the same; `subject` names the fact."""
        self._waiting = deque(nodes)
        self._attempt = attempt
        self._alike = alike
        self._subject = subject
        self._clock = clock
        self._observer = observer
        self._running: dict[asyncio.Task[T], tuple[Endpoint, float]] = {}
        self._camps: dict[Hashable, _Camp[T]] = {}
        self._failures: list[NodeFailure] = []

    async def decide(self, *, hedge_s: float, timeout_s: float) -> Sequence[T]:
        """Return what the nodes say that agree: of two at least, or of one where every other failed to answer.

        Raises: Contradiction without a majority; NodeFailure when no node answers; RpcError when they agree to refuse.
        """
        started_s = self._clock.monotonic_s()
        end_s = patient_s = started_s + timeout_s
        is_silence = False
        try:
            while (camp := self._settled()) is None and (self._running or self._waiting):
                self._start()
                left_s = (patient_s if len(self._camps) == 1 else end_s) - self._clock.monotonic_s()
                if left_s <= 0:
                    break
                patience_s = min(hedge_s, left_s) if self._waiting else left_s
                done, _ = await asyncio.wait(self._running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._count(self._running.pop(task)[0], task)
                if len(self._camps) == 1 and not self._waiting:
                    now_s = self._clock.monotonic_s()
                    patient_s = min(end_s, now_s + max(_LEAST_PATIENCE_S, _PATIENCE * (now_s - started_s)))
                if not done and self._waiting:
                    self._ask(self._waiting.popleft())
            is_silence = camp is None
        finally:
            await self._stop(is_silence=is_silence)
        return self._verdict(camp or self._settled())

    def _start(self) -> None:
        """Keep as many nodes under way as may still be needed."""
        is_split = len(self._camps) > 1
        wanted = _AT_FIRST - len(self._camps)
        while self._waiting and (is_split or len(self._running) < wanted):
            self._ask(self._waiting.popleft())

    def _ask(self, node: Endpoint) -> None:
        task = asyncio.create_task(_of(self._attempt(node)), name=f"agree {node.alias}")
        self._running[task] = node, self._clock.monotonic_s()

    def _count(self, node: Endpoint, task: asyncio.Task[T]) -> None:
        """Take a node's word, or its failure, which is none."""
        try:
            value = task.result()
        except NodeFailure as failure:
            self._failures.append(failure)
        except RpcError as refused:
            camp = self._camps.setdefault((refused.is_revert, refused.is_too_heavy, refused.data), _Camp())
            camp.nodes.append(node)
            camp.refusal = camp.refusal or refused
        else:
            camp = self._camps.setdefault((self._alike(value),), _Camp())
            camp.nodes.append(node)
            camp.values.append(value)

    def _settled(self) -> _Camp[T] | None:
        """Return the camp that no outstanding answer can outvote, if it is one of two nodes at least."""
        camps = sorted(self._camps.values(), key=lambda camp: len(camp.nodes), reverse=True)
        if not camps or len(camps[0].nodes) < _AT_FIRST:
            return None
        outstanding = len(self._running) + len(self._waiting) if len(camps) > 1 else 0
        second = len(camps[1].nodes) if len(camps) > 1 else 0
        return camps[0] if len(camps[0].nodes) > second + outstanding else None

    def _verdict(self, camp: _Camp[T] | None) -> Sequence[T]:
        camps = list(self._camps.values())
        if camp is None and len(camps) == 1:
            (camp,) = camps
        if camp is None:
            raise self._disagreement() if camps else self._silence()
        self._blame(camp)
        if camp.refusal is not None:
            raise camp.refusal
        return camp.values

    def _blame(self, majority: _Camp[T]) -> None:
        """Put aside the nodes that were outvoted."""
        wrong = [node for camp in self._camps.values() if camp is not majority for node in camp.nodes]
        for node in wrong:
            node.convict(f"contradicts {len(majority.nodes)} others about {self._subject}")
        if wrong:
            aliases = ", ".join(sorted(node.alias for node in wrong))
            self._observer.event("rpc.inconsistent", method=self._subject, node=aliases, settled=True)

    def _disagreement(self) -> Contradiction:
        aliases = ", ".join(sorted(node.alias for camp in self._camps.values() for node in camp.nodes))
        self._observer.event("rpc.inconsistent", method=self._subject, node=aliases, settled=False)
        return Contradiction(f"{aliases} contradict each other about {self._subject}")

    def _silence(self) -> NodeFailure:
        plain = (each for each in self._failures if not isinstance(each, BlockUnknown))
        if self._failures:
            return next(plain, self._failures[0])
        return TimedOut("rpc", f"{self._subject}: no answer in time")

    async def _stop(self, *, is_silence: bool) -> None:
        """Give up the slower nodes; those that kept the decision waiting are not waited for again."""
        for task, (node, started_s) in self._running.items():
            task.cancel()
            if is_silence:
                node.note_silence(f"{self._subject}: silent while others answered")
            else:
                node.note_outrun(self._clock.monotonic_s() - started_s)
        if self._running:
            await asyncio.wait(self._running)


async def _of(awaitable: Awaitable[T]) -> T:
    return await awaitable

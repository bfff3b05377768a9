"""Checking nodes: at the start, when their breaker is open, and every now and then."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from keeper.chain.endpoint import Endpoint
from keeper.chain.failures import BlockUnknown, NodeFailure, RpcError
from keeper.chain.health import NodeState
from keeper.chain.observer import Observer, lasting
from keeper.chain.refusals import is_parameter_problem
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Request, only, present, quantity_of
from keeper.domain.chain import BlockHead
from keeper.domain.ports import Clock
from keeper.errors import Unsafe

_CHECK_TIMEOUT_S: Final = 2.0
_DIAL_TIMEOUT_S: Final = 5.0
_LOOK_EVERY_S: Final = 1.0
_MISSED_CHECK_S: Final = 15.0
"""How often to look at a node that was refused while it served us well, and without which one at most is left."""
_ENOUGH_OTHERS: Final = 2
_REFUSED: Final = frozenset({NodeState.WRONG_CHAIN, NodeState.UNUSABLE})
_LAG_BLOCKS: Final = 5
_CAUGHT_UP_BLOCKS: Final = 1
_WHO: Final[Sequence[Request]] = (("eth_chainId", ()), ("eth_blockNumber", ()))
_UNKNOWN_HASH: Final = "0x" + "11" * 32
_NOBODY: Final = "0x" + "00" * 19 + "01"
PINNED_PROBE: Final[Request] = (
    "eth_call",
    ({"to": _NOBODY, "data": "0x"}, {"blockHash": _UNKNOWN_HASH, "requireCanonical": True}),
)
"""A read at a block that cannot exist: a node that answers it with data does not honour the pin."""


class Patrol:
    """Verifies nodes and brings failed ones back."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        clock: Clock,
        observer: Observer,
        tip: Callable[[], tuple[BlockHead | None, int]],
    ) -> None:
        """Take the nodes, and where to learn the newest head and how far a node may be behind it; nothing runs yet."""
        self.chain_id = 0
        self._tip = tip
        self._endpoints = endpoints
        self._clock = clock
        self._observer = observer
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, chain_id: int) -> None:
        """Dial every node once, then watch each in the background.

        Raises: Unsafe when no node is on the chain, naming each and what it answered.
        """
        self.chain_id = chain_id
        await asyncio.gather(*(self._dial(endpoint, _DIAL_TIMEOUT_S) for endpoint in self._endpoints))
        if not any(endpoint.is_usable() for endpoint in self._endpoints):
            told = "; ".join(f"{each.alias}: {each.health.reason}" for each in self._endpoints)
            raise Unsafe(f"no node serves chain {chain_id}: {told}")
        self._tasks = [
            lasting(asyncio.create_task(self._watch(endpoint), name=f"patrol {endpoint.alias}"))
            for endpoint in self._endpoints
        ]

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _watch(self, endpoint: Endpoint) -> None:
        while True:
            endpoint.changed.clear()
            wait_s = self._due_s(endpoint) - self._clock.monotonic_s()
            if wait_s <= 0:
                await self._dial(endpoint)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, _LOOK_EVERY_S)):
                    await endpoint.changed.wait()

    def _due_s(self, endpoint: Endpoint) -> float:
        """Return when to check a node: as planned, but soon where no node at all, or only one, can be asked."""
        health, others = endpoint.health, len(self._others(endpoint))
        if health.state is NodeState.UNREACHABLE and not others:
            return min(health.check_due_s, health.checked_s + _LOOK_EVERY_S)
        if health.is_verified and others < _ENOUGH_OTHERS and health.state in _REFUSED:
            return min(health.check_due_s, health.checked_s + _MISSED_CHECK_S)
        return health.check_due_s

    def _others(self, endpoint: Endpoint) -> list[Endpoint]:
        """Return the other nodes whose word counts."""
        return [
            each
            for each in self._endpoints
            if each is not endpoint and each.is_usable() and not each.health.is_quarantined
        ]

    async def _dial(self, endpoint: Endpoint, timeout_s: float = _CHECK_TIMEOUT_S) -> None:
        """Ask a node for its chain and head, and move its state accordingly."""
        endpoint.health.checked_s = self._clock.monotonic_s()
        endpoint.is_lone = not self._others(endpoint)
        try:
            chain_id, number = await endpoint.ask(_WHO, _two_quantities, priority=Priority.HEAD, timeout_s=timeout_s)
            if chain_id != self.chain_id:
                endpoint.refuse(NodeState.WRONG_CHAIN, f"is on chain {chain_id}, not {self.chain_id}")
                return
            if endpoint.learnt.is_pinned_exact is None:
                await self._learn_pinned(endpoint, timeout_s)
        except (NodeFailure, RpcError) as failure:
            endpoint.check_failed(str(failure))
            return
        endpoint.health.head_number = number
        behind = await self._behind(endpoint, number)
        endpoint.verified()
        if behind:
            endpoint.note_lag(behind)
        elif endpoint.is_lone:
            endpoint.unopposed()

    async def _behind(self, endpoint: Endpoint, number: int) -> str:
        """Return how far a node is behind the others, or nothing when it keeps up."""
        others = self._others(endpoint)
        best = max((each.health.head_number or 0 for each in others), default=0)
        allowed = _LAG_BLOCKS
        tip, most_behind = self._tip()
        if tip is not None and others:
            best, allowed = tip.number, most_behind
        elif others and endpoint.health.state is NodeState.OUT_OF_SYNC:
            allowed = _CAUGHT_UP_BLOCKS
            with suppress(NodeFailure, RpcError):
                requests = [("eth_blockNumber", ())]
                best = await others[0].ask(requests, _quantity, priority=Priority.HEAD, timeout_s=_CHECK_TIMEOUT_S)
        return f"{best - number} blocks behind" if number + allowed < best else ""

    async def _learn_pinned(self, endpoint: Endpoint, timeout_s: float) -> None:
        """Find out whether the node honours reads that are pinned to a block hash."""
        try:
            refused = await endpoint.ask([PINNED_PROBE], _refused, priority=Priority.HEAD, timeout_s=timeout_s)
        except BlockUnknown:
            endpoint.learnt.is_pinned_exact = True
            return
        exact = refused is not None and not is_parameter_problem(refused)
        endpoint.learnt.is_pinned_exact = exact
        if not exact:
            reason = "does not understand block hashes in eth_call" if refused else "answers a read at an unknown block"
            self._observer.event(
                "rpc.capability", node=endpoint.alias, capability="pinned_reads", ok=False, reason=reason
            )


def _two_quantities(answers: Sequence[Answer]) -> tuple[int, int]:
    first, second = answers
    return quantity_of(present(first)), quantity_of(present(second))


def _quantity(answers: Sequence[Answer]) -> int:
    return quantity_of(only(answers))


def _refused(answers: Sequence[Answer]) -> RpcError | None:
    """Return the node's refusal of a single call, or None where it answered."""
    (answer,) = answers
    return answer if isinstance(answer, RpcError) else None

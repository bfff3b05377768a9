"""Comparing the nodes with every new head: who is behind, who follows another fork. In the background, one small question each."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.chain.endpoint import Endpoint
from keeper.chain.failures import NodeFailure, RpcError
from keeper.chain.health import NodeState
from keeper.chain.observer import Observer
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Request, head_of, is_null, present, quantity_of
from keeper.domain.chain import BlockHead
from keeper.domain.ports import Clock
from keeper.domain.units import BlockHash

_TIMEOUT_S: Final = 2.0
_SETTLE_SHARE: Final = 0.25
_SHORTEST_SETTLE_S: Final = 0.2
_LONGEST_SETTLE_S: Final = 1.0
"""How long to wait before asking: a head takes its time to reach every node."""
_LEAST_PERIOD_S: Final = 0.9
_ALLOWED_LAG_S: Final = 1.0
_FAR_AHEAD: Final = 256
_CLOSE: Final = 8
_SEVERAL: Final = 2


@dataclass(frozen=True, slots=True)
class Told:
    """What a node tells when it is compared with a head: its height, and its block below the head, where it has that."""

    number: int
    parent_hash: BlockHash | None

    def agrees(self, head: BlockHead) -> bool | None:
        """Say whether the node is on the head's chain; None where it is too far behind to know."""
        return None if self.parent_hash is None else self.parent_hash == head.parent_hash


class Lookout:
    """Puts nodes aside that are behind a head or on another fork than the majority, and takes them back."""

    def __init__(self, endpoints: Sequence[Endpoint], *, clock: Clock, observer: Observer) -> None:
        """Take the nodes; nothing runs yet."""
        self._endpoints = endpoints
        self._clock = clock
        self._observer = observer
        self._task: asyncio.Task[None] | None = None
        self._asked_s = float("-inf")
        self._split: frozenset[str] = frozenset()
        self.tip: BlockHead | None = None
        """The newest head that was seen."""
        self.most_behind = 1
        """How many blocks a node may be behind it: more than one only where blocks are faster than they travel."""

    def saw(self, head: BlockHead, *, chain_id: int, source: str, interval_s: float) -> None:
        """Take a new head and compare the other nodes with it soon, at most about once a second.

        `source`: the node that delivered it. Where that is none of ours, the best node is not asked: whatever is read
        of it next tells as much.
        """
        self.tip = head
        self.most_behind = max(1, int(_ALLOWED_LAG_S / max(interval_s, 0.001)))
        usable = [each for each in self._endpoints if each.is_usable()]
        best = min(usable, key=lambda each: each.health.rank(), default=None)
        known = next((each for each in usable if each.alias == source), best)
        others = [each for each in usable if each is not known]
        is_busy = self._task is not None and not self._task.done()
        if not others or is_busy or self._clock.monotonic_s() < self._asked_s + _LEAST_PERIOD_S:
            return
        self._asked_s = self._clock.monotonic_s()
        speaker = known if known is not None and known.alias == source else None
        self._task = asyncio.create_task(self._later(head, speaker, others, chain_id, interval_s), name="lookout")

    async def close(self) -> None:
        """Stop comparing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _later(
        self, head: BlockHead, speaker: Endpoint | None, others: Sequence[Endpoint], chain_id: int, interval_s: float
    ) -> None:
        await asyncio.sleep(min(max(_SETTLE_SHARE * interval_s, _SHORTEST_SETTLE_S), _LONGEST_SETTLE_S))
        found = await asyncio.gather(*(self._compared(each, head, chain_id) for each in others))
        self.judge(head, speaker, {node: told for node, told in zip(others, found, strict=True) if told is not None})

    async def _compared(self, endpoint: Endpoint, head: BlockHead, chain_id: int) -> Told | None:
        """Ask a node where it is, or return None where it does not tell; one on another chain is dropped at once."""
        below = ("eth_getBlockByNumber", (hex(max(head.number - 1, 0)), False))
        question: Sequence[Request] = (("eth_chainId", ()), ("eth_blockNumber", ()), below)
        try:
            told_id, told = await endpoint.ask(question, _told, priority=Priority.BACKFILL, timeout_s=_TIMEOUT_S)
        except (NodeFailure, RpcError):
            return None
        if told_id != chain_id:
            endpoint.refuse(NodeState.WRONG_CHAIN, f"is on chain {told_id}, not {chain_id}")
            return None
        return told

    def judge(self, head: BlockHead, speaker: Endpoint | None, told: Mapping[Endpoint, Told]) -> None:
        """Move the nodes according to what they tell beside a head that `speaker` delivered."""
        agreeing = [node for node, each in told.items() if each.agrees(head) is True]
        opposed = [node for node, each in told.items() if each.agrees(head) is False]
        if speaker is not None:
            agreeing.append(speaker)
            if _is_far_off(head, list(told.values())):
                agreeing, opposed = [speaker], list(told)
        is_upheld = len(agreeing) >= len(opposed)
        for node, each in told.items():
            lag = head.number - each.number
            if lag > self.most_behind and is_upheld and node not in opposed:
                node.note_lag(f"{lag} blocks behind")
            elif node in agreeing:
                node.keeps_up()
        if speaker is not None and len(agreeing) > 1:
            speaker.keeps_up()
        self._settle(head, agreeing, opposed)

    def _settle(self, head: BlockHead, agreeing: Sequence[Endpoint], opposed: Sequence[Endpoint]) -> None:
        """Put the minority aside; an even split is only told."""
        is_settled = len(agreeing) != len(opposed)
        split = frozenset(node.alias for node in opposed) if agreeing else frozenset()
        if split and split != self._split:
            told = {"method": "newHeads", "node": ", ".join(sorted(split)), "settled": is_settled}
            self._observer.event("rpc.inconsistent", block=head.number, **told)
        self._split = split
        if is_settled:
            for node in min(agreeing, opposed, key=len):
                node.quarantine(f"on another fork at block {head.number - 1}", 0.0)


def _is_far_off(head: BlockHead, told: Sequence[Told]) -> bool:
    """Say whether a head is from a future that several others, close together, know nothing of."""
    numbers = [each.number for each in told]
    if len(numbers) < _SEVERAL or max(numbers) - min(numbers) > _CLOSE:
        return False
    return head.number > max(numbers) + _FAR_AHEAD


def _told(answers: Sequence[Answer]) -> tuple[int, Told]:
    chain_id, number, below = map(present, answers)
    return quantity_of(chain_id), Told(quantity_of(number), None if is_null(below) else head_of(below).hash)

"""The logs of single blocks: asked by block hash, skipped where the bloom proves that there are none."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from keeper.chain.bloom import BloomTest
from keeper.chain.failures import BlockUnknown
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Decode, Request, hex_of, logs_of, present
from keeper.domain.chain import BlockHead, Log, LogFilter
from keeper.domain.units import BlockHash
from keeper.errors import Stale, Transient

_FILTERS_KEPT: Final = 8
_DOUBTS_KEPT: Final = 64
_ASKED_AGAIN: Final = 5
"""How often a block is asked about again whose logs only one node could tell, and left out against all likelihood."""
_Found: TypeAlias = list[list[Log]]
"""The logs of some blocks, block by block."""


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A block that should have had logs of a filter, and how often it was asked about again."""

    block: BlockHead
    wanted: LogFilter
    times: int


class BlockLogs:
    """Reads the logs of blocks by their hashes, which fails for an unknown block and so never hides one.

    Some chains leave the bloom empty. An all-zero bloom counts as proof only after a filled one was seen.
    """

    def __init__(self, rpc: Rpc, *, deadline_s: float | None = None) -> None:
        """Trust no empty bloom yet."""
        self._rpc = rpc
        self._deadline_s = deadline_s
        self._is_bloom_filled = False
        self._tests: OrderedDict[LogFilter, BloomTest] = OrderedDict()
        self._doubts: OrderedDict[BlockHash, _Doubt] = OrderedDict()

    async def read(self, blocks: Sequence[BlockHead], wanted: LogFilter) -> list[Log]:
        """Return the filter's logs of the blocks, in the order of the chain, in one request at most.

        Where an answer has none of a block whose bloom all but promises one, every node is asked and the fullest
        answer counts: too many logs make somebody be read once more, too few would lose him. Where only one node can be
        asked, the block is asked about again with the next ones; what that brings comes first in the answer.
        Raises: Transient when no node answers; Stale when a block is gone.
        """
        test = self._test(wanted)
        late = await self._again(wanted)
        asked = [block for block in blocks if self._may_contain(block, test)]
        if not asked:
            return late
        requests, decode = _asking(asked, wanted), partial(_checked, asked, wanted)
        try:
            found = await self._rpc.ask(requests, decode, priority=Priority.HEAD, deadline_s=self._deadline_s)
        except BlockUnknown as gone:
            raise Stale(f"a block is gone: {gone}") from None
        missing = [
            block for block, logs in zip(asked, found, strict=True) if not logs and test.is_likely(block.logs_bloom)
        ]
        if missing and len(self._rpc.usable(requests)) > 1:
            found = await self._fullest(requests, decode, found)
        elif missing:
            self._doubts |= {block.hash: _Doubt(block, wanted, 0) for block in missing}
            while len(self._doubts) > _DOUBTS_KEPT:
                self._doubts.popitem(last=False)
        return [*late, *(log for logs in found for log in logs)]

    async def _again(self, wanted: LogFilter) -> list[Log]:
        """Ask again about blocks that one node alone had no logs of, every node where there are more now."""
        doubts = [each for each in self._doubts.values() if each.wanted == wanted]
        if not doubts:
            return []
        blocks = [each.block for each in doubts]
        requests, decode = _asking(blocks, wanted), partial(_checked, blocks, wanted)
        try:
            found = await self._rpc.ask(requests, decode, priority=Priority.HEAD, deadline_s=self._deadline_s)
        except BlockUnknown:  # one of them is gone, and what it had touched is read again anyway
            self._doubts.clear()
            return []
        except Transient:
            return []
        is_settled = len(self._rpc.usable(requests)) > 1
        if is_settled:
            found = await self._fullest(requests, decode, found)
        for doubt, logs in zip(doubts, found, strict=True):
            if logs or is_settled or doubt.times + 1 >= _ASKED_AGAIN:
                self._doubts.pop(doubt.block.hash, None)
            else:
                self._doubts[doubt.block.hash] = replace(doubt, times=doubt.times + 1)
        return [log for logs in found for log in logs]

    async def _fullest(self, requests: Sequence[Request], decode: Decode[_Found], found: _Found) -> _Found:
        """Ask every node for the logs of blocks and take the most that any has of each."""
        answers = await self._rpc.everywhere(requests, decode)
        told = {alias: answer for alias, answer in answers.items() if isinstance(answer, list)}
        fullest = [max(each, key=len) for each in zip(found, *told.values(), strict=True)]
        short = sorted(alias for alias, answer in told.items() if list(map(len, answer)) < list(map(len, fullest)))
        for alias in short:
            self._rpc.endpoint(alias).note_lag("leaves out logs of a block")
        if short:
            self._rpc.observer.event("rpc.inconsistent", method="eth_getLogs", node=", ".join(short), settled=True)
        return fullest

    def _may_contain(self, block: BlockHead, test: BloomTest) -> bool:
        is_empty = not any(block.logs_bloom)
        self._is_bloom_filled = self._is_bloom_filled or not is_empty
        return test.may_contain(block.logs_bloom) or (is_empty and not self._is_bloom_filled)

    def _test(self, wanted: LogFilter) -> BloomTest:
        test = self._tests.get(wanted)
        if test is None:
            test = self._tests[wanted] = BloomTest(wanted)
            if len(self._tests) > _FILTERS_KEPT:
                self._tests.popitem(last=False)
        return test


def _asking(blocks: Sequence[BlockHead], wanted: LogFilter) -> list[Request]:
    query = filter_fields(wanted)
    return [("eth_getLogs", ({"blockHash": hex_of(block.hash), **query},)) for block in blocks]


@lru_cache(maxsize=_FILTERS_KEPT)
def filter_fields(wanted: LogFilter) -> Mapping[str, Any]:
    """Return a filter's fields of an `eth_getLogs` query; worked out once for a filter, as every head asks with it."""
    fields: dict[str, Any] = {}
    if wanted.addresses:
        fields["address"] = [hex_of(address) for address in sorted(wanted.addresses)]
    if wanted.topics:
        fields["topics"] = [[hex_of(topic) for topic in sorted(wanted.topics)]]
    return MappingProxyType(fields)


def matching(logs: Iterable[Log], wanted: LogFilter) -> list[Log]:
    """Return the logs in order and without duplicates; one that was not asked for means a wrong answer.

    Raises: ValueError.
    """
    unique: dict[tuple[BlockHash, int], Log] = {}
    for log in logs:
        if wanted.addresses and log.address not in wanted.addresses:
            raise ValueError("a log of another address")
        if wanted.topics and (not log.topics or log.topics[0] not in wanted.topics):
            raise ValueError("a log of another event")
        if unique.setdefault((log.block_hash, log.index), log) != log:
            raise ValueError("two logs in one place")
    return sorted(unique.values(), key=lambda log: (log.block_number, log.index))


def _checked(blocks: Sequence[BlockHead], wanted: LogFilter, answers: Sequence[Answer]) -> _Found:
    found: _Found = []
    for block, answer in zip(blocks, answers, strict=True):
        logs = matching(logs_of(present(answer)), wanted)
        if any(log.block_hash != block.hash or log.block_number != block.number for log in logs):
            raise ValueError("a log of another block")
        found.append(logs)
    return found

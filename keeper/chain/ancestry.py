"""The chain behind the head: which blocks are new, and which are no longer part of it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Request, head_of, hex_of, only, present
from keeper.domain.chain import BlockHead
from keeper.domain.units import BlockHash

_DEPTH: Final = 256
_STEP_BACK: Final = 8


@dataclass(frozen=True, slots=True)
class BlockRange:
    """Blocks from one number to another, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Extension:
    """How the chain grew from the last committed head.

    `new`: oldest first, ending with the head. `orphaned`: oldest first.
    `gap`: blocks before `new` that were not fetched one by one; their logs come from a range scan.
    `is_rebuild`: the common ancestor is out of reach, so nothing that was derived from logs can be trusted.
    """

    head: BlockHead
    new: tuple[BlockHead, ...]
    orphaned: tuple[BlockHead, ...] = ()
    gap: BlockRange | None = None
    is_rebuild: bool = False

    @property
    def is_gap(self) -> bool:
        """Return whether a range scan is needed."""
        return self.gap is not None


class Ancestry:
    """Keeps the last headers and finds, for each head, the way that leads to it. `extend` changes nothing, `commit` does."""

    def __init__(self, rpc: Rpc, *, depth: int = _DEPTH) -> None:
        """Start knowing no block."""
        self._rpc = rpc
        self.depth = depth
        self._ring: dict[int, BlockHead] = {}
        self._tip: BlockHead | None = None

    @property
    def tip(self) -> BlockHead | None:
        """Return the last committed head."""
        return self._tip

    def block(self, number: int) -> BlockHead | None:
        """Return the committed block of that number, while it is in the ring."""
        return self._ring.get(number)

    async def extend(self, head: BlockHead) -> Extension:
        """Return the blocks that lead from the last committed head to this one, and those that are orphaned.

        Raises: Transient when no node answers, or none agrees with the head yet.
        """
        tip = self._tip
        if tip is None:
            return Extension(head, (head,))
        if self._holds(head.number, head.hash):
            return Extension(head, (), self._above(head.number))
        missing = head.number - tip.number - 1
        if missing > self.depth:
            return await self._across_gap(head)
        path = [head]
        if missing > 0:
            path = [*await self._numbered(range(tip.number + 1, head.number)), head]
            if not _is_linked(path):
                path = [head]
        while not self._holds(path[0].number - 1, path[0].parent_hash):
            lowest = path[0].number
            if lowest <= min(self._ring) or lowest == 0:
                return Extension(head, (head,), self._above(-1), is_rebuild=True)
            path = [*await self._before(path[0], max(min(self._ring), lowest - _STEP_BACK)), *path]
            path = self._from_fork(path)
        return Extension(head, tuple(path), self._above(path[0].number - 1))

    def commit(self, extension: Extension) -> None:
        """Take the extension's head as the one that the next extension starts from."""
        if extension.is_rebuild or extension.gap is not None:
            self._ring.clear()
        for orphan in extension.orphaned:
            if self._holds(orphan.number, orphan.hash):
                del self._ring[orphan.number]
        for block in extension.new:
            self._ring[block.number] = block
        self._tip = extension.head
        self._ring.setdefault(extension.head.number, extension.head)
        for number in [number for number in self._ring if number <= extension.head.number - self.depth]:
            del self._ring[number]
        if extension.orphaned:
            self._rpc.observer.event(
                "chain.reorg",
                block=extension.head.number,
                depth=len(extension.orphaned),
                is_rebuild=extension.is_rebuild,
            )

    def _holds(self, number: int, block_hash: BlockHash) -> bool:
        known = self._ring.get(number)
        return known is not None and known.hash == block_hash

    def _above(self, number: int) -> tuple[BlockHead, ...]:
        return tuple(self._ring[each] for each in sorted(self._ring) if each > number)

    def _from_fork(self, path: list[BlockHead]) -> list[BlockHead]:
        """Drop the oldest blocks of a path that we have already."""
        return [block for block in path if not self._holds(block.number, block.hash)]

    async def _across_gap(self, head: BlockHead) -> Extension:
        """Bridge more blocks than are fetched one by one: find what of ours is still canonical."""
        numbers = sorted(self._ring)
        canonical = await self._numbered(numbers)
        kept = [block.number for block in canonical if self._holds(block.number, block.hash)]
        if not kept:
            return Extension(head, (head,), self._above(-1), is_rebuild=True)
        return Extension(head, (head,), self._above(max(kept)), gap=BlockRange(max(kept) + 1, head.number - 1))

    async def _before(self, block: BlockHead, lowest: int) -> list[BlockHead]:
        """Fetch the ancestors of a block down to a number, by number where that is consistent, else the parent alone."""
        found = await self._numbered(range(lowest, block.number))
        if _is_linked([*found, block]):
            return found
        parent = ("eth_getBlockByHash", (hex_of(block.parent_hash), False))
        return [await self._rpc.ask([parent], _one_head, priority=Priority.HEAD)]

    async def _numbered(self, numbers: Sequence[int]) -> list[BlockHead]:
        requests: list[Request] = [("eth_getBlockByNumber", (hex(number), False)) for number in numbers]
        if not requests:
            return []
        return await self._rpc.ask(requests, partial(_heads, numbers), priority=Priority.HEAD)


def _is_linked(path: Sequence[BlockHead]) -> bool:
    return all(
        child.parent_hash == parent.hash and child.number == parent.number + 1
        for parent, child in itertools.pairwise(path)
    )


def _one_head(answers: Sequence[Answer]) -> BlockHead:
    return head_of(only(answers))


def _heads(numbers: Sequence[int], answers: Sequence[Answer]) -> list[BlockHead]:
    found = [head_of(present(answer)) for answer in answers]
    if [block.number for block in found] != list(numbers):
        raise ValueError("other blocks than asked for")
    return found

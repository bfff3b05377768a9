"""What only logs name, positions above all: found in old logs once, kept in the store, and added to as blocks arrive.

Coverage is stored only up to a distance behind the head that no ordinary reorganisation reaches, together with the
hash of its last block: a restart that finds another hash there looks again from the beginning.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final

from keeper.chain.ancestry import BlockRange
from keeper.chain.backfill import Progress, RangeScan
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, head_of, is_null, present
from keeper.domain.chain import BlockHead, Log
from keeper.domain.ports import Market
from keeper.domain.units import BlockHash, PositionId
from keeper.errors import Transient
from keeper.store.findings import Cursor, Findings

BEHIND_HEAD: Final = 64
"""How many blocks the stored coverage stays behind the head."""
SAVE_EVERY: Final = 256
"""How many blocks of coverage are worth a write of their own while nothing new is found."""


class Discovery:
    """Find what every market's logs name and remember how far that went."""

    def __init__(self, rpc: Rpc, findings: Findings | None, *, is_read_only: bool = False) -> None:
        """Look through a started pool; without a store, or with one that is only read, nothing is remembered."""
        self._rpc = rpc
        self._findings = findings
        self._is_read_only = is_read_only
        self._unsaved: dict[str, dict[PositionId, int]] = {}
        self._saved_to: dict[str, int] = {}
        self._looked: dict[str, tuple[dict[PositionId, int], BlockHead]] = {}

    async def catch_up(
        self, market: Market, head: BlockHead, on_progress: Callable[[str, Progress], None] | None = None
    ) -> list[PositionId]:
        """Return everything that the market's discovery logs name up to the head.

        Raises: Transient when a range cannot be read; what was scanned before stays stored.
        """
        known, first = await self._resume(market)
        scan = RangeScan(self._rpc, market.reader.discovery_filter)
        safe_to = head.number - BEHIND_HEAD

        def tell(progress: Progress) -> None:
            if on_progress is not None:
                on_progress(market.name, progress)

        for begin, end in ((first, safe_to), (max(first, safe_to + 1), head.number)):
            if begin > end:
                continue
            async with aclosing(scan.run(BlockRange(begin, end), tell)) as pieces:
                async for piece, logs in pieces:
                    found = _first_blocks(market, logs)
                    known.update({each: at for each, at in found.items() if each not in known})
                    if end == safe_to:
                        await self._save(market, piece, found)
                    else:
                        self._unsaved.setdefault(market.place, {}).update(found)
        if self._store is None:
            self._looked[market.place] = known, head
        return list(known)

    def note(self, market: Market, found: Iterable[PositionId], head: BlockHead) -> None:
        """Remember what a pass found until `keep` has stored them."""
        unsaved = self._unsaved.setdefault(market.place, {})
        for each in found:
            unsaved.setdefault(each, head.number)

    async def keep(self, market: Market, behind: BlockHead | None) -> None:
        """Store what was noted, and the coverage up to `behind`, where that is worth a write.

        Raises: StoreFailed, after which the next call tries again.
        """
        unsaved = self._unsaved.setdefault(market.place, {})
        first = self._saved_to.get(market.place, market.from_block - 1) + 1
        if self._store is None or behind is None or behind.number < first:
            return
        if unsaved or behind.number - first >= SAVE_EVERY:
            cursor = Cursor(market.place, first, behind.number, behind.hash)
            await self._store.save(cursor, unsaved.items())
            self._saved_to[market.place] = behind.number
            unsaved.clear()

    @property
    def _store(self) -> Findings | None:
        """Return where to write, if anywhere."""
        return None if self._is_read_only else self._findings

    async def _resume(self, market: Market) -> tuple[dict[PositionId, int], int]:
        """Return what is known and the first block to scan."""
        if market.place in self._looked:
            known, last = self._looked[market.place]
            canonical = await self._head(last.number)
            if canonical is not None and canonical.hash == last.hash:
                return known, last.number + 1
        if self._findings is None:
            return {}, market.from_block
        cursor = await self._findings.cursor(market.place)
        known = await self._findings.load(market.place)
        if cursor is None:
            return known, market.from_block
        canonical = await self._head(cursor.scanned_to)
        if cursor.from_block > market.from_block or canonical is None or canonical.hash != cursor.scanned_hash:
            if self._store is not None:
                self._saved_to.pop(market.place, None)
                await self._store.rewind(market.place, -1, _NOWHERE)
            return known, market.from_block
        self._saved_to[market.place] = cursor.scanned_to
        return known, cursor.scanned_to + 1

    async def _save(self, market: Market, piece: BlockRange, found: dict[PositionId, int]) -> None:
        if self._store is None:
            return
        last = await self._head(piece.last)
        if last is None:
            raise Transient(f"the node has logs up to block {piece.last}, but not the block")
        await self._store.save(Cursor(market.place, piece.first, piece.last, last.hash), found.items())
        self._saved_to[market.place] = piece.last

    async def _head(self, number: int) -> BlockHead | None:
        request = ("eth_getBlockByNumber", (hex(number), False))
        return await self._rpc.ask([request], _head_or_none, priority=Priority.BACKFILL)


_NOWHERE: Final = BlockHash(bytes(32))


def _first_blocks(market: Market, logs: Sequence[Log]) -> dict[PositionId, int]:
    """Return everything that the logs name with the first block that does."""
    found: dict[PositionId, int] = {}
    for log in logs:
        for each in market.reader.named([log]):
            found.setdefault(each, log.block_number)
    return found


def _head_or_none(answers: Sequence[Answer]) -> BlockHead | None:
    raw = present(answers[0])
    return None if is_null(raw) else head_of(raw)

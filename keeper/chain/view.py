"""What a pass needs of the network, in one object: the way to a head, its logs, reads pinned to it."""

from collections.abc import Sequence
from contextlib import aclosing

from keeper.chain.ancestry import Ancestry, BlockRange, Extension
from keeper.chain.backfill import scan_range
from keeper.chain.logs import BlockLogs
from keeper.chain.multicall import MULTICALL3
from keeper.chain.reads import PinnedReads, ReadLimits
from keeper.chain.rpc import Rpc
from keeper.chain.wire import head_of, only
from keeper.domain.chain import BlockHead, Log, LogFilter
from keeper.domain.units import Address


class ChainView:
    """The chain as passes see it."""

    def __init__(self, rpc: Rpc, *, multicall: Address = MULTICALL3, depth: int = 256) -> None:
        """Look through a started pool. `depth`: how many blocks back a reorganisation can be followed."""
        self._rpc = rpc
        self._multicall = multicall
        self._ancestry = Ancestry(rpc, depth=depth)
        self._logs = BlockLogs(rpc)
        self._limits = ReadLimits()

    @property
    def depth(self) -> int:
        """Return how many blocks back a reorganisation can be followed."""
        return self._ancestry.depth

    async def extend(self, head: BlockHead) -> Extension:
        """Return the blocks that lead from the last committed head to this one, and those that are orphaned.

        Raises: Transient; Stale when the chain moved on meanwhile.
        """
        return await self._ancestry.extend(head)

    def commit(self, extension: Extension) -> None:
        """Take the extension's head as the one that the next extension starts from."""
        self._ancestry.commit(extension)

    def ancestor(self, number: int) -> BlockHead | None:
        """Return the committed block of that number, while it is remembered."""
        return self._ancestry.block(number)

    async def logs(self, extension: Extension, wanted: LogFilter) -> Sequence[Log]:
        """Return the logs of the extension's new blocks, those of its gap before them.

        Raises: Transient; Stale when a block is gone.
        """
        across = await self._across(extension.gap, wanted) if extension.gap is not None else []
        return [*across, *await self._logs.read(extension.new, wanted)]

    def reads(self, head: BlockHead) -> PinnedReads:
        """Return reads that are pinned to the head."""
        return PinnedReads(self._rpc, head, multicall=self._multicall, limits=self._limits)

    async def _across(self, gap: BlockRange, wanted: LogFilter) -> list[Log]:
        found: list[Log] = []
        async with aclosing(scan_range(self._rpc, wanted, gap.first, gap.last)) as pieces:
            async for _, logs in pieces:
                found += logs
        self._rpc.observer.event("index.gap_filled", blocks=len(gap), logs=len(found))
        return found


async def latest_head(rpc: Rpc) -> BlockHead:
    """Return the newest block of the best node."""
    return await rpc.ask([("eth_getBlockByNumber", ("latest", False))], lambda found: head_of(only(found)))

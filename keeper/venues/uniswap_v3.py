"""Uniswap v3 and what was made of the same code: its pools in memory, read again where logs say that they changed."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from keeper.domain.abi import UINT128, number, number_word, signed, view, within, words
from keeper.domain.chain import Log, LogFilter, ViewCall, ViewResult
from keeper.domain.ports import Reads
from keeper.domain.units import Address
from keeper.errors import Invalid
from keeper.venues import uniswap_v3_factory as v3
from keeper.venues.factories import swappable
from keeper.venues.noted import Note, Noted
from keeper.venues.ticks import MAX_PRICE, MAX_TICK, MIN_PRICE, MIN_TICK, WORD_TICKS
from keeper.venues.uniswap_v3_factory import INIT_CODE_HASH, UniswapV3Factory
from keeper.venues.uniswap_v3_pool import Ladder, Listing, UniswapV3Pool, stand

WINDOW: Final = 2_500
"""Ticks to either side of the price: from 78 to 128 percent of it. No bonus pays for a worse price than that."""

_TICK_WORDS: Final = 8
_CHANGES: Final = frozenset({v3.INITIALIZE, v3.SWAP, v3.SWAP_PANCAKE, v3.MINT, v3.BURN})
_MOVES: Final = frozenset({v3.MINT, v3.BURN})


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a pool stands."""

    price: int
    tick: int
    liquidity: int

    @property
    def at(self) -> tuple[int, int]:
        """Return the tick, and the liquidity there."""
        return self.tick, self.liquidity


class UniswapV3:
    """The pools of one factory between any two of the tokens that it was told of.

    `fees` are the tiers to look for, by default the usual ones; `window` is how far around the price, in ticks, a pool
    is known: what would move the price farther has no quote. `deployer` makes the pools where the factory does not
    itself, as PancakeSwap's.
    """

    def __init__(
        self,
        name: str,
        factory: Address,
        *,
        init_code_hash: bytes = INIT_CODE_HASH,
        fees: Sequence[int] = (),
        window: int = WINDOW,
        deployer: Address | None = None,
    ) -> None:
        """Keep where to begin; the chain is asked by `discover`."""
        self._factory = UniswapV3Factory(name, factory, init_code_hash, fees, deployer)
        self._window = window
        self._pairs: frozenset[tuple[Address, Address]] = frozenset()
        self._listings: dict[Address, Listing] = {}
        self._pools: dict[Address, UniswapV3Pool] = {}
        self._noted = Noted()

    @property
    def name(self) -> str:
        """Return its name in the chain file."""
        return self._factory.name

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that change its known pools, and those of new ones."""
        return LogFilter(frozenset({self._factory.root, *self._listings}), _CHANGES | {v3.POOL_CREATED})

    async def discover(self, reads: Reads, pairs: Collection[tuple[Address, Address]]) -> None:
        """Find the pools of some pairs of tokens, each pair sorted; those that it knows are not looked for again.

        Raises: Transient, Stale; Unsafe when the root is not what the chain file says it is.
        """
        new = swappable(pairs) - self._pairs
        for listing in await self._factory.find(reads, sorted(new)):
            self._add(listing, reads.head.number)
        self._pairs |= new

    def _add(self, listing: Listing, block: int) -> None:
        if listing.address not in self._listings:
            self._listings[listing.address] = listing
            self._noted.add(listing.address, Note(block, is_all=True))

    def follow(self, logs: Iterable[Log]) -> None:
        """Note which pools the logs of new blocks changed, and which are new."""
        for log in logs:
            event = log.topics[0] if log.topics else b""
            if log.address in self._listings and event in _CHANGES:
                ticks = (signed(int.from_bytes(each, "big")) for each in log.topics[2:4] if event in _MOVES)
                self._noted.add(log.address, Note(log.block_number, ticks=frozenset(ticks)))
            elif (listing := self._factory.created(log, self._pairs)) is not None:
                self._add(listing, log.block_number)

    def distrust(self) -> None:
        """Note that every pool has to be read again: blocks were orphaned, or logs are missing."""
        self._noted.distrust(self._listings)

    async def pools(self, reads: Reads) -> Sequence[UniswapV3Pool]:
        """Return every known pool at the reads' head that has anything to give, reading only those that have changed.

        One that answers nonsense is left out, and tried again at the next head.
        Raises: Transient, Stale; what was noted is then noted still.
        """
        noted = self._noted.waiting
        found = await self._read(reads, noted)
        for pool, note in noted.items():
            if (read := found.get(pool)) is None:
                self._pools.pop(pool, None)
            else:
                self._pools[pool] = read
            if pool in found:
                self._noted.settle(pool, note, reads.head.number)
        return [self._pools[each] for each in sorted(self._pools) if self._pools[each].ladder.is_deep]

    async def _read(self, reads: Reads, noted: Mapping[Address, Note]) -> Mapping[Address, UniswapV3Pool | None]:
        """Read pools, as little of each as its note allows; None stands for one that has no price yet."""
        again = {pool: self._marked(pool, note) for pool, note in noted.items()}
        told = await _ask(reads, {pool: _questions(pool, ticks) for pool, ticks in again.items()})
        found: dict[Address, UniswapV3Pool | None] = {}
        anew: dict[Address, _Slot] = {}
        for pool, (slot0, liquidity, *ticks) in told.items():
            with suppress(Invalid):
                nets = dict(zip(again[pool], map(_net, ticks), strict=True))
                if (slot := _slot(slot0, liquidity)) is None:
                    found[pool] = None
                elif (kept := self._kept(pool, noted[pool], slot, nets)) is None:
                    anew[pool] = slot
                else:
                    found[pool] = kept
        return found | await self._read_all(reads, anew) if anew else found

    def _marked(self, pool: Address, note: Note) -> Sequence[int]:
        """Return the known ticks that changed."""
        if note.is_all or (known := self._pools.get(pool)) is None:
            return ()
        return [each for each in note.ticks if known.ladder.low < each < known.ladder.high]

    def _kept(self, pool: Address, note: Note, slot: _Slot, nets: Mapping[int, int | None]) -> UniswapV3Pool | None:
        """Return a pool with what changed, or None where it has to be read anew: the price has gone far, or it lies."""
        if note.is_all or (known := self._pools.get(pool)) is None:
            return None
        ladder, listing = known.ladder, known.listing
        if min(slot.tick - ladder.low, ladder.high - slot.tick) < self._window // 2:
            return None
        try:
            if nets:
                ladder = Ladder(listing, (ladder.low, ladder.high), _joined(ladder.nets, nets), slot.at)
            kept = stand(listing, ladder, slot.price, slot.tick)
        except Invalid:
            return None
        return kept if kept.liquidity == slot.liquidity else None

    async def _read_all(self, reads: Reads, slots: Mapping[Address, _Slot]) -> dict[Address, UniswapV3Pool | None]:
        """Read the ticks of pools around their prices, by way of their bitmaps."""
        spans = {pool: self._span(slot.tick) for pool, slot in slots.items()}
        words_of = {pool: _words(span, self._listings[pool].spacing) for pool, span in spans.items()}
        told = await _ask(
            reads, {pool: [_view(pool, v3.TICK_BITMAP, each) for each in words_of[pool]] for pool in spans}
        )
        ticks: dict[Address, Sequence[int]] = {}
        for pool, answers in told.items():
            with suppress(Invalid):
                bitmap = [number(answer, "a bitmap") for answer in answers]
                marked = _initialised(dict(zip(words_of[pool], bitmap, strict=True)), self._listings[pool].spacing)
                ticks[pool] = [each for each in marked if spans[pool][0] < each < spans[pool][1]]
        told = await _ask(reads, {pool: [_view(pool, v3.TICKS, each) for each in ticks[pool]] for pool in ticks})
        found: dict[Address, UniswapV3Pool | None] = {}
        for pool, answers in told.items():
            listing, slot = self._listings[pool], slots[pool]
            with suppress(Invalid):
                nets = _joined({}, dict(zip(ticks[pool], map(_net, answers), strict=True)))
                found[pool] = stand(listing, Ladder(listing, spans[pool], nets, slot.at), slot.price, slot.tick)
        return found

    def _span(self, tick: int) -> tuple[int, int]:
        return max(tick - self._window, MIN_TICK), min(tick + self._window, MAX_TICK)


async def _ask(reads: Reads, calls: Mapping[Address, Sequence[ViewCall]]) -> Mapping[Address, Sequence[ViewResult]]:
    """Ask everything about some pools at once."""
    answers = iter(await reads.many([call for each in calls.values() for call in each]))
    return {pool: [next(answers) for _ in each] for pool, each in calls.items()}


def _questions(pool: Address, ticks: Sequence[int]) -> Sequence[ViewCall]:
    """Return what tells where a pool stands, and about some of its ticks."""
    return [view(pool, v3.SLOT0), view(pool, v3.LIQUIDITY), *(_view(pool, v3.TICKS, each) for each in ticks)]


def _view(pool: Address, function: bytes, place: int) -> ViewCall:
    return view(pool, function, number_word(place))


def _slot(slot0: ViewResult, liquidity: ViewResult) -> _Slot | None:
    """Return where a pool stands, or None before it has a price, and where nobody can trade: at the end of all prices."""
    price, word = words(slot0, 2, "a pool's price")
    if price == 0:
        return None
    here = within(number(liquidity, "a pool's liquidity"), 0, UINT128, "a pool's liquidity")
    within(price, MIN_PRICE, MAX_PRICE, "a pool's price")
    tick = within(signed(word), MIN_TICK - 1, MAX_TICK, "a pool's tick")
    return _Slot(price, tick, here) if MIN_TICK < tick < MAX_TICK - 1 else None


def _net(answer: ViewResult) -> int | None:
    """Return the liquidity that a tick adds to a rising price, or None where no position ends there."""
    gross, net = words(answer, _TICK_WORDS, "a tick")[:2]
    within(gross, 0, UINT128, "a tick's liquidity")
    return within(signed(net), -gross, gross + 1, "a tick's liquidity") if gross else None


def _joined(nets: Mapping[int, int], new: Mapping[int, int | None]) -> Mapping[int, int]:
    """Return ticks as they are now; where no position ends any more, there is none."""
    return {tick: net for tick, net in {**nets, **new}.items() if net is not None}


def _words(span: tuple[int, int], spacing: int) -> range:
    """Return the words of a bitmap that a span of ticks is in.

    Source: TickBitmap.position
    """
    return range(span[0] // spacing // WORD_TICKS, span[1] // spacing // WORD_TICKS + 1)


def _initialised(bitmap: Mapping[int, int], spacing: int) -> Iterator[int]:
    """Return the ticks that are marked in a bitmap."""
    for place, word in bitmap.items():
        for bit in range(WORD_TICKS):
            if word >> bit & 1:
                yield (place * WORD_TICKS + bit) * spacing

"""A market's book and what the next pass owes it: nothing is struck off before it has been read again."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeper.domain.chain import BlockHead, Log, Moment
from keeper.domain.outcome import Reason
from keeper.domain.plan import Inventory
from keeper.domain.ports import Market, Snapshot, Taken
from keeper.domain.position import Health, Token
from keeper.domain.units import Address, BlockHash, PositionId
from keeper.engine.parity import Mismatch, differs
from keeper.engine.plan import Chore
from keeper.engine.scan import MarketBook, Scan
from keeper.errors import Invalid
from keeper.oracles.guard import Guard, GuardPolicy, PriceMove


@dataclass(frozen=True, slots=True)
class Reading:
    """What one batched round said of one market. `impossible` are positions whose values no contract could hold.

    `tokens` are those whose prices are to be watched from now on.
    """

    snapshot: Snapshot
    positions: Sequence[Any]
    impossible: frozenset[PositionId]
    compared: Mapping[PositionId, Health | None]
    is_rediscovered: bool
    tokens: Sequence[Token] = ()


@dataclass(frozen=True, slots=True)
class Filed:
    """What a reading changed: `impossible` and `restored` name each position once, when it is put aside or let back."""

    touched: int
    new_positions: frozenset[PositionId]
    taken: tuple[Taken, ...]
    mismatches: tuple[Mismatch, ...]
    impossible: tuple[PositionId, ...]
    restored: frozenset[PositionId]
    prices: tuple[PriceMove, ...] = ()


class Desk:
    """One market's book. The scan loop is the only owner."""

    def __init__(self, market: Market, guard: GuardPolicy | None = None) -> None:
        """Start empty."""
        self.guard = Guard(guard)
        self.books = MarketBook(market)
        self.snapshot: Snapshot | None = None
        self.pending: set[PositionId] = set()
        self.quarantined: set[PositionId] = set()
        """Positions whose local health is not the chain's."""
        self.impossible: set[PositionId] = set()
        """Positions that could not be read: what the book holds of them is old."""
        self.unsaved: dict[PositionId, Any] = {}
        """What was read since the book was last saved; None for a position that owes nothing any more."""
        self.is_stale = False
        self._redrawn: set[BlockHash] = set()
        """Remembered blocks that changed the market itself."""
        self._new: set[PositionId] = set()
        self._taken: list[Taken] = []
        self._history: dict[BlockHash, frozenset[PositionId]] = {}

    @property
    def reader(self) -> Any:
        """Return the market's reader."""
        return self.books.market.reader

    @property
    def held(self) -> frozenset[PositionId]:
        """Return the positions that are read again at every head and not trusted meanwhile."""
        return frozenset(self.quarantined | self.impossible)

    @property
    def aside(self) -> frozenset[PositionId]:
        """Return the positions of which the book knows that it holds nothing current."""
        return frozenset(self.pending | self.impossible)

    def put(self, positions: Sequence[Any], snapshot: Snapshot) -> None:
        """Take positions that were read into the book."""
        self.books.put(list(positions), snapshot)
        self.unsaved.update((each.id, each if each.has_debt else None) for each in positions)

    def unwind(self, orphaned: Iterable[BlockHead]) -> None:
        """Read again what the orphaned blocks had touched, and the market where they had changed it."""
        for block in orphaned:
            self.pending |= self._history.pop(block.hash, frozenset())
            if block.hash in self._redrawn:  # what contracts that nobody knew yet did to anybody, no log had told
                self._redrawn.discard(block.hash)
                self.is_stale = True
                self.pending |= self.books.book.positions.keys()

    def follow(self, blocks: Sequence[BlockHead], logs: Sequence[Log], *, depth: int) -> None:
        """Read again what new blocks touched; `logs` are in the order of the chain, those of a gap before `blocks`.

        What each of the last `depth` blocks touched is remembered for the case that it is orphaned.
        Raises: Invalid, after everything else was followed, where logs of the market's own contracts make no sense.
        """
        inside: dict[BlockHash, list[Log]] = {}
        for log in logs:
            inside.setdefault(log.block_hash, []).append(log)
        followed = {block.hash for block in blocks}
        senseless: list[Invalid] = []
        for block_hash in (*(each for each in inside if each not in followed), *(block.hash for block in blocks)):
            noted: frozenset[PositionId] = frozenset()
            was_stale, self.is_stale = self.is_stale, False
            try:
                noted = self._note(inside.get(block_hash, []))
            except Invalid as error:
                senseless.append(error)
            if self.is_stale:
                self._redrawn |= {block_hash} & followed
            self.is_stale = self.is_stale or was_stale
            if block_hash in followed:
                self._history[block_hash] = noted
        while len(self._history) > depth:
            oldest = next(iter(self._history))
            del self._history[oldest]
            self._redrawn.discard(oldest)
        if senseless:
            raise senseless[0]
        self._taken += self.reader.liquidations(logs)

    def distrust(self, known: Collection[PositionId]) -> None:
        """Read everything again: the positions of the book, and those that discovery knows."""
        self.reader.recall(known)
        self._history.clear()
        self._redrawn.clear()
        self.pending |= self.books.book.positions.keys() | set(known)
        self.is_stale = True

    def file(self, reading: Reading) -> Filed:
        """Take a reading into the book; what was owed to it is struck off now, and not before."""
        self.snapshot = reading.snapshot
        self.guard.learn(reading.tokens)
        prices = self.guard.watch(reading.snapshot.head, reading.snapshot)
        if reading.is_rediscovered:
            self.books.rewrite_rows(reading.snapshot)
            self.is_stale = False
        self._remember_leavers(reading)
        self.put(reading.positions, reading.snapshot)
        held = self.held
        appeared = tuple(sorted(reading.impossible - self.impossible))
        self.impossible = set(reading.impossible)
        mismatches = self._compare(reading)
        filed = Filed(
            len(self.pending),
            frozenset(self._new),
            tuple(self._taken),
            mismatches,
            appeared,
            restored=held - self.held,
            prices=prices,
        )
        self.pending.clear()
        self._new.clear()
        self._taken.clear()
        return filed

    def scan(self, at: Moment) -> Scan:
        """Find every position that can be liquidated at a moment."""
        if self.snapshot is None:
            return Scan(0, 0, ())
        return self.books.scan(self.snapshot, at, self.held)

    def chores(self, owner: Address, inventory: Inventory, at: Moment) -> list[Chore]:
        """Return what earlier liquidations left to be done for their owner."""
        market, snapshot = self.books.market, self.snapshot
        if snapshot is None:
            return []
        steps = market.rules.settlements(owner, inventory.balances, snapshot, at)
        return [Chore(market, snapshot, each) for each in steps]

    def is_trusted(self, key: PositionId, compared: Mapping[PositionId, Health | None]) -> bool:
        """Return whether a position may be acted upon: one that differs only where the chain calls it liquidatable."""
        if key in self.impossible:
            return False
        chain = compared.get(key)
        return key not in self.quarantined or (chain is not None and chain.is_liquidatable)

    def _note(self, logs: Collection[Log]) -> frozenset[PositionId]:
        """Put one block's positions on the list and return them: those that may owe something, and new ones."""
        if not logs:
            return frozenset()
        named = self.reader.named(logs)
        self.reader.recall(named)
        touched = self.reader.touched(logs)
        book = self.books.book
        ours = {each for each in touched.positions if each in book or each in self.pending or each in self.impossible}
        noted = frozenset(named | ours)
        self._new |= {each for each in named if each not in book}
        self.pending |= noted
        self.is_stale = self.is_stale or touched.is_market_changed
        return noted

    def _remember_leavers(self, reading: Reading) -> None:
        """Note who leaves the book at this head: after a reorganisation the book would not know them any more."""
        noted = self._history.get(reading.snapshot.head.hash)
        if noted is not None:
            book = self.books.book
            left = {each.id for each in reading.positions if each.id in book and not each.has_debt}
            self._history[reading.snapshot.head.hash] = noted | left

    def _compare(self, reading: Reading) -> tuple[Mismatch, ...]:
        """Quarantine positions whose local health is not the chain's, and free those that agree again."""
        mismatches = []
        for key, chain in reading.compared.items():
            position = self.books.book.position(key)
            if position is None:
                continue
            local = self.books.market.rules.assess(position, reading.snapshot, reading.snapshot.head.moment, None)
            if chain is None and local.blocked is Reason.PRICE_UNKNOWN:
                continue  # neither side can value it
            if differs(local.health, chain):
                mismatches.append(Mismatch(key, local.health, chain))
        self.quarantined -= reading.compared.keys()
        self.quarantined |= {each.id for each in mismatches}
        return tuple(mismatches)

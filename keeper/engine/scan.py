"""One market at one head: screen all positions, decide the suspects exactly."""

from dataclasses import dataclass
from typing import Any

from keeper.domain.chain import Moment
from keeper.domain.ports import Market, Position, Snapshot
from keeper.domain.position import Assessment, PositionKey
from keeper.domain.units import PositionId
from keeper.engine.book import Book
from keeper.engine.screen import Screen


@dataclass(frozen=True, slots=True)
class Candidate:
    """A position that its protocol would let anybody liquidate."""

    market: Market
    snapshot: Snapshot
    position: Position
    assessment: Assessment

    @property
    def key(self) -> PositionKey:
        """Return which position it is."""
        return PositionKey(self.market.name, self.position.id)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found: how many positions it valued, how many needed exact rules, which can be liquidated."""

    screened: int
    suspects: int
    candidates: tuple[Candidate, ...]


class MarketBook:
    """A market with its book and its screen."""

    def __init__(self, market: Market) -> None:
        """Start empty."""
        self.market = market
        self.book: Book[Any] = Book()
        self._screen = Screen()

    def put(self, positions: list[Any], snapshot: Snapshot) -> None:
        """Take positions that were just read."""
        rules = self.market.rules
        self.book.put((position, rules.row(position, snapshot)) for position in positions)

    def rewrite_rows(self, snapshot: Snapshot) -> None:
        """Write every row again, after the market's parameters changed."""
        self.put(list(self.book), snapshot)

    def scan(self, snapshot: Snapshot, at: Moment, always: frozenset[PositionId] = frozenset()) -> Scan:
        """Find every position that can be liquidated at a moment; `always` are decided exactly whatever the screen says."""
        for key in self.book.take_changed():
            self._screen.put(key, self.book.row(key))
        rules = self.market.rules
        suspects = set(self._screen.suspects(rules.weights(snapshot, self.book.columns, at)))
        suspects |= {key for key in always if key in self.book}
        candidates = []
        for key in sorted(suspects):
            position = self.book.positions[key]
            assessment = rules.assess(position, snapshot, at, None)
            if assessment.health.is_liquidatable:
                candidates.append(Candidate(self.market, snapshot, position, assessment))
        return Scan(len(self.book), len(suspects), tuple(candidates))

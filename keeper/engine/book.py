"""The positions of one market, and their linear forms. The scan loop is the only owner."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from keeper.domain.ports import Position
from keeper.domain.position import Row
from keeper.domain.units import Column, PositionId

PositionT = TypeVar("PositionT", bound=Position)


class Book(Generic[PositionT]):
    """Hold every position that owes something, with its exact state and its row.

    A row is rewritten only when its position was read again, or when the market's parameters changed.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._positions: dict[PositionId, PositionT] = {}
        self._rows: dict[PositionId, Row] = {}
        self._changed: set[PositionId] = set()
        self._columns: dict[Column, int] = {}

    def __len__(self) -> int:
        """Count the positions."""
        return len(self._positions)

    def __contains__(self, key: PositionId) -> bool:
        """Return whether there is such a position."""
        return key in self._positions

    def __iter__(self) -> Iterator[PositionT]:
        """Iterate over the positions."""
        return iter(self._positions.values())

    @property
    def positions(self) -> Mapping[PositionId, PositionT]:
        """Return the positions by their ids."""
        return self._positions

    @property
    def columns(self) -> frozenset[Column]:
        """Return the columns that some row uses."""
        return frozenset(self._columns)

    def position(self, key: PositionId) -> PositionT | None:
        """Return a position, or None where it owes nothing."""
        return self._positions.get(key)

    def row(self, key: PositionId) -> Row | None:
        """Return a position's row, or None where it owes nothing."""
        return self._rows.get(key)

    def put(self, entries: Iterable[tuple[PositionT, Row]]) -> None:
        """Replace positions and their rows; one without debt leaves the book."""
        for position, row in entries:
            key = position.id
            self._forget_columns(self._rows.get(key, ()))
            if position.has_debt:
                self._positions[key] = position
                self._rows[key] = row
                for column, _ in row:
                    self._columns[column] = self._columns.get(column, 0) + 1
            elif key in self._positions:
                del self._positions[key]
                del self._rows[key]
            else:
                continue
            self._changed.add(key)

    def take_changed(self) -> frozenset[PositionId]:
        """Return the positions whose row changed since the last call."""
        changed = frozenset(self._changed)
        self._changed.clear()
        return changed

    def _forget_columns(self, row: Row) -> None:
        for column, _ in row:
            left = self._columns[column] - 1
            if left:
                self._columns[column] = left
            else:
                del self._columns[column]

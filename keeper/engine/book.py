"""The positions of one market, and their linear forms. The scan loop is the only owner."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from keeper.domain.ports import Position
from keeper.domain.position import Row
from keeper.domain.units import Address, Column

PositionT = TypeVar("PositionT", bound=Position)


class Book(Generic[PositionT]):
    """Hold every account that owes something, with its exact state and its row.

    A row is rewritten only when its account was read again, or when the market's parameters changed.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._positions: dict[Address, PositionT] = {}
        self._rows: dict[Address, Row] = {}
        self._changed: set[Address] = set()
        self._columns: dict[Column, int] = {}

    def __len__(self) -> int:
        """Count the accounts that owe something."""
        return len(self._positions)

    def __contains__(self, account: Address) -> bool:
        """Return whether the account owes something."""
        return account in self._positions

    def __iter__(self) -> Iterator[PositionT]:
        """Iterate over the positions."""
        return iter(self._positions.values())

    @property
    def accounts(self) -> Mapping[Address, PositionT]:
        """Return the positions by account."""
        return self._positions

    @property
    def columns(self) -> frozenset[Column]:
        """Return the columns that some row uses."""
        return frozenset(self._columns)

    def position(self, account: Address) -> PositionT | None:
        """Return an account's position, or None where it owes nothing."""
        return self._positions.get(account)

    def row(self, account: Address) -> Row | None:
        """Return an account's row, or None where it owes nothing."""
        return self._rows.get(account)

    def put(self, entries: Iterable[tuple[PositionT, Row]]) -> None:
        """Replace positions and their rows; one without debt leaves the book."""
        for position, row in entries:
            account = position.account
            self._forget_columns(self._rows.get(account, ()))
            if position.has_debt:
                self._positions[account] = position
                self._rows[account] = row
                for column, _ in row:
                    self._columns[column] = self._columns.get(column, 0) + 1
            elif account in self._positions:
                del self._positions[account]
                del self._rows[account]
            else:
                continue
            self._changed.add(account)

    def take_changed(self) -> frozenset[Address]:
        """Return the accounts whose row changed since the last call."""
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

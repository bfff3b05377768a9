"""Value every position of a market at once, in floating point, with a bound that never misses.

For a row of n entries the margin is `m = sum(amount_j * weight_j)`, and the contract's own result is lower by at most
`sum(slack_j + |amount_j * weight_j| / relative_divisor_j)` (`domain.position.Weight`). Each column has the factors

    worth = weight - |weight| * (2**-44 + (1 + 2**-38) / relative_divisor),  slack' = slack * (1 + 2**-38)

and a row is named a suspect, to be decided by the protocol's exact rules, unless

    sum(amount_j * worth_j) > sum(slack'_j)                                                        (in floats)

Why no other row can be below zero: let `u = 2**-53`, `T = sum(|amount_j * weight_j|)`, `n <= 60`. Amount and weight
are each rounded correctly to float64 (2 u), the relative part, the worth and the product take at most 5 roundings more,
the sum n - 1 additions, of terms not above `2.01 * |amount_j * weight_j|`: together the float sum is off by less than
`gamma(66) * 2.01 * T < 134 * u * T`, where `gamma(k) = k*u / (1 - k*u)`. The `2**-44 = 512 * u` in the worth is more,
by enough that also every row is named which the plain test `m_f <= sum(|entry_f| * (70*u + 1/relative_divisor) +
slack)`, with its own errors of at most `135 * u * T`, would name. The sum of the slacks is of numbers that are not
negative: it is off by a factor of at most `1 + 66*u`, which `1 + 2**-38` covers. Nothing overflows or underflows: a row
with an amount of 2**300 or more is always a suspect, and so is one in a column whose weight is not 0 nor between
2**-300 and 2**300, whose slack is 2**200 or more, or whose weight nobody told.

Which rows need not even be read is proved in `engine.ranking`.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from keeper.domain.position import Row, Weight
from keeper.domain.units import Column, PositionId
from keeper.engine.ranking import EMPTY, WIDTHS, Factors, Flags, Ranking, Rows, build

ScalarT = TypeVar("ScalarT", bound=np.generic)

MAX_ENTRIES: Final = WIDTHS[-1]
_GAMMA: Final = 2.0**-44
_SUM_ROOM: Final = 1.0 + 2.0**-38
_MOST_AMOUNT: Final = 2**300
_MOST_WEIGHT: Final = 2.0**300
_MOST_SLACK: Final = 2.0**200
_UNTOLD: Final = Weight(0, 1, 2**200)
"""Stands for a weight that nobody told: beyond the proof, so that its rows are suspects."""
_LEAST_ROOM: Final = 1024
_MIN_TAIL: Final = 2_048
_TAIL_SHARE: Final = 50
_WASTE: Final = 8
"""A build costs as much as reading every row some thirty times; this many times are read in vain before one."""


class Tail:
    """Rows changed since the build, in the order in which they came: appended in place, all read at every head."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows = Rows(
            np.empty(_LEAST_ROOM, dtype=np.int32),
            np.empty(_LEAST_ROOM, dtype=np.intp),
            np.empty(_LEAST_ROOM, dtype=np.intp),
            np.empty(_LEAST_ROOM, dtype=np.uint32),
            np.empty(_LEAST_ROOM),
        )
        self._count = self._entries = 0
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        """Count the rows that are read, dropped ones too."""
        return self._count

    def drop(self, owner: int) -> None:
        """Let go of an owner's row, if there is one."""
        self._places.pop(owner, None)

    def extend(self, rows: Rows) -> None:
        """Append rows of owners that have none here."""
        count, entries = self._count + len(rows.owners), self._entries + len(rows.amounts)
        mine = self._rows
        if count > len(mine.owners) or entries > len(mine.amounts):
            mine = self._rows = Rows(
                _grown(mine.owners, count),
                _grown(mine.starts, count),
                _grown(mine.lengths, count),
                _grown(mine.columns, entries),
                _grown(mine.amounts, entries),
            )
        mine.owners[self._count : count] = rows.owners
        mine.starts[self._count : count] = rows.starts + self._entries
        mine.lengths[self._count : count] = rows.lengths
        mine.columns[self._entries : entries] = rows.columns
        mine.amounts[self._entries : entries] = rows.amounts
        self._places.update(zip(rows.owners.tolist(), range(self._count, count), strict=True))
        self._count, self._entries = count, entries

    def doubtful(self, factors: Factors) -> list[int]:
        """Return the owners of the doubtful rows."""
        places = self._view().doubtful(factors)
        owners = self._rows.owners[places].tolist()
        return [owner for owner, place in zip(owners, places.tolist(), strict=True) if self._places.get(owner) == place]

    def rows(self) -> Rows:
        """Return what was not dropped. The arrays' other parts are shared, but only ever appended to."""
        view, kept = self._view(), np.fromiter(self._places.values(), dtype=np.intp, count=len(self._places))
        return Rows(view.owners[kept], view.starts[kept], view.lengths[kept], view.columns, view.amounts)

    def _view(self) -> Rows:
        mine, count, entries = self._rows, self._count, self._entries
        return Rows(
            mine.owners[:count],
            mine.starts[:count],
            mine.lengths[:count],
            mine.columns[:entries],
            mine.amounts[:entries],
        )


class Screen:
    """A float mirror of a book's rows: a ranking of them by risk, and a small tail of rows changed since it was built."""

    def __init__(self) -> None:
        """Start empty."""
        self._pending: dict[PositionId, Row | None] = {}
        self._owners: dict[PositionId, int] = {}
        self._ids: NDArray[np.object_] = np.empty(_LEAST_ROOM, dtype=np.object_)
        self._is_stale: Flags = np.ones(_LEAST_ROOM, dtype=np.bool_)
        """By owner: the ranking's row is not the current one."""
        self._free: list[int] = []
        self._columns: dict[Column, int] = {}
        self._unprovable: set[PositionId] = set()
        self._tail = Tail()
        self._ranking: Ranking = EMPTY
        self._least = self._wasted = 0
        """How many rows the build's own factors read; how many were read beyond them since."""

    def put(self, key: PositionId, row: Row | None) -> None:
        """Set a position's row, or remove it."""
        self._pending[key] = row

    def suspects(self, weights: Mapping[Column, Weight]) -> list[PositionId]:
        """Name every position that is not certainly solvent under the weights.

        Rows with more than `MAX_ENTRIES` entries or with none, or with a value that is not a number, are always suspects.
        """
        self._take_pending()
        factors = self._factors(weights)
        if self._is_build_due:
            self._build(factors)
        prefixes = self._ranking.prefixes(factors)
        self._wasted += max(0, sum(prefixes) - self._least) + len(self._tail)
        found = list(self._unprovable)
        for owners in self._ranking.doubtful(factors, prefixes):
            current = np.sort(owners[~self._is_stale[owners]])  # in the order in which their ids lie in memory
            found.extend(self._ids[current].tolist())
        found.extend(self._ids[self._tail.doubtful(factors)].tolist())
        return found

    @property
    def _is_build_due(self) -> bool:
        rows = self._ranking.rows
        return len(self._tail) > max(_MIN_TAIL, rows // _TAIL_SHARE) or self._wasted > _WASTE * max(rows, _MIN_TAIL)

    def _build(self, factors: Factors) -> None:
        self._ranking = build(self._ranking, self._is_stale, self._tail.rows(), factors)
        self._tail = Tail()
        self._is_stale[:] = False
        self._least, self._wasted = sum(self._ranking.prefixes(factors)), 0

    def _factors(self, weights: Mapping[Column, Weight]) -> Factors:
        told = [weights.get(column, _UNTOLD) for column in self._columns]
        try:
            return _factors(told)
        except (OverflowError, ZeroDivisionError):
            return _factors([each if _is_float(each) else _UNTOLD for each in told])

    def _take_pending(self) -> None:
        """Move the rows that changed since the last call into the tail."""
        owners: list[int] = []
        lengths: list[int] = []
        columns: list[int] = []
        amounts: list[float] = []
        numbers = self._columns
        for key, row in self._pending.items():
            self._forget(key, is_gone=row is None)
            if row is None:
                continue
            if not _is_provable(row):
                self._unprovable.add(key)
                continue
            owners.append(self._owner(key))
            lengths.append(len(row))
            for column, amount in row:
                columns.append(numbers.setdefault(column, len(numbers) + 1))  # above NO_COLUMN
                amounts.append(float(amount))
        if owners:
            ends = list(accumulate(lengths))
            self._tail.extend(
                Rows(
                    np.array(owners, dtype=np.int32),
                    np.array([0, *ends[:-1]], dtype=np.intp),
                    np.array(lengths, dtype=np.intp),
                    np.array(columns, dtype=np.uint32),
                    np.array(amounts),
                )
            )
        self._pending.clear()  # last: what failed half-way is done again, not lost

    def _forget(self, key: PositionId, *, is_gone: bool) -> None:
        self._unprovable.discard(key)
        owner = self._owners.get(key)
        if owner is None:
            return
        self._is_stale[owner] = True
        self._tail.drop(owner)
        if is_gone:
            del self._owners[key]
            self._ids[owner] = None
            self._free.append(owner)

    def _owner(self, key: PositionId) -> int:
        """Return a position's number, a free one for a new position."""
        owner = self._owners.get(key)
        if owner is None:
            owner = self._free.pop() if self._free else len(self._owners)
            if owner >= len(self._ids):
                self._ids = _grown(self._ids, owner + 1)
                self._is_stale = _grown(self._is_stale, owner + 1)
                self._is_stale[owner:] = True
            self._owners[key] = owner
            self._ids[owner] = key
        return owner


def _grown(array: NDArray[ScalarT], least: int) -> NDArray[ScalarT]:
    """Copy an array into one that is at least twice as long."""
    longer = np.empty(max(least, 2 * len(array)), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


def _is_provable(row: Row) -> bool:
    return 0 < len(row) <= MAX_ENTRIES and all(0 <= amount < _MOST_AMOUNT for _, amount in row)


def _is_float(weight: Weight) -> bool:
    """Return whether every part of a weight has a float."""
    try:
        _factors([weight])
    except (OverflowError, ZeroDivisionError):
        return False
    return True


def _factors(told: Sequence[Weight]) -> Factors:
    """Return the factors of columns in the order of their numbers; those beyond the proof are not known.

    Raises: OverflowError, ZeroDivisionError.
    """
    weights = np.array([each.numerator / each.denominator for each in told])
    slack = np.array([float(each.slack) for each in told])
    divisors = np.array([float(each.relative_divisor) for each in told])
    sizes = np.abs(weights)
    relative = np.zeros(len(told))
    np.divide(_SUM_ROOM, divisors, out=relative, where=divisors > 0.0)
    worth = weights - sizes * (relative + _GAMMA)
    is_inside = (sizes >= 1.0 / _MOST_WEIGHT) & (sizes <= _MOST_WEIGHT)
    is_inside |= np.array([each.numerator == 0 for each in told], dtype=np.bool_)
    is_inside &= (slack >= 0.0) & (slack < _MOST_SLACK) & (divisors >= 0.0)
    return Factors(
        np.concatenate(([0.0], np.where(is_inside, worth, np.nan))),
        np.concatenate(([0.0], np.where(is_inside, slack * _SUM_ROOM, 0.0))),
    )

"""Value every position of a market at once, in floating point, with a bound that never misses.

For a row of n entries the margin is `m = sum(amount_j * weight_j)`. Amounts and weights are each rounded correctly to
float64, there is one product and at most n - 1 additions, so the computed margin differs from the exact one by at
most `gamma(n + 2) * T` with `T = sum(|amount_j * weight_j|)` and `gamma(k) = k*u / (1 - k*u)`, `u = 2**-53`. With n
at most 60 that is below `64*u*T`; `70*u` also covers the rounding of T itself. The contract's own integer rounding
lowers a margin by at most the weights' slack (`domain.position.Weight`). So a row is certainly solvent when

    m > sum(|entry| * (70*u + 1/relative_divisor) + slack)

and every other row is named a suspect, to be decided by the protocol's exact rules.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keeper.domain.position import Row, Weight
from keeper.domain.units import Column, PositionId

MAX_ENTRIES: Final = 60
_GAMMA: Final = 70.0 * 2.0**-53
_SUM_ROOM: Final = 1.0 + 2.0**-40
_MIN_DIRTY: Final = 512


class Screen:
    """A float mirror of a book's rows: packed arrays, and a small overlay of rows changed since they were packed."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[PositionId, Row] = {}
        self._packed: list[PositionId] = []
        self._place: dict[PositionId, int] = {}
        self._starts: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self._columns: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self._amounts: NDArray[np.float64] = np.zeros(0)
        self._fresh: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._dirty: set[PositionId] = set()
        self._number: dict[Column, int] = {}

    def put(self, key: PositionId, row: Row | None) -> None:
        """Set a position's row, or remove it."""
        place = self._place.get(key)
        if place is not None:
            self._fresh[place] = False
        if row is None:
            self._rows.pop(key, None)
            self._dirty.discard(key)
        else:
            self._rows[key] = row
            self._dirty.add(key)

    def suspects(self, weights: Mapping[Column, Weight]) -> list[PositionId]:
        """Name every position that is not certainly solvent under the weights.

        Rows with more than `MAX_ENTRIES` entries, or with a value that is not a number, are always suspects.
        """
        if len(self._dirty) > max(_MIN_DIRTY, len(self._packed) // 20):
            self._pack()
        factors, relative, slack = self._vectors(weights)
        found = self._packed_suspects(factors, relative, slack)
        found.extend(key for key in self._dirty if self._is_suspect(key, factors, relative, slack))
        return found

    def _packed_suspects(
        self, factors: NDArray[np.float64], relative: NDArray[np.float64], slack: NDArray[np.float64]
    ) -> list[PositionId]:
        if not self._packed:
            return []
        with np.errstate(over="ignore", invalid="ignore"):
            entries = self._amounts * factors[self._columns]
            room = np.abs(entries) * relative[self._columns] + slack[self._columns]
            margin = np.add.reduceat(entries, self._starts)
            allowance = np.add.reduceat(room, self._starts) * _SUM_ROOM
            flagged = ~(margin > allowance) & self._fresh
        return [self._packed[place] for place in np.flatnonzero(flagged)]

    def _is_suspect(
        self,
        key: PositionId,
        factors: NDArray[np.float64],
        relative: NDArray[np.float64],
        slack: NDArray[np.float64],
    ) -> bool:
        row = self._rows[key]
        if len(row) > MAX_ENTRIES:
            return True
        margin = allowance = 0.0
        for column, amount in row:
            number = self._number[column]
            entry = amount * float(factors[number])
            margin += entry
            allowance += abs(entry) * float(relative[number]) + float(slack[number])
        return not margin > allowance * _SUM_ROOM

    def _vectors(
        self, weights: Mapping[Column, Weight]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        for key in self._dirty:
            for column, _ in self._rows[key]:
                self._number.setdefault(column, len(self._number))
        factors = np.full(len(self._number), np.nan)
        relative = np.zeros(len(self._number))
        slack = np.zeros(len(self._number))
        for column, number in self._number.items():
            weight = weights.get(column)
            if weight is not None:
                factors[number] = weight.numerator / weight.denominator
                relative[number] = _GAMMA + (1.0 / weight.relative_divisor if weight.relative_divisor else 0.0)
                slack[number] = float(weight.slack)
        return factors, relative, slack

    def _pack(self) -> None:
        """Copy all rows of a provable size into arrays; longer ones stay in the overlay, where all are suspects."""
        packed = [key for key, row in self._rows.items() if 0 < len(row) <= MAX_ENTRIES]
        self._dirty = {key for key, row in self._rows.items() if not 0 < len(row) <= MAX_ENTRIES}
        for key in packed:
            for column, _ in self._rows[key]:
                self._number.setdefault(column, len(self._number))
        lengths = np.fromiter((len(self._rows[a]) for a in packed), dtype=np.intp, count=len(packed))
        self._starts = np.concatenate((np.zeros(1, dtype=np.intp), np.cumsum(lengths)[:-1])) if packed else lengths
        total = int(lengths.sum())
        flat = (entry for key in packed for entry in self._rows[key])
        numbers, amounts = np.empty(total, dtype=np.intp), np.empty(total)
        for place, (column, amount) in enumerate(flat):
            numbers[place] = self._number[column]
            amounts[place] = float(amount)
        self._columns, self._amounts = numbers, amounts
        self._packed = packed
        self._place = {key: place for place, key in enumerate(packed)}
        self._fresh = np.ones(len(packed), dtype=np.bool_)

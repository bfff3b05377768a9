"""Rows sorted by risk: for other factors, only a prefix that provably holds every doubtful row is read.

A row is doubtful unless `sum(amount * worth) > sum(slack)` over its entries, by the factors of its columns.
`engine.screen` proves which factors make every other row solvent. Here `worth > 0` is a collateral's and `worth < 0`
a debt's. Rows are stored by width (their number of entries, rounded up with empty ones) and sorted by

    key = coverage / burden,  coverage = sum of amount * worth0 over worth0 > 0,
                              burden = sum of amount * -worth0 over worth0 < 0, plus sum(slack0)

at the factors worth0, slack0 of the build. For new factors let, over the columns that a width uses,

    kept  = the least worth / worth0 where worth0 > 0          (0 where worth is not positive any more)
    grown = the greatest of worth / worth0 where worth0 < 0    (0 where worth is not negative any more)
            and of slack / slack0                              (infinite where only slack0 is 0)

and let `grown` be infinite where a worth that was 0 is negative now, or is not known any more. Amounts and slacks are
not negative, so the new coverage is at least `kept * coverage` and the new burden at most `grown * burden`: a debt that
turned positive lowers the burden, a collateral that turned negative has made the bound infinite. A row with

    key > grown / kept

thus has more coverage than burden and is not doubtful. A bound that is infinite or not a number reads the whole width.
Rows without a known worth at the build have no key; they stand in front and are always read, so their columns need not
bound anything.

The pruning's own float error: a coverage and a burden are sums without cancellation, of at most 60 products, and 60
slacks: each is within a factor of `(1 + u)**62` of the exact one, `u = 2**-53`. With the divisions for key, kept, grown
and the bound the two sides of the test are off by less than a factor of `1 + 2**-44`; the bound is raised by `1 +
2**-40`. The ranges that `engine.screen` allows (amounts below 2**300, sizes of worths 0 or between 2**-353 and 2**302,
slacks 0 or between 1 and 2**201) keep every key between 2**-962 and 2**962, or 0, and every ratio normal; a bound that
may have underflowed is raised to 2**-1000.
Only one key in `_STRIDE` is kept: the rows up to the first one known to be beyond the bound are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.int32]
Columns = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]
Places = NDArray[np.intp]
Flags = NDArray[np.bool_]

WIDTHS: Final = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 40, 60)
_CHUNK: Final = 1 << 14
"""So many rows at a time stay in the processor's own cache."""
_STRIDE: Final = 64
_BOUND_ROOM: Final = 1.0 + 2.0**-40
_LEAST_BOUND: Final = 2.0**-1000

NO_COLUMN: Final = 0
"""The column of empty entries: worth nothing, with no slack."""


@dataclass(frozen=True, slots=True)
class Factors:
    """By a column's number: what a unit adds at least (not a number: unknown), and what an entry may take besides."""

    worth: Floats
    slack: Floats


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows one behind another: whose each is, where it begins, how long it is; all entries."""

    owners: Numbers
    starts: Places
    lengths: Places
    columns: NDArray[np.uint32]
    amounts: Floats

    def doubtful(self, factors: Factors) -> Places:
        """Return the places of the rows that are doubtful."""
        if not self.owners.size:
            return np.zeros(0, dtype=np.intp)
        margin = np.add.reduceat(self.amounts * factors.worth[self.columns], self.starts)
        allowance = np.add.reduceat(factors.slack[self.columns], self.starts)
        return np.flatnonzero(~(margin > allowance))


@dataclass(frozen=True, slots=True)
class Width:
    """Rows of one width, the riskiest first: entry by entry, so that each step reads memory in order."""

    amounts: Floats
    columns: Columns
    owners: Numbers
    fences: Floats
    """The keys of the first row and of each `_STRIDE`-th after it."""

    def prefix(self, bound: float) -> int:
        """Return how many rows have to be read for a bound."""
        rows = len(self.owners)
        if not bound < np.inf:
            return rows
        return min(rows, _STRIDE * int(self.fences.searchsorted(max(bound, _LEAST_BOUND), side="right")))

    def doubtful(self, factors: Factors, rows: int, most: float) -> Numbers:
        """Return the owners of those of the first rows that are doubtful; `most` is the greatest slack of an entry."""
        width, limit = len(self.amounts), len(self.amounts) * most
        totals, parts = np.empty(min(rows, _CHUNK)), np.empty(min(rows, _CHUNK))
        found = []
        for begin in range(0, rows, _CHUNK):
            end = min(rows, begin + _CHUNK)
            total, part = totals[: end - begin], parts[: end - begin]
            factors.worth.take(self.columns[0, begin:end], out=total, mode="clip")
            total *= self.amounts[0, begin:end]
            for place in range(1, width):
                factors.worth.take(self.columns[place, begin:end], out=part, mode="clip")
                part *= self.amounts[place, begin:end]
                total += part
            near = (~(total > limit)).nonzero()[0]
            if near.size:  # only these are worth looking up their own slack
                columns = self.columns[:, begin:end].take(near, axis=1)
                allowance = np.add.reduce(factors.slack.take(columns, mode="clip"), axis=0)
                found.append(near[~(total[near] > allowance)] + begin)
        return self.owners[np.concatenate(found)] if found else self.owners[:0]


@dataclass(frozen=True, slots=True)
class Ranking:
    """All rows of a build. Nothing in it changes: a later build makes a new one."""

    widths: tuple[Width, ...]
    used: Flags
    """Which columns a width uses: a line for each width."""
    base: Factors
    """The factors of the build."""

    @property
    def rows(self) -> int:
        """Count the rows."""
        return sum(len(each.owners) for each in self.widths)

    @property
    def nbytes(self) -> int:
        """Return what the rows' arrays take."""
        return sum(
            each.amounts.nbytes + each.columns.nbytes + each.owners.nbytes + each.fences.nbytes for each in self.widths
        )

    def prefixes(self, factors: Factors) -> list[int]:
        """Return how many rows of each width have to be read for new factors."""
        kept, grown = _bounds(self.base, factors)
        least = np.where(self.used, kept, np.inf).min(axis=1, initial=np.inf)
        greatest = np.where(self.used, grown, 0.0).max(axis=1, initial=0.0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            bounds = np.where(least > 0.0, greatest / least * _BOUND_ROOM, np.inf)
        return [each.prefix(bound) for each, bound in zip(self.widths, bounds.tolist(), strict=True)]

    def doubtful(self, factors: Factors, prefixes: Sequence[int]) -> list[Numbers]:
        """Return the owners of the doubtful rows among the prefixes."""
        most = np.where(self.used, factors.slack[: self.used.shape[1]], 0.0).max(axis=1, initial=0.0)
        return [
            width.doubtful(factors, rows, slack)
            for width, rows, slack in zip(self.widths, prefixes, most.tolist(), strict=True)
            if rows
        ]


EMPTY: Final = Ranking((), np.zeros((0, 1), dtype=np.bool_), Factors(np.zeros(1), np.zeros(1)))


def build(old: Ranking, is_stale: Flags, fresh: Rows, factors: Factors) -> Ranking:
    """Sort the rows of an older ranking whose owners are not stale, and fresh ones, by their risk at the factors.

    Fresh rows have at least one entry and at most as many as the greatest width.
    Depends on its arguments alone and changes none of them, so it may run beside the loop.
    """
    kind = _column_type(len(factors.worth))
    known = {len(each.amounts): each for each in old.widths}
    widths, used, shorter = [], [], 0
    for width in WIDTHS:
        chosen = np.flatnonzero((fresh.lengths > shorter) & (fresh.lengths <= width))
        before, shorter = known.get(width), width
        kept = np.zeros(0, dtype=np.intp) if before is None else np.flatnonzero(~is_stale[before.owners])
        if not kept.size + chosen.size:
            continue
        amounts, columns = _spread(fresh, chosen, width)
        owners = fresh.owners[chosen]
        if before is not None:
            amounts = np.concatenate((before.amounts[:, kept], amounts), axis=1)
            columns = np.concatenate((before.columns[:, kept], columns), axis=1)
            owners = np.concatenate((before.owners[kept], owners))
        widths.append(_sort(amounts, columns.astype(kind, copy=False), owners, factors))
        used.append(np.bincount(columns.reshape(-1), minlength=len(factors.worth)) > 0)
    lines = np.array(used, dtype=np.bool_).reshape(len(used), len(factors.worth))
    return Ranking(tuple(widths), lines, factors)


def _column_type(columns: int) -> type[np.unsignedinteger]:
    return np.uint8 if columns <= 1 << 8 else np.uint16 if columns <= 1 << 16 else np.uint32


def _spread(rows: Rows, chosen: Places, width: int) -> tuple[Floats, NDArray[np.uint32]]:
    """Lay the chosen rows beside one another, with empty entries where they are shorter."""
    amounts = np.zeros((width, len(chosen)))
    columns = np.full((width, len(chosen)), NO_COLUMN, dtype=np.uint32)
    starts, lengths = rows.starts[chosen], rows.lengths[chosen]
    for place in range(width):
        there = np.flatnonzero(lengths > place)
        source = starts[there] + place
        amounts[place, there] = rows.amounts[source]
        columns[place, there] = rows.columns[source]
    return amounts, columns


def _sort(amounts: Floats, columns: Columns, owners: Numbers, factors: Factors) -> Width:
    keys = np.empty(len(owners))
    for begin in range(0, len(owners), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        keys[part] = _keys(amounts[:, part], columns[:, part], factors)
    order = np.argsort(keys)
    sorted_amounts, sorted_columns = np.empty_like(amounts), np.empty_like(columns)
    for place in range(len(amounts)):
        np.take(amounts[place], order, out=sorted_amounts[place])
        np.take(columns[place], order, out=sorted_columns[place])
    return Width(sorted_amounts, sorted_columns, owners[order], keys[order[::_STRIDE]])


def _keys(amounts: Floats, columns: Columns, factors: Factors) -> Floats:
    """Return the keys of rows, −1 where a worth is not known: those are always read."""
    with np.errstate(divide="ignore", invalid="ignore"):
        worth = amounts * factors.worth[columns]
        coverage = np.maximum(worth, 0.0).sum(axis=0)
        burden = factors.slack[columns].sum(axis=0) - np.minimum(worth, 0.0).sum(axis=0)
        keys = coverage / burden
    return np.where(np.isnan(keys), -1.0, keys)


def _bounds(base: Factors, factors: Factors) -> tuple[Floats, Floats]:
    """Return for each column of a build how much of a collateral is kept at least, and a burden grown at most."""
    old, old_slack = base.worth, base.slack
    new, new_slack = factors.worth[: len(old)], factors.slack[: len(old)]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio, slack_ratio = new / old, new_slack / old_slack
    kept = np.where(old > 0.0, np.where(new > 0.0, ratio, 0.0), np.inf)
    grown = np.where((old < 0.0) & (new < 0.0), ratio, 0.0)
    slack_grown = np.where(old_slack > 0.0, slack_ratio, np.where(new_slack > 0.0, np.inf, 0.0))
    appeared = ~np.isnan(old) & (np.isnan(new) | ((old == 0.0) & (new < 0.0)))
    grown = np.where(appeared, np.inf, np.maximum(grown, np.where(np.isnan(old), 0.0, slack_grown)))
    return kept, grown

"""The screen alone, over made-up books of any size: what a head costs by how far the prices moved."""

import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from keeper.domain.position import Row, Weight
from keeper.domain.units import RAY, Column, PositionId
from keeper.engine.ranking import build
from keeper.engine.screen import Screen
from tests.bench.figures import Screening

T = TypeVar("T")

_ASSETS: Final = 30
_STABLE: Final = 8
_REPEATS: Final = 25
_FEW_REPEATS: Final = 3
_CHANGED: Final = 500
_MOST_PLAIN: Final = 20_000
_SPREAD: Final = 0.65
"""The mean of health factors above one: some 1.5 % of the rows are within 1 % of liquidation, 32 % within 25 %."""
_MOVES_BPS: Final = (0, 20, 100, 500, 2_000)
_ENTRIES: Final = (2, 2, 2, 2, 2, 2, 3, 3, 4, 5)

Weights = Mapping[Column, Weight]


class Market:
    """Thirty assets, a column each for what is held and for what is owed."""

    def __init__(self, source: random.Random) -> None:
        self.units = [10 ** source.choice((6, 8, 18)) for _ in range(_ASSETS)]
        self.prices = [10**8 if each < _STABLE else int(10 ** source.uniform(6, 13)) for each in range(_ASSETS)]
        self.thresholds = [source.randrange(6_500, 9_000) for _ in range(_ASSETS)]
        self.indexes = [RAY + source.randrange(RAY // 5) for _ in range(2 * _ASSETS)]

    def weights(self, bps: int = 0, seed: int = 0) -> Weights:
        """Return the factors after every volatile price fell by up to so much, one of them by all of it."""
        source, found = random.Random(seed), {}
        for asset, (unit, price) in enumerate(zip(self.units, self.prices, strict=True)):
            fall = 0 if asset < _STABLE else bps if asset == _STABLE else source.randrange(bps + 1)
            now, threshold = price * (10_000 - fall) // 10_000, self.thresholds[asset]
            slack = now // unit + 1
            found[Column(asset)] = Weight(now * self.indexes[asset] * threshold, RAY * unit * 10_000, slack, threshold)
            found[Column(_ASSETS + asset)] = Weight(-now * self.indexes[_ASSETS + asset], RAY * unit, slack)
        return found

    def row(self, source: random.Random) -> Row:
        """Draw a position that is above liquidation by an exponential share."""
        value, owed = int(10 ** source.gauss(12, 1)), source.randrange(_STABLE if source.random() < 0.7 else _ASSETS)
        row, worth = [], 0
        for asset in source.sample(range(_ASSETS), source.choice(_ENTRIES) - 1):
            amount = value * self.units[asset] // self.prices[asset] + 1
            worth += amount * self.prices[asset] * self.thresholds[asset] * self.indexes[asset] // self.units[asset]
            row.append((Column(asset), amount))
        debt = int(worth / (10_000 * (1.000_1 + source.expovariate(1 / _SPREAD))))
        price = self.prices[owed] * self.indexes[_ASSETS + owed]
        return (*row, (Column(_ASSETS + owed), debt * self.units[owed] // price))


class Flat:
    """The plain pattern beside it: all entries in two arrays, all of them multiplied and added up at every head."""

    def __init__(self, rows: list[Row]) -> None:
        self._columns = np.array([column for row in rows for column, _ in row], dtype=np.intp)
        self._amounts = np.array([float(amount) for row in rows for _, amount in row])
        self._starts = np.cumsum([0, *(len(row) for row in rows[:-1])])

    def suspects(self, weights: Weights) -> NDArray[np.intp]:
        """Return the places of the rows that are not certainly solvent."""
        factors = np.array([weights[Column(each)].numerator / weights[Column(each)].denominator for each in range(60)])
        divisors = np.array([weights[Column(each)].relative_divisor for each in range(60)])
        relative = 70.0 * 2.0**-53 + np.where(divisors > 0, 1.0 / np.maximum(divisors, 1), 0.0)
        slack = np.array([float(weights[Column(each)].slack) for each in range(60)])
        entries = self._amounts * factors[self._columns]
        margin = np.add.reduceat(entries, self._starts)
        room = np.add.reduceat(np.abs(entries) * relative[self._columns] + slack[self._columns], self._starts)
        return np.flatnonzero(~(margin > room))


def plain(rows: list[Row], weights: Weights) -> int:
    """Count suspects in plain Python, in floats."""
    factors = {
        column: (each.numerator / each.denominator, each.slack, each.relative_divisor)
        for column, each in weights.items()
    }
    count = 0
    for row in rows:
        margin = room = 0.0
        for column, amount in row:
            factor, slack, divisor = factors[column]
            entry = amount * factor
            margin += entry
            room += abs(entry) * (1.0 / divisor if divisor else 0.0) + slack
        count += not margin > room * 1.000_000_1
    return count


def measure(count: int, progress: Callable[[str], None]) -> Screening:
    """Fill a screen, build it at one set of prices, and time it at others."""
    progress(f"the screen alone: {count:,} rows")
    source = random.Random(count)
    market = Market(source)
    rows = [market.row(source) for _ in range(count)]
    ids = [PositionId(each.to_bytes(20, "big")) for each in range(count)]
    screen, base = Screen(), market.weights()
    fill_ms, _ = _timed(lambda: _fill(screen, ids, rows, base), 1)
    factors, tail = screen._factors(base), screen._tail.rows()
    build_ms, ranking = _timed(lambda: build(screen._ranking, screen._is_stale, tail, factors), _FEW_REPEATS)
    flat, besides = Flat(rows), screen._ids.nbytes + screen._is_stale.nbytes
    cases = {f"prices −{bps / 100:g} %": market.weights(bps, bps) for bps in _MOVES_BPS}
    dearer = base[Column(2 * _ASSETS - 1)]
    cases["one debt at ten times its price"] = {
        **base,
        Column(2 * _ASSETS - 1): Weight(10 * dearer.numerator, dearer.denominator, 10 * dearer.slack),
    }
    found = Screening(count, fill_ms, build_ms, ranking.nbytes / count, (ranking.nbytes + besides) / count)
    for name, weights in cases.items():
        _time(found, name, screen, weights, flat)
    for key, row in zip(ids[:_CHANGED], rows, strict=False):
        screen.put(key, row)
    _time(found, f"prices −1 %, {_CHANGED} rows changed", screen, market.weights(100, 100), flat)
    few = rows[:_MOST_PLAIN]
    found.plain_ms = _timed(lambda: plain(few, base), _FEW_REPEATS)[0] * count / len(few)
    return found


def _fill(screen: Screen, ids: list[PositionId], rows: list[Row], weights: Weights) -> None:
    for key, row in zip(ids, rows, strict=True):
        screen.put(key, row)
    screen.suspects(weights)
    screen._build(screen._factors(weights))


def _time(found: Screening, name: str, screen: Screen, weights: Weights, flat: Flat) -> None:
    def scan() -> int:
        screen._wasted = 0  # a build would begin a new base
        return len(screen.suspects(weights))

    def read() -> int:
        factors = screen._factors(weights)
        prefixes = screen._ranking.prefixes(factors)
        screen._ranking.doubtful(factors, prefixes)
        return sum(prefixes)

    found.read_ms[name], found.read[name] = _timed(read, _REPEATS)
    found.scans_ms[name], found.suspects[name] = _timed(scan, _REPEATS)
    found.flat_ms[name], missed = _timed(lambda: flat.suspects(weights), _FEW_REPEATS)
    assert len(missed) <= found.suspects[name]


def _timed(work: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Return the median time in milliseconds, and the last result."""
    times = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        answer = work()
        times.append((time.perf_counter() - started_s) * 1_000)
    return median(times), answer

"""The engine alone: the genuine snapshot and the genuine rows, copied until there are many, on made-up accounts."""

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Final, TypeVar

from keeper.domain.ports import Market
from keeper.domain.units import Base, PositionId
from keeper.engine.book import Book
from keeper.engine.scan import MarketBook
from keeper.engine.screen import Screen
from keeper.protocols.aave_v3 import rules
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot
from tests.bench.figures import Engine

T = TypeVar("T")

_REPEATS: Final = 15
_FEW_REPEATS: Final = 3
_CHANGED: Final = 200
_MOST_EXACT: Final = 10_000
_MOVES_BPS: Final = (0, 10, 100, 1_000)


def copies(positions: Sequence[AavePosition], rows: int) -> list[AavePosition]:
    """Repeat positions under new accounts."""
    return [
        replace(positions[place % len(positions)], id=PositionId(place.to_bytes(20, "big"))) for place in range(rows)
    ]


def fallen(snapshot: AaveSnapshot, bps: int) -> AaveSnapshot:
    """Return the snapshot with every volatile asset that much cheaper."""
    reserves = {
        each: replace(reserve, price_base=Base(reserve.price_base * (10_000 - bps) // 10_000))
        if reserve.price_base and reserve.price_base > 2 * 10**8
        else reserve
        for each, reserve in snapshot.reserves.items()
    }
    return replace(snapshot, reserves=reserves)


def measure(
    market: Market, genuine: Sequence[AavePosition], snapshot: AaveSnapshot, rows: int, progress: Callable[[str], None]
) -> Engine:
    """Fill a book with copies and scan it at rest, after changes, and under falling prices."""
    progress(f"the engine alone: {rows:,} rows")
    soon = snapshot.head.landing(1)
    positions = copies(genuine, rows)
    books = MarketBook(market)
    fill_ms, _ = _timed(lambda: books.put(positions, snapshot), 1)
    scans_ms, suspects = {}, {}
    pack_ms, _ = _timed(lambda: books.scan(snapshot, soon), 1)
    for bps in _MOVES_BPS:
        moved = fallen(snapshot, bps)
        name = f"prices −{bps / 100:g} %" if bps else "prices as they were"
        repeats = _FEW_REPEATS if bps >= 100 else _REPEATS
        scans_ms[name], scan = _timed(lambda at=moved: books.scan(at, soon), repeats)  # type: ignore[misc]
        suspects[name] = scan.suspects
    books.put(positions[:_CHANGED], snapshot)
    name = f"{_CHANGED} rows just changed"
    scans_ms[name], scan = _timed(lambda: books.scan(snapshot, soon), _REPEATS)
    suspects[name] = scan.suspects
    few = positions[:_MOST_EXACT]
    exact_ms, _ = _timed(lambda: [rules.health(each, snapshot, soon) for each in few], _FEW_REPEATS)
    return Engine(
        rows=rows,
        fill_ms=fill_ms,
        pack_ms=pack_ms,
        bytes_per_row=_bytes_per_row(books.book, rows),
        scans_ms=scans_ms,
        suspects=suspects,
        exact_ms=exact_ms * rows / len(few),
        is_exact_extrapolated=rows > len(few),
    )


def _bytes_per_row(book: Book[AavePosition], rows: int) -> float:
    """Weigh the screen of a book: what it allocates on top of the rows, which the book holds anyway."""
    known = [(key, row) for key in book.positions if (row := book.row(key)) is not None]
    tracemalloc.start()
    try:
        screen = Screen()
        for key, row in known:
            screen.put(key, row)
        screen.suspects({})
        return tracemalloc.get_traced_memory()[0] / rows
    finally:
        tracemalloc.stop()


def _timed(work: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Return the median time in milliseconds, and the last result."""
    times = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        answer = work()
        times.append((time.perf_counter() - started_s) * 1_000)
    return median(times), answer

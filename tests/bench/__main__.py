"""`make bench`: how much it asks and how fast it acts at 100, 1,000 and 10,000 positions, beside the common pattern."""

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

import msgspec
from rich.console import Console

from keeper.devnet.market import Generation
from keeper.errors import Fatal
from tests.bench import engine, plot, restart, risk, stage, tables
from tests.bench.figures import Report
from tests.bench.stage import Wish

_SIZES: Final = (100, 1_000, 10_000)
_ROWS: Final = (10_000, 100_000)
_SCREENED: Final = (10_000, 100_000, 1_000_000)
_QUICK_HEADS: Final = 10
_RESTARTED: Final = 1_000
"""From how many positions on starts are compared."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--positions", type=_numbers, help="numbers of positions, such as 100,1000")
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 positions, few heads, one move each")
    parser.add_argument("--generation", choices=("3.0", "3.6"), default="3.6", help="which genuine Aave v3")
    parser.add_argument("--heads", type=int, help="heads at rest, 20 by default")
    parser.add_argument("--moves", type=int, help="price moves for each process of the daemon, 3 by default")
    parser.add_argument("--block-time", type=float, default=1.0, help="seconds")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder of the JSON and the chart")
    chosen = parser.parse_args()
    chosen.positions = chosen.positions or (_SIZES[:2] if chosen.quick else _SIZES)
    chosen.heads = chosen.heads or (_QUICK_HEADS if chosen.quick else 2 * _QUICK_HEADS)
    chosen.moves = (1 if chosen.quick else 3) if chosen.moves is None else chosen.moves
    return chosen


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each.replace("_", "")) for each in text.split(","))


def _teller(started_s: float) -> Callable[[str], None]:
    """Return what shows progress: a line each, with the time since the start."""
    console = Console(stderr=True, highlight=False)

    def tell(line: str) -> None:
        console.print(f"[{time.monotonic() - started_s:5.0f} s] {line}", style="dim", markup=False, soft_wrap=True)

    return tell


async def run(chosen: argparse.Namespace, report: Report, tell: Callable[[str], None]) -> None:
    """Measure every size; what one of them breaks does not cost the others."""
    wish = Wish(cast("Generation", chosen.generation), chosen.block_time, chosen.heads, chosen.moves)
    for positions in chosen.positions:
        try:
            async with stage.site(
                positions,
                wish,
                lambda line, n=positions: tell(f"{n:,} positions: {line}"),  # type: ignore[misc]
            ) as place:
                is_largest = positions == max(chosen.positions)
                if positions >= _RESTARTED or is_largest:
                    await _restart(place, report, is_enlarged=is_largest)
                report.sizes.append(await stage.measure(place))
                market, opening = place.forecast.book.market, place.forecast.opening
        except Fatal as error:
            tell(f"{positions:,} positions failed: {error}")
            report.failures.append(f"{positions:,} positions: {str(error).splitlines()[0]}")
            continue
        if opening is not None and positions == max(chosen.positions):
            rows = _ROWS[:1] if chosen.quick else _ROWS
            report.engines.extend(engine.measure(market, *opening, each, tell) for each in rows)
    report.screenings.extend(risk.measure(each, tell) for each in (_SCREENED[:1] if chosen.quick else _SCREENED))


async def _restart(place: stage.Site, report: Report, *, is_enlarged: bool) -> None:
    """Measure starts before anything moves; what breaks there does not cost the rest."""
    try:
        report.restarts.extend(await restart.measure(place, is_enlarged=is_enlarged))
    except Fatal as error:
        what = str(error).splitlines()[0]
        place.progress(f"the starts failed: {error}")
        report.failures.append(f"starts with {len(place.owners):,} positions: {what}")


def main() -> int:
    """Measure, print, save."""
    chosen, started_s = arguments(), time.monotonic()
    report = Report(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine={
            "system": f"{platform.system()} {platform.release()}",
            "processors": str(os.cpu_count()),
            "python": platform.python_version(),
            "load": " ".join(f"{each:.2f}" for each in os.getloadavg()),
        },
        settings={name: str(value) for name, value in vars(chosen).items()},
    )
    tell = _teller(started_s)
    asyncio.run(run(chosen, report, tell))
    report.seconds = time.monotonic() - started_s
    console = Console(highlight=False)
    tables.show(report, console if console.is_terminal else Console(highlight=False, width=170))
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    (chosen.output / "bench.svg").write_text(plot.draw(report), encoding="utf-8")
    tell(f"saved as bench.json and bench.svg in {chosen.output}")
    return 1 if report.failures or not report.sizes else 0


if __name__ == "__main__":
    sys.exit(main())

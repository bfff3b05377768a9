"""`make soak`: the real daemon on the genuine market under random faults; exit code 0 only if every invariant held."""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.soak import report as written
from tests.soak.faults import KINDS
from tests.soak.figures import Wish
from tests.soak.soak import soak


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long faults happen, 30 by default")
    parser.add_argument("--seed", type=int, help="repeats the order of the faults of another run; random by default")
    parser.add_argument("--gap", type=_range, default=(20.0, 60.0), help="seconds between faults, such as 20-60")
    parser.add_argument("--positions", type=int, default=60, help="positions at the start, 60 by default")
    parser.add_argument("--only", action="append", choices=[each.name for each in KINDS], help="draw from these only")
    parser.add_argument("--keep", type=Path, help="an empty folder for the logs and the state, which are kept there")
    parser.add_argument("--output", type=Path, default=Path("fault-report"), help="folder of the report")
    return parser.parse_args()


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    return float(low), float(high or low)


def _teller(begun_s: float) -> Callable[[str], None]:
    """Return what shows progress: a line each, with the time since the start."""
    console = Console(stderr=True, highlight=False)

    def tell(line: str) -> None:
        console.print(f"[{time.monotonic() - begun_s:5.0f} s] {line}", style="dim", markup=False, soft_wrap=True)

    return tell


def main() -> int:
    """Run, show, save."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was mounted and started ends as well
    seed = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    tell = _teller(time.monotonic())
    wish = Wish(
        seconds=60 * chosen.minutes,
        seed=seed,
        gap_s=chosen.gap,
        positions=chosen.positions,
        only=tuple(chosen.only or ()),
    )
    tell(f"a soak of {chosen.minutes:g} minutes with the seed {seed}")
    with tempfile.TemporaryDirectory(prefix="keeper-soak-") as name:
        folder = chosen.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        found = asyncio.run(soak(wish, folder, tell))
    for path in written.save(found, chosen.output):
        tell(f"saved {path}")
    Console(highlight=False, soft_wrap=True).print(written.as_markdown(found), markup=False)
    return 0 if found.is_good else 1


if __name__ == "__main__":
    sys.exit(main())

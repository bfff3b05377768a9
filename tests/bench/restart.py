"""What a restart costs: the daemon started cold, from its saved book, and from one that holds 100,000 positions."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from keeper.chain.rpc import Rpc
from keeper.chainfile import ChainFile
from keeper.devnet.process import KeeperProcess
from keeper.domain.ports import Market
from keeper.domain.units import PositionId
from keeper.errors import Fatal
from keeper.parts import layout_of, open_rpc, store_place
from keeper.protocols.aave_v3.contracts import AavePosition
from keeper.registry import markets_of
from keeper.settings import Settings, load_configuration
from keeper.shelving import read_blocks
from keeper.store.bookshelf import Bookshelf, Page, Place, open_shelf
from keeper.store.database import Database
from keeper.store.findings import Cursor, Findings
from tests.bench.figures import Restart
from tests.bench.stage import Site
from tests.bench.watch import at_ms, read_memory_mib, read_tally, read_usage

LARGE: Final = 100_000
_REPEATS: Final = 3
_LIMIT_S: Final = 300.0
_ACCOUNT_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class _Start:
    """One start; times since the process was made."""

    positions: int
    first_line_s: float
    first_head_s: float
    cpu_s: float
    calls: float
    rss_mib: float
    peak_mib: float


async def measure(place: Site, *, is_enlarged: bool) -> list[Restart]:
    """Start cold and warm by turns, then, where asked, from the last saved book with copies of its positions in it.

    Raises: Fatal where the daemon does not end as asked, or begins without some of the positions.
    """
    cold, warm, large = list[_Start](), list[_Start](), list[_Start]()
    with tempfile.TemporaryDirectory(prefix="keeper-restart-") as folder:
        state = Path(folder) / "state"
        for turn in range(1, _REPEATS + 1):
            shutil.rmtree(state, ignore_errors=True)
            cold.append(await _started(place, state))
            warm.append(await _started(place, state))
            place.progress(
                f"start {turn} of {_REPEATS}: {cold[-1].first_head_s:.1f} s cold, {warm[-1].first_head_s:.1f} s warm"
            )
        if is_enlarged:
            place.progress(f"filling the saved book with copies, up to {LARGE:,} positions")
            await _enlarge(_environment(place, state), LARGE)
            for turn in range(1, _REPEATS + 1):
                large.append(await _started(place, state))
                place.progress(f"start {turn} of {_REPEATS} with {LARGE:,}: {large[-1].first_head_s:.1f} s")
    genuine = cold[0].positions
    found = [_figures(genuine, "cold", cold), _figures(genuine, "warm", warm)]
    return [*found, _figures(LARGE, "warm", large)] if large else found


def _environment(place: Site, state: Path) -> dict[str, str]:
    return place.operator.environment(is_live=False, STATE_DIR=str(state))


async def _started(place: Site, state: Path) -> _Start:
    """Start an observing daemon, wait for its first decided head, and stop it in the way that saves everything."""
    made_ms = time.time() * 1_000
    async with KeeperProcess(_environment(place, state)) as keeper:
        await keeper.ready(_LIMIT_S)
        cpu_s = read_usage(keeper.pid).cpu_s
        rss_mib, peak_mib = read_memory_mib(keeper.pid), read_memory_mib(keeper.pid, "VmHWM")
        tally = await read_tally(place.operator.http_port)
        first, head = keeper.events("keeper.starting")[0], keeper.events("chain.head")[0]
        if await keeper.stop() != 0:
            raise Fatal(f"the daemon did not end as asked:\n{keeper.tail()}")
    first_line_s, first_head_s = ((at_ms(line) - made_ms) / 1_000 for line in (first, head))
    return _Start(int(head["positions"]), first_line_s, first_head_s, cpu_s, tally.calls, rss_mib, peak_mib)


def _figures(positions: int, start: str, starts: Sequence[_Start]) -> Restart:
    known = {each.positions for each in starts}
    if known != {positions}:
        raise Fatal(f"the daemon began with {known} positions instead of {positions}")
    return Restart(
        positions=positions,
        start=start,
        first_line_s=[each.first_line_s for each in starts],
        first_head_s=[each.first_head_s for each in starts],
        cpu_s=[each.cpu_s for each in starts],
        calls=[each.calls for each in starts],
        rss_mib=[each.rss_mib for each in starts],
        peak_mib=[each.peak_mib for each in starts],
    )


async def _enlarge(environment: dict[str, str], positions: int) -> None:
    """Add copies of the saved positions, under accounts that nobody has, until there are so many."""
    settings, chain = load_configuration(environment)
    [market] = markets_of(chain)
    added = await _shelve(settings, chain, market, positions)
    async with open_rpc(settings, chain) as rpc:
        await _find(settings, chain.chain_id, rpc, market.place, added)


async def _shelve(settings: Settings, chain: ChainFile, market: Market, positions: int) -> list[PositionId]:
    """Put the copies on the shelf, as of the block that it is as of; return their ids."""
    [config] = chain.markets
    place = Place(market.place, AavePosition, layout_of(chain, config))
    database = await open_shelf(store_place(settings), chain.chain_id)
    try:
        bookshelf = Bookshelf(database)
        trail = await bookshelf.trail(place)
        shelf = await bookshelf.load(place, trail[-1][0]) if trail else None
        if shelf is None:
            raise Fatal("the daemon that was stopped has left no saved book")
        added = {each.id: each for each in _copies(shelf.positions, positions - len(shelf.positions))}
        await bookshelf.save(place, Page(trail, added, shelf.aside))
    finally:
        await database.close()
    return list(added)


async def _find(settings: Settings, chain_id: int, rpc: Rpc, market: str, added: Sequence[PositionId]) -> None:
    """Store the copies as if the last block of the stored coverage named them all."""
    database = await Database.open(store_place(settings), chain_id)
    try:
        findings = Findings(database)
        covered = await findings.cursor(market)
        if covered is None:
            raise Fatal("the daemon that was stopped has stored no coverage")
        last = covered.scanned_to
        [before] = await read_blocks(rpc, [last - 1])
        if before is None:
            raise Fatal(f"the node has no block {last - 1}")
        await findings.rewind(market, before.number, before.hash)
        await findings.save(Cursor(market, last, last, covered.scanned_hash), [(each, last) for each in added])
    finally:
        await database.close()


def _copies(genuine: Sequence[AavePosition], count: int) -> Iterator[AavePosition]:
    """Repeat positions under accounts that are spread as genuine ones are."""
    for number in range(count):
        account = hashlib.sha256(number.to_bytes(8)).digest()[:_ACCOUNT_BYTES]
        yield replace(genuine[number % len(genuine)], id=PositionId(account))

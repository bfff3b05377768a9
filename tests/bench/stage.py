"""One number of positions: the daemon started cold and warm, at rest and under price moves, beside the common pattern."""

import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keeper.chain.rpc import Rpc
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.market import AaveMarket, Generation
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.process import KeeperProcess
from keeper.errors import Fatal
from tests.bench import pattern
from tests.bench.figures import Pattern, Reaction, Shift, Size, Steady
from tests.bench.moves import Forecast, rpc_to
from tests.bench.watch import (
    BlockClock,
    first_plans,
    is_quiet,
    mark,
    reaction_since,
    read_memory_mib,
    steady_between,
)
from tests.operator import Operator, prepare

CHAIN_ID: Final = 31_337
_STATES_KEPT: Final = 32
_WARM_UP_HEADS: Final = 4
_REPORT_EVERY: Final = 5
_QUIET_HEADS: Final = 3
_START_LIMIT_S: Final = 300.0
_PATIENCE_S: Final = 60.0
_MOVED: Final = ("WETH", "wstETH", "WBTC", "LINK")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What to measure."""

    generation: Generation
    block_time_s: float
    heads: int
    moves: int


@dataclass(frozen=True, slots=True)
class Site:
    """A running devnet with everything that is needed to measure on it."""

    devnet: Devnet
    market: AaveMarket
    owners: tuple[str, ...]
    operator: Operator
    forecast: Forecast
    clock: BlockClock
    wish: Wish
    progress: Progress


@asynccontextmanager
async def site(positions: int, wish: Wish, progress: Progress) -> AsyncIterator[Site]:
    """Run a devnet with so many genuine positions, and an operator who is ready to start a keeper on it."""
    # The states of a few blocks are enough, and keeping all of them would make the node slow.
    options = AnvilOptions(block_time_s=wish.block_time_s, extra=(f"--prune-history={_STATES_KEPT}",))
    spec = DevnetSpec(generations=(wish.generation,), n_positions=positions)
    async with cached_devnet(default_cache_dir(), spec, options=options, progress=progress) as devnet:
        market = devnet.markets[wish.generation]
        owners = tuple(each.owner for each in devnet.positions[wish.generation])
        rpc = rpc_to(devnet.node.http_url)
        with tempfile.TemporaryDirectory(prefix="keeper-bench-") as folder:
            try:
                await rpc.start(CHAIN_ID)
                forecast = await _forecast(rpc, market, owners, progress)
                progress("giving the operator a key and funds")
                operator = await prepare(devnet, Path(folder))
                async with BlockClock(devnet.node.ws_url) as clock:
                    yield Site(devnet, market, owners, operator, forecast, clock, wish, progress)
            finally:
                await rpc.close()


async def measure(place: Site) -> Size:
    """Run the daemon twice, and the common pattern between the two."""
    cold = await _shift(place, start="cold", is_pushed=False)
    patterns = await _patterns(place)
    warm = await _shift(place, start="warm", is_pushed=True)
    node_mib = read_memory_mib(place.devnet.node.pid)
    return Size(len(place.owners), len(place.forecast.book.book), node_mib, [cold, warm], patterns)


async def _forecast(rpc: Rpc, market: AaveMarket, owners: tuple[str, ...], progress: Progress) -> Forecast:
    progress("reading all positions, to find prices that make a handful of them liquidatable")
    return await Forecast.open(rpc, market, owners)


async def _patterns(place: Site) -> list[Pattern]:
    return await pattern.measure(place.devnet.node.http_url, place.market.pool, place.owners, place.progress)


async def _shift(place: Site, *, start: str, is_pushed: bool) -> Shift:
    """Run one process of the daemon from its start to its stop."""
    urls = (place.devnet.node.http_url, place.devnet.node.ws_url)
    environment = place.operator.environment(RPC_URLS=",".join(urls if is_pushed else urls[:1]))
    transport = "websocket heads" if is_pushed else "http polling"
    place.progress(f"starting the daemon ({start}, {transport})")
    started_s = time.monotonic()
    async with KeeperProcess(environment) as keeper:
        await keeper.ready(_START_LIMIT_S)
        first_pass_s = time.monotonic() - started_s
        place.progress(f"first pass after {first_pass_s:.1f} s; {place.wish.heads} heads at rest follow")
        steady = await _rest(place, keeper)
        rss_mib = read_memory_mib(keeper.pid)
        reactions = [each for turn in range(place.wish.moves) if (each := await _move(place, keeper, turn))]
        peak_mib = read_memory_mib(keeper.pid, "VmHWM")
        if await keeper.stop() != 0:
            raise Fatal(f"the daemon did not end as asked:\n{keeper.tail()}")
    return Shift(transport, start, first_pass_s, rss_mib, peak_mib, steady, reactions)


async def _rest(place: Site, keeper: KeeperProcess) -> Steady:
    """Let the daemon watch heads at which there is nothing to do."""
    await keeper.wait_for(lambda log: len(log.events("chain.head")) > _WARM_UP_HEADS, _PATIENCE_S)
    first = await mark(keeper, place.operator.http_port)
    while (done := len(keeper.events("chain.head")) - first.heads) < place.wish.heads - 1:
        place.progress(f"at rest: {done} of {place.wish.heads} heads")
        wanted = min(first.heads + done + _REPORT_EVERY, first.heads + place.wish.heads - 1)
        await keeper.wait_for(_has_heads(wanted), _PATIENCE_S)
    return steady_between(keeper, place.clock, first, await mark(keeper, place.operator.http_port))


async def _move(place: Site, keeper: KeeperProcess, turn: int) -> Reaction | None:
    """Move one price so that a handful of positions fall, and follow what the daemon does until all is quiet."""
    await place.forecast.refresh()
    begin = len(keeper.lines)
    try:
        move = place.forecast.gentlest(_MOVED)
        what = f"{move.symbol} −{move.fall:.3%}, {move.positions} positions fall"
        place.progress(f"price move {turn + 1} of {place.wish.moves}: {what}")
        hashes = await place.market.set_prices({move.symbol: move.price}, mine=False)
        block = max([int((await place.devnet.chain.receipt(each))["blockNumber"], 16) for each in hashes])
        await keeper.wait_for(lambda log: first_plans(log, begin, block) is not None, _PATIENCE_S / 3)
        place_of_plan = len(keeper.lines)
        await keeper.wait_for(lambda log: is_quiet(log, place_of_plan, _QUIET_HEADS), _PATIENCE_S)
    except Fatal as error:
        reasons = sorted({str(each["reason"]) for each in keeper.events("decision.skipped")})
        place.progress(f"nothing to time: {str(error).splitlines()[0]} Skipped so far: {', '.join(reasons) or 'none'}")
        return None
    return reaction_since(keeper, place.clock, begin, block)


def _has_heads(wanted: int) -> Callable[[KeeperProcess], bool]:
    return lambda log: len(log.events("chain.head")) >= wanted

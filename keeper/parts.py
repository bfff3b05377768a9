"""The parts that commands and the daemon share, made from settings. `app` puts them together."""

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from keeper.broker import Broker, Scales, TradePolicy
from keeper.chain.backfill import Progress
from keeper.chain.endpoint import nodes_of
from keeper.chain.observer import Observer
from keeper.chain.rpc import Rpc
from keeper.chain.view import ChainView, latest_head
from keeper.chainfile import ChainFile, MarketConfig
from keeper.discovery import Discovery
from keeper.domain.chain import BlockHead
from keeper.domain.units import Address
from keeper.engine.plan import Policy
from keeper.execution.signer import SigningPolicy
from keeper.executor.contract import DeployedExecutor
from keeper.observe.events import Event, emit
from keeper.oracles.guard import GuardPolicy
from keeper.registry import markets_of
from keeper.scanner import Census, ParityPolicy, Scanner
from keeper.settings import Settings
from keeper.shelving import Librarian, read_blocks
from keeper.store.bookshelf import Bookshelf, open_shelf
from keeper.store.control import Control, Switches
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed
from keeper.store.findings import Findings
from keeper.store.migration import Reached
from keeper.trading import Surroundings, lenders_of, quoters_of, venues_of
from keeper.venues.http import Notice

OnProgress = Callable[[str, Progress], None]

_LAST_BLOCKS: Final = 25
"""A trade that is not mined by then is cancelled; the contract would not run it any more."""
_CLOCK_S: Final = 60


class SystemClock:
    """The process's clock."""

    def monotonic_s(self) -> float:
        """Return seconds that never go backwards."""
        return time.monotonic()

    def unix_s(self) -> float:
        """Return seconds since 1970."""
        return time.time()


def landing_s(chain: ChainFile) -> int:
    """Return how long after its head a transaction lands: one block, in whole seconds, at least one."""
    return max(1, -(-chain.block_time_ms // 1_000))


@asynccontextmanager
async def open_rpc(settings: Settings, chain: ChainFile, observer: Observer | None = None) -> AsyncIterator[Rpc]:
    """Dial the configured endpoints, and close them in the end.

    Raises: Unsafe when none is on the chain.
    """
    urls = [each.reveal() for each in settings.rpc_urls]
    rpc = Rpc(nodes_of(urls, calls_per_s=settings.requests_per_second), clock=SystemClock(), observer=observer)
    try:
        await rpc.start(chain.chain_id)
        yield rpc
    finally:
        await rpc.close()


def store_place(settings: Settings) -> Path | str:
    """Return the file of the configured database, or the URL of its server, which is a secret."""
    url = settings.database_url.reveal()
    return url if settings.is_shared else Path(url.partition(":///")[2])


async def open_to_read(settings: Settings, chain: ChainFile) -> Database | None:
    """Open the store beside a daemon that writes it; None where there is none yet.

    Raises: StoreFailed.
    """
    try:
        return await Database.open(store_place(settings), chain.chain_id, is_read_only=True)
    except StoreFailed as error:
        if error.fault is Fault.MISSING:
            return None
        raise


async def set_switches(settings: Settings, chain: ChainFile, switches: Mapping[str, bool], *, reason: str) -> Switches:
    """Set `paused` and `halted` as named, and return how both stand; it works beside a running daemon.

    Raises: StoreFailed.
    """
    if not settings.is_shared:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = await Database.open(store_place(settings), chain.chain_id)
    try:
        control, now_s = Control(database), int(SystemClock().unix_s())
        for name, is_on in switches.items():
            set_switch = control.set_paused if name == "paused" else control.set_halted
            await set_switch(is_on, reason=reason, at_s=now_s)
        return await control.read()
    finally:
        await database.close()


def make_scanner(
    settings: Settings, chain: ChainFile, rpc: Rpc, signer: Address | None, census: Census | None = None
) -> tuple[Scanner, ChainView]:
    """Return a scanner with empty books, and the chain that it looks at."""
    view = ChainView(rpc, multicall=chain.multicall)
    policy = Policy(
        mode=settings.mode,
        min_profit_base=settings.min_profit_base,
        approval_base=settings.approval_base,
        max_plans=settings.max_plans_per_head,
        signer=signer,
        max_value_wei=settings.max_value_wei,
        low_balance_wei=settings.low_balance_wei,
    )
    parity = ParityPolicy(settings.parity_every_heads, settings.parity_sample)
    clock, landing = SystemClock(), landing_s(chain)
    guard = GuardPolicy(
        max_rise=settings.oracle_max_rise, settle_s=settings.oracle_settle_s, vouched=frozenset(chain.prices.vouched)
    )
    scanner = Scanner(
        markets_of(chain),
        view,
        policy=policy,
        parity=parity,
        clock=clock,
        landing_s=landing,
        census=census,
        guard=guard,
        broker=make_broker(settings, chain, signer),
    )
    return scanner, view


def make_broker(settings: Settings, chain: ChainFile, signer: Address | None) -> Broker | None:
    """Return what the chain file's executor trades with; None where there is no executor, or nobody who acts.

    Raises: ConfigurationError with every problem of the venues and lenders.
    """
    if chain.executor is None or signer is None:
        return None
    scales = Scales()
    place = Surroundings(signer, SystemClock(), settings.quote_keys, fair=scales.worth, notice=_notice)
    policy = TradePolicy(
        floor_bps=settings.max_gas_share_bps,
        tolerance_bps=chain.exchange.tolerance_bps,
        max_slippage_bps=chain.exchange.max_slippage_bps,
        last_blocks=None if chain.data_gas_oracle else _LAST_BLOCKS,  # on Arbitrum contracts see another chain's blocks
        last_s=_LAST_BLOCKS * landing_s(chain) + _CLOCK_S,
        hold=frozenset(chain.executor.hold),
        data_fee_oracle=chain.data_fee_oracle,
    )
    return Broker(
        executor=DeployedExecutor(chain.executor.address),
        venues=venues_of(chain),
        quoters=quoters_of(chain, place),
        lenders=lenders_of(chain),
        bases=chain.exchange.bases,
        wrapped_native=chain.wrapped_native,
        policy=policy,
        scales=scales,
    )


def _notice(notice: Notice) -> None:
    """Tell what a service has done; what it wrote itself is not in it."""
    emit(Event.VENUE_DECEIT if notice.is_deceit else Event.VENUE_SILENT, venue=notice.venue, reason=notice.what)


async def fill_books(
    scanner: Scanner,
    rpc: Rpc,
    discovery: Discovery,
    on_progress: OnProgress | None = None,
    librarian: Librarian | None = None,
) -> BlockHead:
    """Discover every market and every position, and read at the newest head, which is returned, what is not on a shelf."""
    first = await latest_head(rpc)
    await scanner.discover(first)
    for books in scanner.books.values():
        await discovery.catch_up(books.market, first, on_progress)
    head = await latest_head(rpc)  # the chain went on meanwhile, for hours perhaps: no block may be left out
    known = {name: await discovery.catch_up(books.market, head) for name, books in scanner.books.items()}
    await scanner.load(head, known, await librarian.take_down(partial(read_blocks, rpc)) if librarian else {})
    return head


async def librarian_of(
    settings: Settings, chain: ChainFile, scanner: Scanner, reached: Reached, stack: AsyncExitStack
) -> Librarian:
    """Open the saved book until the stack ends; one that cannot be opened is done without."""
    layouts = {each.name: layout_of(chain, each) for each in chain.markets}
    try:
        shelf = await open_shelf(store_place(settings), chain.chain_id, reached=reached)
    except StoreFailed as error:
        emit(Event.STORAGE_ERROR, error=str(error))
        return Librarian(None, scanner, layouts)
    stack.push_async_callback(shelf.close)
    return Librarian(Bookshelf(shelf, reached), scanner, layouts)


def layout_of(chain: ChainFile, market: MarketConfig) -> bytes:
    """Return what the meaning of a market's saved positions depends on: the program, and what the chain file says."""
    said = {"program": version("keeper"), "prices": chain.prices.model_dump(), "market": market.model_dump()}
    return json.dumps(
        said, sort_keys=True, default=lambda value: value.hex() if isinstance(value, bytes) else str(value)
    ).encode()


async def read_books(
    settings: Settings, chain: ChainFile, rpc: Rpc, on_progress: OnProgress | None = None
) -> tuple[Scanner, BlockHead]:
    """Fill the books beside a running daemon, whose store is only read: no signer, and nothing is kept."""
    database = await open_to_read(settings, chain)
    try:
        scanner, _ = make_scanner(settings, chain, rpc, None)
        discovery = Discovery(rpc, Findings(database) if database else None, is_read_only=True)
        return scanner, await fill_books(scanner, rpc, discovery, on_progress)
    finally:
        if database is not None:
            await database.close()


def signing_policy(before: SigningPolicy, scanner: Scanner) -> SigningPolicy:
    """Allow what the markets' contracts, as last read, need: liquidations by them, or by the executor, and allowances."""
    calls: set[tuple[Address, bytes]] = set()
    payable: set[tuple[Address, bytes]] = set()
    approvals: set[tuple[Address, Address]] = set()
    for name, books in scanner.books.items():
        snapshot = scanner.snapshot(name)
        if snapshot is not None:
            made = books.market.calls
            calls |= {(target, selector) for target in snapshot.targets for selector in made.SELECTORS}
            payable |= {(target, selector) for target in snapshot.targets for selector in made.PAYABLE}
            approvals |= {(each.token.address, each.spender) for each in snapshot.payments if each.spender is not None}
            if (executor := scanner.executor) is not None:
                calls |= {(executor.address, selector) for selector in executor.selectors}
                approvals |= {(each.token.address, executor.address) for each in snapshot.payments if each.is_pulled}
    return replace(before, calls=frozenset(calls), payable=frozenset(payable), approvals=frozenset(approvals))

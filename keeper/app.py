"""The composition root: from settings to running parts. The only place that knows every part, and every protocol."""

import asyncio
import gc
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar

from keeper.chain.backfill import Progress
from keeper.chain.endpoint import nodes_of
from keeper.chain.heads import Heads
from keeper.chain.observer import Observer
from keeper.chain.rpc import Rpc
from keeper.chain.view import ChainView, latest_head
from keeper.chainfile import ChainFile
from keeper.daemon import Daemon, Sender, StopRequested
from keeper.discovery import Discovery
from keeper.domain.chain import BlockHead
from keeper.domain.mode import Mode
from keeper.domain.plan import Outcome
from keeper.domain.units import Address
from keeper.engine.plan import Policy
from keeper.errors import Fatal, KeeperError
from keeper.execution.fees import FeePolicy
from keeper.execution.network import RpcNetwork
from keeper.execution.policy import SenderPolicy
from keeper.execution.sender import Sender as LiveSender
from keeper.execution.shadow import ShadowSender
from keeper.execution.signer import Signer, SigningPolicy
from keeper.observe.attendant import Attendant
from keeper.observe.events import Event, emit
from keeper.observe.health import Health, Thresholds
from keeper.observe.heartbeat import beat
from keeper.observe.metrics import Metrics
from keeper.observe.server import Server
from keeper.registry import markets_of
from keeper.report import Reporter, scored
from keeper.scanner import Census, ParityPolicy, Scanner
from keeper.settings import Settings
from keeper.store.database import Database
from keeper.store.decisions import Decisions
from keeper.store.findings import Findings
from keeper.store.instance import OBSERVER, InstanceLock
from keeper.store.journal import Journal
from keeper.text import address_text

T = TypeVar("T")

OnProgress = Callable[[str, Progress], None]

_MAX_GAS_LIMIT: Final = 5_000_000
_STUCK_AFTER_REPLACEMENTS: Final = 4
_MIN_EVALUATION_AGE_S: Final = 30
_LONGEST_PAUSE_S: Final = 30
_BLOCKS_TO_THE_END: Final = 2


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


def database_path(settings: Settings) -> Path:
    """Return the file of the configured database."""
    return Path(settings.database_url.removeprefix("sqlite:///"))


def signer_of(settings: Settings, chain: ChainFile) -> Signer | None:
    """Open the configured key, or return None where there is none.

    Raises: ConfigurationError.
    """
    policy = SigningPolicy(chain.chain_id, settings.max_fee_wei, _MAX_GAS_LIMIT, settings.max_value_wei)
    if settings.private_key is not None:
        return Signer.from_hex(settings.private_key.reveal(), policy)
    if settings.keystore_file is not None and settings.keystore_password is not None:
        document = settings.keystore_file.read_text(encoding="utf-8")
        return Signer.from_keystore(document, settings.keystore_password.reveal(), policy)
    return None


def account_of(settings: Settings, chain: ChainFile) -> Address | None:
    """Return the account that liquidates, or would: none in observe mode.

    Raises: ConfigurationError.
    """
    if settings.mode is Mode.OBSERVE:
        return None
    signer = signer_of(settings, chain)
    return signer.address if signer else settings.address


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
    scanner = Scanner(
        markets_of(chain), view, policy=policy, parity=parity, clock=clock, landing_s=landing, census=census
    )
    return scanner, view


async def fill_books(
    scanner: Scanner, rpc: Rpc, discovery: Discovery, on_progress: OnProgress | None = None
) -> BlockHead:
    """Discover every market and every position, and read them all at the newest head, which is returned."""
    first = await latest_head(rpc)
    await scanner.discover(first)
    for books in scanner.books.values():
        await discovery.catch_up(books.market, first, on_progress)
    head = await latest_head(rpc)  # the chain went on meanwhile, for hours perhaps: no block may be left out
    known = {name: await discovery.catch_up(books.market, head) for name, books in scanner.books.items()}
    await scanner.load(head, known)
    return head


async def read_books(
    settings: Settings, chain: ChainFile, rpc: Rpc, on_progress: OnProgress | None = None
) -> tuple[Scanner, BlockHead]:
    """Fill the books beside a running daemon, whose store is only read: no signer, and nothing is kept."""
    path = database_path(settings)
    database = await Database.open(path, chain.chain_id, is_read_only=True) if path.exists() else None
    try:
        scanner, _ = make_scanner(settings, chain, rpc, None)
        discovery = Discovery(rpc, Findings(database) if database else None, is_read_only=True)
        return scanner, await fill_books(scanner, rpc, discovery, on_progress)
    finally:
        if database is not None:
            await database.close()


class Keeper:
    """One keeper process: everything that `keeper run` and `keeper once` share."""

    def __init__(self, settings: Settings, chain: ChainFile, on_progress: OnProgress | None) -> None:
        """Take the configuration; nothing is opened yet."""
        self.settings = settings
        self.chain = chain
        self._on_progress = on_progress
        self._clock = SystemClock()
        block_s = landing_s(chain)
        self.metrics = Metrics(clock=self._clock, version=version("keeper"), chain=chain.name, mode=settings.mode.value)
        thresholds = Thresholds(
            max_head_age_s=settings.max_head_age_s,
            max_evaluation_age_s=max(_MIN_EVALUATION_AGE_S, settings.max_head_age_s),
            max_stuck_s=max(_MIN_EVALUATION_AGE_S, _STUCK_AFTER_REPLACEMENTS * settings.bump_after_blocks * block_s),
        )
        self.health = Health(thresholds=thresholds, clock=self._clock)
        self.observer = Attendant(self.metrics, self.health)
        self._outcomes: deque[Outcome] = deque()

    async def run(self, stop: asyncio.Event) -> None:
        """Watch and act until `stop` is set."""
        with Server(
            host=self.settings.http_host,
            port=self.settings.http_port,
            health=self.health,
            exposition=self.metrics.exposition,
        ) as server:
            emit(Event.CONFIG_LOADED, chain=self.chain.name, http_port=server.port, markets=len(self.chain.markets))
            pulse = asyncio.create_task(
                beat(self.health, clock=self._clock, lag=self.metrics.loop_lag_seconds.set), name="heartbeat"
            )
            try:
                await self._work(stop, is_once=False)
            finally:
                pulse.cancel()

    async def once(self, stop: asyncio.Event) -> None:
        """Make one pass at the current head, and follow what it sent to the end."""
        await self._work(stop, is_once=True)

    async def _work(self, stop: asyncio.Event, *, is_once: bool) -> None:
        async with AsyncExitStack() as stack:
            stack.enter_context(suppress(StopRequested))  # while still starting
            signer = signer_of(self.settings, self.chain) if self.settings.mode is Mode.LIVE else None
            account = account_of(self.settings, self.chain)
            owner = address_text(signer.address) if signer else OBSERVER
            stack.callback(InstanceLock.acquire(self.settings.state_dir, self.chain.chain_id, owner).release)
            database = await Database.open(database_path(self.settings), self.chain.chain_id)
            stack.push_async_callback(database.close)
            rpc = await stack.enter_async_context(open_rpc(self.settings, self.chain, self.observer))
            discovery = Discovery(rpc, Findings(database))
            scanner, view = make_scanner(self.settings, self.chain, rpc, account, discovery.catch_up)
            head = await _patiently(stop, lambda: fill_books(scanner, rpc, discovery, self._on_progress))
            gc.collect()
            gc.freeze()  # the books stay: no full collection has to walk them
            reporter = self._reporter(
                scanner=scanner, view=view, rpc=rpc, discovery=discovery, database=database, signer=signer
            )
            stack.push_async_callback(reporter.close)
            if signer is not None:
                signer.policy = _signing_policy(signer.policy, scanner)
            poll_s = self.settings.poll_interval_ms / 1_000
            heads = await stack.enter_async_context(Heads(rpc, poll_interval_s=poll_s))
            daemon = Daemon(
                heads=heads,
                scanner=scanner,
                sender=self._sender(rpc, database, account, signer, scanner),
                outcomes=self._outcomes,
                report=reporter,
            )
            if is_once:
                blocks = _BLOCKS_TO_THE_END * (self.settings.confirmations + self.settings.bump_after_blocks)
                await daemon.once(head, max(self.settings.drain_timeout_s, blocks * landing_s(self.chain)))
                return
            await _patiently(stop, lambda: daemon.recover(head))
            self.health.started(is_sending=daemon.is_sending)
            emit(Event.KEEPER_READY, block=head.number, signer=signer.address if signer else None)
            await daemon.run(stop, self.settings.drain_timeout_s)

    def _sender(
        self, rpc: Rpc, database: Database, account: Address | None, signer: Signer | None, scanner: Scanner
    ) -> Sender | None:
        """Return what the mode allows: nobody, somebody who only scores, or the one who spends."""
        markets = {name: books.market for name, books in scanner.books.items()}
        fees = FeePolicy(
            max_fee_wei=self.settings.max_fee_wei,
            max_tip_wei=self.settings.max_priority_fee_wei,
            max_gas_share_bps=self.settings.max_gas_share_bps,
            bump_bps=self.settings.bump_bps,
        )
        network = RpcNetwork(rpc, self.chain.data_fee_oracle)
        if self.settings.mode is Mode.SHADOW and account is not None:
            return ShadowSender(
                network=network, sender=account, markets=markets, fees=fees, deliver=scored, observer=self.observer
            )
        if self.settings.mode is not Mode.LIVE or signer is None:
            return None
        policy = SenderPolicy(
            fees=fees,
            block_time_s=landing_s(self.chain),
            confirmations=self.settings.confirmations,
            bump_after_blocks=self.settings.bump_after_blocks,
        )
        return LiveSender(
            network=network,
            journal=Journal(database, signer.address),
            signer=signer,
            markets=markets,
            policy=policy,
            deliver=self._outcomes.append,
            observer=self.observer,
        )

    def _reporter(
        self,
        *,
        scanner: Scanner,
        view: ChainView,
        rpc: Rpc,
        discovery: Discovery,
        database: Database,
        signer: Signer | None,
    ) -> Reporter:
        def on_layout() -> None:
            if signer is not None:
                signer.policy = _signing_policy(signer.policy, scanner)

        return Reporter(
            metrics=self.metrics,
            health=self.health,
            decisions=Decisions(database),
            discovery=discovery,
            ancestor=view.ancestor,
            healthy_endpoints=lambda: len(rpc.usable()),
            requests=lambda: self.observer.requests_made,
            low_balance_wei=self.settings.low_balance_wei,
            on_layout=on_layout,
        )


async def _patiently(stop: asyncio.Event, step: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step of the start until the network carries it through.

    Raises: StopRequested as soon as the operator asks for it.
    """
    stopped = asyncio.create_task(stop.wait(), name="stop")
    pause_s = 1
    try:
        while True:
            work = asyncio.ensure_future(step())
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
                raise StopRequested
            try:
                return work.result()
            except Fatal:
                raise
            except KeeperError as error:
                emit(Event.KEEPER_NOT_READY, reason="unreachable", detail=str(error))
            await asyncio.wait({stopped}, timeout=pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            if stopped.done():
                raise StopRequested
    finally:
        stopped.cancel()


def _signing_policy(before: SigningPolicy, scanner: Scanner) -> SigningPolicy:
    """Allow what the markets' contracts, as last read, need: liquidations by them, and allowances to them."""
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
    return replace(before, calls=frozenset(calls), payable=frozenset(payable), approvals=frozenset(approvals))


class Signals:
    """SIGTERM and SIGINT: the first asks to stop, the second aborts."""

    def __init__(self) -> None:
        """Take the running loop's signals."""
        self.stop = asyncio.Event()
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._take, each.name)

    def _take(self, name: str) -> None:
        if self.stop.is_set():
            emit(Event.KEEPER_STOPPING, reason=f"second {name}: aborting")
            if self._task is not None:
                self._task.cancel()
        else:
            emit(Event.KEEPER_STOPPING, reason=name)
            self.stop.set()

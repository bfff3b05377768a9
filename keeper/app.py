"""The composition root: from settings to running parts. The only place that knows every part, and every protocol."""

import asyncio
import gc
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any, Final, TypeVar

from keeper import permits
from keeper.chain.heads import Heads
from keeper.chain.observer import LASTING
from keeper.chain.rpc import Rpc
from keeper.chain.view import ChainView, latest_head
from keeper.chainfile import ChainFile, ExecutorConfig
from keeper.daemon import Daemon, StopRequested
from keeper.discovery import Discovery
from keeper.domain.plan import Outcome
from keeper.domain.units import Address
from keeper.errors import Fatal, KeeperError
from keeper.execution.budget import Limit
from keeper.execution.remote import RemoteSigner
from keeper.execution.signer import Signatory, Signer
from keeper.failpoints import Failpoints, Saboteur
from keeper.lines import scored
from keeper.observe.attendant import Attendant
from keeper.observe.events import Event, emit
from keeper.observe.health import Health, Thresholds, Why
from keeper.observe.heartbeat import beat
from keeper.observe.metrics import Metrics
from keeper.observe.server import Server
from keeper.parts import (
    OnProgress,
    SystemClock,
    fill_books,
    landing_s,
    librarian_of,
    make_scanner,
    open_rpc,
    signing_policy,
    store_place,
)
from keeper.report import Reporter
from keeper.sending import Clerk, Office, account_of, relays_of, signatory_of
from keeper.settings import Settings
from keeper.shelving import Librarian
from keeper.store.audit import Audit
from keeper.store.database import Database
from keeper.store.decisions import Decisions
from keeper.store.faults import StoreFailed
from keeper.store.findings import Findings
from keeper.store.instance import OBSERVER, InstanceLock
from keeper.text import address_text

T = TypeVar("T")

_STUCK_AFTER_REPLACEMENTS: Final = 4
_MIN_EVALUATION_AGE_S: Final = 30
_LONGEST_PAUSE_S: Final = 30
_BLOCKS_TO_THE_END: Final = 2
_BALANCE_EVERY_S: Final = 60
_GATES: Final = {"paused": Why.PAUSED, "halted": Why.HALTED, "switches_unknown": Why.STORAGE_FAILED} | {
    Limit.BREAKER: Why.BREAKER_OPEN,
    Limit.NODE_FEE_CAP: Why.BREAKER_OPEN,
    Limit.NODE_REFUSALS: Why.BREAKER_OPEN,
}
"""What the sender's gate is shut by, as health says it; anything else is a budget."""


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
        self.attendant = Attendant(self.metrics, self.health)
        failpoints = Failpoints.parse(settings.failpoints)
        failpoints.allow_on(chain.chain_id)
        self.observer = Saboteur(self.attendant, failpoints) if failpoints.points else self.attendant
        self._outcomes: deque[Outcome] = deque()

    async def run(self, stop: asyncio.Event) -> None:
        """Watch and act until `stop` is set."""
        async with AsyncExitStack() as stack:
            signer = self._take_place(stack)
            server = stack.enter_context(
                Server(
                    host=self.settings.http_host,
                    port=self.settings.http_port,
                    health=self.health,
                    exposition=self.metrics.exposition,
                )
            )
            emit(Event.CONFIG_LOADED, chain=self.chain.name, http_port=server.port, markets=len(self.chain.markets))
            pulse = asyncio.create_task(beat(self.health, clock=self._clock, lag=self._beaten), name="heartbeat")
            stack.callback(pulse.cancel)
            await self._work(stop, signer, is_once=False)

    def _beaten(self, lag_s: float) -> None:
        """Take the state of the event loop at a heartbeat."""
        self.metrics.loop_lag_seconds.set(lag_s)
        self.metrics.tasks.set(len(asyncio.all_tasks()))

    async def once(self, stop: asyncio.Event) -> None:
        """Make one pass at the current head, and follow what it sent to the end."""
        async with AsyncExitStack() as stack:
            await self._work(stop, self._take_place(stack), is_once=True)

    def _take_place(self, stack: AsyncExitStack) -> Signer | RemoteSigner | None:
        """Lock the state directory before anything else, and return who signs: nobody, unless in live mode."""
        signer = signatory_of(self.settings, self.chain)
        if isinstance(signer, RemoteSigner):
            stack.push_async_callback(signer.close)
        owner = address_text(signer.address) if signer else OBSERVER
        stack.callback(InstanceLock.acquire(self.settings.state_dir, self.chain.chain_id, owner).release)
        return signer

    async def _work(self, stop: asyncio.Event, signer: Signer | RemoteSigner | None, *, is_once: bool) -> None:
        async with AsyncExitStack() as stack:
            stack.enter_context(suppress(StopRequested))  # while still starting
            relays = relays_of(self.settings) if signer else None
            if relays is not None:
                stack.push_async_callback(relays.close)
            account = signer.address if signer else account_of(self.settings, self.chain)
            place, chain_id = store_place(self.settings), self.chain.chain_id
            database = await Database.open(place, chain_id, reached=self.observer.reached)
            stack.push_async_callback(database.close)
            rpc = await stack.enter_async_context(open_rpc(self.settings, self.chain, self.attendant))
            discovery = Discovery(rpc, Findings(database))
            scanner, view = make_scanner(self.settings, self.chain, rpc, account, discovery.catch_up)
            stack.push_async_callback(scanner.close)
            librarian = await librarian_of(self.settings, self.chain, scanner, self.observer.reached, stack)
            head = await _patiently(stop, lambda: fill_books(scanner, rpc, discovery, self._on_progress, librarian))
            if signer is not None and self.chain.executor is not None:
                await _patiently(stop, partial(_is_ours, self.chain.executor, rpc, view, account))
            gc.collect()
            gc.freeze()  # the books stay: no full collection has to walk them
            if signer is not None:
                signer.policy = signing_policy(signer.policy, scanner)
            clerk = Clerk(self.settings, self.chain, rpc, database, scanner, self.observer, relays)
            office = clerk.office(signer, account, deliver=self._outcomes.append, scored=scored)
            reporter = self._reporter(clerk, view, discovery, librarian, signer=signer, office=office)
            stack.push_async_callback(reporter.close)
            poll_s = self.settings.poll_interval_ms / 1_000
            heads = await stack.enter_async_context(Heads(rpc, poll_interval_s=poll_s))
            daemon = Daemon(
                heads=heads, scanner=scanner, sender=office.sender, outcomes=self._outcomes, report=reporter
            )
            await stack.enter_async_context(_beside(office.understudy.run() if office.understudy else None))
            if is_once:
                blocks = _BLOCKS_TO_THE_END * (self.settings.confirmations + self.settings.bump_after_blocks)
                await daemon.once(head, max(self.settings.drain_timeout_s, blocks * landing_s(self.chain)))
                return
            await _patiently(stop, lambda: daemon.recover(head))
            self.health.started(is_sending=daemon.is_sending)
            emit(Event.KEEPER_READY, block=head.number, signer=signer.address if signer else None)
            async with _beside(self._balance(Audit(database, signer.address)) if signer else None):
                await daemon.run(stop, self.settings.drain_timeout_s)

    async def _balance(self, audit: Audit) -> None:
        """Balance the journal's books every minute (invariants N2 and N11), for ever."""
        while True:
            await asyncio.sleep(_BALANCE_EVERY_S)
            try:
                found = await audit.balance()
            except StoreFailed as error:
                if not error.is_passing:
                    raise
                continue  # the next look tells more, and whoever writes tells of the fault
            self.health.invariant("N11", holds=not found.faults)
            for fault in found.faults:
                self.metrics.invariant_violations.at(id="N11").inc()
                emit(Event.INVARIANT_VIOLATED, id="N11", detail=fault)

    def _reporter(
        self,
        clerk: Clerk,
        view: ChainView,
        discovery: Discovery,
        librarian: Librarian,
        *,
        signer: Signatory | None,
        office: Office,
    ) -> Reporter:
        def on_layout() -> None:
            if signer is not None:
                signer.policy = signing_policy(signer.policy, clerk.scanner)

        return Reporter(
            metrics=self.metrics,
            health=self.health,
            decisions=Decisions(clerk.database),
            discovery=discovery,
            ancestor=view.ancestor,
            healthy_endpoints=lambda: len(clerk.rpc.usable()),
            requests=lambda: self.attendant.requests_made,
            low_balance_wei=self.settings.low_balance_wei,
            on_layout=on_layout,
            librarian=librarian,
            on_served=lambda: self._tell_office(office, clerk.database),
        )

    def _tell_office(self, office: Office, database: Database) -> None:
        """Tell health what keeps the sender from beginning anything new, or soon will."""
        self.health.disk(is_short=database.is_short_of_space)
        is_waiting = office.understudy is not None and not office.understudy.is_leading
        if office.warden is not None and not is_waiting:
            self.health.gate(next((_GATES.get(hold, Why.BUDGET_SPENT) for hold in office.warden.holds), Why.OK))
        if office.understudy is not None:
            self.health.lease(is_held=not is_waiting)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None] | None) -> AsyncIterator[None]:
    """Run work that never ends beside the body; its error ends the body, and the body's end ends it."""
    if work is None:
        yield
        return
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work, name="beside")
        yield
        task.cancel()


async def _is_ours(executor: ExecutorConfig, rpc: Rpc, view: ChainView, account: Address | None) -> None:
    """Let pass an executor that is the one of the chain file, and that the account may call.

    Raises: Unsafe; Transient; Stale.
    """
    await permits.require(executor, rpc, view.reads(await latest_head(rpc)), account)


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


class Signals:
    """What comes from outside the work: SIGTERM and SIGINT, of which the first asks to stop and the second aborts.

    Signals that mean nothing to a daemon are ignored. A task that should last for ever and ends by an error aborts too.
    """

    def __init__(self) -> None:
        """Take the running loop's signals."""
        self.stop = asyncio.Event()
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._failed)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._take, each.name)
        for each in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)  # by default they would kill it in the middle of whatever it does

    def _take(self, name: str) -> None:
        if self.stop.is_set():
            emit(Event.KEEPER_STOPPING, reason=f"second {name}: aborting")
            self._abort()
        else:
            emit(Event.KEEPER_STOPPING, reason=name)
            self.stop.set()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if LASTING not in context:
            loop.default_exception_handler(context)
            return
        error = context["exception"]
        emit(Event.KEEPER_CRASHED, error=f"{context['message']}: {error}", kind=type(error).__name__, exc_info=error)
        self._abort()

    def _abort(self) -> None:
        if self._task is not None:
            self._task.cancel()

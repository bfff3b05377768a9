"""The daemon's life: tasks, mailboxes, stop and drain. It decides nothing.

heads ──▶ one-slot mailbox (newest wins) ──▶ scan loop ──▶ bounded queue ──▶ sender
                                               ▲                               │
                                               └───────── outcomes ◀───────────┘
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Reason
from keeper.domain.plan import Batch, DecisionRecord, Outcome, Plan
from keeper.domain.ports import Position, Taken
from keeper.domain.position import PositionKey
from keeper.engine.limits import way_of
from keeper.engine.plan import accept, skip
from keeper.errors import ExitCode, Fatal, KeeperError, Stale, Transient
from keeper.execution.verdicts import Accepted, Skipped, Verdict
from keeper.passes import Pass
from keeper.scanner import Scanner

T = TypeVar("T")

_WAITING_PASSES: Final = 16


class StopRequested(Exception):
    """The operator asked the daemon to stop."""


class Mailbox(Generic[T]):
    """Hold one item; a newer one replaces it, so that a late reader never works through a queue of old ones."""

    def __init__(self) -> None:
        """Start empty."""
        self._item: T | None = None
        self._filled = asyncio.Event()

    def put(self, item: T) -> None:
        """Replace the item."""
        self._item = item
        self._filled.set()

    async def get(self) -> T:
        """Wait for an item and take it."""
        while (item := self._item) is None:
            self._filled.clear()
            await self._filled.wait()
        self._item = None
        return item


class Sender(Protocol):
    """The only part that can spend. Outcomes come through the callback that it was made with."""

    @property
    def in_flight(self) -> Set[PositionKey]:
        """Return the positions whose plans have no outcome yet."""
        ...

    async def recover(self, head: BlockHead) -> None:
        """Reconcile what was in flight when the process last ended."""
        ...

    async def submit(self, batch: Batch) -> Sequence[Verdict]:
        """Simulate, price, commit, sign and broadcast; one verdict for each plan."""
        ...

    async def on_head(self, head: BlockHead, taken: Sequence[Taken] = ()) -> None:
        """Look after what is in flight."""
        ...

    async def drain(self, timeout_s: int) -> Set[PositionKey]:
        """Take nothing new and wait for what is in flight, while heads keep coming in."""
        ...


class Report(Protocol):
    """Where everything that happened is told and kept; it can raise only `Fatal`."""

    async def passed(self, done: Pass) -> None:
        """Take a finished pass."""
        ...

    async def decided(self, decisions: Sequence[DecisionRecord]) -> None:
        """Take final decisions."""
        ...

    async def ended(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes."""
        ...

    def failed(self, head: BlockHead, error: Exception) -> None:
        """Take a pass or a submission that could not be finished."""
        ...

    def served(self, head: BlockHead) -> None:
        """Take that the sender is done with a head."""
        ...

    def stopping(self) -> None:
        """Take that nothing new is begun any more."""
        ...


@dataclass(frozen=True, slots=True)
class _Returned:
    """A plan that never left: its account is free again, and may have to cool down."""

    plan: Plan
    position: Position | None
    reason: Reason


class Daemon:
    """Run the scan loop and the sender side by side until asked to stop."""

    def __init__(
        self,
        *,
        heads: AsyncIterator[BlockHead],
        scanner: Scanner,
        sender: Sender | None,
        outcomes: deque[Outcome],
        report: Report,
        retry_s: float = 1.0,
    ) -> None:
        """Take the parts; nothing runs yet. `outcomes` is what the sender delivers into."""
        self._heads = heads
        self._scanner = scanner
        self._sender = sender
        self._delivered = outcomes
        self._report = report
        self._retry_s = retry_s
        self._newest: Mailbox[BlockHead] = Mailbox()
        self._passes: asyncio.Queue[Pass] = asyncio.Queue(maxsize=_WAITING_PASSES)
        self._outcomes: list[Outcome] = []
        self._returned: list[_Returned] = []
        self._taken: list[Taken] = []
        self._sent: set[PositionKey] = set()
        self._undecided: list[Pass] = []

    @property
    def is_sending(self) -> bool:
        """Return whether there is a sender to look after."""
        return self._sender is not None

    async def run(self, stop: asyncio.Event, drain_s: int) -> None:
        """Work until `stop` is set, then drain; raise what a task raised."""
        try:
            await self._work(stop, drain_s)
        except ExceptionGroup:
            if self._sender is not None:
                await self._sender.drain(0)  # what is being handed over ends before the journal is closed
            raise

    async def _work(self, stop: asyncio.Event, drain_s: int) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(), name="heads")
                group.create_task(self._scan(), name="scan")
                group.create_task(self._send(), name="send")
                group.create_task(self._stop_when(stop, drain_s), name="stop")
        except* StopRequested:
            await self._tell()
            for left in list(self._undecided):
                verdicts = _refuse(left, Reason.STOPPING, "it was asked to stop")
                await self._report.decided(self._judge(left, verdicts))

    async def once(self, head: BlockHead, drain_s: int) -> Pass:
        """Make one pass at one head, send what it decided, and follow that to its end."""
        await self.recover(head)
        done = await self._made(head)
        await self._report.passed(done)
        await self._serve(done)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(), name="follow")
                group.create_task(self._stop_when(None, drain_s), name="stop")
        except* StopRequested:
            await self._tell()
        return done

    async def recover(self, head: BlockHead) -> None:
        """Reconcile what was in flight before the first pass, and lock those accounts."""
        if self._sender is None:
            return
        try:
            await self._sender.recover(head)
        except asyncio.CancelledError:
            await self._sender.drain(0)  # what it had begun ends before the journal is closed
            raise
        for key in self._sender.in_flight:
            self._scanner.limits.lock(key, "recovered")
            self._sent.add(key)
        await self._tell()

    async def _stop_when(self, stop: asyncio.Event | None, drain_s: int) -> None:
        """Wait until asked to stop, let what is in flight end, and end the task group."""
        if stop is not None:
            await stop.wait()
        self._report.stopping()
        if self._sender is not None:
            await self._sender.drain(drain_s)
        raise StopRequested

    async def _follow(self) -> None:
        """Keep the sender up to date without making passes."""
        async for head in self._heads:
            if self._sender is not None:
                await self._sender.on_head(head)

    async def _watch(self) -> None:
        async for head in self._heads:
            self._newest.put(head)
        raise Fatal("the stream of heads ended")

    async def _scan(self) -> None:
        while True:
            head = await self._newest.get()
            while True:
                try:
                    await self._pass(head)
                    break
                except Fatal:
                    raise
                except Stale as error:
                    self._report.failed(head, error)
                    break
                except KeeperError as error:
                    self._report.failed(head, error)
                    head = await self._newer_than(head)

    async def _newer_than(self, head: BlockHead) -> BlockHead:
        """Return the next head, or the same one again when none comes within the retry time."""
        try:
            async with asyncio.timeout(self._retry_s):
                return await self._newest.get()
        except TimeoutError:
            return head

    async def _pass(self, head: BlockHead) -> None:
        self._settle()
        done = await self._made(head)
        oldest: Pass | None = None
        if self._sender is not None:
            if self._passes.full():
                oldest = self._passes.get_nowait()
            self._passes.put_nowait(done)  # the sender starts while the pass is being told
        await self._report.passed(done)
        if oldest is not None:
            verdicts = _refuse(oldest, Reason.SUPERSEDED, "the sender was busy")
            await self._report.decided(self._judge(oldest, verdicts))

    async def _made(self, head: BlockHead) -> Pass:
        """Make a pass; the liquidations that it saw wait for the sender, which hears of all of them."""
        done = await self._scanner.make_pass(head)
        if self._sender is not None:
            self._taken += [each for market in done.markets for each in market.taken]
            self._undecided.append(done)
        return done

    def _settle(self) -> None:
        """Apply to the limits what the sender brought back; only ever between two passes."""
        outcomes, self._outcomes = self._outcomes, []
        returned, self._returned = self._returned, []
        landed = self._sent - self._sender.in_flight if self._sender is not None else set()
        for key in landed:
            self._sent.discard(key)
            self._scanner.limits.release(key)
        for outcome in outcomes:
            self._scanner.settle(outcome)
        for each in returned:
            self._scanner.limits.release(each.plan.key)
            self._scanner.limits.fail(
                each.plan.key,
                each.reason,
                each.plan.head.number,
                each.position,
                each.plan.opportunity.gross_profit_base,
                way=way_of(each.plan.opportunity),
            )

    async def _send(self) -> None:
        while True:
            made = await self._passes.get()
            try:
                await self._serve(made)
            except (Transient, Stale) as error:
                self._report.failed(made.head, error)

    async def _serve(self, made: Pass) -> None:
        """Submit the pass's batch, then look after what is in flight; every plan gets its decision.

        Where blocks are gone, what is in flight comes first: it may be the work of a plan that would now be repeated.
        """
        if self._sender is None:
            return
        taken, self._taken = self._taken, []
        verdicts: Sequence[Verdict] = ()
        try:
            if made.extension.orphaned:
                await self._sender.on_head(made.head, taken)
            if made.planned.batch is not None:
                verdicts = await self._sender.submit(made.planned.batch)
        except Transient as error:
            verdicts = _refuse(made, Reason.SIMULATION_FAILED, str(error))
        except Stale as error:
            verdicts = _refuse(made, Reason.SUPERSEDED, str(error))
        await self._report.decided(self._judge(made, verdicts))
        if not made.extension.orphaned:
            await self._sender.on_head(made.head, taken)
        self._report.served(made.head)
        await self._tell()

    async def _tell(self) -> None:
        """Pass on what the sender delivered: to the limits before the next pass, and to the report now."""
        ended = list(self._delivered)
        self._delivered.clear()
        if ended:
            self._outcomes.extend(ended)
            await self._report.ended(ended)

    def _judge(self, made: Pass, verdicts: Sequence[Verdict]) -> list[DecisionRecord]:
        """Turn verdicts into decisions, and let go of the accounts whose plan never left."""
        self._undecided = [each for each in self._undecided if each is not made]
        plans = {each.id: each for each in made.planned.batch.plans} if made.planned.batch else {}
        decisions = []
        for verdict in verdicts:
            candidate = made.candidates.get(verdict.key)  # a chore has none
            position = candidate.position if candidate else None
            match verdict:
                case Accepted():
                    self._sent.add(verdict.key)
                    if candidate is not None:
                        detail = f"0x{verdict.tx_hash.hex()}"
                        decisions.append(accept(made.head, candidate, verdict.plan_id, verdict.profit_base, detail))
                case Skipped():
                    self._returned.append(_Returned(plans[verdict.plan_id], position, verdict.reason))
                    if candidate is not None:
                        decisions.append(skip(made.head, candidate, verdict.reason, verdict.detail))
        return decisions


def _refuse(made: Pass, reason: Reason, detail: str) -> list[Verdict]:
    """Refuse every plan of a pass for one reason."""
    plans = made.planned.batch.plans if made.planned.batch else ()
    return [Skipped(each.id, each.key, reason, detail) for each in plans]


async def supervise(work: Awaitable[None], crashed: Callable[[Exception], None]) -> ExitCode:
    """Run the program to its end and return its exit code; what nobody foresaw is told, and is code 1."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 - the supervisor: the one place that catches everything
        cause = _cause(error)
        crashed(cause)
        return cause.exit_code if isinstance(cause, Fatal) else ExitCode.CRASHED
    return ExitCode.DONE


def _cause(error: Exception) -> Exception:
    """Return the error of a group that decides how the process ends: a fatal one first, else the first."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause(each) for each in error.exceptions]
    return next((each for each in causes if isinstance(each, Fatal)), causes[0])

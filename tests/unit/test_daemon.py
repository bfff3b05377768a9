"""The daemon's life on a model chain and in virtual time: what it skips, repeats, supersedes, drains and dies of."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from keeper.daemon import Daemon, supervise
from keeper.domain.chain import BlockHead
from keeper.domain.mode import Mode
from keeper.domain.outcome import Decision, Reason, Result
from keeper.domain.plan import Batch, DecisionRecord, Outcome
from keeper.domain.ports import Taken
from keeper.domain.position import PositionKey
from keeper.domain.units import Base, PositionId, TxHash
from keeper.engine.plan import Policy
from keeper.errors import (
    AlreadyRunning,
    ConfigurationError,
    ExitCode,
    Fatal,
    KeeperError,
    Stale,
    StorageFailed,
    Transient,
    Unsafe,
)
from keeper.execution.verdicts import Accepted, Verdict, skip
from keeper.passes import Pass
from keeper.scanner import ParityPolicy, Scanner
from tests.toy import RECEIPT, ChainReader, ToyChain, ToyPosition, account, address, toy_market
from tests.unit.test_scanner import Stopwatch

pytestmark = pytest.mark.looptime

WAITING = 16


class Feed:
    """Heads as a test hands them out."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[BlockHead | None] = asyncio.Queue()

    def put(self, head: BlockHead | None) -> None:
        self._queue.put_nowait(head)

    def __aiter__(self) -> AsyncIterator[BlockHead]:
        return self

    async def __anext__(self) -> BlockHead:
        head = await self._queue.get()
        if head is None:
            raise StopAsyncIteration
        return head


@dataclass
class Ledger:
    """Implements `daemon.Report`: remembers everything with the time."""

    passes: list[tuple[float, Pass]] = field(default_factory=list)
    decisions: list[DecisionRecord] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[tuple[float, Exception]] = field(default_factory=list)
    crash: Exception | None = None
    is_stopping: bool = False
    served_heads: list[int] = field(default_factory=list)

    async def passed(self, done: Pass) -> None:
        self.passes.append((asyncio.get_running_loop().time(), done))
        if self.crash is not None:
            raise self.crash

    async def decided(self, decisions: Sequence[DecisionRecord]) -> None:
        self.decisions += decisions

    async def ended(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes += outcomes

    def failed(self, head: BlockHead, error: Exception) -> None:
        self.failures.append((asyncio.get_running_loop().time(), error))

    def served(self, head: BlockHead) -> None:
        self.served_heads.append(head.number)

    def stopping(self) -> None:
        self.is_stopping = True

    @property
    def heads(self) -> list[int]:
        return [done.head.number for _, done in self.passes]

    @property
    def reasons(self) -> list[Reason | None]:
        return [each.reason for each in self.decisions]


@dataclass
class FakeSender:
    """Implements `daemon.Sender`: accepts what it is not told to refuse, and lands it when told."""

    delivered: deque[Outcome] = field(default_factory=deque)
    in_flight: Set[PositionKey] = field(default_factory=set)
    busy_s: float = 0
    refusals: dict[PositionKey, Reason] = field(default_factory=dict)
    submit_errors: deque[Exception] = field(default_factory=deque)
    head_errors: deque[Exception] = field(default_factory=deque)
    batches: list[Batch] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    landing: list[Outcome] = field(default_factory=list)
    drains: list[int] = field(default_factory=list)
    recovering: list[int] = field(default_factory=list)
    recover_s: float = 0
    was_told: Callable[[], bool] = lambda: True

    async def recover(self, head: BlockHead) -> None:
        self.recovering.append(head.number)
        await asyncio.sleep(self.recover_s)

    async def submit(self, batch: Batch) -> Sequence[Verdict]:
        self.batches.append(batch)
        self.order.append("submit")
        await asyncio.sleep(self.busy_s)
        if self.submit_errors:
            raise self.submit_errors.popleft()
        verdicts: list[Verdict] = []
        for plan in batch.plans:
            reason = Reason.STOPPING if self.drains else self.refusals.get(plan.key)
            if reason is not None:
                verdicts.append(skip(plan, reason, "as told"))
            else:
                self.in_flight = {*self.in_flight, plan.key}
                verdicts.append(Accepted(plan.id, plan.key, TxHash(b"\xab" * 32), 0, Base(7)))
        return verdicts

    async def on_head(self, head: BlockHead, taken: Sequence[Taken] = ()) -> None:
        self.heads.append(head.number)
        self.order.append("on_head")
        self.taken += taken
        if self.head_errors:
            raise self.head_errors.popleft()
        for outcome in self.landing:
            self.in_flight = self.in_flight - {outcome.key}
            self.delivered.append(outcome)
        self.landing = []

    async def drain(self, timeout_s: int) -> Set[PositionKey]:
        assert self.was_told()
        self.drains.append(timeout_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.in_flight:  # noqa: ASYNC110 - virtual time costs nothing
                    await asyncio.sleep(0.1)
        return self.in_flight


@dataclass
class Life:
    """A daemon and everything around it."""

    chain: ToyChain
    reader: ChainReader
    scanner: Scanner
    sender: FakeSender
    report: Ledger
    feed: Feed
    daemon: Daemon
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def mine(self, *changed: ToyPosition, wait_s: float = 0.5) -> BlockHead:
        """Add a block, hand it out and give the daemon time."""
        head = self.chain.mine(*changed)
        self.feed.put(head)
        await asyncio.sleep(wait_s)
        return head

    @asynccontextmanager
    async def running(self, drain_s: int = 8) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.daemon.run(self.stop, drain_s))
        await asyncio.sleep(0.01)
        yield task
        self.stop.set()
        await task

    @property
    def last(self) -> Pass:
        return self.report.passes[-1][1]

    def outcome(self, number: int, result: Result, reason: Reason | None) -> Outcome:
        plan = next(plan for batch in self.sender.batches for plan in batch.plans if plan.key == key(number))
        block = self.chain.head.number
        return Outcome(plan.id, plan.key, result, reason, "", block, opportunity=plan.opportunity)


def key(number: int) -> PositionKey:
    return PositionKey("toy", account(number))


def risky(number: int) -> ToyPosition:
    return ToyPosition(account(number), 100, 9_000)


async def born(*held: ToyPosition, has_sender: bool = True) -> Life:
    chain = ToyChain(depth=64)
    chain.mine(*held)
    reader = ChainReader(chain=chain)
    policy = Policy(Mode.LIVE, Base(1), Base(10**16), 64, address(77))
    scanner = Scanner(
        [toy_market(reader)], chain, policy=policy, parity=ParityPolicy(0, 1), clock=Stopwatch(), landing_s=12
    )
    await scanner.discover(chain.head)
    await scanner.load(chain.head, {"toy": [each.id for each in held]})
    sender, report, feed = FakeSender(), Ledger(), Feed()
    sender.was_told = lambda: report.is_stopping or report.crash is not None or not report.passes
    daemon = Daemon(
        heads=feed,
        scanner=scanner,
        sender=sender if has_sender else None,
        outcomes=sender.delivered,
        report=report,
    )
    return Life(chain, reader, scanner, sender, report, feed, daemon)


def undecided(life: Life) -> set[tuple[PositionKey, int]]:
    """Return the candidates that have not exactly one decision at their head."""
    wanted = sorted((each, done.head.number) for _, done in life.report.passes for each in done.candidates)
    told = [each for _, done in life.report.passes for each in done.planned.decisions] + life.report.decisions
    return set(wanted) ^ {(each.key, each.block) for each in told} if len(told) == len(wanted) else set(wanted)


async def test_the_newest_head_wins_over_those_that_came_meanwhile() -> None:
    life = await born()
    life.chain.read_s = 10
    async with life.running():
        first = await life.mine(wait_s=2)
        for _ in range(4):
            await life.mine(wait_s=2)
        await asyncio.sleep(30)
        assert life.report.heads == [first.number, first.number + 4]
        assert [len(done.extension.new) for _, done in life.report.passes] == [1, 4]


async def test_a_transient_pass_is_made_again_at_the_next_head() -> None:
    life = await born()
    async with life.running():
        life.chain.fail("reads", Transient("down"))
        first = await life.mine(risky(1), wait_s=0.4)
        assert life.report.heads == []
        await life.mine()
        assert life.report.heads == [first.number + 1]
        assert len(life.last.candidates) == 1


async def test_a_transient_pass_is_made_again_after_a_while_where_no_head_comes() -> None:
    life = await born()
    async with life.running():
        life.chain.failures["reads"].extend([Transient("down"), Transient("down")])
        head = await life.mine(wait_s=5)
        assert life.report.heads == [head.number]
        (one, _), (two, _) = life.report.failures
        assert two - one == pytest.approx(1.0)
        assert life.report.passes[0][0] - two == pytest.approx(1.0)


@pytest.mark.parametrize("where", ["extend", "logs", "reads"])
async def test_a_refusal_that_nobody_classified_does_not_end_the_daemon(where: str) -> None:
    life = await born()
    async with life.running():
        life.chain.fail(where, KeeperError("the node refuses this"))
        head = await life.mine(wait_s=3)
        assert life.report.heads == [head.number]
        assert len(life.report.failures) == 1


async def test_a_stale_head_is_left_for_the_next_one() -> None:
    life = await born()
    async with life.running():
        life.chain.fail("reads", Stale("gone"))
        head = await life.mine(risky(1), wait_s=20)
        assert (life.report.heads, len(life.report.failures)) == ([], 1)
        await life.mine()
        assert life.report.heads == [head.number + 1]
        assert len(life.last.candidates) == 1


async def test_plans_go_to_the_sender_and_each_has_one_decision() -> None:
    life = await born(risky(1))
    async with life.running():
        await life.mine(risky(2))
        assert [[plan.key for plan in batch.plans] for batch in life.sender.batches] == [[key(1), key(2)]]
        assert {each.decision for each in life.report.decisions} == {Decision.ACCEPTED}
        assert life.report.decisions[0].detail == "0x" + "ab" * 32
        assert life.report.decisions[0].profit_base == 7
        await life.mine()
        assert len(life.sender.batches) == 1
        assert [each.reason for each in life.last.planned.decisions] == [Reason.IN_FLIGHT] * 2
        life.sender.in_flight = set()
    assert undecided(life) == set()


CHORE = PositionKey("toy", PositionId(address(77) + RECEIPT.address))


async def test_a_chore_goes_to_the_sender_and_has_no_decision() -> None:
    life = await born()
    life.reader.proceeds = (RECEIPT,)
    life.chain.funds[RECEIPT.address] = 50
    async with life.running():
        await life.mine()  # the first pass learns what there is to be held
        await life.mine()
        await life.mine(risky(1))
        assert [[plan.key for plan in batch.plans] for batch in life.sender.batches] == [[CHORE], [key(1)]]
        assert [(each.key, each.decision) for each in life.report.decisions] == [(key(1), Decision.ACCEPTED)]
        plan = life.sender.batches[0].plans[0]
        won = Outcome(plan.id, CHORE, Result.WON, None, "", life.chain.head.number, opportunity=plan.opportunity)
        life.sender.landing = [won]
        await life.mine()
        await life.mine()
        assert [plan.key for plan in life.sender.batches[-1].plans] == [CHORE]
        assert life.report.outcomes == [won]
        life.sender.in_flight = set()
    assert undecided(life) == set()


async def test_a_chore_that_the_sender_refuses_cools_down_without_a_decision() -> None:
    life = await born()
    life.reader.proceeds = (RECEIPT,)
    life.chain.funds[RECEIPT.address] = 50
    life.sender.refusals[CHORE] = Reason.SIMULATION_REVERTED
    async with life.running():
        sent = []
        for _ in range(8):
            before = len(life.sender.batches)
            await life.mine()
            sent.append(len(life.sender.batches) - before)
        assert sent == [0, 1, 0, 1, 0, 0, 0, 1]
        assert life.report.decisions == []
        await life.mine()
        assert not life.scanner.limits.is_locked(CHORE)
    assert undecided(life) == set()


async def test_a_busy_sender_supersedes_a_chore_without_a_decision_and_it_is_planned_again() -> None:
    life = await born()
    life.reader.proceeds = (RECEIPT,)
    life.chain.funds[RECEIPT.address] = 50
    life.sender.busy_s = 1_000
    async with life.running(drain_s=0):
        await life.mine(risky(1))
        for _ in range(WAITING + 2):
            await life.mine()
        planned = [
            [plan.key for plan in done.planned.batch.plans] if done.planned.batch else []
            for _, done in life.report.passes
        ]
        assert planned == [[key(1)], [CHORE], *[[]] * WAITING, [CHORE]]
        assert life.report.decisions == []
    assert undecided(life) == set()


async def test_a_busy_sender_supersedes_the_oldest_the_oldest_waiting_pass_and_frees_its_accounts() -> None:
    life = await born()
    life.sender.busy_s = 1_000
    async with life.running(drain_s=0):
        for number in range(1, WAITING + 2):
            await life.mine(risky(number))
        assert life.report.decisions == []
        await life.mine(risky(WAITING + 2))
        assert [(each.key, each.reason) for each in life.report.decisions] == [(key(2), Reason.SUPERSEDED)]
        await life.mine()
        assert life.last.planned.batch is not None
        assert [plan.key for plan in life.last.planned.batch.plans] == [key(2)]
        assert [each.reason for each in life.last.planned.decisions] == [Reason.IN_FLIGHT] * (WAITING + 1)
    assert undecided(life) == set()


async def test_an_outcome_is_applied_before_the_next_pass() -> None:
    life = await born(risky(1))
    async with life.running():
        await life.mine()
        life.sender.landing = [life.outcome(1, Result.REVERTED, Reason.REVERTED)]
        await life.mine()
        assert [each.result for each in life.report.outcomes] == [Result.REVERTED]
        assert [each.reason for each in life.last.planned.decisions] == [Reason.IN_FLIGHT]
        life.reader.read.clear()
        await life.mine()
        assert life.reader.read == [[account(1)]]
        assert [each.reason for each in life.last.planned.decisions] == [Reason.COOLING_DOWN]


async def test_a_won_account_may_be_planned_again_at_once() -> None:
    life = await born(risky(1))
    async with life.running():
        await life.mine()
        life.sender.landing = [life.outcome(1, Result.WON, None)]
        await life.mine()
        await life.mine()
        assert len(life.sender.batches) == 2
        life.sender.in_flight = set()


async def test_a_skipped_plan_frees_its_account_and_cools_it_down() -> None:
    life = await born(risky(1), risky(2))
    life.sender.refusals = {key(1): Reason.SIMULATION_REVERTED, key(2): Reason.FEE_CAP}
    async with life.running():
        await life.mine()
        assert life.report.reasons == [Reason.SIMULATION_REVERTED, Reason.FEE_CAP]
        await life.mine()
        assert [(each.key, each.reason) for each in life.last.planned.decisions] == [(key(1), Reason.COOLING_DOWN)]
        assert [plan.key for plan in life.sender.batches[-1].plans] == [key(2)]
        await life.mine()
        assert [plan.key for plan in life.sender.batches[-1].plans] == [key(1), key(2)]
    assert undecided(life) == set()


@pytest.mark.parametrize(
    ("error", "reason"), [(Transient("down"), Reason.SIMULATION_FAILED), (Stale("gone"), Reason.SUPERSEDED)]
)
async def test_a_submission_that_fails_refuses_its_plans_and_the_sender_goes_on(
    error: KeeperError, reason: Reason
) -> None:
    life = await born(risky(1))
    life.sender.submit_errors.append(error)
    async with life.running():
        await life.mine()
        assert life.report.reasons == [reason]
        await life.mine()
        assert life.report.decisions[-1].decision is Decision.ACCEPTED
        assert life.sender.heads == life.report.heads
        life.sender.in_flight = set()


async def test_after_a_reorganisation_what_is_in_flight_is_looked_at_before_anything_new_is_sent() -> None:
    life = await born(risky(1), risky(2))
    async with life.running():
        await life.mine()
        assert life.sender.order == ["submit", "on_head"]
        life.sender.in_flight = set()
        life.chain.drop(1)
        await life.mine()
        assert life.last.extension.orphaned
        assert life.sender.order[2:] == ["on_head", "submit"]
        assert life.sender.heads == life.report.heads
        life.sender.in_flight = set()


@pytest.mark.parametrize("error", [Transient("down"), Stale("gone")])
async def test_a_sender_that_cannot_follow_a_head_follows_the_next_one(error: KeeperError) -> None:
    life = await born()
    life.sender.head_errors.append(error)
    async with life.running():
        await life.mine()
        await life.mine()
        assert [each for _, each in life.report.failures] == [error]
        assert life.sender.heads == life.report.heads


async def test_recovered_accounts_are_locked_before_the_first_pass() -> None:
    life = await born(risky(1), risky(2))
    life.sender.in_flight = {key(1)}
    await life.daemon.recover(life.chain.head)
    async with life.running(drain_s=0):
        await life.mine()
        assert [(each.key, each.reason) for each in life.last.planned.decisions] == [(key(1), Reason.IN_FLIGHT)]
        assert [plan.key for plan in life.sender.batches[0].plans] == [key(2)]


async def test_what_ended_during_recovery_is_told() -> None:
    life = await born()
    ended = Outcome("plan", key(1), Result.LOST, Reason.LOST_RACE, "", 1)
    life.sender.delivered.append(ended)
    await life.daemon.recover(life.chain.head)
    assert life.report.outcomes == [ended]


async def test_a_recovery_that_is_given_up_ends_what_it_had_begun() -> None:
    life = await born()
    life.sender.recover_s = 1_000
    task = asyncio.create_task(life.daemon.recover(life.chain.head))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert life.sender.drains == [0]


async def test_stopping_drains_while_heads_go_on_and_then_ends() -> None:
    life = await born(risky(1))
    task = asyncio.create_task(life.daemon.run(life.stop, 30))
    await asyncio.sleep(0.01)
    await life.mine()
    life.stop.set()
    await life.mine(risky(2))
    assert life.report.is_stopping
    assert life.sender.drains == [30]
    assert life.report.reasons[-1] is Reason.STOPPING
    assert not task.done()
    life.sender.landing = [life.outcome(1, Result.WON, None)]
    await life.mine()
    await asyncio.sleep(1)
    assert task.done()
    assert [each.result for each in life.report.outcomes] == [Result.WON]
    assert undecided(life) == set()


async def test_stopping_ends_although_something_stays_in_flight() -> None:
    life = await born(risky(1))
    async with life.running(drain_s=3):
        await life.mine()
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began == pytest.approx(3, abs=0.2)
    assert life.sender.in_flight == {key(1)}


async def test_plans_that_still_wait_at_the_stop_get_their_decision() -> None:
    life = await born()
    life.sender.busy_s = 1_000
    async with life.running(drain_s=0):
        await life.mine(risky(1))
        await life.mine(risky(2))
        await life.mine(risky(3))
    assert life.report.reasons == [Reason.STOPPING] * 3
    assert undecided(life) == set()


async def test_without_a_sender_stopping_ends_at_once_and_nothing_piles_up() -> None:
    life = await born(has_sender=False)
    async with life.running():
        life.feed.put(life.chain.mine(risky(1), taken=[account(1)]))
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() == pytest.approx(began)
    assert life.report.is_stopping
    assert (life.daemon._taken, life.daemon._undecided, life.daemon._passes.qsize()) == ([], [], 0)


async def test_the_sender_hears_of_every_liquidation_also_of_superseded_passes() -> None:
    life = await born()
    life.sender.busy_s = 100
    async with life.running(drain_s=0):
        for number in range(1, WAITING + 4):
            life.feed.put(life.chain.mine(risky(number), taken=[account(number)]))
            await asyncio.sleep(0.5)
        await asyncio.sleep(10_000)
        assert {each.key for each in life.sender.taken} == {key(number) for number in range(1, WAITING + 4)}
        assert len(life.sender.taken) == WAITING + 3
        assert life.daemon._undecided == []


CRASHES = [
    (Fatal("end"), ExitCode.CRASHED),
    (ConfigurationError("wrong"), ExitCode.CONFIGURATION),
    (Unsafe("risky"), ExitCode.UNSAFE),
    (AlreadyRunning("two"), ExitCode.ALREADY_RUNNING),
    (StorageFailed("full"), ExitCode.STORAGE),
    (ZeroDivisionError("unforeseen"), ExitCode.CRASHED),
]


@pytest.mark.parametrize(("error", "code"), CRASHES)
@pytest.mark.parametrize("where", ["report", "submit", "on_head"])
async def test_a_crashed_task_ends_everything_with_its_cause(error: Exception, code: ExitCode, where: str) -> None:
    life = await born(risky(1))
    match where:
        case "report":
            life.report.crash = error
        case "submit":
            life.sender.submit_errors.append(error)
        case _:
            life.sender.head_errors.append(error)
    life.sender.was_told = lambda: True
    causes: list[Exception] = []
    life.feed.put(life.chain.mine())
    assert await asyncio.wait_for(supervise(life.daemon.run(life.stop, 8), causes.append), 60) is code
    assert causes == [error]
    assert life.sender.drains == [0]
    assert len(asyncio.all_tasks()) == 1


async def test_an_unsafe_pass_ends_the_daemon() -> None:
    life = await born()
    life.chain.fail("reads", Unsafe("no node can be trusted"))
    life.sender.was_told = lambda: True
    life.feed.put(life.chain.mine())
    assert await supervise(life.daemon.run(life.stop, 8), lambda _: None) is ExitCode.UNSAFE


async def test_a_stream_of_heads_that_ends_is_fatal() -> None:
    life = await born()
    life.feed.put(None)
    causes: list[Exception] = []
    assert await supervise(life.daemon.run(life.stop, 8), causes.append) is ExitCode.CRASHED
    assert str(causes[0]) == "the stream of heads ended"


async def test_the_end_of_the_work_is_code_zero_and_of_a_group_the_fatal_error_decides() -> None:
    async def work(error: Exception | None = None) -> None:
        if error is not None:
            raise error

    told: list[Exception] = []
    assert await supervise(work(), told.append) is ExitCode.DONE
    assert told == []
    inner = ExceptionGroup("inner", [ValueError("x"), Unsafe("cause")])
    assert await supervise(work(ExceptionGroup("outer", [KeyError("y"), inner])), told.append) is ExitCode.UNSAFE
    assert await supervise(work(ExceptionGroup("outer", [KeyError("y")])), told.append) is ExitCode.CRASHED
    assert [type(each) for each in told] == [Unsafe, KeyError]


async def test_once_makes_one_pass_sends_and_follows_it_to_the_end() -> None:
    life = await born(risky(1), risky(2))
    life.sender.in_flight = {key(2)}
    task = asyncio.create_task(life.daemon.once(life.chain.mine(), 60))
    await asyncio.sleep(1)
    assert life.report.decisions[0].decision is Decision.ACCEPTED
    life.sender.landing = [life.outcome(1, Result.WON, None), Outcome("old", key(2), Result.LOST, None, "", 1)]
    await life.mine()
    done = await task
    assert life.sender.recovering == [done.head.number]
    assert [each.reason for each in done.planned.decisions] == [Reason.IN_FLIGHT]
    assert life.report.heads == [done.head.number]
    assert [each.result for each in life.report.outcomes] == [Result.WON, Result.LOST]


async def test_once_without_a_sender_ends_after_its_pass() -> None:
    life = await born(risky(1), has_sender=False)
    done = await asyncio.wait_for(life.daemon.once(life.chain.mine(), 60), 1)
    assert life.report.heads == [done.head.number]

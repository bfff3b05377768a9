"""What is told and kept: one line a head, decisions once per change, sheets in order, honest readiness."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from keeper.chain.endpoint import Node
from keeper.chain.rpc import Rpc
from keeper.discovery import Discovery
from keeper.domain.mode import Mode
from keeper.domain.outcome import Decision, Reason, Result
from keeper.domain.plan import DecisionRecord, Outcome, Payment
from keeper.domain.position import Action, PositionKey, Proceeds
from keeper.domain.units import Base, PositionId, TokenAmount, TxHash, Wei
from keeper.engine.plan import Policy, accept, skip
from keeper.errors import Invalid, Stale, Transient
from keeper.lines import realised_base
from keeper.observe.attendant import Attendant
from keeper.observe.health import Health, Thresholds, Why
from keeper.observe.metrics import Metrics
from keeper.passes import Pass
from keeper.report import Reporter
from keeper.scanner import ParityPolicy, Scanner
from keeper.store.database import Database
from keeper.store.decisions import Decisions
from keeper.store.findings import Findings
from tests.toy import ANNEX, CASH, RECEIPT, ChainReader, ToyChain, ToyPosition, account, address, realised, toy_market

CHAIN_ID = 31_337
FLUSH_EVERY = 32


class Clock:
    """The time of the model chain's newest block."""

    def __init__(self, chain: ToyChain) -> None:
        self._chain = chain

    def monotonic_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return float(self._chain.head.timestamp_s)


@dataclass
class Desk:
    """A reporter between a real scanner and a real store."""

    chain: ToyChain
    reader: ChainReader
    scanner: Scanner
    database: Database
    decisions: Decisions
    health: Health
    metrics: Metrics
    attendant: Attendant
    reporter: Reporter
    told: list[Any]
    layouts: list[int] = field(default_factory=list)

    async def mine(self, *changed: ToyPosition, price_base: int | None = None, **options: Any) -> Pass:
        self.chain.mine(*changed, price_base=price_base, **options)
        done = await self.scanner.make_pass(self.chain.head)
        await self.reporter.passed(done)
        return done

    def events(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.told if each["event"] == name]

    def why(self, name: str) -> Why:
        return next(each.reason for each in self.health.readiness()[1] if each.name == name)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    async def fill_disk(self, *, is_full: bool) -> None:
        pages = 1 if is_full else 100_000
        await self.database.run(
            lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar()
        )


async def at_desk(path: Path, policy: Policy, parity: ParityPolicy) -> AsyncIterator[Desk]:
    chain = ToyChain(depth=100)
    reader = ChainReader(chain=chain)
    clock = Clock(chain)
    scanner = Scanner([toy_market(reader)], chain, policy=policy, parity=parity, clock=clock, landing_s=12)
    await scanner.discover(chain.head)
    await scanner.load(chain.head, {})
    database = await Database.open(path / "keeper.sqlite3", CHAIN_ID)
    metrics = Metrics(clock=clock, version="1", chain="toy", mode="live")
    health = Health(
        thresholds=Thresholds(max_head_age_s=60, max_evaluation_age_s=60, max_stuck_s=60, max_heartbeat_age_s=5),
        clock=clock,
    )
    attendant = Attendant(metrics, health)
    decisions = Decisions(database)
    layouts: list[int] = []
    rpc = Rpc([Node("rpc-1", "http://127.0.0.1:1/")], clock=clock)
    reporter = Reporter(
        metrics=metrics,
        health=health,
        decisions=decisions,
        discovery=Discovery(rpc, Findings(database)),
        ancestor=chain.ancestor,
        healthy_endpoints=lambda: 2,
        requests=lambda: attendant.requests_made,
        low_balance_wei=Wei(10**17),
        on_layout=lambda: layouts.append(chain.head.number),
    )
    with capture_logs() as told:
        yield Desk(
            chain, reader, scanner, database, decisions, health, metrics, attendant, reporter, told, layouts=layouts
        )
    await database.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Observe only: every candidate is decided in the pass itself."""
    policy = Policy(Mode.OBSERVE, Base(1), Base(10**16), 64, None)
    async for each in at_desk(tmp_path, policy, ParityPolicy(0, 1)):
        yield each


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Desk]:
    """Live with a signer: verdicts come later; parity at every head."""
    policy = Policy(Mode.LIVE, Base(1), Base(10**16), 64, address(77))
    async for each in at_desk(tmp_path, policy, ParityPolicy(1, 10)):
        yield each


SAFE, RISKY, RISKIER = (100, 5_000), (100, 9_000), (100, 9_500)


def position(number: int, size: tuple[int, int]) -> ToyPosition:
    return ToyPosition(account(number), *size)


def key(number: int) -> PositionKey:
    return PositionKey("toy", account(number))


def sent(done: Pass, number: int) -> DecisionRecord:
    return accept(done.head, done.candidates[key(number)], "plan", Base(1), "0xab")


def dropped(done: Pass, number: int, reason: Reason = Reason.SUPERSEDED) -> DecisionRecord:
    return skip(done.head, done.candidates[key(number)], reason, "")


async def test_a_head_has_one_line_with_everything_about_it(live: Desk) -> None:
    live.attendant.request(node="a", method="m", result="ok", seconds=0.1, requests=3)
    done = await live.mine(position(1, RISKY), position(2, SAFE))
    live.attendant.request(node="a", method="m", result="ok", seconds=0.1, requests=1)
    live.attendant.request(node="a", method="m", result="ok", seconds=0.1, requests=1)
    await live.mine()
    first, second = live.events("chain.head")
    wanted = {
        "number": done.head.number,
        "hash": done.head.hash,
        "block": done.head.number,
        "timestamp_s": done.head.timestamp_s,
        "base_fee_wei": 10,
        "positions": 2,
        "suspects": 1,
        "liquidatable": 1,
        "plans": 1,
        "skipped": {},
        "touched": 2,
        "new_accounts": 2,
        "blocks": 1,
        "orphaned": 0,
        "quarantined": 0,
        "requests": 1,
        "log_level": "info",
    }
    assert {name: first[name] for name in wanted} == wanted
    assert {"duration_us", "logs_us", "read_us", "scan_us", "plan_us"} <= first.keys()
    assert (second["requests"], second["skipped"], second["plans"]) == (2, {"in_flight": 1}, 0)


async def test_a_pass_makes_it_ready(desk: Desk) -> None:
    desk.health.started()
    assert desk.health.readiness()[0] is False
    await desk.mine()
    assert desk.health.readiness()[0] is True
    assert desk.metric("keeper_head_block") == desk.chain.head.number
    desk.reporter.stopping()
    assert desk.health.readiness()[0] is False
    assert desk.why("lifecycle") is Why.STOPPING


async def test_a_market_that_could_not_be_valued_is_told_and_counts_as_not_evaluated(desk: Desk) -> None:
    desk.reader.is_impossible = True
    await desk.mine()
    assert desk.why("evaluation") is Why.NOT_EVALUATED
    (line,) = desk.events("keeper.degraded")
    assert (line["reason"], line["market"], line["detail"]) == (
        "market_invalid",
        "toy",
        "the price is not of this world",
    )
    desk.reader.is_impossible = False
    await desk.mine()
    assert desk.why("evaluation") is Why.OK


async def test_a_standing_decision_is_told_once_and_counted_at_each_head(desk: Desk) -> None:
    await desk.mine(position(1, RISKY))
    for _ in range(4):
        await desk.mine()
    (line,) = desk.events("decision.skipped")
    assert (line["account"], line["reason"], line["health_factor"]) == (account(1), "observe_mode", "0.8888")
    assert desk.metric("keeper_decisions_total", outcome="skipped", reason="observe_mode") == 5
    desk.reader.blocked = Reason.PAUSED
    await desk.mine()
    await desk.mine()
    desk.reader.blocked = None
    await desk.mine()
    assert [each["reason"] for each in desk.events("decision.skipped")] == ["observe_mode", "paused", "observe_mode"]


async def test_each_accepted_decision_is_told(live: Desk) -> None:
    done = await live.mine(position(1, RISKY))
    await live.reporter.decided([sent(done, 1)])
    await live.reporter.decided([sent(done, 1)])
    assert [each["plan_id"] for each in live.events("decision.accepted")] == ["plan", "plan"]


async def test_a_position_is_told_when_it_becomes_liquidatable_and_when_it_recovers(desk: Desk) -> None:
    await desk.mine(position(1, RISKY))
    await desk.mine()
    await desk.mine(price_base=200 * 10**8)
    await desk.mine()
    await desk.mine(price_base=100 * 10**8)
    assert [each["block"] for each in desk.events("position.liquidatable")] == [101, 105]
    assert [each["block"] for each in desk.events("position.recovered")] == [103]
    assert len(desk.events("decision.skipped")) == 2
    assert desk.metric("keeper_positions_liquidatable", market="toy") == 1


async def test_a_market_that_was_not_valued_makes_nobody_recover(desk: Desk) -> None:
    await desk.mine(position(1, RISKY))
    desk.reader.is_impossible = True
    await desk.mine()
    assert desk.events("position.recovered") == []
    desk.reader.is_impossible = False
    await desk.mine()
    assert len(desk.events("position.liquidatable")) == 1


async def test_a_verdict_after_the_recovery_does_not_silence_the_next_time(live: Desk) -> None:
    done = await live.mine(position(1, RISKY))
    await live.mine(position(1, SAFE))
    await live.reporter.decided([dropped(done, 1)])
    assert live.reporter._standing == {}
    live.scanner.limits.release(key(1))
    again = await live.mine(position(1, RISKY))
    await live.reporter.decided([dropped(again, 1)])
    assert len(live.events("decision.skipped")) == 2


async def test_sheets_are_closed_in_the_order_of_heads_although_verdicts_are_late(live: Desk) -> None:
    first = await live.mine(position(1, RISKY), position(2, RISKY))
    second = await live.mine(position(3, RISKY))
    third = await live.mine()
    await live.reporter.decided([sent(second, 3)])
    await live.decisions.flush()
    assert await live.decisions.latest() == ()
    await live.reporter.decided([sent(first, 1)])
    await live.decisions.flush()
    assert await live.decisions.latest() == ()
    await live.reporter.decided([dropped(first, 2)])
    await live.decisions.flush()
    spans = await live.decisions.latest()
    kept = sorted((span.first_block, span.last.key.id, span.last.reason, span.heads) for span in spans)
    at = first.head.number
    assert kept == [
        (at, account(1), None, 1),
        (at, account(2), Reason.SUPERSEDED, 1),
        (at + 1, account(1), Reason.IN_FLIGHT, 2),
        (at + 1, account(2), Reason.IN_FLIGHT, 2),
        (at + 1, account(3), None, 1),
        (at + 2, account(3), Reason.IN_FLIGHT, 1),
    ]
    assert third.head.number == at + 2


async def test_the_end_writes_what_is_in_memory_although_a_verdict_never_came(live: Desk) -> None:
    await live.mine(position(1, RISKY))
    await live.mine()
    await live.reporter.close()
    assert [each.last.reason for each in await live.decisions.latest()] == [Reason.IN_FLIGHT]


async def crowd(desk: Desk, size: int = 300) -> Pass:
    return await desk.mine(*(position(number, RISKY) for number in range(1, size)))


async def test_a_store_that_fails_is_told_once_makes_unready_and_recovers_by_a_write(desk: Desk) -> None:
    desk.health.started()
    await crowd(desk)
    await desk.fill_disk(is_full=True)
    while desk.why("storage") is Why.OK:
        await desk.mine()
    for _ in range(3):
        await desk.mine()
        assert desk.why("storage") is Why.STORAGE_FAILED
        assert desk.health.readiness()[0] is False
    assert len(desk.events("storage.error")) == 1
    await desk.fill_disk(is_full=False)
    await desk.mine()
    assert desk.health.readiness()[0] is True
    assert len(desk.events("storage.recovered")) == 1
    assert len(await desk.decisions.latest(5_000)) == 299
    await desk.mine()
    assert len(desk.events("storage.recovered")) == 1


async def test_a_journal_that_fails_makes_unready_until_something_was_written(live: Desk) -> None:
    live.health.started()
    done = await live.mine(position(1, RISKY))
    live.attendant.event("storage.full", error="no space", fault="full")
    assert live.why("storage") is Why.STORAGE_FAILED
    await live.reporter.decided([dropped(done, 1, Reason.STORAGE)])
    await live.mine()
    assert live.why("storage") is Why.OK
    assert len(await live.decisions.latest()) == 2
    live.attendant.event("storage.error", error="locked", fault="locked")
    live.attendant.event("storage.recovered")
    assert live.why("storage") is Why.OK


async def test_accounts_are_noted_although_storing_another_markets_failed(tmp_path: Path) -> None:
    policy = Policy(Mode.OBSERVE, Base(1), Base(10**16), 64, None)
    async for desk in at_desk(tmp_path, policy, ParityPolicy(0, 1)):
        second = ChainReader(market="two", chain=desk.chain)
        scanner = desk.scanner = Scanner(
            [toy_market(desk.reader), toy_market(second)],
            desk.chain,
            policy=policy,
            parity=ParityPolicy(0, 1),
            clock=Clock(desk.chain),
            landing_s=12,
        )
        await scanner.discover(desk.chain.head)
        for _ in range(70):
            await desk.mine()
        await desk.fill_disk(is_full=True)
        await crowd(desk)
        assert desk.why("storage") is Why.STORAGE_FAILED
        await desk.fill_disk(is_full=False)
        await desk.mine()
        everybody: set[PositionId] = {account(number) for number in range(1, 300)}
        for name in ("toy", "two"):
            assert await Findings(desk.database).load(f"{name}@{bytes(20).hex()}") == dict.fromkeys(
                everybody, desk.chain.head.number - 1
            )


async def test_decisions_are_written_now_and_then_without_being_asked(desk: Desk) -> None:
    await desk.mine(position(1, RISKY))
    for _ in range(FLUSH_EVERY - 2):
        await desk.mine()
    assert await desk.decisions.latest() == ()
    await desk.mine()
    (span,) = await desk.decisions.latest()
    assert (span.heads, span.last.decision) == (FLUSH_EVERY, Decision.SKIPPED)


async def test_low_funds_are_told_once(live: Desk) -> None:
    live.reporter._low_balance_wei = Wei(2 * 10**18)
    await live.mine()
    await live.mine()
    assert len(live.events("funds.low")) == 1
    assert live.why("balance") is Why.BALANCE_LOW
    live.reporter._low_balance_wei = Wei(1)
    await live.mine()
    assert live.why("balance") is Why.OK
    assert live.metric("keeper_balance_wei") == 10**18
    live.reporter._low_balance_wei = Wei(2 * 10**18)
    await live.mine()
    assert len(live.events("funds.low")) == 2


async def test_a_mismatch_is_told_once_and_its_end_too(live: Desk) -> None:
    live.reader.misread[account(1)] = position(1, RISKY)
    for _ in range(3):
        await live.mine(position(1, SAFE))
    (line,) = live.events("index.audit_mismatch")
    assert (line["account"], line["local_debt_base"], line["chain_debt_base"]) == (
        account(1),
        9_000 * 10**8,
        5_000 * 10**8,
    )
    assert live.metric("keeper_quarantined") == 1
    assert live.metric("keeper_parity_checks_total", result="mismatch") == 2
    live.reader.misread.clear()
    await live.mine()
    assert [each["account"] for each in live.events("position.restored")] == [account(1)]
    assert live.events("index.audit_ok")
    live.reader.misread[account(1)] = position(1, RISKY)
    await live.mine(position(1, SAFE))
    assert len(live.events("index.audit_mismatch")) == 2


async def test_an_account_that_cannot_be_read_is_told_once(live: Desk) -> None:
    live.reader.impossible.add(account(1))
    await live.mine(position(1, SAFE))
    await live.mine()
    assert [each["account"] for each in live.events("position.quarantined")] == [account(1)]
    assert live.metric("keeper_quarantined") == 1


async def test_a_changed_layout_is_told_to_the_signer(desk: Desk) -> None:
    await desk.mine()
    await desk.mine()
    assert desk.layouts == [101]
    desk.reader.payments = (Payment(CASH, ANNEX),)  # without a log of it
    await desk.mine()
    assert desk.layouts == [101, 103]


async def test_a_failure_is_told_with_its_kind(desk: Desk) -> None:
    kinds = {Stale("a"): "stale", Invalid("b"): "invalid", Transient("c"): "unreachable"}
    for error in kinds:
        desk.reporter.failed(desk.chain.head, error)
    assert [each["reason"] for each in desk.events("keeper.degraded")] == list(kinds.values())
    assert desk.why("endpoints") is Why.OK


def ending(done: Pass, number: int, result: Result, *, repaid: int = 4_500, seized: int = 49) -> Outcome:
    opportunity = done.candidates[key(number)].assessment.opportunities[0]
    return Outcome(
        plan_id="plan",
        key=key(number),
        result=result,
        reason=None if result is Result.WON else Reason.LOST_RACE,
        detail="",
        block=done.head.number,
        tx_hash=TxHash(bytes(32)),
        gas_cost_wei=Wei(123),
        realised=realised(repaid, seized) if result is Result.WON else None,
        opportunity=opportunity,
    )


async def test_outcomes_are_told_with_what_they_realised_and_summed_up(live: Desk) -> None:
    done = await live.mine(position(1, RISKY), position(2, RISKY))
    await live.reporter.ended([ending(done, 1, Result.WON), ending(done, 2, Result.LOST)])
    (won,) = live.events("liquidation.won")
    assert (won["repaid"], won["seized"], won["profit"], won["profit_base"]) == (
        "4,500 CASH",
        "49 GOLD",
        "$400.00",
        400 * 10**8,
    )
    (lost,) = live.events("liquidation.lost")
    assert (lost["result"], lost["reason"], lost["gas_cost_wei"]) == ("lost", "lost_race", 123)
    account_ = live.reporter.account
    assert (account_.won, account_.profit_base, account_.gas_wei) == (1, 400 * 10**8, 246)
    assert account_.results == {Result.WON: 1, Result.LOST: 1}
    assert live.metric("keeper_profit_usd") == 400


async def test_what_was_realised_is_rounded_against_us(live: Desk) -> None:
    done = await live.mine(position(1, RISKY))
    whole = ending(done, 1, Result.WON)
    assert realised_base(whole) == (4_900 - 4_500) * 10**8
    assert realised_base(ending(done, 1, Result.WON, repaid=4_499, seized=48)) == (4_800 - 4_499) * 10**8
    assert realised_base(ending(done, 1, Result.LOST)) == 0
    assert TokenAmount(49) == whole.opportunity.seized_amount  # type: ignore[union-attr]


async def test_what_the_executor_brought_is_told_beside_what_was_planned_and_the_difference_measured(
    live: Desk,
) -> None:
    done = await live.mine(position(1, RISKY))
    whole = ending(done, 1, Result.WON)
    assert whole.opportunity is not None
    assert whole.realised is not None
    planned = Proceeds(CASH, TokenAmount(300), Base(300 * 10**8), TokenAmount(150), Base(400 * 10**8))
    what = replace(whole.opportunity, proceeds=planned)
    await live.reporter.ended(
        [replace(whole, opportunity=what, realised=replace(whole.realised, profit_amount=TokenAmount(270)))]
    )
    (won,) = live.events("liquidation.won")
    assert (won["profit_token"], won["profit_amount"], won["planned_profit_amount"]) == (CASH.address, 270, 300)
    assert (won["least_profit_amount"], won["profit_base"]) == (150, 270 * 10**8)
    assert live.metric("keeper_profit_usd") == 270
    assert live.metric("keeper_profit_difference_ratio_count") == 1
    assert live.metric("keeper_profit_difference_ratio_bucket", le="-0.1") == 1
    assert live.metric("keeper_profit_difference_ratio_bucket", le="-1.0") == 0


async def test_a_venue_that_falls_silent_is_told_once_and_once_when_it_is_back(desk: Desk) -> None:
    done = await desk.mine()
    for silent in ({}, {"curve": "no answer"}, {"curve": "no answer"}, {}, {}):
        await desk.reporter.passed(replace(done, silent=silent))
    assert [(each["venue"], each["reason"]) for each in desk.events("venue.silent")] == [("curve", "no answer")]
    assert [each["venue"] for each in desk.events("venue.back")] == ["curve"]


@pytest.mark.parametrize("action", [Action.PREPARE, Action.SETTLE])
async def test_a_step_around_a_liquidation_is_told_as_one_and_is_no_liquidation(live: Desk, action: Action) -> None:
    done = await live.mine(position(1, RISKY), position(2, RISKY))
    for number, result in ((1, Result.WON), (2, Result.LOST)):
        whole = ending(done, number, result)
        assert whole.opportunity is not None
        await live.reporter.ended([replace(whole, opportunity=replace(whole.opportunity, action=action))])
    (made,), (failed,) = live.events("step.done"), live.events("step.failed")
    assert (made["action"], made["account"], made["seized"]) == (action.value, account(1), "49 GOLD")
    assert (failed["action"], failed["reason"]) == (action.value, "lost_race")
    assert live.events("liquidation.won") == live.events("liquidation.lost") == []
    account_ = live.reporter.account
    assert (account_.won, account_.profit_base, account_.gas_wei) == (0, 0, 246)
    assert live.metric("keeper_profit_usd") == 0


async def test_a_position_among_several_of_an_account_is_told_with_its_part(live: Desk) -> None:
    several = PositionId(account(1) + b"\x07" * 4)
    await live.mine(ToyPosition(several, *RISKY), position(1, RISKY))
    told = live.events("position.liquidatable")
    assert [each["account"] for each in told] == [account(1)] * 2
    assert [each.get("part") for each in told] == [None, b"\x07" * 4]


async def test_a_chore_is_no_decision_that_the_sheet_waits_for(live: Desk) -> None:
    live.reader.proceeds = (RECEIPT,)
    live.chain.funds[RECEIPT.address] = 50
    await live.mine()
    done = await live.mine(position(1, RISKY))
    assert done.planned.batch is not None
    assert [each.opportunity.action for each in done.planned.batch.plans] == [Action.LIQUIDATE, Action.SETTLE]
    await live.reporter.decided([sent(done, 1)])
    await live.mine()
    await live.decisions.flush()
    spans = await live.decisions.latest()
    assert [(span.first_block, span.last.key) for span in spans if span.last.reason is None] == [
        (done.head.number, key(1))
    ]


async def test_a_lane_that_makes_no_way_is_told_to_health(live: Desk) -> None:
    for nonce in (1, 1):
        live.attendant.lane(mined_nonce=nonce, next_nonce=2, in_flight=1, gap=0)
    assert live.health.readiness(now_s=live.chain.head.timestamp_s + 61)[1][6].reason is Why.NONCE_STUCK
    live.attendant.lane(mined_nonce=2, next_nonce=2, in_flight=0, gap=0)
    assert live.why("nonce") is Why.OK

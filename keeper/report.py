"""Tells and keeps what happened: log lines, metrics, health, the decision ledger. It decides nothing."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from keeper.discovery import BEHIND_HEAD, Discovery
from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Decision, Reason, Result
from keeper.domain.plan import DecisionRecord, Outcome, Payment
from keeper.domain.position import Action, PositionKey
from keeper.domain.units import BASE_UNIT, Address, Wei
from keeper.errors import Invalid, Stale
from keeper.lines import named, profit_difference, realised_base, tell_ending, tell_price
from keeper.observe.events import Event, emit
from keeper.observe.health import Health
from keeper.observe.metrics import Metrics
from keeper.passes import MarketPass, Pass
from keeper.shelving import Librarian
from keeper.store.decisions import Decisions
from keeper.store.faults import StoreFailed
from keeper.text import health_text

_FLUSH_EVERY: Final = 32
_KEEP_BLOCKS: Final = 500_000


@dataclass(slots=True)
class _Sheet:
    """The decisions of one head, complete once every plan that it sent has its own."""

    head: int
    records: list[DecisionRecord]
    missing: int


@dataclass(slots=True)
class Account:
    """What happened since the start, for summaries."""

    won: int = 0
    profit_base: int = 0
    gas_wei: int = 0
    results: dict[Result, int] = field(default_factory=dict)


class Reporter:
    """Implement `daemon.Report`."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        health: Health,
        decisions: Decisions,
        discovery: Discovery,
        ancestor: Callable[[int], BlockHead | None],
        healthy_endpoints: Callable[[], int],
        requests: Callable[[], int],
        low_balance_wei: Wei,
        on_layout: Callable[[], None],
        librarian: Librarian | None = None,
        on_served: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the places to tell.

        `on_layout` is called when what a market's plans may call or pay with has changed, `on_served` when the sender
        is done with a head.
        """
        self._metrics = metrics
        self._health = health
        self._decisions = decisions
        self._discovery = discovery
        self._ancestor = ancestor
        self._librarian = librarian
        self._healthy_endpoints = healthy_endpoints
        self._requests = requests
        self._low_balance_wei = low_balance_wei
        self._on_layout = on_layout
        self._on_served = on_served
        self._sheets: deque[_Sheet] = deque()
        self._standing: dict[PositionKey, tuple[Decision, Reason | None]] = {}
        self._liquidatable: set[PositionKey] = set()
        self._mismatched: set[PositionKey] = set()
        self._layouts: dict[str, tuple[frozenset[Address], tuple[Payment, ...]]] = {}
        self._is_low = False
        self._silent: frozenset[str] = frozenset()
        self._heads = 0
        self._requests_before = 0
        self.account = Account()

    async def passed(self, done: Pass) -> None:
        """Take a finished pass: one canonical line, the numbers, and what is to be kept."""
        self._health.head(done.head.number, done.head.timestamp_s)
        self._metrics.head(done.head.number, done.head.timestamp_s)
        self._health.endpoints(self._healthy_endpoints())
        if not done.invalid:
            self._health.evaluated()
        for name, problem in done.invalid.items():
            emit(Event.KEEPER_DEGRADED, reason="market_invalid", market=name, detail=problem, block=done.head.number)
        self._silence(done)
        for stage, seconds in done.stages_s.items():
            self._metrics.scan_seconds.at(stage=stage).observe(seconds)
        for market in done.markets:
            self._market(market, done.head)
        self._metrics.quarantined.set(done.quarantined)
        self._funds(done)
        self._crossings(done)
        self._head_line(done)
        waiting = sum(each.key in done.candidates for each in done.planned.batch.plans) if done.planned.batch else 0
        self._sheets.append(_Sheet(done.head.number, list(done.planned.decisions), waiting))
        for record in done.planned.decisions:
            self._decision(record)
        await self._keep(done)

    async def decided(self, decisions: Sequence[DecisionRecord]) -> None:
        """Take the decisions that the sender made of plans."""
        for record in decisions:
            self._decision(record)
            for sheet in self._sheets:
                if sheet.head == record.block and sheet.missing:
                    sheet.records.append(record)
                    sheet.missing -= 1
                    break
        self._close_sheets()

    async def ended(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes."""
        for outcome in outcomes:
            if outcome.opportunity is None or outcome.opportunity.action is Action.LIQUIDATE:
                self.account.results[outcome.result] = self.account.results.get(outcome.result, 0) + 1
                if outcome.realised is not None:
                    self.account.won += 1
                    self.account.profit_base += realised_base(outcome)
                    self._metrics.profit_usd.inc(realised_base(outcome) / BASE_UNIT)
                if (difference := profit_difference(outcome)) is not None:
                    self._metrics.profit_difference.observe(difference)
            self.account.gas_wei += outcome.gas_cost_wei
            tell_ending(outcome)

    def failed(self, head: BlockHead, error: Exception) -> None:
        """Take a pass or a submission that could not be finished."""
        self._health.endpoints(self._healthy_endpoints())
        reason = "stale" if isinstance(error, Stale) else "invalid" if isinstance(error, Invalid) else "unreachable"
        emit(Event.KEEPER_DEGRADED, reason=reason, detail=str(error), block=head.number)

    def served(self, head: BlockHead) -> None:
        """Take that the sender is done with a head."""
        del head
        self._health.served()
        self._on_served()

    def stopping(self) -> None:
        """Take that nothing new is begun any more."""
        self._health.stopping()

    async def close(self) -> None:
        """Write what is still in memory."""
        for sheet in self._sheets:
            self._decisions.record(sheet.head, sheet.records)
        self._sheets.clear()
        await self._guarded(self._decisions.flush)
        if self._librarian is not None:
            await self._librarian.close()

    def _market(self, market: MarketPass, head: BlockHead) -> None:
        name = market.market.name
        self._metrics.positions.at(market=name).set(market.scan.screened)
        self._metrics.positions_liquidatable.at(market=name).set(len(market.scan.candidates))
        wrong = len(market.mismatches)
        self._metrics.parity_checks.at(result="ok").inc(market.parity_checked - wrong)
        self._metrics.parity_checks.at(result="mismatch").inc(wrong)
        layout = market.snapshot.targets, tuple(market.snapshot.payments)
        if self._layouts.get(name) != layout:
            self._layouts[name] = layout
            self._on_layout()
        if market.parity_checked and not wrong:
            emit(Event.INDEX_AUDIT_OK, market=name, accounts=market.parity_checked, block=head.number)
        differing = {PositionKey(name, each.id) for each in market.mismatches}
        told, self._mismatched = self._mismatched, {key for key in self._mismatched if key.market != name} | differing
        for each in market.mismatches:
            if (key := PositionKey(name, each.id)) in told:
                continue
            emit(
                Event.INDEX_AUDIT_MISMATCH,
                **named(key),
                block=head.number,
                local_health_factor_wad=each.local.health_factor_wad,
                chain_health_factor_wad=each.chain.health_factor_wad if each.chain else None,
                local_debt_base=each.local.debt_base,
                chain_debt_base=each.chain.debt_base if each.chain else None,
            )
        self._metrics.prices_quarantined.at(market=name).set(market.doubted)
        for move in market.prices:
            tell_price(name, move, head)
        for restored in sorted(market.restored):
            emit(Event.POSITION_RESTORED, **named(PositionKey(name, restored)), block=head.number)
        for impossible in market.impossible:
            emit(Event.POSITION_QUARANTINED, **named(PositionKey(name, impossible)), block=head.number)

    def _silence(self, done: Pass) -> None:
        """Tell once when a venue or lender falls silent, and once when it is back."""
        for name in sorted(done.silent.keys() - self._silent):
            emit(Event.VENUE_SILENT, venue=name, reason=done.silent[name], block=done.head.number)
        for name in sorted(self._silent - done.silent.keys()):
            emit(Event.VENUE_BACK, venue=name, block=done.head.number)
        self._silent = frozenset(done.silent)

    def _funds(self, done: Pass) -> None:
        if done.inventory is None:
            return
        balance = done.inventory.native_wei
        self._metrics.balance_wei.set(balance)
        is_low = balance < self._low_balance_wei
        self._health.balance(is_low=is_low)
        if is_low and not self._is_low:
            emit(Event.FUNDS_LOW, balance_wei=balance, wanted_wei=self._low_balance_wei, block=done.head.number)
        self._is_low = is_low

    def _crossings(self, done: Pass) -> None:
        """Tell once when a position becomes liquidatable, and once when it no longer is."""
        valued = {market.market.name for market in done.markets}
        now = set(done.candidates)
        for key in sorted(now - self._liquidatable):
            health = done.candidates[key].assessment.health
            emit(
                Event.POSITION_LIQUIDATABLE,
                **named(key),
                block=done.head.number,
                health_factor_wad=health.health_factor_wad,
                debt_base=health.debt_base,
                collateral_base=health.collateral_base,
            )
        gone = {key for key in self._liquidatable - now if key.market in valued}
        for key in sorted(gone):
            emit(Event.POSITION_RECOVERED, **named(key), block=done.head.number)
            self._standing.pop(key, None)
        self._liquidatable = (self._liquidatable | now) - gone

    def _head_line(self, done: Pass) -> None:
        """Emit the canonical line of one head."""
        decisions: dict[str, int] = {}
        for record in done.planned.decisions:
            name = record.reason.value if record.reason else record.decision.value
            decisions[name] = decisions.get(name, 0) + 1
        requests = self._requests()
        emit(
            Event.CHAIN_HEAD,
            number=done.head.number,
            hash=done.head.hash,
            block=done.head.number,
            timestamp_s=done.head.timestamp_s,
            base_fee_wei=done.head.base_fee_wei,
            positions=sum(each.scan.screened for each in done.markets),
            suspects=sum(each.scan.suspects for each in done.markets),
            liquidatable=len(done.candidates),
            plans=len(done.planned.batch.plans) if done.planned.batch else 0,
            skipped=decisions,
            touched=sum(each.touched for each in done.markets),
            new_accounts=sum(len(each.new_positions) for each in done.markets),
            blocks=len(done.extension.new),
            orphaned=len(done.extension.orphaned),
            quarantined=done.quarantined,
            requests=requests - self._requests_before,
            duration_us=int(sum(done.stages_s.values()) * 1_000_000),
            **{f"{stage}_us": int(seconds * 1_000_000) for stage, seconds in done.stages_s.items()},
        )
        self._requests_before = requests

    def _decision(self, record: DecisionRecord) -> None:
        """Count a decision, and tell of it when it is not the one that stood before."""
        reason = record.reason.value if record.reason else ""
        self._metrics.decisions.at(outcome=record.decision.value, reason=reason).inc()
        standing = (record.decision, record.reason)
        if record.decision is Decision.SKIPPED and self._standing.get(record.key) == standing:
            return
        if record.key in self._liquidatable:  # a verdict may come when the position has recovered
            self._standing[record.key] = standing
        fields = {
            **named(record.key),
            "block": record.block,
            "plan_id": record.plan_id,
            "health_factor": health_text(record.health_factor_wad),
            "debt_base": record.debt_base,
            "profit_base": record.profit_base,
            "detail": record.detail,
        }
        if record.decision is Decision.ACCEPTED:
            emit(Event.DECISION_ACCEPTED, **fields)
        else:
            emit(Event.DECISION_SKIPPED, reason=reason, **fields)

    async def _keep(self, done: Pass) -> None:
        """Write what the next start needs; a failure of that is told, and stops nothing."""
        self._close_sheets()
        self._heads += 1
        behind = self._ancestor(done.head.number - BEHIND_HEAD)
        for market in done.markets:
            self._discovery.note(market.market, market.new_positions, done.head)
        is_due = self._heads % _FLUSH_EVERY == 0 or not self._is_storing()

        async def work() -> None:
            for market in done.markets:
                await self._discovery.keep(market.market, behind)
            if is_due:  # while storing fails, at every head: only what was written proves that it works again
                await self._decisions.flush()
            if self._heads % (_FLUSH_EVERY * 64) == 0:
                await self._decisions.prune(done.head.number - _KEEP_BLOCKS)

        await self._guarded(work)
        if self._librarian is not None:
            self._librarian.passed(done, self._ancestor)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what writes; tell once when it begins to fail, and once when it works again."""
        was_storing = self._is_storing()
        try:
            await work()
        except StoreFailed as error:
            self._health.storage(is_ok=False)
            if was_storing:
                emit(Event.STORAGE_ERROR, error=str(error))
            return
        if not was_storing:
            self._health.storage(is_ok=True)
            emit(Event.STORAGE_RECOVERED)

    def _is_storing(self) -> bool:
        _, checks = self._health.readiness()
        return all(check.ok for check in checks if check.name == "storage")

    def _close_sheets(self) -> None:
        """Hand complete sheets to the ledger, in the order of their heads."""
        while self._sheets and not self._sheets[0].missing:
            sheet = self._sheets.popleft()
            self._decisions.record(sheet.head, sheet.records)

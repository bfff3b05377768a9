"""From candidates to plans through the executor: the best trade, on what the trades before it leave."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from keeper.domain.chain import Call, Log
from keeper.domain.exchange import Lender, Pool
from keeper.domain.mode import Mode
from keeper.domain.outcome import Decision, Reason, Result
from keeper.domain.plan import Approval, Inventory, Outcome, Plan
from keeper.domain.position import PositionKey
from keeper.domain.program import Program, StepKind
from keeper.domain.units import Address, Base, TokenAmount, Wei
from keeper.engine.exchange import Exchange
from keeper.engine.limits import Limits
from keeper.engine.plan import Planned, Policy, plan
from keeper.engine.scan import MarketBook
from keeper.engine.trading import Trading
from tests.toy import (
    CASH,
    GOLD,
    POOL,
    ToyPosition,
    ToyPrograms,
    ToyReader,
    ToySnapshot,
    account,
    address,
    head,
    toy_market,
)
from tests.unit.engine.pools import Flat, Product

EXECUTOR = address(0xE)
POLICY = Policy(
    mode=Mode.LIVE, min_profit_base=Base(10**8), approval_base=Base(10**6 * 10**8), max_plans=10, signer=address(0x51)
)
POOR = Inventory(Wei(10**18), {}, {})
BANK = Flat("bank", {CASH.address: 10**9})
DEEP = Product(1, (GOLD.address, CASH.address), (10**7, 10**9), fee_bps=0)
SHALLOW = replace(DEEP, reserves=(50_000, 5_000_000))


@dataclass(frozen=True, slots=True)
class Machine:
    """An executor that keeps the program that it is asked to run."""

    programs: list[Program]
    address: Address = EXECUTOR
    selectors: frozenset[bytes] = frozenset({b"exec"})

    def call(self, program: Program) -> Call:
        self.programs.append(program)
        return Call(self.address, b"exec" + bytes([len(self.programs)]))

    def profits(self, logs: Iterable[Log]) -> Mapping[Address, TokenAmount]:
        return {}

    def decode_revert(self, data: bytes) -> tuple[Reason, str] | None:
        return None


def trading(*pools: Pool, lenders: Sequence[Lender] = (BANK,), hold: Iterable[Address] = ()) -> Trading:
    return Trading(
        executor=Machine([]),
        exchange=Exchange(pools, ()),
        lenders=lenders,
        last_block=125,
        deadline_s=1_800_000_000,
        floor_bps=5_000,
        tolerance_bps=50,
        max_slippage_bps=500,
        hold=frozenset(hold),
    )


def planned(
    *positions: ToyPosition,
    on: Trading,
    inventory: Inventory = POOR,
    policy: Policy = POLICY,
    limits: Limits | None = None,
    programs: ToyPrograms | None = None,
) -> Planned:
    market = replace(toy_market(ToyReader()), programs=programs or ToyPrograms())
    snapshot, book = ToySnapshot(head()), MarketBook(market)
    book.put(list(positions), snapshot)
    found = book.scan(snapshot, snapshot.head.landing(12))
    return plan(snapshot.head, found.candidates, inventory, limits or Limits(), policy, trading=on)


def only(result: Planned) -> Plan:
    assert result.decisions == ()
    assert result.batch is not None
    (found,) = result.batch.plans
    return found


def refused(result: Planned) -> Reason | None:
    assert result.batch is None
    (record,) = result.decisions
    assert record.decision is Decision.SKIPPED
    return record.reason


UNHEALTHY = ToyPosition(account(1), gold=1_000, cash=90_000)


def test_who_owns_nothing_but_gas_money_liquidates_with_a_loan() -> None:
    on = trading(DEEP)
    found = only(planned(UNHEALTHY, on=on))
    what = found.opportunity
    assert found.call.to == EXECUTOR
    assert what.spender is None
    assert what.proceeds is not None
    assert (what.proceeds.token, what.target) == (CASH, POOL)
    assert 0 < what.proceeds.least < what.proceeds.amount
    assert what.gross_profit_base == what.proceeds.base
    assert isinstance(on.executor, Machine)
    (program,) = on.executor.programs
    assert StepKind.LIQUIDATE_AAVE in {step.kind for step in program.steps}
    assert (program.last_block, program.deadline_s) == (125, 1_800_000_000)


def test_what_comes_out_is_at_least_what_the_gas_may_cost() -> None:
    proceeds = only(planned(UNHEALTHY, on=trading(DEEP))).opportunity.proceeds
    assert proceeds is not None
    assert proceeds.least >= proceeds.amount // 2


def test_own_tokens_cost_nothing_and_the_executor_is_allowed_to_pull_them() -> None:
    rich = Inventory(Wei(10**18), {CASH.address: TokenAmount(10**9)}, {})
    dear = Flat("dear", {CASH.address: 10**9}, fee_bps=100)
    result = planned(UNHEALTHY, on=trading(DEEP, lenders=[dear]), inventory=rich)
    assert only(result).opportunity.spender == EXECUTOR
    assert result.batch is not None
    cap = TokenAmount(POLICY.approval_base // 10**8)
    assert result.batch.approvals == (Approval(CASH.address, EXECUTOR, cap),)


def test_the_second_of_two_that_sell_into_one_pool_is_quoted_on_what_the_first_one_leaves() -> None:
    alone = only(planned(UNHEALTHY, on=trading(SHALLOW)))
    both = planned(UNHEALTHY, replace(UNHEALTHY, id=account(2)), on=trading(SHALLOW))
    assert both.batch is not None
    first, second = both.batch.plans
    assert first.opportunity.gross_profit_base == alone.opportunity.gross_profit_base
    assert second.opportunity.gross_profit_base < first.opportunity.gross_profit_base


def test_a_pool_that_others_have_emptied_is_named_as_the_reason() -> None:
    many = [replace(UNHEALTHY, id=account(number)) for number in range(1, 8)]
    result = planned(*many, on=trading(SHALLOW))
    assert result.batch is not None
    assert len(result.batch.plans) < len(many)
    assert {each.reason for each in result.decisions} <= {Reason.UNPROFITABLE, Reason.PRICE_IMPACT}


def test_collateral_that_nobody_buys_is_named_and_kept_only_where_the_operator_says_so() -> None:
    rich = Inventory(Wei(10**18), {CASH.address: TokenAmount(10**9)}, {(CASH.address, POOL): TokenAmount(10**9)})
    assert refused(planned(UNHEALTHY, on=trading(), inventory=rich)) is Reason.NO_ROUTE
    kept = only(planned(UNHEALTHY, on=trading(hold=[GOLD.address]), inventory=rich))
    assert kept.call.to == POOL
    assert kept.opportunity.proceeds is None


def test_without_a_loan_or_money_of_ones_own_nothing_is_done() -> None:
    assert refused(planned(UNHEALTHY, on=trading(DEEP, lenders=[]))) is Reason.NO_LENDER


def test_a_protocol_that_the_executor_cannot_serve_is_paid_by_the_signer_itself() -> None:
    rich = Inventory(Wei(10**18), {CASH.address: TokenAmount(10**9)}, {(CASH.address, POOL): TokenAmount(10**9)})
    snapshot, book = ToySnapshot(head()), MarketBook(toy_market(ToyReader()))
    book.put([UNHEALTHY], snapshot)
    found = book.scan(snapshot, snapshot.head.landing(12)).candidates
    result = plan(snapshot.head, found, rich, Limits(), POLICY, trading=trading(DEEP))
    assert only(result).call.to == POOL


def test_a_trade_that_failed_cools_down_however_the_pools_move_meanwhile() -> None:
    limits = Limits()
    what = only(planned(UNHEALTHY, on=trading(DEEP))).opportunity
    key = PositionKey("toy", account(1))
    ended = Outcome("plan", key, Result.REVERTED, Reason.REVERTED, "", 100, opportunity=what)
    limits.settle(ended, UNHEALTHY)
    assert refused(planned(UNHEALTHY, on=trading(SHALLOW), limits=limits)) is Reason.COOLING_DOWN


def test_no_more_candidates_are_looked_at_than_the_plans_that_a_head_may_have_warrant() -> None:
    many = [replace(UNHEALTHY, id=account(number)) for number in range(1, 8)]
    result = planned(*many, on=trading(), policy=replace(POLICY, max_plans=1))
    reasons = [each.reason for each in result.decisions]
    assert (reasons.count(Reason.NO_ROUTE), reasons.count(Reason.BATCH_FULL)) == (4, 3)


def test_what_nobody_would_trade_is_not_looked_at_at_every_head_until_it_changes() -> None:
    limits = Limits()
    result = planned(UNHEALTHY, on=trading())
    assert [each.reason for each in result.refused] == [Reason.NO_ROUTE]
    (refusal,) = result.refused
    limits.refuse(refusal.candidate.key, refusal.reason, 100, UNHEALTHY, refusal.stake_base)
    held = planned(UNHEALTHY, on=trading(DEEP), limits=limits)
    assert refused(held) is Reason.NO_ROUTE
    assert held.decisions[0].detail == "looked at again in block 104"
    changed = replace(UNHEALTHY, gold=1_010)
    assert only(planned(changed, on=trading(DEEP), limits=limits)).call.to == EXECUTOR


def test_the_wait_of_what_nobody_would_trade_doubles_up_to_a_bound_of_its_own() -> None:
    limits, key = Limits(), PositionKey("toy", account(1))
    waits = []
    for _ in range(8):
        limits.refuse(key, Reason.PRICE_IMPACT, 100, UNHEALTHY, Base(1))
        cool = limits.cooling(key, 100, UNHEALTHY, Base(1))
        assert cool is not None
        waits.append(cool.until_block - 100)
    assert waits == [1, 2, 4, 4, 4, 4, 4, 4]
    limits.refuse(key, Reason.OBSERVE_MODE, 100, UNHEALTHY, Base(1))
    assert limits.cooling(key, 104, UNHEALTHY, Base(1)) is None

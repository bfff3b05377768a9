"""Calls before and after a liquidation: each is judged by its own kind of log, and may take native currency along."""

from dataclasses import replace
from pathlib import Path

from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Plan
from keeper.domain.ports import Taken
from keeper.domain.position import Action
from keeper.domain.units import Address, Wei
from keeper.execution.fees import FeeQuote
from keeper.execution.prepare import Bid
from keeper.execution.shadow import Rank, Score, ShadowSender
from keeper.execution.simulate import needs
from keeper.execution.verdicts import Accepted, Skipped
from tests.unit.execution.desk import ALICE, FEES, desk, new_chain
from tests.unit.execution.fake_chain import GAS, GWEI, FakeChain, Wire, approval, batch_of, markets, plan_of


def preparing(plan: Plan) -> Plan:
    return replace(plan, opportunity=replace(plan.opportunity, action=Action.PREPARE))


def carrying(plan: Plan, value: int) -> Plan:
    """Let a plan pay with native currency, which needs no allowance."""
    call = replace(plan.call, value_wei=Wei(value))
    return replace(plan, call=call, opportunity=replace(plan.opportunity, spender=None))


def as_preparations(taken: list[Taken]) -> list[Taken]:
    """Report what happened as steps that anybody may have taken before the liquidation."""
    return [replace(each, action=Action.PREPARE, liquidator=Address(bytes(20))) for each in taken]


async def test_somebody_elses_preparation_is_no_lost_race(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
        head = chain.mine(rivals=[ALICE])
        await one.sender.on_head(head, as_preparations(chain.taken_at(head)))
        await one.head()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.reason) == (Result.REVERTED, Reason.NOT_LIQUIDATABLE)


async def test_a_preparation_that_somebody_else_made_is_a_lost_race_for_a_preparation(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        plan = plan_of(chain, ALICE)
        await one.sender.submit(batch_of(chain, plan))
        slot = one.sender._lane.slots[0]
        slot.entry = replace(slot.entry, intent=replace(slot.entry.intent, opportunity=preparing(plan).opportunity))
        head = chain.mine(rivals=[ALICE])
        await one.sender.on_head(head, as_preparations(chain.taken_at(head)))
        await one.head()
        assert [(each.result, each.reason) for each in one.outcomes] == [(Result.LOST, Reason.LOST_RACE)]


async def test_a_call_that_reports_another_step_than_its_own_does_not_do_its_work(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain) as one:
        (verdict,) = await one.sender.submit(batch_of(chain, preparing(plan_of(chain, ALICE))))
        assert isinstance(verdict, Skipped)
        assert (verdict.reason, verdict.detail) == (
            Reason.SIMULATION_FAILED,
            "the call succeeds without doing its work",
        )
        assert chain.seen == []


async def test_shadow_mode_scores_a_liquidation_by_liquidations_alone(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    scores: list[Score] = []
    sender = ShadowSender(
        network=Wire(chain),
        sender=chain.signer,
        markets=markets(),
        fees=FEES,
        deliver=scores.append,
        score_after_blocks=9,
    )
    await sender.submit(batch_of(chain, plan_of(chain, ALICE)))
    head = chain.mine(rivals=[ALICE])
    await sender.on_head(head, as_preparations(chain.taken_at(head)))
    assert scores == []
    await sender.on_head(chain.mine(), chain.taken_at(head))
    assert [each.rank for each in scores] == [Rank.SAME_BLOCK]


async def test_what_a_plan_sends_along_counts_towards_what_the_signer_must_hold(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    short = carrying(plan_of(chain, ALICE), chain.state.balance)
    async with desk(chain) as one:
        (verdict,) = await one.sender.submit(batch_of(chain, short))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.INSUFFICIENT_GAS_MONEY
        assert chain.seen == []


def test_the_worst_cost_of_a_bid_is_its_gas_and_its_value():
    plan = carrying(plan_of(FakeChain(ALICE), ALICE), 7)
    bid = Bid(plan.call, GAS, Wei(GWEI), FeeQuote(Wei(GWEI), Wei(1)), plan, plan.opportunity.gross_profit_base)
    assert (bid.worst_gas_wei, bid.worst_cost_wei) == (GAS * GWEI, GAS * GWEI + 7)


async def test_a_plan_that_needs_no_allowance_does_not_wait_for_another_plans(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    chain.has_sequences = False
    plan = plan_of(chain, ALICE)
    free = replace(plan, opportunity=replace(plan.opportunity, spender=None))
    assert needs(plan) is not None
    assert needs(free) is None
    async with desk(chain) as one:
        (verdict,) = await one.sender.submit(batch_of(chain, free, approvals=[approval()]))
        assert isinstance(verdict, Accepted)
        assert [tx.to for tx in chain.seen] == [plan.call.to]

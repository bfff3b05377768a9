"""The rules against Compound v2's own lineage: Venus 2.2.1, whose tokens return codes and are called directly."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from keeper.domain.outcome import Reason
from keeper.domain.units import PositionId, TokenAmount
from keeper.protocols.compound_v2 import calls, rules
from tests.parity.desk import LIQUIDATOR, address, log_of
from tests.parity.test_compound_v2 import assert_as_planned, crash, mismatches, rehearse
from tests.parity.venus_desk import LANDING_S, Saved, VenusDesk, build, opened

ACCOUNTS = 300
BLOCKS = 60


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return build(tmp_path_factory.mktemp("legacy"), ACCOUNTS, 9, (1.02, 1.4), "1")


@pytest.fixture
async def desk(saved: Saved) -> AsyncIterator[VenusDesk]:
    async with opened(saved) as found:
        yield found


async def test_every_accounts_health_is_the_chains_while_some_markets_are_stale_and_after_a_crash(desk: VenusDesk):
    reader = await desk.discovered()
    snapshot, positions = await desk.book(reader)
    assert (snapshot.kind, snapshot.liquidator, snapshot.vai) == ("compound", None, None)
    assert len(positions) >= ACCOUNTS
    assert (await mismatches(desk, reader, positions))[0] == 0
    await desk.chain.mine(BLOCKS)
    await desk.market.accrue("USDC", "WBTC", "GUSD")
    assert (await mismatches(desk, reader, positions))[0] == 0
    _, fresh = await desk.book(reader)
    await desk.chain.mine(BLOCKS)
    await desk.market.accrue("DAI", "WETH")
    await crash(desk)
    wrong, liquidatable = await mismatches(desk, reader, fresh)
    assert wrong == 0
    assert liquidatable >= 60


async def test_every_planned_liquidation_moves_to_the_unit_what_was_planned(desk: VenusDesk):
    reader = await desk.discovered()
    _, positions = await desk.book(reader)
    await desk.chain.mine(BLOCKS)
    await desk.market.accrue("USDC", "CRV")
    await crash(desk)
    reads = await desk.reads()
    snapshot, done = await reader.snapshot(reads), 0
    for position in positions:
        assessment = rules.assess(position, snapshot, reads.head.landing(LANDING_S), None)
        assert assessment.blocked is (None if assessment.opportunities else Reason.NOT_LIQUIDATABLE)
        for opportunity in dict.fromkeys([*assessment.opportunities[:1], *assessment.opportunities[-1:]]):
            assert opportunity.target == opportunity.spender
            assert await rehearse(desk, reader, opportunity) < 2 * calls.GAS_ESTIMATE
            done += 1
    assert done >= 100


async def test_a_refused_liquidation_does_not_revert_and_reports_nothing(desk: VenusDesk):
    reader = await desk.discovered()
    await crash(desk)
    reads = await desk.reads()
    snapshot, positions = await desk.book(reader)
    assessed = [rules.assess(each, snapshot, reads.head.landing(LANDING_S), None) for each in positions]
    step = next(each.opportunities[0] for each in assessed if each.opportunities)
    too_much = replace(step, repay_limit=TokenAmount(step.repay_limit + 10**9 + step.repay_limit // 10))
    healthy = next(each.id for each, found in zip(positions, assessed, strict=True) if not found.health.is_liquidatable)
    for refused in (too_much, replace(step, key=replace(step.key, id=PositionId(healthy)))):
        receipt = await desk.send(calls.liquidation(refused))
        assert receipt["status"] == "0x1"
        assert reader.liquidations([log_of(entry) for entry in receipt["logs"]]) == []


async def test_liquidations_land_one_after_another_and_what_they_seize_is_redeemed_to_the_wei(desk: VenusDesk):
    reader = await desk.discovered()
    await desk.chain.mine(BLOCKS)
    await crash(desk)
    landed, redeemed = 0, 0
    for key in (await desk.borrowers(reader))[:150]:
        reads = await desk.reads()
        snapshot, (position,) = await reader.snapshot(reads), await reader.positions(reads, [key])
        for opportunity in rules.assess(position, snapshot, reads.head.landing(LANDING_S), None).opportunities[:1]:
            receipt = await desk.send(calls.liquidation(opportunity))
            assert_as_planned(reader, opportunity, [log_of(entry) for entry in receipt["logs"]])
            landed += 1
    assert landed >= 20
    for symbol in desk.market.reserves:
        reads, receipts = await desk.reads(), [desk.v_token(symbol)]
        held = {token: TokenAmount(amount) for token, amount in (await desk.balances(receipts)).items()}
        settlements = rules.settlements(
            address(LIQUIDATOR), held, await reader.snapshot(reads), reads.head.landing(LANDING_S)
        )
        for step in settlements:
            before = (await desk.balances([step.seize.address]))[step.seize.address]
            receipt = await desk.send(calls.liquidation(step))
            assert_as_planned(reader, step, [log_of(entry) for entry in receipt["logs"]])
            assert (await desk.balances([step.seize.address]))[step.seize.address] - before == step.seized_amount
            redeemed += 1
    assert redeemed >= 4

"""A base fee that doubles for twenty blocks, and one that is ninety times as high at once: capped, ranked anew, paid for."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Batch
from keeper.domain.units import Wei
from keeper.execution.verdicts import Accepted, Skipped
from keeper.store.records import Entry
from tests.e2e.test_execution import plan_of
from tests.faults.gated import Process, process
from tests.faults.recovery import Recovery
from tests.faults.world import POLICY, Scene, scene_of
from tests.unit.execution.desk import ALICE, BOB, CAROL
from tests.unit.execution.fake_chain import GWEI

CAP_GWEI = 200
CAPPED = replace(POLICY, fees=replace(POLICY.fees, max_fee_wei=Wei(CAP_GWEI * GWEI)))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3", views=2) as found:
        yield found


async def entries(one: Process) -> list[Entry]:
    """Return everything in the journal."""
    journal = one.sender._stock.journal
    highest = await journal.highest_nonce()
    return [each for nonce in range((highest or 0) + 1) for each in await journal.entries_at(nonce)]


async def assert_within_limits(one: Process, before_wei: int) -> None:
    """No bid above the operator's cap or its plan's own limit, and no more spent than those allow."""
    most = 0
    for entry in await entries(one):
        for attempt in entry.attempts:
            assert attempt.max_fee_wei <= CAPPED.fees.max_fee_wei
            assert attempt.tip_wei <= attempt.max_fee_wei
            if attempt.kind == "send":
                assert attempt.max_fee_wei <= entry.intent.fee_limit_wei
        assert len(entry.attempts) <= CAPPED.max_replacements + 2
        most += max(each.gas_limit * each.max_fee_wei for each in entry.attempts)
    spent = before_wei - await one.scene.balance()
    assert 0 <= spent <= most
    assert spent == sum(each.intent.inclusion.gas_cost_wei for each in await entries(one) if each.intent.inclusion)


async def test_chn_07_a_base_fee_that_doubles_for_twenty_blocks_is_followed_up_to_the_cap_and_no_further(
    scene: Scene, recovery: Recovery
) -> None:
    before = await scene.balance()
    async with process(scene, policy=CAPPED) as one:
        await one.sent(ALICE)
        base_fee = 2
        for _ in range(20):
            await one.mine(base_fee_gwei=base_fee)
            base_fee *= 2
        assert len(one.named("chain.fee_spike")) == 1
        assert max(each.fields["maxFeePerGas"] for each in scene.arrivals) <= CAP_GWEI * GWEI
        sent = len(scene.arrivals)
        verdict = await one.skipped(BOB)
        assert verdict.reason in {Reason.UNPROFITABLE, Reason.FEE_CAP}
        assert len(scene.arrivals) == sent
        blocks = 0
        while one.sender._lane.slots:
            await one.mine(base_fee_gwei=1)
            blocks += 1
            assert blocks < 10
        assert len(one.results) == 1
        assert one.results[0] in {Result.WON, Result.CANCELLED}
        await assert_within_limits(one, before)
        await one.sent(BOB)
        await one.mine(3, base_fee_gwei=1)
        assert one.results[-1] is Result.WON
    await scene.check()
    recovery("CHN-07", blocks=blocks)


async def test_chn_07_at_ninety_times_the_base_fee_only_what_still_pays_is_sent(scene: Scene) -> None:
    before = await scene.balance()
    async with process(scene, policy=CAPPED) as one:
        rich, poor, middling = 100, 3, 30
        await one.mine(base_fee_gwei=1)

        async def offer() -> dict[str, Accepted | Skipped]:
            head = await scene.head()
            wanted = ((ALICE, rich), (BOB, poor), (CAROL, middling))
            plans = tuple(plan_of(head, account, profit) for account, profit in wanted)
            found = await one.sender.submit(Batch(head, (), plans))
            return dict(zip(("rich", "poor", "middling"), found, strict=True))

        await one.mine(base_fee_gwei=90)
        spiked = await offer()
        assert isinstance(spiked["rich"], Accepted)
        assert isinstance(spiked["poor"], Skipped)
        assert spiked["poor"].reason is Reason.UNPROFITABLE
        assert "the block asks" in spiked["poor"].detail
        assert len(one.named("chain.fee_spike")) == 1
        await one.mine(3, base_fee_gwei=1)
        calm = await one.submit(BOB, profit_usd=poor)
        assert isinstance(calm, Accepted)
        await one.mine(3, base_fee_gwei=1)
        assert set(one.results) == {Result.WON}
        await assert_within_limits(one, before)
    await scene.check()

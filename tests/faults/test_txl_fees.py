"""Fees that nodes refuse, and gas money that runs out: told once with the cure, tried a bounded number of times."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.domain.outcome import Reason, Result
from keeper.domain.units import Wei
from keeper.execution.verdicts import Skipped
from tests.faults.gated import process, refusing, relenting
from tests.faults.recovery import Recovery
from tests.faults.world import OURS, POLICY, Scene, scene_of
from tests.unit.execution.desk import ALICE, BOB
from tests.unit.execution.fake_chain import GWEI

BLOCK_S = 4
"""Blocks are stamped so far apart, however fast they are mined."""


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3", views=2) as found:
        await found.world.cheat("anvil_setBlockTimestampInterval", BLOCK_S)
        yield found


async def test_txl_13_a_base_fee_above_the_operators_cap_is_not_bid_against(scene: Scene) -> None:
    policy = replace(POLICY, fees=replace(POLICY.fees, max_fee_wei=Wei(3 * GWEI)))
    async with process(scene, policy=policy) as one:
        await one.mine(base_fee_gwei=40)
        verdict = await one.skipped(ALICE)
        assert verdict.reason is Reason.FEE_CAP
        assert scene.arrivals == []
    await scene.check()


@pytest.mark.parametrize(
    "words",
    [
        "max fee per gas less than block base fee: address 0x…, maxFeePerGas: 1, baseFee: 2",
        "max priority fee per gas higher than max fee per gas: address 0x…, maxPriorityFeePerGas: 2, maxFeePerGas: 1",
        "transaction underpriced",
    ],
)
async def test_txl_13_a_fee_that_every_node_refuses_leaves_no_gap_and_is_estimated_anew(
    scene: Scene, words: str, recovery: Recovery
) -> None:
    async with process(scene) as one:
        refusing(scene, words)
        verdict = await one.skipped(ALICE)
        assert verdict.reason is Reason.BROADCAST_FAILED
        assert one.sender.in_flight == frozenset()
        relenting(scene)
        before_s = (await scene.head()).timestamp_s
        await one.mine(base_fee_gwei=1)
        while isinstance(found := await one.submit(ALICE), Skipped):
            assert found.reason is Reason.BUDGET
            await one.mine(base_fee_gwei=1)
        seconds = (await scene.head()).timestamp_s - before_s
        assert seconds <= 8 + BLOCK_S
        await one.mine(3, base_fee_gwei=1)
        assert one.results == [Result.WON]
    assert await scene.nonce() == 1
    assert all(each.fields["maxPriorityFeePerGas"] <= each.fields["maxFeePerGas"] for each in scene.arrivals)
    await scene.check()
    recovery("TXL-13", seconds=seconds)


async def test_txl_13_a_nodes_own_fee_cap_is_told_as_what_it_is_and_tried_ever_more_rarely(scene: Scene) -> None:
    scene.pool.fee_cap_wei = 10**12
    async with process(scene) as one:
        await one.mine()
        reasons = []
        for _ in range(30):
            reasons.append((await one.skipped(ALICE)).reason)
            await one.mine(base_fee_gwei=1)
        assert set(reasons) == {Reason.FEE_CAP, Reason.BUDGET}
        tries = reasons.count(Reason.FEE_CAP)
        assert tries == 4  # at once, and after 8, 16 and 32 s of 120
        assert len(scene.arrivals) == tries * len(scene.views)
        assert [fields["limit"] for fields in one.named("limit.tripped")] == ["node_fee_cap"] * tries
        scene.pool.fee_cap_wei = 10**18
        await one.mine(128 // BLOCK_S, base_fee_gwei=1)
        await one.sent(ALICE)
        await one.mine(3, base_fee_gwei=1)
        assert one.results == [Result.WON]
    assert await scene.nonce() == 1
    await scene.check()


async def test_txl_13_a_restart_does_not_begin_the_tries_anew(scene: Scene) -> None:
    scene.pool.fee_cap_wei = 10**12
    async with process(scene) as one:
        assert (await one.skipped(ALICE)).reason is Reason.FEE_CAP
    async with process(scene) as two:
        assert (await two.skipped(ALICE)).reason is Reason.BUDGET
        assert list(two.warden.holds) == ["node_fee_cap"]


async def test_txl_14_without_gas_money_nothing_is_sent_and_the_alert_says_how_much_is_missing(
    scene: Scene, recovery: Recovery
) -> None:
    await scene.world.cheat("anvil_setBalance", OURS, hex(10**9))
    await scene.block(base_fee_gwei=1)
    async with process(scene) as one:
        for _ in range(5):
            verdict = await one.skipped(ALICE)
            assert verdict.reason is Reason.INSUFFICIENT_GAS_MONEY
            await one.mine(base_fee_gwei=1)
        assert scene.arrivals == []
        told = one.named("funds.low")
        assert len(told) == 5
        short = told[-1]["short_wei"]
        assert isinstance(short, int)
        assert f"top up {short}" in verdict.detail
        await scene.world.cheat("anvil_setBalance", OURS, hex(10**9 + short))
        await scene.block(base_fee_gwei=1)
        await one.sent(ALICE)
        await one.mine(3, base_fee_gwei=1)
        assert one.results == [Result.WON]
    await scene.check()
    recovery("TXL-14", blocks=1)


async def test_txl_14_money_that_only_nodes_miss_is_a_refusal_that_is_tried_ever_more_rarely(scene: Scene) -> None:
    async with process(scene) as one:
        refusing(scene, "insufficient funds for gas * price + value: address 0x… have 1 want 2")
        reasons = []
        for _ in range(30):
            reasons.append((await one.skipped(BOB)).reason)
            await one.mine(base_fee_gwei=1)
        tries = reasons.count(Reason.INSUFFICIENT_GAS_MONEY)
        assert tries + reasons.count(Reason.BUDGET) == 30
        assert tries == 4
        assert await scene.nonce() == 0
        relenting(scene)
        await one.mine(128 // BLOCK_S, base_fee_gwei=1)
        assert (await one.sent(BOB)).nonce == 0
        await one.mine(3, base_fee_gwei=1)
    await scene.check()

"""Blocks with our transactions that vanish: un-confirmed, sent again or cancelled, booked once; and what was final."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from keeper.domain.outcome import Reason, Result
from keeper.store.records import AttemptKind, IntentState
from tests.faults import geth
from tests.faults.gated import process
from tests.faults.recovery import Recovery
from tests.faults.world import PATIENT, POLICY, Keeper, Scene, scene_of
from tests.unit.execution.desk import ALICE, BOB, CAROL

SLOW: Final = replace(PATIENT, confirmations=6)
"""Final so late that a reorganisation comes first."""
WITHIN_BLOCKS: Final = 2


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3") as scene:
        yield scene


async def reorg(scene: Scene, depth: int) -> None:
    """Replace the newest blocks by empty ones; the node forgets what was in them."""
    head = await scene.head()
    await scene.world.cheat("anvil_reorg", depth, [])
    assert (await scene.head()).hash != head.hash


async def mined_in(scene: Scene, tx_hash: str) -> tuple[int, int]:
    """Return where a transaction is: the block, and the place in it."""
    found = await scene.world.cheat("eth_getTransactionReceipt", tx_hash)
    return int(found["blockNumber"], 16), int(found["transactionIndex"], 16)


def hashes(scene: Scene) -> set[bytes]:
    """Return what has arrived at the nodes, each once."""
    return {each.tx_hash for each in scene.arrivals}


async def entry_states(one: Keeper, nonce: int = 0) -> list[IntentState]:
    return [each.intent.state for each in await one.journal.entries_at(nonce)]


@pytest.mark.parametrize("depth", [1, 4])
async def test_chn_02_what_a_reorganisation_drops_is_un_confirmed_and_the_same_bytes_are_sent_again(
    scene: Scene, recovery: Recovery, depth: int
) -> None:
    async with scene.keeper(SLOW) as one:
        tx_hash = await one.sent(ALICE)
        await one.mine(depth)
        assert await entry_states(one) == [IntentState.MINED]
        assert one.sender.in_flight == frozenset()
        await reorg(scene, depth)
        await one.follow()
        assert await entry_states(one) == [IntentState.LIVE]
        assert len(one.named("tx.reorged")) == 1
        assert {key.account for key in one.sender.in_flight} == {ALICE}
        blocks = 0
        while await scene.nonce() == 0:
            blocks += 1
            await one.mine()
            assert blocks <= WITHIN_BLOCKS
        assert hashes(scene) == {tx_hash}
        await one.until_over()
        assert one.results == [Result.WON]
        assert one.named("tx.replaced") == []
    await scene.check()
    recovery("CHN-02", blocks=blocks)


async def test_chn_02_what_was_dropped_and_does_not_pay_any_more_is_cancelled(scene: Scene, recovery: Recovery) -> None:
    async with scene.keeper(SLOW) as one:
        await one.sent(ALICE)
        await one.mine(2)
        await reorg(scene, 2)
        await scene.set_liquidatable(ALICE, wanted=False)
        await scene.block()
        await one.follow()
        assert [each["kind"] for each in one.named("tx.replaced")] == [AttemptKind.CANCEL]
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.reason) == (Result.CANCELLED, Reason.CANCELLED)
        assert outcome.detail.startswith(Reason.NOT_LIQUIDATABLE)
        assert await scene.logs() == []
    await scene.check()
    recovery("CHN-02", blocks=1)


async def test_chn_02_a_process_that_died_before_the_reorganisation_finds_it_at_its_next_start(scene: Scene) -> None:
    async with scene.keeper(SLOW) as one:
        tx_hash = await one.sent(ALICE)
        await one.sent(BOB)
        await one.mine(2)
        assert await entry_states(one) == await entry_states(one, 1) == [IntentState.MINED]
    await reorg(scene, 2)
    async with scene.keeper(SLOW) as other:
        assert [each["nonce"] for each in other.named("tx.reorged")] == [0, 1]
        assert {each.tx_hash for each in scene.arrivals if each.nonce == 0} == {tx_hash}
        await other.mine()
        assert await scene.nonce() == 2
        await other.until_over()
        assert other.results == [Result.WON, Result.WON]
    await scene.check()


@pytest.mark.parametrize("is_seen", [True, False], ids=["its absence was seen", "it was back at the next look"])
async def test_chn_03_what_is_included_elsewhere_is_read_again_and_booked_once(
    scene: Scene, recovery: Recovery, *, is_seen: bool
) -> None:
    async with scene.keeper(SLOW) as one:
        tx_hash = "0x" + (await one.sent(ALICE)).hex()
        await one.mine(2)
        before = await mined_in(scene, tx_hash)
        await reorg(scene, 2)
        if is_seen:
            await one.follow()
        await scene.rival_takes(CAROL)  # comes first in the block
        await geth.reinject(scene.world.proxy, scene.pool)
        await one.mine()
        block, place = await mined_in(scene, tx_hash)
        assert block > before[0]
        assert (before[1], place) == (0, 1)
        assert [each["block"] for each in one.named("tx.mined")] == [before[0], block]
        assert len(one.named("tx.reorged")) == 1
        assert one.outcomes == []
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.block) == (Result.WON, block)
        assert hashes(scene) == {bytes.fromhex(tx_hash[2:])}
    await scene.check()
    recovery("CHN-03", blocks=1)


@pytest.mark.parametrize("is_won_first", [True, False], ids=["to revert", "to success"])
async def test_chn_03_a_status_that_flips_is_read_again_and_only_the_last_one_is_booked(
    scene: Scene, *, is_won_first: bool
) -> None:
    async with scene.keeper(SLOW) as one:
        tx_hash = "0x" + (await one.sent(ALICE)).hex()
        await scene.set_liquidatable(ALICE, wanted=is_won_first)
        await one.mine(2)
        told = ["tx.mined", "tx.reverted"] if is_won_first else ["tx.reverted", "tx.mined"]
        assert len(one.named(told[0])) == 1
        await reorg(scene, 2)
        await scene.set_liquidatable(ALICE, wanted=not is_won_first)
        await geth.reinject(scene.world.proxy, scene.pool)
        await one.mine()
        assert [each["tx_hash"] for each in one.named(told[1])] == [tx_hash]
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.reason) == (
            (Result.REVERTED, Reason.NOT_LIQUIDATABLE) if is_won_first else (Result.WON, None)
        )
        assert (outcome.realised is None) is is_won_first
        receipt = await scene.world.cheat("eth_getTransactionReceipt", tx_hash)
        assert outcome.gas_cost_wei == int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    assert len(await scene.logs()) == (not is_won_first)
    await scene.check()


async def test_chn_04_what_was_final_and_is_gone_halts_the_keeper_until_the_operator_resumes_it(
    scene: Scene, recovery: Recovery
) -> None:
    async with process(scene) as one:
        first = await one.sent(ALICE)
        await one.mine(3)
        assert one.results == [Result.WON]
        await reorg(scene, 3)
        sent = len(scene.arrivals)
        blocks = 0
        while not one.warden.is_halted:
            blocks += 1
            await one.mine()
            assert blocks <= POLICY.foreign_after_heads
        (violation,) = one.named("chain.finality_violation")
        assert violation["tx_hash"] == "0x" + first.tx_hash.hex()
        assert violation["depth"] == 3 + blocks
        assert (await one.skipped(BOB)).reason is Reason.OPERATOR_PAUSED
        await one.mine(3)
        assert len(scene.arrivals) == sent
    async with process(scene) as other:  # a restart forgets nothing
        assert (await other.skipped(BOB)).detail.startswith("halted: finality_violation: 0x")
        await other.mine(2)
        assert len(scene.arrivals) == sent
        await other.warden._control.set_halted(False, reason="", at_s=1)
        await other.mine(3)
        assert [each["nonce"] for each in other.named("tx.gap_filled")] == [0]
        await other.sent(ALICE)
        await other.mine(3)
        assert other.results == [Result.WON]
        assert other.named("chain.finality_violation") == []
    assert len(await scene.logs()) == 1
    await scene.check()
    recovery("CHN-04", blocks=blocks)


async def test_chn_04_what_was_final_and_is_in_another_block_now_violates_nothing(scene: Scene) -> None:
    async with process(scene) as one:
        tx_hash = "0x" + (await one.sent(ALICE)).tx_hash.hex()
        await one.mine(3)
        before = await mined_in(scene, tx_hash)
        await reorg(scene, 3)
        await geth.reinject(scene.world.proxy, scene.pool)
        await one.mine(5)
        assert await mined_in(scene, tx_hash) > before
        assert one.named("chain.finality_violation") == []
        assert [each["tx_hash"] for each in one.named("tx.reorged")] == [tx_hash]
        assert one.results == [Result.WON]
        await one.sent(BOB)
        await one.mine(3)
        assert one.results == [Result.WON, Result.WON]
    await scene.check()

"""TXL-01 to TXL-05: the process dies between two steps of a transaction's life, and the next one ends in the same place."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keeper.domain.outcome import Reason, Result
from keeper.store.records import AttemptState, IntentState
from tests.faults.recovery import Recovery
from tests.faults.world import Keeper, Scene, Step, Story, allowance, dying_at, scene_of
from tests.unit.execution.desk import ALICE, BOB, FarSigner
from tests.unit.execution.fake_chain import Killed

STEPS_OF_A_SEND = (
    "after_decide",
    "after_nonce",
    "after_intent_commit",
    "after_sign",
    "after_commit",
    "before_send",
    "after_send_before_ack",
    "after_ack",
)
STEPS_OF_A_RECEIPT = ("before_receipt_commit", "after_receipt_commit")
WITHIN_BLOCKS = 3


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3") as scene:
        yield scene


async def work(one: Keeper) -> None:
    await one.submit(ALICE, BOB, approvals=[allowance()])
    await one.mine(WITHIN_BLOCKS)


async def dies(scene: Scene, step: str, *, is_far: bool = False) -> Step:
    """Let a process die at a step while it liquidates Alice and Bob, allowance first."""
    told = dying_at(step)
    far = FarSigner(scene.path) if is_far else None
    async with scene.keeper(observer=told, signatory=far) as one:
        with pytest.raises(Killed):
            await work(one)
    assert told.steps[-1] == step
    return told


async def lives_on(scene: Scene, *, is_far: bool = False) -> tuple[Keeper, int]:
    """Start the next process, which plans again for whoever is free; return it and the blocks until all is over."""
    far = FarSigner(scene.path) if is_far else None
    async with scene.keeper(signatory=far) as other:
        taken = {log.data[:20] for log in await scene.logs()}
        locked = {key.account for key in other.sender.in_flight}
        ended = {each.key.account for each in other.outcomes}
        left = [each for each in (ALICE, BOB) if each not in taken | locked | ended]
        if left:
            await other.submit(*left, approvals=[] if await scene.nonce() or locked else [allowance()])
        return other, await other.until_over()


async def unharmed(path: Path) -> Story:
    """Tell how it ends where nothing goes wrong."""
    async with scene_of(path) as scene:
        async with scene.keeper() as one:
            await one.submit(ALICE, BOB, approvals=[allowance()])
            await one.until_over()
        await scene.check()
        return await scene.story()


WHOLE: list[Story] = []


async def the_whole_story(tmp_path: Path) -> Story:
    if not WHOLE:
        WHOLE.append(await unharmed(tmp_path / "whole.sqlite3"))
    return WHOLE[0]


async def assert_same_end(scene: Scene, tmp_path: Path, *, is_far: bool = False) -> int:
    """N10: after the next process, the chain and the books are as if nobody had died."""
    _, blocks = await lives_on(scene, is_far=is_far)
    await scene.check()
    assert await scene.story() == await the_whole_story(tmp_path)
    return blocks


@pytest.mark.parametrize("step", ["after_decide", "after_nonce"])
async def test_txl_01_a_crash_after_the_decision_leaves_no_trace(
    scene: Scene, tmp_path: Path, step: str, recovery: Recovery
) -> None:
    await dies(scene, step)
    assert scene.arrivals == []
    async with scene.keeper() as other:
        assert other.sender.in_flight == frozenset()
        assert await other.journal.highest_nonce() is None
    recovery("TXL-01", blocks=await assert_same_end(scene, tmp_path))


async def test_txl_02_a_crash_between_the_intent_and_its_signature_voids_it_and_the_nonce_is_used_again(
    scene: Scene, tmp_path: Path, recovery: Recovery
) -> None:
    await dies(scene, "after_intent_commit", is_far=True)
    assert scene.arrivals == []
    async with scene.keeper(is_recovering=False) as other:
        before = [each for nonce in range(3) for each in await other.journal.entries_at(nonce)]
        assert [(each.intent.state, each.attempts) for each in before] == [(IntentState.LIVE, ())] * 3
    async with scene.keeper() as other:
        after = [each for nonce in range(3) for each in await other.journal.entries_at(nonce)]
        assert [each.intent.state for each in after] == [IntentState.VOID] * 3
        assert other.sender.in_flight == frozenset()
    recovery("TXL-02", blocks=await assert_same_end(scene, tmp_path, is_far=True))


@pytest.mark.parametrize("step", ["after_sign", "after_commit", "before_send"])
async def test_txl_03_a_crash_between_the_signature_and_the_broadcast_sends_the_same_bytes(
    scene: Scene, tmp_path: Path, step: str, recovery: Recovery
) -> None:
    await dies(scene, step)
    assert scene.arrivals == []
    async with scene.keeper(is_recovering=False) as other:
        stored = {each.tx_hash for entry in await other.journal.open_entries() for each in entry.attempts}
    assert len(stored) == (0 if step == "after_sign" else 3)  # what is not in the journal never existed
    blocks = await assert_same_end(scene, tmp_path)
    sent = {each.tx_hash for each in scene.arrivals}
    assert stored <= sent
    assert len(sent) == 3
    recovery("TXL-03", blocks=blocks)


async def test_txl_03_what_has_lost_its_point_meanwhile_is_cancelled_and_its_nonce_is_no_gap(scene: Scene) -> None:
    await dies(scene, "before_send")
    for account in (ALICE, BOB):
        await scene.set_liquidatable(account, wanted=False)
    await scene.block()
    async with scene.keeper() as other:
        assert await other.until_over() <= WITHIN_BLOCKS
        assert other.results == [Result.CANCELLED, Result.CANCELLED]
        assert {each.reason for each in other.outcomes} == {Reason.CANCELLED}
    assert await scene.nonce() == 3
    assert await scene.logs() == []
    await scene.check()


@pytest.mark.parametrize("step", ["after_send_before_ack", "after_ack"])
async def test_txl_04_a_crash_before_the_ack_is_stored_sends_nothing_twice(
    scene: Scene, tmp_path: Path, step: str, recovery: Recovery
) -> None:
    await dies(scene, step)
    sent = {each.tx_hash for each in scene.arrivals}
    assert sent
    async with scene.keeper(is_recovering=False) as other:
        stored = [each for entry in await other.journal.open_entries() for each in entry.attempts]
    assert {each.state for each in stored} == {AttemptState.SIGNED}
    assert sent <= {each.tx_hash for each in stored}
    blocks = await assert_same_end(scene, tmp_path)
    assert {each.tx_hash for each in scene.arrivals} == {each.tx_hash for each in stored}
    recovery("TXL-04", blocks=blocks)


@pytest.mark.parametrize("step", STEPS_OF_A_RECEIPT)
async def test_txl_05_a_crash_around_the_receipts_commit_books_it_once(
    scene: Scene, tmp_path: Path, step: str, recovery: Recovery
) -> None:
    await dies(scene, step)
    assert len({each.tx_hash for each in scene.arrivals}) == 3
    recovery("TXL-05", blocks=await assert_same_end(scene, tmp_path))


@pytest.mark.parametrize("step", STEPS_OF_A_SEND)
async def test_n10_with_a_remote_signer_too_a_crash_at_any_step_ends_as_if_there_had_been_none(
    scene: Scene, tmp_path: Path, step: str
) -> None:
    await dies(scene, step, is_far=True)
    await assert_same_end(scene, tmp_path, is_far=True)

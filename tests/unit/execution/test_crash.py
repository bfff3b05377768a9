"""N10: the process dies at every instant at which it waits, and the next one ends in the same place."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from keeper.domain.outcome import Result
from keeper.execution.policy import SenderPolicy
from keeper.failpoints import STEPS
from keeper.store.outcomes import Outcomes
from keeper.store.records import IntentState, Purpose
from tests.unit.execution.desk import ALICE, BOB, Desk, FarSigner, desk, new_chain, patient
from tests.unit.execution.fake_chain import GWEI, FakeChain, Fuse, Killed, approval, batch_of, plan_of

Step = Callable[[FakeChain], None]


def fee_spike(chain: FakeChain) -> None:
    chain.base_fee = 30 * GWEI
    chain.mine()


def calm(chain: FakeChain) -> None:
    chain.mine()


def empty(chain: FakeChain) -> None:
    chain.mine(is_empty=True)


def rival(chain: FakeChain) -> None:
    chain.mine(rivals=[ALICE], is_empty=True)


def drop(chain: FakeChain) -> None:
    chain.pool.clear()
    chain.mine()


def reorg(chain: FakeChain) -> None:
    chain.reorg(1)
    chain.mine(is_empty=True)
    chain.mine(is_empty=True)


SCENARIOS: dict[str, tuple[list[Step], SenderPolicy, dict[Result, int]]] = {
    "mined at once": ([calm, calm], patient(), {Result.WON: 2}),
    "outbid": ([fee_spike, calm, calm, calm, calm], patient(), {Result.WON: 2}),
    "lost to a rival": ([rival, calm, calm], patient(), {Result.CANCELLED: 1, Result.WON: 1}),
    "dropped": ([drop, empty, drop, calm], patient(), {Result.WON: 2}),
    "reorganised": ([calm, reorg, calm, calm], patient(confirmations=4), {Result.WON: 2}),
    "stale": ([empty, empty, empty, empty, calm], patient(stale_after_blocks=3), {Result.CANCELLED: 2}),
}


async def serve(one: Desk, steps: list[Step]) -> None:
    """Live through the world's steps as the daemon does: submit what is liquidatable and not in flight, follow heads."""
    if one.sender.in_flight == frozenset() and one.chain.head.number == 100:
        await offer(one)
    while steps:
        steps.pop(0)(one.chain)
        await one.sender.on_head(one.chain.head, one.chain.blocks[-1].taken)


async def offer(one: Desk) -> None:
    plans = [plan_of(one.chain, each) for each in (ALICE, BOB)]
    plans = [plan for plan in plans if plan.key not in one.sender.in_flight]
    approvals = [approval()] if one.chain.state.allowance == 0 else []
    if plans:
        await one.sender.submit(batch_of(one.chain, *plans, approvals=approvals))


async def live(tmp_path: Path, scenario: str, fuse: Fuse, *, is_far: bool = False) -> dict[Result, int]:
    """Live a scenario to its end, with one death where the fuse says; return all stored results."""
    steps, policy, _ = SCENARIOS[scenario]
    steps = list(steps)
    chain = new_chain(tmp_path, ALICE, BOB)
    chain.state.allowance = 0
    try:
        far = FarSigner(chain.journal, fuse) if is_far else None
        async with desk(chain, policy=policy, fuse=fuse, recover=False, signatory=far) as one:
            await one.sender.recover(chain.head)
            return await live_on(one, steps)
    except Killed:
        async with desk(chain, policy=policy, signatory=FarSigner(chain.journal) if is_far else None) as other:
            return await live_on(other, steps)


async def live_on(one: Desk, steps: list[Step]) -> dict[Result, int]:
    await serve(one, steps)
    await finish(one)
    await check(one)
    return dict((await Outcomes(one.database).summary()).results)


async def finish(one: Desk) -> None:
    for _ in range(8):
        await one.head()
        if not one.sender._lane.slots and one.chain.state.nonce == one.sender._lane.next_nonce:
            return


async def check(last: Desk) -> None:
    """The invariants N2, N3 and N11 on the chain and in the journal."""
    chain, lane = last.chain, last.sender._lane
    assert await last.journal.open_entries() == ()
    assert chain.state.nonce == lane.next_nonce, "a gap, or a nonce that nobody knows"
    entries = [entry for nonce in range(chain.state.nonce) for entry in await last.journal.entries_at(nonce)]
    mined = [entry for entry in entries if entry.intent.state is IntentState.FINAL]
    assert [entry.intent.nonce for entry in mined] == list(range(chain.state.nonce))
    assert all(entry.intent.inclusion and entry.intent.inclusion.tx_hash in chain.receipts for entry in mined)
    assert all(receipt.succeeded for receipt in chain.receipts.values()), "paid for a revert"
    plans = [entry.intent.plan_id for entry in mined if entry.intent.purpose is Purpose.LIQUIDATION]
    ended = [outcome.plan_id for outcome in await Outcomes(last.database).latest()]
    assert sorted(map(str, plans)) == sorted(ended)
    assert len(set(ended)) == len(ended)


async def die_everywhere(tmp_path_factory: pytest.TempPathFactory, scenario: str, *, is_far: bool = False) -> int:
    """Die once at each instant of a scenario, each time with the same end; return how many there were."""
    fuse = Fuse(0)
    expected = SCENARIOS[scenario][2]
    assert await live(tmp_path_factory.mktemp("whole"), scenario, fuse, is_far=is_far) == expected

    async def die(instant: int) -> None:
        found = await live(tmp_path_factory.mktemp("dead"), scenario, Fuse(instant), is_far=is_far)
        assert found == expected, f"death at instant {instant}"

    for first in range(1, fuse.burnt + 1, 16):
        await asyncio.gather(*(die(instant) for instant in range(first, min(first + 16, fuse.burnt + 1))))
    return fuse.burnt


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_n10_death_at_any_instant_changes_neither_the_chain_nor_the_books(
    tmp_path_factory: pytest.TempPathFactory, scenario: str
):
    assert await die_everywhere(tmp_path_factory, scenario) > 20


@pytest.mark.parametrize("scenario", ["mined at once", "lost to a rival"])
async def test_n10_death_around_a_remote_signature_and_at_any_step_changes_nothing_either(
    tmp_path_factory: pytest.TempPathFactory, scenario: str
):
    assert await die_everywhere(tmp_path_factory, scenario, is_far=True) > 40


async def test_every_step_that_can_be_sabotaged_is_reached_on_the_way_to_an_outcome(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with desk(chain, signatory=FarSigner(chain.journal)) as one:
        await offer(one)
        await one.heads(2)
        assert one.results == [Result.WON]
    order = list(dict.fromkeys(one.told.steps))
    assert order == [
        "after_decide",
        "after_nonce",
        "after_intent_commit",
        "after_sign",
        "after_commit",
        "before_send",
        "after_send_before_ack",
        "after_ack",
        "before_receipt_commit",
        "after_receipt_commit",
    ]
    beside = {"mid_migration", "mid_snapshot", "mid_shutdown"}
    assert frozenset(order) == STEPS - beside

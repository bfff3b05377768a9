"""What nodes do to a transaction: lost answers, mixed answers, dropped pools, strict pools, receipts that do not exist."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from keeper.domain.outcome import Result
from keeper.domain.units import TxHash
from keeper.execution.policy import SenderPolicy
from tests.faults import rules
from tests.faults.proxy import Answer, Call, Fault, Forward, RawSeen, View, refused
from tests.faults.recovery import Recovery
from tests.faults.world import PATIENT, POLICY, Keeper, Scene, first, scene_of
from tests.unit.execution.desk import ALICE, BOB

SEND = "eth_sendRawTransaction"
READS = ("eth_getTransactionCount", "eth_getTransactionReceipt")
WITHIN_BLOCKS = 2


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3") as scene:
        yield scene


def attempts_at(scene: Scene, nonce: int) -> list[RawSeen]:
    """Return each transaction that arrived for a nonce once, in order."""
    return list({each.tx_hash: each for each in scene.arrivals if each.nonce == nonce}.values())


async def assert_won_once(scene: Scene, one: Keeper) -> None:
    await one.until_over()
    assert one.results == [Result.WON]
    assert await scene.nonce() == 1
    await scene.check()


async def test_txl_06_a_lost_answer_of_a_node_that_has_the_transaction_is_a_success(scene: Scene) -> None:
    for view in scene.views:
        view.add(rules.swallow_response_after_forward(methods=(SEND,), times=1))
    async with scene.keeper() as one:
        tx_hash = await one.sent(ALICE)
        assert one.sender.in_flight
        await one.mine(base_fee_gwei=20)  # not mined: it has to be sent again
        assert one.named("tx.known")
        assert {each.tx_hash for each in scene.arrivals} == {tx_hash}
        await assert_won_once(scene, one)


async def test_txl_07_one_acceptance_among_five_mixed_answers_is_a_success_and_the_contradiction_is_told(
    tmp_path: Path,
) -> None:
    async with scene_of(tmp_path / "keeper.sqlite3", views=5) as scene:
        _, known, low, silent, broken = scene.views
        first(known, rules.error("already known", methods=(SEND,)))
        first(low, rules.error("nonce too low: next nonce 7, tx nonce 0", methods=(SEND,)))
        silent.add(rules.hang(methods=(SEND,)))
        broken.add(rules.drop(methods=(SEND,)))
        async with scene.keeper() as one:
            await one.sent(ALICE)
            told = scene.world.watcher.named("rpc.inconsistent")
            assert [each["method"] for each in told] == [SEND]
            assert set(told[0]["answers"].values()) >= {"nonce_too_low", "unreachable"}
            await assert_won_once(scene, one)
        assert {each.view for each in scene.arrivals} == {0, 1, 2, 3, 4}


async def test_txl_08_nonce_too_low_because_an_older_attempt_was_mined_books_the_older_one(scene: Scene) -> None:
    async with scene.keeper(replace(POLICY, bump_after_blocks=1)) as one:
        older = await one.sent(ALICE)
        lost = [view.add(rules.drop(methods=(SEND,))) for view in scene.views]
        await one.mine(base_fee_gwei=20)  # outbid, and no node gets the bid
        second = attempts_at(scene, 0)[-1].tx_hash
        assert second != older
        for view, fault in zip(scene.views, lost, strict=True):
            view.remove(fault)
            view.add(rules.stale(1, methods=READS, times=1))  # the mined block is not told yet
        await one.mine(base_fee_gwei=1)
        assert await scene.nonce() == 1
        assert any("nonce too low" in each for each in scene.pool.refusals)
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.tx_hash) == (Result.WON, older)
    await scene.check()


@pytest.mark.parametrize("policy", [POLICY, PATIENT], ids=["outbids every block", "patient"])
async def test_txl_11_a_dropped_transaction_is_sent_again_within_two_blocks(
    scene: Scene, policy: SenderPolicy, recovery: Recovery
) -> None:
    async with scene.keeper(policy) as one:
        await one.submit(ALICE, BOB)
        before = len(scene.arrivals)
        await scene.world.cheat("anvil_dropAllTransactions")
        scene.pool.seen.clear()
        blocks = 0
        while {each.nonce for each in scene.arrivals[before:]} != {0, 1}:
            blocks += 1
            await one.mine()
            assert blocks <= WITHIN_BLOCKS
        await one.until_over()
        assert one.results == [Result.WON, Result.WON]
    await scene.check()
    recovery("TXL-11", blocks=blocks)


@dataclass(eq=False)
class Demand(Fault):
    """Take a replacement only where both fields are raised so much: other nodes have other rules than geth."""

    percent: int = 100
    best: tuple[int, int] = (0, 0)

    async def on_call(self, view: View, call: Call, forward: Forward) -> Answer:
        fields = RawSeen(bytes.fromhex(call["params"][0][2:]), 0, 0.0).fields
        bid = (fields["maxFeePerGas"], fields["maxPriorityFeePerGas"])
        is_same = bid == self.best
        if (
            any(self.best)
            and not is_same
            and any(100 * now < (100 + self.percent) * before for now, before in zip(bid, self.best, strict=True))
        ):
            return refused("replacement transaction underpriced")
        self.best = bid
        return await forward(call)


def bids_of(seen: list[RawSeen]) -> list[tuple[int, int]]:
    return [(each.fields["maxFeePerGas"], each.fields["maxPriorityFeePerGas"]) for each in seen]


async def test_txl_12_a_replacement_raises_both_fields_by_the_nodes_rule(scene: Scene) -> None:
    async with scene.keeper(POLICY) as one:
        await one.sent(ALICE, profit_usd=1_000)
        for fee in (20, 40, 60):
            await one.mine(base_fee_gwei=fee)
        bids = bids_of(attempts_at(scene, 0))
        assert len(bids) == 4
        for before, now in pairwise(bids):
            assert all(10 * raised >= 11 * field for field, raised in zip(before, now, strict=True)), bids
        assert "replacement transaction underpriced" not in scene.pool.refusals
        await assert_won_once(scene, one)


async def test_txl_12_a_stricter_rule_than_ours_is_found_within_bounded_tries(scene: Scene) -> None:
    demand = Demand(methods=frozenset({SEND}))
    for view in scene.views:
        first(view, demand)
    async with scene.keeper(POLICY) as one:
        await one.sent(ALICE, profit_usd=10_000)
        tries = 0
        while bids_of(attempts_at(scene, 0))[0] == demand.best:
            tries += 1
            await one.mine(base_fee_gwei=100)
            assert tries <= POLICY.max_replacements
        assert len(attempts_at(scene, 0)) == 1 + tries
        await assert_won_once(scene, one)


async def test_txl_12_tries_end_where_no_bid_is_ever_enough(scene: Scene) -> None:
    demand = Demand(methods=frozenset({SEND}), percent=10**6)
    for view in scene.views:
        first(view, demand)
    policy = replace(POLICY, max_replacements=3, stale_after_blocks=1_000)
    async with scene.keeper(policy) as one:
        await one.sent(ALICE, profit_usd=100_000)
        for _ in range(40):
            await one.mine(base_fee_gwei=100)
        seen = attempts_at(scene, 0)
        assert len([each for each in seen if each.fields["data"]]) == 4
        assert max(fee for fee, _ in bids_of(seen)) <= policy.fees.max_fee_wei
        count = len(seen)
        await one.mine(5, base_fee_gwei=100)
        assert len(attempts_at(scene, 0)) == count
        assert one.named("limit.tripped")
        await assert_won_once(scene, one)


async def spoofed(scene: Scene, one: Keeper, *, lies_of_nonce: bool) -> TxHash:
    """Let the first node tell of a success in the newest block, of a transaction that waits behind the base fee."""
    tx_hash = await one.sent(ALICE)
    await scene.block(base_fee_gwei=30)
    told = await scene.world.cheat("eth_getBlockByNumber", "latest", False)
    block = {"blockNumber": told["number"], "blockHash": told["hash"]}
    liar = scene.views[0]
    liar.add(rules.spoof_receipt("0x" + tx_hash.hex(), block=block))
    if lies_of_nonce:
        liar.add(rules.lie("eth_getTransactionCount", lambda _call, _result: "0x1"))
    return tx_hash


@pytest.mark.parametrize("confirmations", [1, 2])
@pytest.mark.parametrize("lies_of_nonce", [False, True], ids=["receipt alone", "nonce too"])
async def test_txl_23_a_receipt_that_one_node_invents_ends_nothing(
    scene: Scene, lies_of_nonce: bool, confirmations: int
) -> None:
    async with scene.keeper(replace(PATIENT, confirmations=confirmations, bump_after_blocks=20)) as one:
        tx_hash = await spoofed(scene, one, lies_of_nonce=lies_of_nonce)
        for _ in range(4):
            await one.follow()
            await scene.block(base_fee_gwei=30)
        assert one.outcomes == []
        scene.views[0].faults[1:] = []
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.tx_hash) == (Result.WON, tx_hash)
    await scene.check()

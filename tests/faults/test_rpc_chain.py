"""Endpoints that show another chain than there is: RPC-10 to RPC-19, with a real node behind the proxy."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from keeper.chain.backfill import scan_range
from keeper.chain.heads import Heads
from keeper.chain.health import NodeState
from keeper.chain.quorum import Contradiction
from keeper.chain.reads import PinnedReads
from keeper.chain.rpc import Rpc
from keeper.chain.simulation import simulate
from keeper.chain.transactions import confirmed, funds, receipts
from keeper.chain.view import ChainView, latest_head
from keeper.devnet.chain import ADMIN
from keeper.devnet.multicall import deploy_multicall3
from keeper.domain.chain import BlockHead, Call, LogFilter, Receipt, ViewCall
from keeper.domain.units import Address, TxHash, Wei
from keeper.errors import Transient
from tests.faults import rules
from tests.faults.node import EMITTER, TOPIC, World, aliases, world_of
from tests.faults.proxy import Fault, View
from tests.faults.recovery import Recovery
from tests.unit.chain.fake_node import eventually

BLOCK_S: Final = 1.0
WANTED: Final = LogFilter(frozenset({EMITTER}), frozenset({TOPIC}))
ACCOUNT: Final = Address(bytes.fromhex(ADMIN[2:]))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of(3) as found:
        yield found


@dataclass
class Following:
    """Heads as they were handed out."""

    world: World
    seen: list[BlockHead] = field(default_factory=list)

    async def block(self) -> int:
        """Mine a block, wait until it is handed out and the nodes were compared with it, then until the next is due."""
        due_s = time.monotonic() + BLOCK_S
        number = await self.world.mine()
        await eventually(lambda: bool(self.seen) and self.seen[-1].number >= number)
        await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
        return number

    @property
    def numbers(self) -> list[int]:
        return [head.number for head in self.seen]


@asynccontextmanager
async def following(world: World, rpc: Rpc) -> AsyncIterator[Following]:
    found = Following(world)

    async def follow() -> None:
        async with Heads(rpc, poll_interval_s=0.05) as heads:
            async for head in heads:
                found.seen.append(head)

    task = asyncio.create_task(follow())
    await eventually(lambda: bool(found.seen))
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def state(rpc: Rpc, place: int) -> NodeState:
    return rpc.endpoint(f"rpc-{place}").health.state


async def blocks_until(heads: Following, condition: Callable[[], bool], most: int = 8) -> int:
    """Mine until something is so and return how many blocks that took."""
    for count in range(1, most + 1):
        await heads.block()
        if condition():
            return count
    raise AssertionError(f"not so within {most} blocks")


@pytest.mark.parametrize("place", [1, 2, 3])
async def test_rpc_10_a_stale_endpoint_is_put_aside_within_two_blocks_and_comes_back(
    world: World, place: int, recovery: Recovery
) -> None:
    rpc = await world.pool()
    async with following(world, rpc) as heads:
        for _ in range(2):
            await heads.block()
        assert [state(rpc, each) for each in (1, 2, 3)] == [NodeState.ALIVE] * 3
        frozen = heads.numbers[-1]
        world.views[place - 1].add(rules.frozen(frozen))
        blocks = await blocks_until(heads, lambda: state(rpc, place) is NodeState.OUT_OF_SYNC)
        assert aliases(rpc.usable())[-1] == f"rpc-{place}"
        assert blocks <= 3  # two where the machine keeps up: it is one block behind at the first head
        assert heads.numbers == sorted(set(heads.numbers))
        recovery("RPC-10", blocks=blocks)
        world.proxy.reset()
        await blocks_until(heads, lambda: state(rpc, place) is NodeState.ALIVE)


async def test_rpc_10_reads_at_a_head_are_answered_by_those_who_have_it(world: World) -> None:
    rpc = await world.pool()
    head = await latest_head(rpc)
    world.views[0].add(rules.stale(3))
    assert (await funds(rpc, ACCOUNT, head)).balance_wei > 0
    assert state(rpc, 1) is NodeState.OUT_OF_SYNC


async def test_rpc_11_a_head_that_swings_behind_a_balancer_never_goes_backwards(world: World) -> None:
    rpc = await world.pool(world.views[0])
    world.views[0].add(rules.rewind(0, 3, 1, 0, 2))
    async with following(world, rpc) as heads:
        for _ in range(4):
            last = await world.mine()
            await eventually(lambda last=last: heads.seen[-1].number == last)  # type: ignore[misc]
        assert heads.numbers == sorted(set(heads.numbers))


async def logs_of(rpc: Rpc, first: int, last: int) -> list[bytes]:
    return [log.data async for _, logs in scan_range(rpc, WANTED, first, last) for log in logs]


@pytest.mark.parametrize("make", [lambda: rules.stale(2), lambda: rules.error("block range extends beyond head")])
async def test_rpc_12_an_empty_answer_for_blocks_that_a_node_lacks_commits_nothing(world: World, make: Any) -> None:
    rpc = await world.pool()
    await world.emit(b"\x01")
    await world.emit(b"\x02", b"\x03")
    world.views[0].add(make())
    assert await logs_of(rpc, 0, 7) == [b"\x01", b"\x02", b"\x03"]


async def test_rpc_12_an_empty_answer_that_the_blooms_contradict_is_not_believed(world: World) -> None:
    rpc = await world.pool()
    view = ChainView(rpc)
    view.commit(await view.extend(await latest_head(rpc)))
    await world.emit(b"\x01")
    await world.emit(b"\x02")
    world.views[0].add(rules.result([], methods=("eth_getLogs",)))
    found = await view.logs(await view.extend(await latest_head(rpc)), WANTED)
    assert [log.data for log in found] == [b"\x01", b"\x02"]
    assert state(rpc, 1) is NodeState.OUT_OF_SYNC
    assert world.watcher.named("rpc.inconsistent")[-1] == {"method": "eth_getLogs", "node": "rpc-1", "settled": True}


REFUSALS: Final = (
    "query returned more than 3 results",
    "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range",
    "block range is too wide",
    "response too large",
    "query exceeds max results 3",
    "requested too many blocks",
)


@pytest.mark.parametrize("words", REFUSALS)
async def test_rpc_13_a_refused_range_is_read_in_parts(world: World, words: str) -> None:
    rpc = await world.pool(world.views[0])
    payloads = [bytes([each]) for each in range(8)]
    for payload in payloads:
        await world.emit(payload)
    world.views[0].add(rules.limit_logs(count=3, says=words))
    assert await logs_of(rpc, 0, 13) == payloads


async def test_rpc_13_a_silent_cut_at_a_round_number_is_noticed(world: World) -> None:
    rpc = await world.pool(world.views[0])
    many = [{"data": "0x" + f"{each:04x}"} for each in range(1_500)]

    def flood(call: Any, logs: Any) -> Any:
        """Answer as if one block had 1,500 logs, never more than 1,000 at once."""
        query = call["params"][0]
        found = [
            {**logs[0], **each, "logIndex": hex(place)}
            for place, each in enumerate(many)
            if logs and int(query["fromBlock"], 16) <= int(logs[0]["blockNumber"], 16)
        ]
        wide = int(query["toBlock"], 16) - int(query["fromBlock"], 16) > 0
        return found[:1_000] if wide else found

    await world.emit(b"\x01")
    await world.mine(3)
    world.views[0].add(rules.lie("eth_getLogs", flood))
    assert len(await logs_of(rpc, 0, 9)) == 1_500


@pytest.mark.parametrize("allowed", [1, 3, 10])
async def test_rpc_14_a_range_limit_is_learnt_and_kept_to(world: World, allowed: int) -> None:
    rpc = await world.pool(world.views[0])
    for each in range(6):
        await world.emit(bytes([each]))
    await world.mine(9)
    says = f"eth_getLogs is limited to a {allowed} block range"
    world.views[0].add(rules.limit_logs(blocks=allowed, says=says))
    assert await logs_of(rpc, 0, 20) == [bytes([each]) for each in range(6)]
    assert rpc.endpoint("rpc-1").learnt.log_range == allowed
    world.views[0].forget()
    assert len(await logs_of(rpc, 0, 20)) == 6
    spans = [each["params"][0] for each in world.views[0].calls if each["method"] == "eth_getLogs"]
    assert all(int(span["toBlock"], 16) - int(span["fromBlock"], 16) < allowed for span in spans)


@pytest.mark.parametrize("make", [rules.dup, rules.reorder], ids=["twice", "backwards"])
async def test_rpc_15_logs_come_once_and_in_order_however_they_are_told(world: World, make: Any) -> None:
    rpc = await world.pool(world.views[0])
    await world.emit(b"\x01", b"\x02")
    await world.emit(b"\x03")
    world.views[0].add(make())
    assert await logs_of(rpc, 0, 7) == [b"\x01", b"\x02", b"\x03"]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"blockHash": "0x" + "77" * 32},
        {"blockNumber": "0x1"},
        {"removed": True},
        {"address": "0x" + "99" * 20},
        {"topics": ["0x" + "99" * 32]},
    ],
    ids=lambda value: next(iter(value)),
)
async def test_rpc_15_a_log_of_another_block_or_filter_discards_the_whole_answer(
    world: World, spoilt: Mapping[str, object]
) -> None:
    rpc = await world.pool()
    view = ChainView(rpc)
    view.commit(await view.extend(await latest_head(rpc)))
    await world.emit(b"\x01", b"\x02")
    world.views[0].add(rules.lie("eth_getLogs", lambda _call, logs: [*logs[:-1], {**logs[-1], **spoilt}]))
    found = await view.logs(await view.extend(await latest_head(rpc)), WANTED)
    assert [log.data for log in found] == [b"\x01", b"\x02"]
    assert rpc.endpoint("rpc-1").health.failures == 1


@pytest.mark.parametrize("place", [1, 3])
async def test_rpc_16_an_endpoint_on_another_fork_is_put_aside_within_two_blocks_and_comes_back(
    world: World, place: int, recovery: Recovery
) -> None:
    rpc = await world.pool()
    async with following(world, rpc) as heads:
        for _ in range(2):
            await heads.block()
        world.views[place - 1].add(rules.fork(heads.numbers[-1]))
        blocks = await blocks_until(heads, lambda: state(rpc, place) is NodeState.QUARANTINED)
        assert blocks <= 3  # two where the machine keeps up: the forked parent shows at the second head
        recovery("RPC-16", blocks=blocks)
        head = await latest_head(rpc)
        honest = await world.chain.header(hex(head.number))
        assert head.hash.hex() == honest["hash"][2:]
        world.proxy.reset()
        await blocks_until(heads, lambda: state(rpc, place) is NodeState.ALIVE)
        assert heads.seen[-1].hash.hex() == (await world.chain.header())["hash"][2:]


async def test_rpc_17_an_endpoint_that_changes_its_chain_is_dropped_before_anything_is_decided_on_it(
    world: World, recovery: Recovery
) -> None:
    rpc = await world.pool()
    head = await latest_head(rpc)
    world.views[0].add(rules.wrong_chain(1))
    begun_s = time.monotonic()
    assert (await funds(rpc, ACCOUNT, head, is_decisive=True)).nonce == 0
    assert state(rpc, 1) is NodeState.WRONG_CHAIN
    recovery("RPC-17", blocks=0, seconds=time.monotonic() - begun_s)
    world.views[0].forget()
    await funds(rpc, ACCOUNT, head, is_decisive=True)
    await rpc.send_raw(b"\x02not a transaction")
    assert world.views[0].posts == []
    assert {seen.view for seen in world.proxy.raw_transactions} == {1, 2}


async def test_rpc_17_an_endpoint_beside_the_best_one_is_dropped_at_the_next_head(world: World) -> None:
    rpc = await world.pool()
    async with following(world, rpc) as heads:
        await heads.block()
        world.views[2].add(rules.wrong_chain(1))
        await blocks_until(heads, lambda: state(rpc, 3) is NodeState.WRONG_CHAIN, most=3)


def spoil_balance(view: View) -> Fault:
    return view.add(rules.lie("eth_getBalance", lambda _call, wei: hex(int(wei, 16) + 10**30)))


async def test_rpc_18_a_balance_that_one_node_lies_about_is_outvoted_before_money_is_spent(world: World) -> None:
    rpc = await world.pool()
    head = await latest_head(rpc)
    true = await funds(rpc, ACCOUNT, head)
    spoil_balance(world.views[0])
    for _ in range(3):
        assert await funds(rpc, ACCOUNT, head, is_decisive=True) == true
    assert state(rpc, 1) is NodeState.QUARANTINED


async def test_rpc_18_two_endpoints_that_contradict_each_other_spend_nothing(world: World) -> None:
    rpc = await world.pool(*world.views[:2])
    head = await latest_head(rpc)
    spoil_balance(world.views[1])
    with pytest.raises(Contradiction):
        await funds(rpc, ACCOUNT, head, is_decisive=True)


async def test_rpc_18_a_lone_endpoint_is_asked_no_more_for_a_decision_than_otherwise(world: World) -> None:
    rpc = await world.pool(world.views[0])
    head = await latest_head(rpc)
    world.views[0].forget()
    await funds(rpc, ACCOUNT, head)
    plain = world.views[0].count
    world.views[0].forget()
    await funds(rpc, ACCOUNT, head, is_decisive=True)
    assert world.views[0].count == plain


async def test_rpc_18_a_simulation_that_promises_a_profit_on_one_node_only_is_outvoted(world: World) -> None:
    rpc = await world.pool()
    head = await latest_head(rpc)
    call = Call(EMITTER, b"\x01")

    def promise(_call: Any, blocks: Any) -> Any:
        told = blocks[0]["calls"][0]
        richer = {**told["logs"][0], "data": "0x" + "ff" * 32}
        return [{**blocks[0], "calls": [{**told, "logs": [richer]}]}]

    world.views[0].add(rules.lie("eth_simulateV1", promise))
    for _ in range(2):
        found = await simulate(rpc, [call], sender=ACCOUNT, head=head, at_s=head.timestamp_s + 12, is_decisive=True)
        assert found is not None
        assert found[0].ok
        assert found[0].logs is not None
        assert [log.data for log in found[0].logs] == [b"\x01"]
    assert state(rpc, 1) is NodeState.QUARANTINED


async def mined(world: World) -> Receipt:
    """Mine a transaction under some blocks and return its receipt."""
    await world.emit(b"\x01")
    block = await world.chain.header()
    await world.mine(3)
    rpc = await world.pool(world.views[1])
    tx_hash = TxHash(bytes.fromhex(block["transactions"][0][2:]))
    found = (await receipts(rpc, [tx_hash]))[tx_hash]
    assert found is not None
    return found


async def test_rpc_18_a_receipt_counts_as_final_only_where_two_nodes_tell_it_alike(world: World) -> None:
    receipt = await mined(world)
    rpc = await world.pool()
    assert await confirmed(rpc, [receipt]) == {receipt.tx_hash: receipt}
    invented = TxHash(b"\x55" * 32)
    world.views[0].add(rules.spoof_receipt("0x" + invented.hex()))
    spoofed = (await receipts(rpc, [invented]))[invented]
    assert spoofed is not None
    assert spoofed.succeeded
    assert await confirmed(rpc, [spoofed, receipt]) == {receipt.tx_hash: receipt}


async def test_rpc_18_a_spoofed_receipt_in_a_canonical_block_is_outvoted_and_its_teller_put_aside(world: World) -> None:
    rpc = await world.pool()
    invented = TxHash(b"\x55" * 32)
    block = await world.chain.header("0x2")
    place = {"blockNumber": block["number"], "blockHash": block["hash"]}
    world.views[0].add(rules.spoof_receipt("0x" + invented.hex(), block=place))
    spoofed = (await receipts(rpc, [invented]))[invented]
    assert spoofed is not None
    assert await confirmed(rpc, [spoofed]) == {}
    assert state(rpc, 1) is NodeState.QUARANTINED


@pytest.mark.parametrize(
    "words",
    [
        "header not found",
        "missing trie node 1234 (path ) state 0x12 is not available",
        "required historical state unavailable (reexec=128)",
        "history has been pruned for this block",
    ],
)
async def test_rpc_19_a_pruned_state_is_read_from_another_endpoint(world: World, words: str) -> None:
    rpc = await world.pool()
    await deploy_multicall3(world.chain, world.packages)
    head = await latest_head(rpc)
    world.views[0].add(rules.error(words, methods=("eth_call", "eth_getBalance")))
    reads = PinnedReads(rpc, head)
    (found,) = await reads.many([ViewCall(EMITTER, b"")])
    assert found.ok
    assert (await funds(rpc, ACCOUNT, head)).balance_wei > Wei(0)


async def test_rpc_19_a_state_that_no_endpoint_has_ends_long_before_the_deadline(world: World) -> None:
    rpc = await world.pool()
    head = await latest_head(rpc)
    world.proxy.add(lambda: rules.error("missing trie node", methods=("eth_call",)))
    with pytest.raises(Transient):
        await rpc.call("eth_call", ({"to": "0x" + EMITTER.hex()}, hex(head.number)), deadline_s=3_600)

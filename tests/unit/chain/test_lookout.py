"""Comparing nodes with each head: the laggards and the forked are put aside, and come back."""

import asyncio

from keeper.chain.health import NodeState
from keeper.chain.lookout import Lookout, Told
from keeper.chain.rpc import Rpc
from keeper.domain.chain import BlockHead
from keeper.domain.units import BlockHash
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import FakeChain, FakeNode, RealClock, Watcher, eventually

OTHER = BlockHash(b"\xfe" * 32)


def at(head: BlockHead, behind: int = 0) -> Told:
    return Told(head.number - behind, head.parent_hash if behind < 2 else None)


def on_fork(head: BlockHead) -> Told:
    return Told(head.number, OTHER)


async def lookout_of(rpc: Rpc, watcher: Watcher) -> Lookout:
    return Lookout(rpc.endpoints, clock=RealClock(), observer=watcher)


def states(rpc: Rpc) -> list[NodeState]:
    return [each.health.state for each in rpc.endpoints]


async def test_a_node_two_blocks_behind_is_put_aside_and_taken_back_when_it_has_caught_up(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, watcher: Watcher
) -> None:
    rpc = await pool(*nodes)
    lookout = await lookout_of(rpc, watcher)
    first, second = rpc.endpoints
    lookout.judge(chain.head, first, {second: at(chain.head, 1)})
    assert states(rpc) == [NodeState.ALIVE] * 2
    lookout.judge(chain.head, first, {second: at(chain.head, 2)})
    assert states(rpc) == [NodeState.ALIVE, NodeState.OUT_OF_SYNC]
    second.health.check_due_s = 0.0  # a moment later
    lookout.judge(chain.head, first, {second: at(chain.head)})
    assert states(rpc) == [NodeState.ALIVE] * 2


async def test_the_minority_of_a_fork_is_put_aside_until_it_agrees(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, watcher: Watcher
) -> None:
    async with FakeNode(chain) as third:
        rpc = await pool(*nodes, third)
        lookout = await lookout_of(rpc, watcher)
        one, two, three = rpc.endpoints
        lookout.judge(chain.head, one, {two: at(chain.head), three: on_fork(chain.head)})
        assert states(rpc) == [NodeState.ALIVE, NodeState.ALIVE, NodeState.QUARANTINED]
        assert watcher.named("rpc.inconsistent")[-1]["node"] == "rpc-3"
        three.verified()  # a passed check of its own does not bring it back
        assert states(rpc)[2] is NodeState.QUARANTINED
        lookout.judge(chain.head, one, {two: at(chain.head), three: at(chain.head)})
        assert states(rpc) == [NodeState.ALIVE] * 3


async def test_a_head_from_a_fork_puts_its_own_source_aside(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, watcher: Watcher
) -> None:
    async with FakeNode(chain) as third:
        rpc = await pool(*nodes, third)
        lookout = await lookout_of(rpc, watcher)
        one, two, three = rpc.endpoints
        lookout.judge(chain.head, one, {two: on_fork(chain.head), three: on_fork(chain.head)})
        assert states(rpc) == [NodeState.QUARANTINED, NodeState.ALIVE, NodeState.ALIVE]


async def test_an_even_split_is_told_and_moves_nobody(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, watcher: Watcher
) -> None:
    rpc = await pool(*nodes)
    lookout = await lookout_of(rpc, watcher)
    for _ in range(3):
        lookout.judge(chain.head, rpc.endpoints[0], {rpc.endpoints[1]: on_fork(chain.head)})
    assert states(rpc) == [NodeState.ALIVE] * 2
    assert [each["settled"] for each in watcher.named("rpc.inconsistent")] == [False]


async def test_a_head_from_the_far_future_puts_its_source_aside_and_not_the_others(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, watcher: Watcher
) -> None:
    async with FakeNode(chain) as third:
        rpc = await pool(*nodes, third)
        lookout = await lookout_of(rpc, watcher)
        one, two, three = rpc.endpoints
        lookout.judge(chain.head, one, {two: at(chain.head, 300), three: at(chain.head, 301)})
        assert states(rpc) == [NodeState.QUARANTINED, NodeState.ALIVE, NodeState.ALIVE]


async def test_only_the_nodes_that_did_not_deliver_a_head_are_asked_and_once(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    rpc = await pool(*nodes)
    for _ in range(5):
        rpc.saw(chain.head, source="rpc-1", interval_s=0.01)
    await eventually(lambda: bool(nodes[1].posts))
    await asyncio.sleep(0.05)
    assert nodes[0].posts == []
    assert len(nodes[1].posts) == 1


async def test_the_best_node_is_not_asked_where_a_socket_delivered_the_head(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    rpc = await pool(*nodes)
    rpc.saw(chain.head, source="", interval_s=0.01)
    await eventually(lambda: bool(nodes[1].posts))
    assert nodes[0].posts == []


async def test_a_lone_node_is_not_compared_with_anything(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    rpc = await pool(node)
    rpc.saw(chain.head, source="rpc-1", interval_s=0.01)
    await asyncio.sleep(0.3)
    assert node.posts == []


async def test_a_node_that_changes_its_chain_is_dropped_at_the_next_head_and_may_come_back_later(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    rpc = await pool(*nodes)
    nodes[1].chain_id = 1
    rpc.saw(chain.head, source="rpc-1", interval_s=0.01)
    second = rpc.endpoint("rpc-2")
    await eventually(lambda: second.health.state is NodeState.WRONG_CHAIN)
    nodes[1].chain_id = 31_337
    second.health.check_due_s = 0.0
    second.changed.set()
    await eventually(lambda: second.health.state is NodeState.ALIVE)


async def test_nodes_that_are_behind_or_put_aside_are_asked_only_after_all_others_failed(
    pool: Pool, nodes: list[FakeNode]
) -> None:
    rpc = await pool(*nodes)
    rpc.endpoint("rpc-1").quarantine("on another fork", 3_600)
    for _ in range(3):
        assert await rpc.call("eth_blockNumber") == "0x4"
    assert nodes[0].posts == []
    await nodes[1].stop()
    assert await rpc.call("eth_blockNumber") == "0x4"
    assert len(nodes[0].posts) == 1


async def test_a_conviction_outlasts_a_failure_and_grows_with_every_lie(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    health = rpc.endpoint("rpc-1").health
    for now_s, until_s in ((1_000.0, 1_060.0), (2_000.0, 2_120.0), (3_000.0, 3_240.0)):
        health.convict("contradicts 2 others", now_s)
        health.verified(now_s + 1)
        health.agrees(until_s - 1)
        assert health.is_quarantined
        health.agrees(until_s)
        assert not health.is_quarantined
        assert health.state is NodeState.ALIVE

"""Heads: newest wins, never backwards without proof, pushed or polled, whatever the socket does."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from keeper.chain.endpoint import Node
from keeper.chain.heads import Heads
from keeper.chain.rpc import Rpc
from keeper.domain.chain import BlockHead
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import FakeChain, FakeNode, Refusal, Watcher, eventually, header_json, respond

POLL_S = 0.02


async def next_of(heads: Heads, timeout_s: float = 10.0) -> BlockHead:
    return await asyncio.wait_for(anext(heads), timeout_s)


async def nothing_from(heads: Heads, seconds: float = 0.3) -> None:
    with pytest.raises(TimeoutError):
        await next_of(heads, seconds)


async def test_polling_hands_out_each_head_once(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    async with Heads(await pool(node), poll_interval_s=POLL_S) as heads:
        assert await next_of(heads) == chain.head
        for _ in range(5):
            mined = chain.mine()
            assert await next_of(heads) == mined
        await nothing_from(heads)


async def test_a_slow_consumer_gets_the_newest_head_only(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    async with Heads(await pool(node), poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        for _ in range(10):
            chain.mine()
        assert await next_of(heads) == chain.head
        await nothing_from(heads)


async def test_a_node_that_falls_back_is_no_reorganisation(pool: Pool, nodes: list[FakeNode], chain: FakeChain) -> None:
    """Sawtooth: a load balancer's backends take turns, and one of them is behind."""
    rpc = await pool(*nodes)
    async with Heads(rpc, poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        skipped = chain.mine()
        newest = chain.mine()
        assert await next_of(heads) == newest
        behind = FakeChain(0)
        behind.blocks, behind.known = chain.blocks[:-1], chain.known
        nodes[0].chain = behind
        assert behind.head == skipped
        await nothing_from(heads)
        nodes[0].chain = chain
        assert await next_of_after(heads, chain) == chain.head


async def next_of_after(heads: Heads, chain: FakeChain) -> BlockHead:
    chain.mine()
    return await next_of(heads)


async def test_a_lone_node_that_jumps_back_is_believed_only_when_it_stays_there(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    async with Heads(await pool(node), poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        chain.mine()
        chain.mine()
        newest = await next_of(heads)
        assert newest == chain.head
        rolled_back = chain.reorg(3, 1)
        assert rolled_back.number < newest.number
        assert await next_of(heads) == rolled_back


async def test_another_block_at_the_same_height_is_confirmed_and_handed_out(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    async with Heads(await pool(*nodes), poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        replaced = chain.reorg(1)
        assert await next_of(heads) == replaced


async def test_a_head_that_does_not_follow_is_refused_while_most_nodes_keep_the_old_one(
    pool: Pool, chain: FakeChain
) -> None:
    other = chain.fork()
    async with FakeNode(chain) as first, FakeNode(chain) as second, FakeNode(chain) as third:
        rpc = await pool(first, second, third)
        async with Heads(rpc, poll_interval_s=POLL_S) as heads:
            await next_of(heads)
            third.chain = other
            other.reorg(1, 1)
            heads._offer(other.head)
            await nothing_from(heads)
            assert not rpc.endpoint("rpc-3").health.is_fit


async def test_a_stuck_node_does_not_hide_the_others_heads(pool: Pool, nodes: list[FakeNode], chain: FakeChain) -> None:
    frozen = FakeChain(0)
    frozen.blocks, frozen.known = list(chain.blocks), chain.known
    rpc = await pool(*nodes)
    nodes[0].chain = frozen
    async with Heads(rpc, poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        for _ in range(3):
            chain.mine()
            assert await next_of(heads) == chain.head
        assert rpc.usable()[0].alias == "rpc-2"


@pytest.mark.parametrize(
    "change",
    [
        {"number": "-0x1"},
        {"number": None},
        {"number": 5},
        {"number": "0x" + "f" * 17},
        {"hash": "0x12"},
        {"hash": None},
        {"hash": "0x" + "zz" * 32},
        {"parentHash": "0x" + "11" * 33},
        {"timestamp": "0x" + "f" * 16},
        {"logsBloom": "0x00"},
        {"gasLimit": "lots"},
        {"baseFeePerGas": "0x" + "f" * 65},
    ],
)
async def test_a_head_with_impossible_fields_is_never_handed_out(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, change: dict[str, Any]
) -> None:
    nodes[0].methods["eth_getBlockByNumber"] = lambda *_: {**header_json(chain.head), **change}
    async with Heads(await pool(*nodes), poll_interval_s=POLL_S) as heads:
        assert await next_of(heads) == chain.head


async def test_a_block_without_base_fee_has_none_to_pay(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    header = header_json(chain.head)
    del header["baseFeePerGas"]
    node.methods["eth_getBlockByNumber"] = lambda *_: header
    async with Heads(await pool(node), poll_interval_s=POLL_S) as heads:
        assert (await next_of(heads)).base_fee_wei == 0


async def test_waiting_outlives_every_node_and_costs_little(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    async with Heads(await pool(node), poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        node.always = respond(status=503)
        waiting = asyncio.create_task(next_of(heads, 30))
        await asyncio.sleep(1.5)
        assert len(node.posts) < 20
        node.always = None
        mined = chain.mine()
        assert await waiting == mined


async def socket_pool(pool: Pool, node: FakeNode) -> Rpc:
    return await pool(node, extra=(Node("rpc-ws", node.ws_url),))


def is_subscribed(node: FakeNode) -> Callable[[], bool]:
    return lambda: node.count["eth_subscribe"] > 0 and not node.sockets[-1].closed


async def test_pushed_heads_need_no_poll(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    rpc = await socket_pool(pool, node)
    async with Heads(rpc, poll_interval_s=30) as heads:
        await next_of(heads)
        await eventually(is_subscribed(node))
        polls = node.count["eth_getBlockByNumber"]
        for _ in range(5):
            await node.push(chain.mine())
            assert await next_of(heads) == chain.head
        assert node.count["eth_getBlockByNumber"] == polls


@pytest.mark.parametrize("interval_s", [0.05, 0.3])
async def test_heads_that_are_pushed_from_the_start_cost_no_polls_whatever_the_poll_interval(
    pool: Pool, node: FakeNode, chain: FakeChain, interval_s: float
) -> None:
    rpc = await socket_pool(pool, node)
    async with Heads(rpc, poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        await eventually(is_subscribed(node))
        await node.push(chain.mine())
        assert await next_of(heads) == chain.head
        polls = node.count["eth_getBlockByNumber"]
        for _ in range(6):
            pushing = asyncio.create_task(push_after(interval_s, node, chain))
            assert await next_of(heads) == await pushing
        assert node.count["eth_getBlockByNumber"] == polls


async def push_after(seconds: float, node: FakeNode, chain: FakeChain) -> BlockHead:
    await asyncio.sleep(seconds)
    await node.push(head := chain.mine())
    return head


async def test_a_head_that_waits_in_the_socket_while_the_loop_is_busy_costs_no_poll(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    rpc = await socket_pool(pool, node)
    async with Heads(rpc, poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        await eventually(is_subscribed(node))
        for _ in range(3):
            await node.push(chain.mine())
            assert await next_of(heads) == chain.head
        polls = node.count["eth_getBlockByNumber"]
        await node.push(chain.mine())
        time.sleep(1.2)  # noqa: ASYNC251 - the busy loop itself
        assert await next_of(heads) == chain.head
        assert node.count["eth_getBlockByNumber"] == polls


async def test_of_several_pushed_heads_the_newest_wins(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    async with Heads(await socket_pool(pool, node), poll_interval_s=30) as heads:
        await next_of(heads)
        await eventually(is_subscribed(node))
        for _ in range(5):
            await node.push(chain.mine())
        await node.push(chain.blocks[-3].head)
        await asyncio.sleep(0.1)
        assert await next_of(heads) == chain.head
        await nothing_from(heads)


@pytest.mark.parametrize(
    "frame", ["not json", "[", '{"jsonrpc":"2.0","method":"eth_subscription","params":{"x":1}}', b"\x00\x01"]
)
async def test_a_garbage_frame_costs_a_reconnection_and_no_head(
    pool: Pool, node: FakeNode, chain: FakeChain, watcher: Watcher, frame: str | bytes
) -> None:
    async with Heads(await socket_pool(pool, node), poll_interval_s=30) as heads:
        await next_of(heads)
        await eventually(is_subscribed(node))
        socket = node.sockets[-1]
        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
        await eventually(lambda: len(node.sockets) == 2 and node.count["eth_subscribe"] == 2)
        await node.push(chain.mine())
        assert await next_of(heads) == chain.head
        assert "unsubscribed" in [told["state"] for told in watcher.named("rpc.node_state")]


async def test_a_cleanly_closed_socket_is_opened_again(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    async with Heads(await socket_pool(pool, node), poll_interval_s=30) as heads:
        await next_of(heads)
        await eventually(is_subscribed(node))
        await node.sockets[-1].close(code=1000)
        await eventually(lambda: node.count["eth_subscribe"] == 2)
        await node.push(chain.mine())
        assert await next_of(heads) == chain.head


async def test_under_a_frozen_socket_heads_are_polled(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    async with Heads(await socket_pool(pool, node), poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        await eventually(is_subscribed(node))
        for _ in range(3):
            chain.mine()
            assert await next_of(heads) == chain.head


async def test_a_frozen_socket_is_noticed_by_its_silence_and_replaced(
    pool: Pool, node: FakeNode, chain: FakeChain, watcher: Watcher
) -> None:
    async with Heads(await socket_pool(pool, node), poll_interval_s=POLL_S) as heads:
        await next_of(heads)
        await eventually(is_subscribed(node))
        for _ in range(4):
            chain.mine()
        await eventually(lambda: node.count["eth_subscribe"] == 2)
        assert any("fell silent" in told["reason"] for told in watcher.named("rpc.node_state"))


async def test_a_socket_of_another_chain_is_left_alone(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    async with FakeNode(chain, chain_id=1) as other:
        rpc = await pool(node, extra=(Node("rpc-ws", other.ws_url),))
        async with Heads(rpc, poll_interval_s=POLL_S) as heads:
            await next_of(heads)
            await eventually(lambda: other.count["eth_chainId"] == 1)
            await asyncio.sleep(0.3)
            assert other.count["eth_subscribe"] == 0
            assert len(other.sockets) == 1


async def test_a_node_without_websocket_is_polled(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    app = web.Application()
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rpc = await pool(node, extra=(Node("rpc-ws", f"ws://127.0.0.1:{runner.addresses[0][1]}"),))
    async with Heads(rpc, poll_interval_s=POLL_S) as heads:
        for _ in range(3):
            assert await next_of(heads) == chain.head
            chain.mine()
    await runner.cleanup()


async def test_a_chain_that_stands_still_is_reported_once(
    pool: Pool, node: FakeNode, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keeper.chain.heads._STALLED_AFTER_S", 0.1)
    async with Heads(await pool(node), poll_interval_s=POLL_S) as heads:
        head = await next_of(heads)
        await nothing_from(heads, 0.6)
        (told,) = watcher.named("chain.stalled")
        assert told["block"] == head.number


async def test_a_refused_subscription_is_tried_again(
    pool: Pool, node: FakeNode, chain: FakeChain, watcher: Watcher
) -> None:
    refusals = 0

    def refuse(_kind: str) -> str:
        nonlocal refusals
        refusals += 1
        if refusals < 3:
            raise Refusal(-32601, "notifications not supported")
        return "0x1"

    node.methods["eth_subscribe"] = refuse
    async with Heads(await socket_pool(pool, node), poll_interval_s=30) as heads:
        await next_of(heads)
        await eventually(lambda: refusals == 3)
        await eventually(lambda: watcher.named("rpc.node_state")[-1]["state"] == "subscribed")
        await node.push(chain.mine())
        assert await next_of(heads) == chain.head


async def test_leaving_while_heads_pour_in_always_ends(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    """A cancellation that meets a notice must not get lost."""
    rpc = await socket_pool(pool, node)
    for round_number in range(1, 21):
        async with Heads(rpc, poll_interval_s=30) as heads:
            await next_of(heads)
            await eventually(partial(has_subscribed, node, round_number))
            pushing = [asyncio.create_task(node.push(chain.mine())) for _ in range(5)]
            await asyncio.sleep(0.001)
        await asyncio.gather(*pushing, return_exceptions=True)


def has_subscribed(node: FakeNode, times: int) -> bool:
    return node.count["eth_subscribe"] >= times

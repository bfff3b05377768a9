"""The pool: failover, hedging, wrong chains, recovery, limits."""

import asyncio
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from keeper.chain.endpoint import Node
from keeper.chain.failures import BlockUnknown, MethodMissing, NodeFailure, RpcError
from keeper.chain.health import NodeState
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import Request, only, quantity_of
from keeper.errors import Transient, Unsafe
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import (
    CHAIN_ID,
    FakeChain,
    FakeNode,
    RealClock,
    Refusal,
    Watcher,
    drop,
    eventually,
    hang,
    respond,
)

JUNK = respond(body="junk")


def _same(value: object) -> object:
    return value


async def test_the_next_node_answers_where_the_first_is_gone(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    await nodes[0].stop()
    assert await rpc.call("eth_blockNumber") == "0x4"
    nodes[1].posts.clear()
    assert await rpc.call("eth_blockNumber") == "0x4"
    assert len(nodes[1].posts) == 1
    assert rpc.endpoint("rpc-1").health.state is NodeState.UNREACHABLE


@pytest.mark.parametrize("handler", [JUNK, drop, respond(status=503), respond(status=429), respond(status=401)])
async def test_any_failure_of_one_node_is_answered_by_the_other(
    pool: Pool, nodes: list[FakeNode], handler: Any
) -> None:
    rpc = await pool(*nodes)
    nodes[0].always = handler
    for _ in range(5):
        assert await rpc.call("eth_blockNumber") == "0x4"


async def test_a_silent_node_is_overtaken_by_the_next_one(pool: Pool, nodes: list[FakeNode], watcher: Watcher) -> None:
    rpc = await pool(*nodes, hedge_s=0.05)
    nodes[0].always = hang
    for _ in range(4):
        assert await rpc.call("eth_blockNumber", deadline_s=30) == "0x4"
    assert watcher.named("rpc.hedged")[0] == {"node": "rpc-1", "next": "rpc-2"}
    assert rpc.usable()[0].alias == "rpc-2"


async def test_backfill_is_not_hedged(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes, hedge_s=0.01)

    async def slow(_calls: list[dict[str, Any]], _request: web.Request) -> None:
        await asyncio.sleep(0.1)

    nodes[0].always = slow
    await rpc.call("eth_blockNumber", priority=Priority.BACKFILL)
    assert nodes[1].posts == []


async def test_an_answer_that_cannot_be_decoded_is_asked_of_another_node(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    wrongs: list[object] = ["-0x1", "0x", "5", 5, "0x" + "1" * 5_000, "0x1_0", " 0x1", {"a": 1}, [], True]
    for wrong in wrongs:
        nodes[0].methods["eth_blockNumber"] = partial(_same, wrong)
        assert await rpc.ask([("eth_blockNumber", ())], lambda found: quantity_of(only(found))) == 4


async def test_a_null_is_asked_of_another_node(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    nodes[0].methods["eth_blockNumber"] = lambda: None
    assert await rpc.ask([("eth_blockNumber", ())], lambda found: quantity_of(only(found))) == 4
    assert rpc.endpoint("rpc-1").health.state is NodeState.OUT_OF_SYNC


async def test_an_execution_error_is_final_and_asked_of_nobody_else(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)

    def revert(*_: object) -> None:
        raise Refusal(3, "execution reverted", "0x1234")

    nodes[0].methods["eth_call"] = revert
    with pytest.raises(RpcError) as caught:
        await rpc.call("eth_call", ({}, "latest"))
    assert caught.value.data == b"\x12\x34"
    assert nodes[1].posts == []


async def test_rounds_repeat_until_a_node_recovers_within_the_deadline(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    node.faults.extend([JUNK, drop, JUNK])
    assert await rpc.call("eth_blockNumber", deadline_s=10) == "0x4"


async def test_the_deadline_ends_the_rounds_and_the_failure_says_why(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    node.always = JUNK
    with pytest.raises(Transient, match="rpc-1"):
        await rpc.call("eth_blockNumber", deadline_s=0.2)


async def test_a_block_that_all_nodes_lack_is_unknown_long_before_the_deadline(
    pool: Pool, nodes: list[FakeNode]
) -> None:
    rpc = await pool(*nodes)
    request: Request = ("eth_getLogs", ({"blockHash": "0x" + "77" * 32},))
    with pytest.raises(BlockUnknown):
        await rpc.ask([request], only, deadline_s=3_600)


async def test_a_block_that_one_node_lacks_while_the_other_is_down_is_not_called_unknown(
    pool: Pool, nodes: list[FakeNode]
) -> None:
    rpc = await pool(*nodes)
    await nodes[1].stop()
    request: Request = ("eth_getLogs", ({"blockHash": "0x" + "77" * 32},))
    with pytest.raises(NodeFailure) as caught:
        await rpc.ask([request], only, deadline_s=0.3)
    assert not isinstance(caught.value, BlockUnknown) or rpc.endpoint("rpc-2").health.state is NodeState.UNREACHABLE


async def test_a_node_on_another_chain_is_never_used(pool: Pool, nodes: list[FakeNode], watcher: Watcher) -> None:
    nodes[0].chain_id = 1
    rpc = await pool(*nodes)
    await rpc.call("eth_blockNumber")
    await rpc.send_raw(b"\x02raw")
    assert nodes[0].posts == []
    assert {"node": "rpc-1", "state": "wrong_chain", "reason": "is on chain 1, not 31337"} in watcher.named(
        "rpc.node_state"
    )


async def test_a_start_without_any_right_node_names_each_and_what_it_answered(nodes: list[FakeNode]) -> None:
    nodes[0].chain_id = 1
    dead = Node("rpc-3", "http://127.0.0.1:1")
    silent = nodes[1]
    silent.always = respond(status=401)
    rpc = Rpc([nodes[0].node("rpc-1"), silent.node("rpc-2"), dead], clock=RealClock())
    with pytest.raises(Unsafe) as caught:
        await rpc.start(CHAIN_ID)
    text = str(caught.value)
    assert "rpc-1: is on chain 1, not 31337" in text
    assert "rpc-2: " in text
    assert "401" in text
    assert "rpc-3: " in text
    assert "ECONNREFUSED" in text
    await rpc.close()
    await asyncio.sleep(0.01)


async def test_a_node_that_is_down_at_the_start_joins_when_it_comes_up(pool: Pool, nodes: list[FakeNode]) -> None:
    await nodes[0].stop()
    rpc = await pool(nodes[0], nodes[1])
    assert [each.alias for each in rpc.usable()] == ["rpc-2"]
    await nodes[0].__aenter__()
    await eventually(lambda: len(rpc.usable()) == 2)


async def test_a_node_that_changes_its_chain_while_down_is_dropped(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    await nodes[0].stop()
    await rpc.call("eth_blockNumber")
    nodes[0].chain_id = 1
    await nodes[0].__aenter__()
    await eventually(lambda: rpc.endpoint("rpc-1").health.state is NodeState.WRONG_CHAIN)
    assert [each.alias for each in rpc.usable()] == ["rpc-2"]


async def test_all_nodes_down_are_checked_about_once_a_second_and_used_again_at_once(
    pool: Pool, node: FakeNode
) -> None:
    rpc = await pool(node)
    node.always = respond(status=503)
    for _ in range(3):
        with pytest.raises(Transient):
            await rpc.call("eth_blockNumber", deadline_s=0.05)
    await eventually(lambda: not rpc.usable())
    node.posts.clear()
    for _ in range(20):
        with pytest.raises(Transient):
            await rpc.call("eth_blockNumber", deadline_s=0.1)
    assert len(node.posts) <= 8  # 0.1 + 0.2 + 0.4 + 0.8 + 1 s … apart, whatever the callers do
    node.always = None
    assert await rpc.call("eth_blockNumber", deadline_s=10) == "0x4"


async def test_many_requests_that_fail_together_open_the_breaker_once(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    await node.stop()
    calls = (rpc.endpoints[0].send([("eth_blockNumber", ())], priority=Priority.READ, timeout_s=5) for _ in range(12))
    await asyncio.gather(*calls, return_exceptions=True)
    health = rpc.endpoints[0].health
    assert health.state is NodeState.UNREACHABLE
    assert health.check_due_s - rpc.clock.monotonic_s() < 0.2
    await node.__aenter__()
    await eventually(lambda: bool(rpc.usable()))


async def test_a_node_that_refuses_our_key_is_not_asked_again(
    pool: Pool, nodes: list[FakeNode], watcher: Watcher
) -> None:
    rpc = await pool(*nodes)
    nodes[0].always = respond(status=401)
    for _ in range(3):
        await rpc.call("eth_blockNumber")
    assert len(nodes[0].posts) == 1
    assert watcher.named("rpc.node_state")[-1]["state"] == "unusable"


async def test_a_node_that_asks_for_a_pause_gets_it(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    nodes[0].faults.append(respond(status=429, Retry_After="60"))
    for _ in range(5):
        await rpc.call("eth_blockNumber")
    assert len(nodes[0].posts) == 1
    assert rpc.endpoint("rpc-1").health.state is NodeState.RATE_LIMITED


async def test_a_rate_limit_inside_json_is_a_pause_too(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)

    def limited() -> None:
        raise Refusal(-32005, "daily request count exceeded, request rate limited")

    nodes[0].methods["eth_blockNumber"] = limited
    assert await rpc.call("eth_blockNumber") == "0x4"
    assert rpc.endpoint("rpc-1").health.state is NodeState.RATE_LIMITED


async def test_a_method_that_no_node_offers_is_named_without_waiting(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    for _ in range(2):
        with pytest.raises(MethodMissing):
            await rpc.call("eth_simulateV1", deadline_s=3_600)
    assert nodes[0].count["eth_simulateV1"] == nodes[1].count["eth_simulateV1"] == 1


async def test_nodes_that_ignore_block_hashes_are_kept_from_decision_reads(
    pool: Pool, nodes: list[FakeNode], watcher: Watcher
) -> None:
    nodes[0].methods["eth_call"] = lambda *_: "0x"
    rpc = await pool(*nodes)
    await rpc.ask([("eth_blockNumber", ())], only, is_pinned=True)
    assert nodes[0].posts == []
    (told,) = watcher.named("rpc.capability")
    assert told == {
        "node": "rpc-1",
        "capability": "pinned_reads",
        "ok": False,
        "reason": "answers a read at an unknown block",
    }


async def test_pinned_reads_without_any_capable_node_are_unsafe(pool: Pool, node: FakeNode) -> None:
    def refuse(*_: object) -> None:
        raise Refusal(-32602, "invalid argument 1: json: cannot unmarshal object into Go value of type string")

    node.methods["eth_call"] = refuse
    rpc = await pool(node)
    with pytest.raises(Unsafe, match="pinned"):
        await rpc.ask([("eth_blockNumber", ())], only, is_pinned=True)


async def test_concurrent_calls_of_a_gone_caller_leave_nothing_behind(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    nodes[0].always = nodes[1].always = hang
    call = asyncio.create_task(rpc.call("eth_blockNumber"))
    await eventually(lambda: bool(nodes[0].posts))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0)
    assert [each.in_flight for each in rpc.endpoints] == [0, 0]


async def test_every_node_is_asked_once_at_the_same_time(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    nodes[1].always = respond(status=500)
    found = await rpc.everywhere([("eth_blockNumber", ())], lambda answers: quantity_of(only(answers)))
    assert found["rpc-1"] == 4
    assert isinstance(found["rpc-2"], NodeFailure)
    assert len(nodes[0].posts) == len(nodes[1].posts) == 1


async def test_a_raw_transaction_cannot_take_a_path_that_repeats(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    for attempt in (
        rpc.call("eth_sendRawTransaction", ("0x02",)),
        rpc.batch([("eth_blockNumber", ()), ("eth_sendRawTransaction", ("0x02",))]),
        rpc.everywhere([("eth_sendRawTransaction", ("0x02",))], only),
    ):
        with pytest.raises(ValueError, match="send_raw"):
            await attempt
    assert node.posts == []


async def test_sockets_serve_subscriptions_only_where_there_is_http(nodes: list[FakeNode]) -> None:
    mixed = Rpc([nodes[0].node("rpc-1"), Node("rpc-2", nodes[1].ws_url)], clock=RealClock())
    assert [each.alias for each in mixed.endpoints] == ["rpc-1"]
    assert [each.alias for each in mixed.socket_nodes] == ["rpc-2"]
    lone = Rpc([Node("rpc-1", nodes[1].ws_url)], clock=RealClock())
    await lone.start(CHAIN_ID)
    assert await lone.call("eth_blockNumber") == "0x4"
    await lone.close()
    await asyncio.sleep(0.01)


async def test_a_node_far_behind_the_others_is_asked_last_and_comes_back_when_it_has_caught_up(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    behind = FakeChain(0)
    behind.blocks, behind.known = list(chain.blocks), chain.known
    nodes[0].chain = behind
    for _ in range(20):
        chain.mine()
    rpc = await pool(*nodes)
    first = rpc.endpoint("rpc-1")
    first.health.check_due_s = 0.0
    first.changed.set()
    await eventually(lambda: first.health.state is NodeState.OUT_OF_SYNC)
    assert [each.alias for each in rpc.usable()] == ["rpc-2", "rpc-1"]
    nodes[0].chain = chain
    await eventually(lambda: first.health.state is NodeState.ALIVE)


async def test_a_pause_that_is_over_makes_a_node_usable(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    node.faults.append(respond(status=429, Retry_After="0"))
    assert await rpc.call("eth_blockNumber", deadline_s=10) == "0x4"
    assert rpc.endpoints[0].health.state is NodeState.ALIVE


async def test_a_refusal_that_is_no_chain_id_keeps_a_node_out(node: FakeNode) -> None:
    def refuse() -> None:
        raise Refusal(-32602, "invalid params")

    node.methods["eth_chainId"] = refuse
    rpc = Rpc([node.node("rpc-1")], clock=RealClock())
    with pytest.raises(Unsafe, match="invalid params"):
        await rpc.start(CHAIN_ID)
    await rpc.close()
    await asyncio.sleep(0.01)

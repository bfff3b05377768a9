"""What endpoints cannot do, and what comes with the network: RPC-20 to RPC-26, with a real node behind the proxy."""

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from aiohttp import web

from keeper.chain.backfill import scan_range
from keeper.chain.endpoint import Node
from keeper.chain.failures import AnswerTooLarge, MethodMissing, NodeFailure, Unreachable
from keeper.chain.heads import Heads
from keeper.chain.health import NodeState
from keeper.chain.phrases import SendVerdict
from keeper.chain.rpc import Rpc
from keeper.chain.simulation import simulate
from keeper.chain.transactions import fee_history, funds, receipts, standing
from keeper.chain.turns import Priority
from keeper.chain.view import ChainView, latest_head
from keeper.devnet.chain import ADMIN
from keeper.domain.chain import BlockHead, Call, LogFilter
from keeper.domain.units import Address, TxHash
from keeper.errors import Transient, Unsafe
from tests.faults import rules
from tests.faults.node import CHAIN_ID, EMITTER, TOPIC, RunningClock, World, world_of
from tests.faults.proxy import Answer, Fault, Forward, View
from tests.faults.proxy import Call as Asked
from tests.faults.recovery import Recovery
from tests.unit.chain.fake_node import eventually

WANTED: Final = LogFilter(frozenset({EMITTER}), frozenset({TOPIC}))
ACCOUNT: Final = Address(bytes.fromhex(ADMIN[2:]))
MEGABYTE: Final = 1 << 20


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of(2) as found:
        yield found


async def test_rpc_03_a_send_and_a_receipt_wait_for_no_backfill(world: World) -> None:
    view = world.views[0]
    rpc = Rpc([view.node(calls_per_s=20, max_in_flight=4)], clock=RunningClock())
    world.pools.append(rpc)
    await rpc.start(CHAIN_ID)
    held = view.add(rules.hang(methods=("eth_getLogs",)))
    query = {"fromBlock": "0x0", "toBlock": "0x5"}
    backfill = [
        asyncio.create_task(rpc.call("eth_getLogs", (query,), priority=Priority.BACKFILL, deadline_s=60))
        for _ in range(200)
    ]
    await eventually(lambda: view.count["eth_getLogs"] == 2)
    report = await rpc.send_raw(b"\x02not a transaction", deadline_s=20)
    assert [answer.verdict for answer in report.answers] == [SendVerdict.INVALID]
    invented = TxHash(b"\x55" * 32)
    assert await receipts(rpc, [invented]) == {invented: None}
    assert (await latest_head(rpc)).number == 5
    assert view.count["eth_getLogs"] == 2  # the backfill has half of the places, and not one more
    view.remove(held)
    for task in backfill:
        task.cancel()
    await asyncio.gather(*backfill, return_exceptions=True)


async def simulated(rpc: Rpc) -> bool:
    head = await latest_head(rpc)
    found = await simulate(rpc, [Call(EMITTER, b"")], sender=ACCOUNT, head=head, at_s=head.timestamp_s + 12)
    return found is not None


MISSING: Final = "the method eth_simulateV1 does not exist/is not available"


async def test_rpc_20_a_method_that_one_endpoint_lacks_is_asked_of_the_other(world: World) -> None:
    rpc = await world.pool()
    world.views[0].add(rules.error(MISSING, -32601, methods=("eth_simulateV1",)))
    for _ in range(3):
        assert await simulated(rpc)
    assert world.views[0].count["eth_simulateV1"] == 1


async def test_rpc_20_a_method_that_all_lack_is_said_so_at_once_and_tried_again_later(world: World) -> None:
    rpc = await world.pool()
    world.proxy.add(lambda: rules.error(MISSING, -32601, methods=("eth_simulateV1", "eth_feeHistory")))
    for _ in range(2):
        assert not await simulated(rpc)
        with pytest.raises(MethodMissing):
            await fee_history(rpc, blocks=1, percentiles=[50])
    assert [view.count["eth_simulateV1"] for view in world.views] == [1, 1]
    world.proxy.reset()
    assert not await simulated(rpc)
    for endpoint in rpc.endpoints:
        endpoint.learnt.missing_methods["eth_simulateV1"] = rpc.clock.monotonic_s()  # ten minutes have passed
    assert await simulated(rpc)


@dataclass
class Follower:
    """What a pass does with heads: it extends its chain and reads the logs of what is new."""

    rpc: Rpc
    view: ChainView
    heads: list[BlockHead] = field(default_factory=list)
    logs: list[bytes] = field(default_factory=list)

    async def run(self) -> None:
        async with Heads(self.rpc, poll_interval_s=0.05) as heads:
            async for head in heads:
                self.heads.append(head)
                try:
                    extension = await self.view.extend(head)
                    self.logs += [log.data for log in await self.view.logs(extension, WANTED)]
                except Transient:
                    continue
                self.view.commit(extension)


async def test_rpc_21_all_endpoints_down_are_probed_rarely_and_everything_missed_is_read_when_they_are_back(
    world: World, recovery: Recovery
) -> None:
    rpc = await world.pool()
    follower = Follower(rpc, ChainView(rpc))
    task = asyncio.create_task(follower.run())
    await eventually(lambda: bool(follower.heads))
    world.proxy.add(lambda: rules.status(503))
    await eventually(lambda: not rpc.usable())
    for view in world.views:
        view.forget()
    for each in range(3):
        await world.emit(bytes([each]))
    await asyncio.sleep(2.5)
    # Checks are 0.1, 0.2, 0.4, 0.8, then 1 s apart; a slow machine makes fewer.
    assert all(len(view.posts) <= 8 for view in world.views)
    world.proxy.reset()
    last = await world.mine()
    begun_s = rpc.clock.monotonic_s()
    await eventually(lambda: follower.heads[-1].number == last)
    await eventually(lambda: len(follower.logs) >= 3)
    recovery("RPC-21", seconds=rpc.clock.monotonic_s() - begun_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert follower.logs == [b"\x00", b"\x01", b"\x02"]
    numbers = [head.number for head in follower.heads]
    assert numbers == sorted(set(numbers))


async def test_rpc_21_refused_connections_everywhere_end_every_call_at_its_deadline_and_no_later_work_is_harmed(
    world: World,
) -> None:
    rpc = await world.pool()
    for view in world.views:
        await view.refuse()
    with pytest.raises(Transient):
        await rpc.call("eth_blockNumber", deadline_s=0.3)
    for view in world.views:
        await view.accept()
    await eventually(lambda: len(rpc.usable()) == 2)
    assert await rpc.call("eth_blockNumber") == "0x5"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_rpc_22_a_redirect_is_not_followed(world: World, code: int) -> None:
    rpc = await world.pool(world.views[0])
    elsewhere = world.views[1]
    elsewhere.forget()
    world.views[0].add(rules.status(code, headers={"Location": elsewhere.url}))
    with pytest.raises(NodeFailure, match="redirect"):
        await rpc.call("eth_blockNumber", deadline_s=0.2)
    assert elsewhere.posts == []


async def test_rpc_22_an_endpoint_without_the_tls_that_its_address_promises_is_not_spoken_to(world: World) -> None:
    rpc = await world.pool(world.views[0])
    plain = world.views[1]
    secure = Node("rpc-9", plain.url.replace("http://", "https://"))
    lone = Rpc([secure, world.views[0].node("rpc-1")], clock=rpc.clock)
    world.pools.append(lone)
    plain.forget()
    await lone.start(CHAIN_ID)
    assert lone.endpoint("rpc-9").health.state is NodeState.UNREACHABLE
    assert plain.calls == []
    with pytest.raises(Unreachable):
        await lone.endpoint("rpc-9").send([("eth_blockNumber", ())], priority=Priority.READ, timeout_s=5)


async def test_rpc_23_a_compressed_bomb_costs_less_memory_than_the_cap(world: World) -> None:
    rpc = await world.pool(world.views[0])
    world.views[0].add(rules.gzip_bomb(120 * MEGABYTE))
    tracemalloc.start()
    try:
        with pytest.raises(AnswerTooLarge):
            await rpc.call("eth_blockNumber", deadline_s=30)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * MEGABYTE


@dataclass(eq=False)
class Bulky(Fault):
    """Answer a log query that is wider than `most` with a body beyond every cap."""

    most: int = 2

    async def on_post(self, view: View, request: web.Request) -> web.StreamResponse | None:
        spans = [call["params"][0] for call in view.posts[-1] if call["method"] == "eth_getLogs"]
        if all(int(each["toBlock"], 16) - int(each["fromBlock"], 16) < self.most for each in spans):
            return None
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=gzip.compress(b" " * (33 * MEGABYTE), 1), headers=headers)


async def test_rpc_23_a_range_with_too_many_logs_for_one_answer_is_read_in_parts(world: World) -> None:
    rpc = await world.pool(world.views[0])
    for each in range(4):
        await world.emit(bytes([each]))
    world.views[0].add(Bulky(methods=frozenset({"eth_getLogs"})))
    found = [log.data async for _, logs in scan_range(rpc, WANTED, 0, 9) for log in logs]
    assert found == [bytes([each]) for each in range(4)]


@dataclass(eq=False)
class SmallAnswers(Fault):
    """Answer so many calls of a batch, and refuse the others as too much for one answer, as geth does."""

    most: int = 3
    told: int = 0

    async def on_call(self, view: View, call: Asked, forward: Forward) -> Answer:
        place = view.posts[-1].index(call)
        if place >= self.most:
            return {"error": {"code": -32003, "message": "response too large"}}
        return await forward(call)


async def test_rpc_23_a_batch_with_too_much_in_its_answer_is_split_and_the_size_is_learnt(world: World) -> None:
    rpc = await world.pool(world.views[0])
    world.views[0].add(SmallAnswers(most=3))
    requests = [("eth_getBlockByNumber", (hex(each % 6), True)) for each in range(20)]
    assert len(await rpc.batch(requests)) == 20
    world.views[0].forget()
    assert len(await rpc.batch(requests)) == 20
    assert max(map(len, world.views[0].posts)) <= 3
    assert len(await rpc.batch([("eth_chainId", ())] * 3)) == 3  # other methods keep their size
    assert len(world.views[0].posts[-1]) == 3


async def stream(world: World) -> tuple[Rpc, View]:
    """Start a pool that hears of heads over one view's socket and reads through the other."""
    pushed, read = world.views
    nodes = [Node("rpc-1", pushed.ws_url), read.node("rpc-2")]
    rpc = Rpc(nodes, clock=RunningClock(), observer=world.watcher)
    world.pools.append(rpc)
    await rpc.start(CHAIN_ID)
    return rpc, pushed


async def stall(view: View) -> None:
    view.stream.is_stalled = True


async def withhold(view: View) -> None:
    view.stream.withholds = True


async def close(view: View) -> None:
    await view.stream.close()


async def cut(view: View) -> None:
    view.stream.cut()


async def garble(view: View) -> None:
    await view.stream.say("{this is no JSON")


async def garble_bytes(view: View) -> None:
    await view.stream.say(b"\xff\xfe")


async def double(view: View) -> None:
    view.stream.copies = 3


async def skip(view: View) -> None:
    view.stream.gap = 2


async def refuse(view: View) -> None:
    view.stream.refuses = True
    await view.stream.close()


@pytest.mark.parametrize("spoil", [stall, withhold, close, cut, garble, garble_bytes, double, skip, refuse])
async def test_rpc_24_heads_and_logs_stay_complete_whatever_the_socket_does(
    world: World, spoil: Any, recovery: Recovery
) -> None:
    rpc, pushed = await stream(world)
    follower = Follower(rpc, ChainView(rpc))
    task = asyncio.create_task(follower.run())
    await eventually(lambda: bool(follower.heads) and pushed.stream.live == 1)
    expected = []
    for each in range(6):
        if each == 2:
            await spoil(pushed)
        await world.emit(bytes([each]))
        expected.append(bytes([each]))
        at = await world.chain.block_number()
        begun_s = rpc.clock.monotonic_s()
        await eventually(lambda at=at: follower.heads[-1].number >= at)  # type: ignore[misc]
        if each == 2:
            recovery("RPC-24", blocks=0, seconds=rpc.clock.monotonic_s() - begun_s)
    await eventually(lambda: len(follower.logs) >= len(expected))
    pushed.stream.reset()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert follower.logs == expected
    numbers = [head.number for head in follower.heads]
    assert numbers == sorted(set(numbers))


async def test_rpc_24_a_lost_socket_is_opened_again(world: World) -> None:
    rpc, pushed = await stream(world)
    async with Heads(rpc, poll_interval_s=0.05) as heads:
        task = asyncio.create_task(anext(aiter(heads)))
        await eventually(lambda: pushed.stream.live == 1)
        await pushed.stream.say("garbage")
        await eventually(lambda: pushed.stream.opened == 2 and pushed.stream.live == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_rpc_25_the_chain_that_is_configured_must_be_the_one_that_the_endpoint_is_on(world: World) -> None:
    rpc = Rpc([world.views[0].node()], clock=RunningClock())
    with pytest.raises(Unsafe, match="is on chain 31337, not 1"):
        await rpc.start(1)
    await rpc.close()


async def test_rpc_25_a_proxy_in_the_environment_is_not_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    rpc = await world.pool()
    assert await rpc.call("eth_blockNumber") == "0x5"


async def test_rpc_26_what_nodes_say_is_pending_decides_nothing(world: World) -> None:
    rpc = await world.pool()
    head = await latest_head(rpc)

    def more(call: Any, nonce: Any) -> Any:
        return hex(int(nonce, 16) + 40) if call["params"][1] == "pending" else nonce

    world.views[0].add(rules.lie("eth_getTransactionCount", more))
    assert (await funds(rpc, ACCOUNT, head, is_decisive=True)).nonce == 0
    assert (await standing(rpc, ACCOUNT, [])).nonce == 0
    asked = [call["params"][1] for view in world.views for call in view.calls if call["method"].endswith("Count")]
    assert "pending" not in asked


async def test_rpc_26_a_mined_nonce_that_one_node_invents_is_not_agreed_on(world: World) -> None:
    rpc = await world.pool()
    head = await latest_head(rpc)
    world.views[1].add(rules.lie("eth_getTransactionCount", lambda _call, nonce: hex(int(nonce, 16) + 1)))
    with pytest.raises(Transient, match="contradict"):
        await funds(rpc, ACCOUNT, head, is_decisive=True)

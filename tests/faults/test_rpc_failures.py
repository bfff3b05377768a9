"""Endpoints that refuse, hang, limit, fail and garble: RPC-01 to RPC-09, with a real node behind the proxy."""

import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from aiohttp import ClientConnectorDNSError
from aiohttp.client_reqrep import ConnectionKey

from keeper.chain.failures import NodeFailure, Unreachable
from keeper.chain.health import NodeState
from keeper.chain.rpc import Rpc
from keeper.chain.transactions import receipts, standing
from keeper.chain.transport import connection_failure
from keeper.chain.view import latest_head
from keeper.chain.wire import Request, head_of, only, present
from keeper.devnet.chain import ADMIN
from keeper.domain.units import Address, TxHash
from keeper.errors import Transient
from tests.faults import rules
from tests.faults.node import World, world_of
from tests.faults.recovery import Recovery
from tests.unit.chain.fake_node import eventually

SECRET: Final = "s3cr3t-canary-key"
GENEROUS_S: Final = 20.0
"""For what takes milliseconds here, on a machine that may be busy."""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of(2) as found:
        yield found


def state(rpc: Rpc, place: int = 1) -> NodeState:
    return rpc.endpoint(f"rpc-{place}").health.state


async def asked(rpc: Rpc, times: int = 20) -> list[float]:
    """Ask again and again; every answer must be right. Return how long each took."""
    took = []
    for _ in range(times):
        begun_s = time.monotonic()
        assert (await latest_head(rpc)).number == int(await rpc.call("eth_blockNumber"), 16)
        took.append(time.monotonic() - begun_s)
    return took


async def opened(world: World) -> str:
    """Ask the first view alone until its breaker opens, and return why."""
    view = world.views[0]
    faults, view.faults = view.faults, []
    lone = await world.pool(view)
    view.faults = faults
    with pytest.raises(Transient):
        await lone.call("eth_blockNumber", deadline_s=2)
    assert lone.endpoints[0].health.state is NodeState.UNREACHABLE
    return lone.endpoints[0].health.reason


async def test_rpc_01_a_refused_connection_leads_to_the_next_endpoint_at_once(world: World, recovery: Recovery) -> None:
    rpc = await world.pool()
    await world.views[0].refuse()
    took = await asked(rpc)
    assert state(rpc) is NodeState.UNREACHABLE
    assert max(took) < GENEROUS_S
    recovery("RPC-01", seconds=took[0], blocks=0)
    await world.views[0].accept()
    await eventually(lambda: state(rpc) is NodeState.ALIVE)


def test_rpc_01_a_name_that_does_not_resolve_is_an_endpoint_that_cannot_be_reached() -> None:
    key = ConnectionKey(SECRET, 443, True, True, None, None, None)
    failure = connection_failure("rpc-1", ClientConnectorDNSError(key, OSError(None, "no such name")))
    assert isinstance(failure, Unreachable)
    assert "name not resolved" in failure.detail
    assert SECRET not in str(failure)


@pytest.mark.parametrize("make", [rules.hang, lambda: rules.drip(0.5)], ids=["hang", "drip"])
async def test_rpc_02_an_endpoint_that_accepts_and_hangs_is_overtaken(
    world: World, recovery: Recovery, make: Any
) -> None:
    rpc = await world.pool()
    world.views[0].add(make())
    took = await asked(rpc)
    assert max(took) < GENEROUS_S
    world.views[0].forget()
    await asked(rpc, 3)
    assert world.views[0].posts == []  # it is asked last from now on
    recovery("RPC-02", seconds=took[0], blocks=0)


async def test_rpc_02_the_deadline_cuts_a_lone_endpoint_that_drips(world: World) -> None:
    rpc = await world.pool(world.views[0])
    world.views[0].add(rules.drip(0.5))
    with pytest.raises(Transient):
        await rpc.call("eth_blockNumber", deadline_s=0.3)


async def test_rpc_03_a_pause_that_is_asked_for_is_kept(world: World) -> None:
    rpc = await world.pool()
    world.views[0].add(rules.status(429, headers={"Retry-After": "60"}))
    await asked(rpc)
    assert len(world.views[0].posts) == 1
    assert state(rpc) is NodeState.RATE_LIMITED


@pytest.mark.parametrize(
    "words", ["daily request count exceeded, request rate limited", "Too Many Requests", "compute units per second"]
)
async def test_rpc_03_a_rate_limit_in_the_json_is_a_pause_and_no_storm(world: World, words: str) -> None:
    rpc = await world.pool()
    world.views[0].add(rules.error(words, -32005))
    await asked(rpc, 10)
    assert len(world.views[0].posts) <= 2  # once, and once more when the second that it got is over
    assert state(rpc) is NodeState.RATE_LIMITED


async def test_rpc_03_a_lone_endpoint_that_limits_is_asked_again_after_its_pause(
    world: World, recovery: Recovery
) -> None:
    rpc = await world.pool(world.views[0])
    world.views[0].add(rules.status(429, headers={"Retry-After": "1"}, times=1))
    begun_s = time.monotonic()
    assert await rpc.call("eth_blockNumber", deadline_s=GENEROUS_S) == "0x5"
    assert len(world.views[0].posts) <= 4
    recovery("RPC-03", seconds=time.monotonic() - begun_s)


@pytest.mark.parametrize("code", [401, 402, 403])
async def test_rpc_04_refused_credentials_are_not_tried_again_and_the_address_is_never_shown(
    world: World, code: int
) -> None:
    world.views[0].path = f"/v3/{SECRET}?key={SECRET}"
    rpc = await world.pool()
    world.views[0].add(rules.status(code, f"bad key {SECRET}"))
    await asked(rpc)
    assert len(world.views[0].posts) == 1
    assert state(rpc) is NodeState.UNUSABLE
    assert SECRET not in str(world.watcher.events) + rpc.endpoint("rpc-1").health.reason + repr(rpc.endpoints)


async def test_rpc_04_a_quota_that_has_ended_makes_an_endpoint_unusable(world: World) -> None:
    rpc = await world.pool()
    world.views[0].add(rules.error("Monthly capacity limit exceeded. Visit the dashboard to upgrade."))
    await asked(rpc)
    assert len(world.views[0].posts) == 1
    assert state(rpc) is NodeState.UNUSABLE


@pytest.mark.parametrize("code", [500, 502, 503, 504])
async def test_rpc_05_a_page_of_html_leads_to_the_next_endpoint_and_is_quoted_nowhere(world: World, code: int) -> None:
    rpc = await world.pool()
    world.views[0].add(rules.status(code, f"<html>{SECRET}" + "x" * 100_000))
    await asked(rpc)
    assert rpc.endpoint("rpc-1").health.failures >= 1
    reason = await opened(world)
    assert len(reason) <= 256
    assert SECRET not in reason + str(world.watcher.events)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rules.body(b""),
        lambda: rules.body(b"\xef\xbb\xbf{}"),
        lambda: rules.body(b'{"jsonrpc":"2.0","id":1,"result":'),
        lambda: rules.body(b"[" * 200_000),
        lambda: rules.body(b"null"),
        lambda: rules.body(b"\xff\xfe\x00"),
        lambda: rules.truncate(12),
    ],
    ids=["empty", "bom", "cut json", "nested", "null", "no text", "cut body"],
)
async def test_rpc_06_what_is_no_answer_counts_against_the_endpoint(world: World, make: Any) -> None:
    rpc = await world.pool()
    world.views[0].add(make())
    await asked(rpc)
    assert rpc.endpoint("rpc-1").health.failures >= 1
    await opened(world)
    world.views[0].reset()
    await eventually(lambda: state(rpc) is NodeState.ALIVE)


BATCH: Final[list[Request]] = [("eth_getBlockByNumber", (hex(number), False)) for number in (1, 3, 4)]


def numbers(found: Any) -> list[int]:
    told = [head_of(present(answer)).number for answer in found]
    if told != [1, 3, 4]:
        raise ValueError("other blocks than asked for")
    return told


@pytest.mark.parametrize(
    "make", [rules.wrong_id, rules.swapped_ids, rules.missing_item], ids=["wrong", "swapped", "missing"]
)
async def test_rpc_07_a_batch_with_wrong_ids_is_refused_and_asked_of_the_next_endpoint(world: World, make: Any) -> None:
    rpc = await world.pool()
    world.views[0].add(make())
    for _ in range(3):
        assert await rpc.ask(BATCH, numbers) == [1, 3, 4]
    assert len(world.views[1].posts) >= 3


async def test_rpc_07_a_batch_answered_in_another_order_is_as_good(world: World) -> None:
    rpc = await world.pool()
    world.views[0].add(rules.reordered())
    assert await rpc.ask(BATCH, numbers) == [1, 3, 4]
    assert world.views[1].posts == []


async def test_rpc_08_a_null_block_is_asked_of_another_endpoint(world: World) -> None:
    rpc = await world.pool()
    world.views[0].add(rules.null(methods=("eth_getBlockByNumber",)))
    assert (await latest_head(rpc)).number == 5
    assert world.views[1].count["eth_getBlockByNumber"] == 1


async def test_rpc_08_a_null_receipt_means_unknown_there_and_the_chain_still_tells_that_the_nonce_was_used(
    world: World,
) -> None:
    rpc = await world.pool()
    await world.emit(b"\x01")
    block = await world.cheat("eth_getBlockByNumber", "latest", False)
    tx_hash = TxHash(bytes.fromhex(block["transactions"][0][2:]))
    world.views[0].add(rules.null(methods=("eth_getTransactionReceipt",)))
    assert await receipts(rpc, [tx_hash]) == {tx_hash: None}
    found = await standing(rpc, Address(bytes.fromhex(ADMIN[2:])), [tx_hash])
    assert found.receipts == {}
    assert found.nonce == 1  # used, though this node knows no receipt: execution waits and looks again
    world.views[0].reset()
    told = (await receipts(rpc, [tx_hash]))[tx_hash]
    assert told is not None
    assert told.succeeded


WRONG: Final[tuple[object, ...]] = (
    "-0x1",
    "0x",
    "5",
    5,
    "0x" + "1" * 5_000,
    "0x1_0",
    " 0x1",
    {"a": 1},
    [],
    True,
    1.5,
    "0xzz",
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: str(value)[:8])
async def test_rpc_09_a_field_out_of_bounds_is_the_endpoints_failure_and_no_crash(world: World, wrong: object) -> None:
    rpc = await world.pool()

    def spoil(_call: Any, block: Any) -> Any:
        return {**block, "number": wrong}

    world.views[0].add(rules.lie("eth_getBlockByNumber", spoil))
    assert (await latest_head(rpc)).number == 5
    assert rpc.endpoint("rpc-1").health.failures == 1


@pytest.mark.parametrize("name", ["hash", "parentHash", "timestamp", "gasLimit", "logsBloom", "baseFeePerGas"])
async def test_rpc_09_every_field_of_a_head_is_checked(world: World, name: str) -> None:
    rpc = await world.pool(world.views[0])
    world.views[0].add(rules.lie("eth_getBlockByNumber", lambda _call, block: {**block, name: "0x" + "f" * 2_000}))
    with pytest.raises(NodeFailure):
        await rpc.ask([("eth_getBlockByNumber", ("latest", False))], lambda found: head_of(only(found)), deadline_s=0.2)

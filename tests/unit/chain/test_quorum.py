"""Decisive reads: two nodes agree, the outvoted are put aside, an even split decides nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from keeper.chain.failures import BlockUnknown, NodeFailure, RpcError
from keeper.chain.health import NodeState
from keeper.chain.quorum import Contradiction
from keeper.chain.rpc import Rpc
from keeper.chain.wire import Answer, Request, bytes_of, only, quantity_of
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import FakeChain, FakeNode, Refusal, Watcher, eventually, hang, respond

READ: Request = ("eth_getBalance", ("0x" + "11" * 20, "0x4"))


def balance(found: Sequence[Answer]) -> int:
    return quantity_of(only(found))


def tells(node: FakeNode, wei: int | None) -> None:
    node.methods["eth_getBalance"] = lambda *_: None if wei is None else hex(wei)


@pytest_asyncio.fixture
async def three(chain: FakeChain) -> AsyncIterator[list[FakeNode]]:
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(FakeNode(chain)) for _ in range(3)]
        for node in found:
            tells(node, 7)
        yield found


def states(rpc: Rpc) -> list[NodeState]:
    return [each.health.state for each in rpc.endpoints]


async def test_two_nodes_that_agree_are_enough(pool: Pool, three: list[FakeNode]) -> None:
    rpc = await pool(*three)
    assert await rpc.agreed([READ], balance) == 7
    assert [len(node.posts) for node in three] == [1, 1, 0]
    assert three[0].count["eth_chainId"] == 1


async def test_one_configured_node_is_asked_exactly_what_a_plain_read_asks(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    tells(node, 7)
    assert await rpc.agreed([READ], balance) == 7
    assert node.count == {"eth_getBalance": 1}


@pytest.mark.parametrize("liar", [0, 1, 2])
async def test_a_liar_is_outvoted_and_put_aside(pool: Pool, three: list[FakeNode], watcher: Watcher, liar: int) -> None:
    rpc = await pool(*three)
    tells(three[liar], 10**30)
    for _ in range(3):
        assert await rpc.agreed([READ], balance) == 7
    if liar < 2:
        assert rpc.endpoints[liar].health.state is NodeState.QUARANTINED
        assert watcher.named("rpc.inconsistent") == [
            {"method": "eth_getBalance", "node": f"rpc-{liar + 1}", "settled": True}
        ]
        three[liar].posts.clear()
        assert await rpc.agreed([READ], balance) == 7
        assert three[liar].posts == []


async def test_two_nodes_that_contradict_decide_nothing(pool: Pool, three: list[FakeNode], watcher: Watcher) -> None:
    rpc = await pool(three[0], three[1])
    tells(three[1], 8)
    with pytest.raises(Contradiction, match="rpc-1, rpc-2"):
        await rpc.agreed([READ], balance)
    assert states(rpc) == [NodeState.ALIVE, NodeState.ALIVE]
    assert watcher.named("rpc.inconsistent")[0]["settled"] is False


async def test_three_opinions_of_three_nodes_decide_nothing(pool: Pool, three: list[FakeNode]) -> None:
    rpc = await pool(*three)
    for wei, node in enumerate(three):
        tells(node, wei)
    with pytest.raises(Contradiction):
        await rpc.agreed([READ], balance)


@pytest.mark.parametrize("fault", [respond(status=500), respond(status=429), respond(body="junk"), respond(status=401)])
async def test_a_node_that_fails_has_no_word(pool: Pool, three: list[FakeNode], fault: Any) -> None:
    rpc = await pool(*three)
    three[0].always = three[1].always = fault
    assert await rpc.agreed([READ], balance) == 7
    assert states(rpc)[2] is NodeState.ALIVE


async def test_a_node_that_is_silent_has_no_word_when_the_time_is_over(pool: Pool, three: list[FakeNode]) -> None:
    rpc = await pool(three[0], three[1])
    three[0].always = hang
    assert await rpc.agreed([READ], balance, deadline_s=0.3) == 7


async def test_a_silent_node_is_replaced_by_the_next_long_before_the_deadline(
    pool: Pool, three: list[FakeNode]
) -> None:
    rpc = await pool(*three, hedge_s=0.05)
    three[0].always = hang
    assert await rpc.agreed([READ], balance, deadline_s=3_600) == 7


async def test_a_node_without_the_block_has_no_word_but_gets_a_moment_to_fetch_it(
    pool: Pool, three: list[FakeNode]
) -> None:
    rpc = await pool(three[0], three[1])
    tells(three[1], None)
    reading = asyncio.create_task(rpc.agreed([READ], balance))
    await eventually(lambda: three[1].count["eth_getBalance"] > 1)
    tells(three[1], 8)
    with pytest.raises(Contradiction):
        await reading
    tells(three[1], None)
    assert await rpc.agreed([READ], balance) == 7


async def test_a_block_that_nobody_has_is_unknown(pool: Pool, three: list[FakeNode]) -> None:
    rpc = await pool(*three)
    for node in three:
        tells(node, None)
    with pytest.raises(BlockUnknown):
        await rpc.agreed([READ], balance, deadline_s=3_600)


async def test_nobody_answering_is_a_failure_of_the_nodes(pool: Pool, three: list[FakeNode]) -> None:
    rpc = await pool(*three)
    for node in three:
        node.always = respond(status=500)
    with pytest.raises(NodeFailure):
        await rpc.agreed([READ], balance)


async def test_a_node_on_another_chain_has_no_word_and_is_dropped_at_once(pool: Pool, three: list[FakeNode]) -> None:
    rpc = await pool(*three)
    three[0].chain_id = 1
    assert await rpc.agreed([READ], balance) == 7
    assert states(rpc)[0] is NodeState.WRONG_CHAIN


async def test_the_word_of_a_node_put_aside_never_decides(pool: Pool, three: list[FakeNode]) -> None:
    rpc = await pool(*three)
    tells(three[0], 8)
    await rpc.agreed([READ], balance)
    await three[1].stop()
    await three[2].stop()
    for _ in range(3):
        with pytest.raises(NodeFailure):
            await rpc.agreed([READ], balance, deadline_s=1)
    assert await rpc.ask([READ], balance) == 8  # what is not decisive may still be asked


async def test_reverts_agree_by_their_data_and_not_by_their_words(pool: Pool, three: list[FakeNode]) -> None:
    rpc = await pool(*three)

    def revert(words: str, data: str) -> Any:
        def refuse(*_: object) -> None:
            raise Refusal(3, f"execution reverted: {words}", data)

        return refuse

    for node, words in zip(three, ("one", "two", "three"), strict=True):
        node.methods["eth_call"] = revert(words, "0x1234")
    with pytest.raises(RpcError) as caught:
        await rpc.agreed([("eth_call", ({}, "0x4"))], lambda found: bytes_of(only(found)))
    assert caught.value.data == b"\x12\x34"
    assert states(rpc) == [NodeState.ALIVE] * 3


async def test_equality_and_choice_can_be_given(pool: Pool, three: list[FakeNode]) -> None:
    rpc = await pool(*three)
    for wei, node in enumerate(three):
        tells(node, wei)

    def alike(_wei: int) -> int:
        return 0

    def highest(values: Sequence[int]) -> int:
        return max(values)

    assert await rpc.agreed([READ], balance, alike=alike, pick=highest) == 1

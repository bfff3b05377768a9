"""Pinned reads: shared requests, exact blocks, refusals contained, nothing invented."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from eth_abi.abi import decode, encode

from keeper.chain.inventory import read_inventory
from keeper.chain.multicall import MULTICALL3
from keeper.chain.reads import PinnedReads, ReadLimits
from keeper.chain.rpc import Rpc
from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.plan import Payment
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, Address
from keeper.errors import Stale, Transient
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import ALICE, POOL, FakeChain, FakeNode, Refusal, canonical, respond

TIME = bytes.fromhex("0f28c97d")
Answer = Callable[[str, bytes], tuple[bool, bytes]]


def echo(_to: str, data: bytes) -> tuple[bool, bytes]:
    return (not data.startswith(b"bad")), data[::-1]


class Multicall:
    """Multicall3 on a fake node, with a gas limit counted in views."""

    def __init__(
        self, node: FakeNode, answer: Answer = echo, most: int | None = None, poison: bytes | None = None
    ) -> None:
        self.node, self.answer, self.most, self.poison = node, answer, most, poison
        self.late_s = 0
        self.sizes: list[int] = []
        self.blocks: list[Any] = []
        node.methods["eth_call"] = self.eth_call

    def eth_call(self, call: dict[str, str], block: Any) -> str:
        canonical(self.node.chain, block)
        self.blocks.append(block)
        data = bytes.fromhex(call["data"][2:])
        if call["to"] != "0x" + MULTICALL3.hex():
            if data == self.poison:
                raise Refusal(-32000, "out of gas")
            return "0x" + self.answer(call["to"], data)[1].hex()
        if data[:4] != bytes.fromhex("82ad56cb"):
            return "0x"
        (asked,) = decode(["(address,bool,bytes)[]"], data[4:])
        assert asked[0][2] == TIME
        calls = asked[1:]
        self.sizes.append(len(calls))
        if (self.most is not None and len(calls) > self.most) or any(each[2] == self.poison for each in calls):
            raise Refusal(-32000, "out of gas")
        told = (True, (self.node.chain.head.timestamp_s + self.late_s).to_bytes(32))
        return "0x" + encode(["(bool,bytes)[]"], [[told, *(self.answer(to, data) for to, _, data in calls)]]).hex()


def reads_of(rpc: Rpc, chain: FakeChain, **options: Any) -> PinnedReads:
    return PinnedReads(rpc, chain.head, **options)


def views(count: int, prefix: bytes = b"") -> list[ViewCall]:
    return [ViewCall(POOL, prefix + place.to_bytes(4)) for place in range(count)]


def answers(calls: list[ViewCall]) -> list[ViewResult]:
    return [ViewResult(*echo("", call.data)) for call in calls]


async def test_concurrent_callers_share_one_request_and_each_gets_its_own_answers(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    multicall = Multicall(node)
    reads = reads_of(await pool(node), chain)

    async def nested(calls: list[ViewCall]) -> Any:
        return await asyncio.gather(reads.many(calls[:2]), reads.many(calls[2:]))

    first, second, third = views(3, b"a"), views(5, b"b"), views(4, b"bad")
    told = await asyncio.gather(reads.many(first), reads.many(second), nested(third), reads.many([]))
    assert told[0] == answers(first)
    assert told[1] == answers(second)
    assert [*told[2][0], *told[2][1]] == answers(third)
    assert told[3] == []
    assert len(node.posts) == 1
    assert multicall.sizes == [12]
    assert await reads.many(first) == answers(first)
    assert len(node.posts) == 2


async def test_every_read_names_the_heads_hash_and_demands_that_it_is_canonical(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    multicall = Multicall(node)
    await reads_of(await pool(node), chain).many(views(1))
    assert multicall.blocks == [{"blockHash": "0x" + chain.head.hash.hex(), "requireCanonical": True}]


async def test_a_head_that_is_gone_is_stale(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    Multicall(node)
    reads = reads_of(await pool(node), chain)
    chain.reorg(1)
    with pytest.raises(Stale):
        await reads.many(views(1))


async def test_all_callers_learn_of_a_failure(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    Multicall(node)
    reads = reads_of(await pool(node), chain, deadline_s=0.2)
    node.always = respond(status=500)
    told = await asyncio.gather(reads.many(views(1)), reads.many(views(2)), return_exceptions=True)
    assert all(isinstance(each, Transient) for each in told)


async def test_a_caller_that_leaves_takes_nothing_from_the_others(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    Multicall(node)
    reads = reads_of(await pool(node), chain)
    leaving = asyncio.create_task(reads.many(views(3)))
    staying = asyncio.create_task(reads.many(views(2)))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == answers(views(2))


async def test_many_views_go_in_few_requests(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    multicall = Multicall(node)
    calls = views(5_000)
    assert await reads_of(await pool(node), chain).many(calls) == answers(calls)
    assert sorted(multicall.sizes) == [500, 1_500, 1_500, 1_500]
    assert len(node.posts) == 4


async def test_large_calldata_is_cut_by_its_size(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    multicall = Multicall(node)
    calls = [ViewCall(POOL, bytes([place]) * 100_000) for place in range(10)]
    assert await reads_of(await pool(node), chain).many(calls) == answers(calls)
    assert max(multicall.sizes) == 3


async def test_an_aggregate_that_runs_out_of_gas_is_halved_and_the_size_is_remembered(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    multicall = Multicall(node, most=100)
    limits = ReadLimits()
    calls = views(1_000)
    rpc = await pool(node)
    assert await reads_of(rpc, chain, limits=limits).many(calls) == answers(calls)
    assert limits.calls <= 100
    multicall.sizes.clear()
    assert await reads_of(rpc, chain, limits=limits).many(calls) == answers(calls)
    assert max(multicall.sizes) <= 100


async def test_one_view_that_eats_all_gas_fails_alone(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    Multicall(node, poison=b"eats everything")
    calls = [*views(7), ViewCall(POOL, b"eats everything"), *views(8, b"c")]
    told = await reads_of(await pool(node), chain).many(calls)
    assert told == [*answers(calls[:7]), ViewResult(ok=False, data=b""), *answers(calls[8:])]


@pytest.mark.parametrize(
    "result",
    [
        "0x",
        "0x00",
        "0x" + "00" * 64,
        "0x" + "ff" * 320,
        "zz",
        None,
        5,
        "0x" + (32).to_bytes(32).hex() + (2**200).to_bytes(32).hex(),
    ],
)
async def test_an_answer_that_is_no_aggregate_is_never_a_value(
    pool: Pool, node: FakeNode, chain: FakeChain, result: Any
) -> None:
    rpc = await pool(node)
    node.methods["eth_call"] = lambda *_: result
    with pytest.raises((Transient, Stale)):
        await reads_of(rpc, chain, deadline_s=0.1).many(views(2))


async def test_a_chain_without_multicall_says_so(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    rpc = await pool(node)
    node.methods["eth_call"] = lambda *_: "0x"
    with pytest.raises(Transient, match="no Multicall3"):
        await reads_of(rpc, chain).many(views(2))
    assert rpc.usable()


async def test_another_node_answers_where_the_first_gives_nonsense(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    for node in nodes:
        Multicall(node)
    rpc = await pool(*nodes)
    nodes[0].methods["eth_call"] = lambda *_: "0x" + "ff" * 320
    assert await reads_of(rpc, chain).many(views(2)) == answers(views(2))


async def test_the_native_balance_travels_with_everything_else(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    def bank(to: str, data: bytes) -> tuple[bool, bytes]:
        if to == "0x" + MULTICALL3.hex():
            assert data == bytes.fromhex("4d2301cc") + bytes(12) + ALICE
            return True, (10**18).to_bytes(32)
        return True, (5).to_bytes(32)

    Multicall(node, bank)
    reads = reads_of(await pool(node), chain)
    token, spender = Address(b"\x01" * 20), Address(b"\x02" * 20)
    inventory = await read_inventory(reads, ALICE, [Payment(Token(token, "TKN", 6), spender)])
    assert (inventory.native_wei, inventory.balances, inventory.allowances) == (
        10**18,
        {token: 5, NATIVE: 10**18},
        {(token, spender): 5},
    )
    assert len(node.posts) == 1


async def test_a_balance_that_is_no_word_is_an_error_and_not_zero(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    Multicall(node, lambda *_: (True, b""))
    with pytest.raises(Transient):
        await reads_of(await pool(node), chain).native_balance(ALICE)

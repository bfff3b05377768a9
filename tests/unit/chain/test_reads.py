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
    """Multicall3 on a fake node, with a limit counted in views that refuses, and one in gas that silences.

    A view takes one unit of `gas`, what `eats` names takes all but a 64th of what is left. Too little is silence; what
    is left below `gas_to_end` at the end refuses the whole aggregate.
    """

    def __init__(
        self, node: FakeNode, answer: Answer = echo, most: int | None = None, poison: bytes | None = None
    ) -> None:
        self.node, self.answer, self.most, self.poison = node, answer, most, poison
        self.late_s = 0
        self.gas: int | None = None
        self.gas_to_end = 0
        self.eats: set[bytes] = set()
        self.sizes: list[int] = []
        self.blocks: list[Any] = []
        node.methods["eth_call"] = self.eth_call

    def eth_call(self, call: dict[str, str], block: Any) -> str:
        canonical(self.node.chain, block)
        self.blocks.append(block)
        data = bytes.fromhex(call["data"][2:])
        if call["to"] != "0x" + MULTICALL3.hex():
            if data == self.poison or data in self.eats:
                raise Refusal(-32000, "out of gas")
            ok, told = self.answer(call["to"], data)
            if not ok and not told:
                raise Refusal(3, "execution reverted")
            return "0x" + told.hex()
        if data[:4] != bytes.fromhex("82ad56cb"):
            return "0x"
        (asked,) = decode(["(address,bool,bytes)[]"], data[4:])
        assert asked[0][2] == TIME
        calls = asked[1:]
        self.sizes.append(len(calls))
        if (self.most is not None and len(calls) > self.most) or any(each[2] == self.poison for each in calls):
            raise Refusal(-32000, "out of gas")
        time = (True, (self.node.chain.head.timestamp_s + self.late_s).to_bytes(32))
        return "0x" + encode(["(bool,bytes)[]"], [[time, *self.run([(to, data) for to, _, data in calls])]]).hex()

    def run(self, calls: list[tuple[str, bytes]]) -> list[tuple[bool, bytes]]:
        left, told = self.gas, []
        for to, data in calls:
            if left is None:
                told.append((False, b"") if data in self.eats else self.answer(to, data))
            elif data in self.eats or left < 1:
                left //= 64
                told.append((False, b""))
            else:
                left -= 1
                told.append(self.answer(to, data))
        if left is not None and left < self.gas_to_end:
            raise Refusal(-32000, "out of gas")
        return told


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


SILENT = ViewResult(ok=False, data=b"")


def mute(to: str, data: bytes) -> tuple[bool, bytes]:
    return (False, b"") if data.startswith(b"mute") else echo(to, data)


async def test_an_aggregate_that_ran_at_another_time_is_asked_of_another_node(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    ahead, exact = Multicall(nodes[0]), Multicall(nodes[1])
    ahead.late_s = 12
    rpc = await pool(*nodes)
    for _ in range(4):  # whichever node is asked first
        assert await reads_of(rpc, chain).many(views(2)) == answers(views(2))
    assert exact.sizes == [2] * 4
    assert ahead.sizes


@pytest.mark.parametrize("late_s", [-12, 1])
async def test_an_aggregate_that_ran_at_another_time_is_no_answer_where_no_other_node_is(
    pool: Pool, node: FakeNode, chain: FakeChain, late_s: int
) -> None:
    Multicall(node).late_s = late_s
    rpc = await pool(node)
    with pytest.raises(Transient):
        await reads_of(rpc, chain, deadline_s=0.2).many(views(2))
    with pytest.raises(Transient):
        await reads_of(rpc, chain, deadline_s=0.2).sequence(views(2))


async def test_views_that_gas_did_not_reach_are_asked_again_and_the_next_aggregate_is_smaller(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    multicall, limits, calls = Multicall(node), ReadLimits(), views(1_000)
    multicall.gas = 700
    rpc = await pool(node)
    assert await reads_of(rpc, chain, limits=limits).many(calls) == answers(calls)
    assert multicall.sizes == [1_000, 300]
    assert (limits.calls, limits.silent) == (500, set())
    multicall.sizes.clear()
    assert await reads_of(rpc, chain, limits=limits).many(calls) == answers(calls)
    assert multicall.sizes == [500, 500]


async def test_aggregates_get_smaller_though_the_views_were_cut_into_several(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    multicall, limits, calls = Multicall(node), ReadLimits(), views(6_000)
    multicall.gas = 1_000
    assert await reads_of(await pool(node), chain, limits=limits).many(calls) == answers(calls)
    assert limits.calls == 750


async def test_a_view_that_burns_all_gas_silences_no_other_and_costs_requests_only_once(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    multicall, limits = Multicall(node), ReadLimits()
    glutton = ViewCall(POOL, b"glutton")
    multicall.gas, multicall.eats = 64 * 40, {glutton.data}
    calls = [*views(300), glutton, *views(700, b"c")]
    wanted = [*answers(calls[:300]), SILENT, *answers(calls[301:])]
    rpc = await pool(node)
    assert await reads_of(rpc, chain, limits=limits).many(calls) == wanted
    assert limits.silent == {glutton}
    assert limits.calls == 1_500  # gas was not short: one view ate it
    assert len(node.posts) <= 2 * 10 + 2  # halving: two requests a level, and one for the proof
    chain.mine()
    node.posts.clear()
    multicall.sizes.clear()
    assert await reads_of(rpc, chain, limits=limits).many(calls) == wanted
    assert multicall.sizes == [1_001]
    assert len(node.posts) == 1


async def test_a_silent_view_is_remembered_and_forgotten_when_it_answers_again(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    multicall, limits, calls = Multicall(node, mute), ReadLimits(), [*views(3, b"mute"), *views(4)]
    rpc = await pool(node)
    assert await reads_of(rpc, chain, limits=limits).many(calls) == [*[SILENT] * 3, *answers(calls[3:])]
    assert limits.silent == set(calls[:3])
    node.posts.clear()
    assert await reads_of(rpc, chain, limits=limits).many(calls) == [*[SILENT] * 3, *answers(calls[3:])]
    assert len(node.posts) == 1
    multicall.answer = echo
    assert await reads_of(rpc, chain, limits=limits).many(calls) == answers(calls)
    assert limits.silent == set()
    assert len(node.posts) == 2


async def test_a_view_that_answers_again_is_heard_though_others_burn_all_gas(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    multicall, limits = Multicall(node, mute), ReadLimits()
    gluttons = views(2, b"glutton")
    multicall.gas, multicall.eats = 5_000, {each.data for each in gluttons}
    calls = [*gluttons, ViewCall(POOL, b"mute"), *views(5)]
    rpc = await pool(node)
    await reads_of(rpc, chain, limits=limits).many(calls)
    assert limits.silent == set(calls[:3])
    multicall.answer, multicall.gas = echo, 64
    heard = 0
    for _ in range(12):
        chain.mine()
        chain.mine()  # not every block is read
        told = await reads_of(rpc, chain, limits=limits).many(calls)
        assert told[:2] == [SILENT, SILENT]
        assert told[3:] == answers(calls[3:])
        heard += told[2].ok
    assert heard
    assert limits.silent == set(gluttons)


async def test_silent_views_that_break_the_aggregate_are_asked_in_another_one(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    multicall, limits = Multicall(node), ReadLimits()
    gluttons = views(4, b"glutton")
    multicall.gas, multicall.gas_to_end, multicall.eats = 5_000, 50, {each.data for each in gluttons}
    calls = [*gluttons, *views(600)]
    rpc = await pool(node)
    for _ in range(2):
        told = await reads_of(rpc, chain, limits=limits).many(calls)
        assert told == [*[SILENT] * 4, *answers(calls[4:])]
        assert limits.silent == set(gluttons)
        chain.mine()
    assert limits.is_apart
    node.posts.clear()
    multicall.sizes.clear()
    assert await reads_of(rpc, chain, limits=limits).many(calls) == told
    assert multicall.sizes.count(600) == 1
    assert limits.calls == 1_500  # what others can take did not become less
    assert len(node.posts) <= 2 * len(gluttons)


async def test_the_requests_for_views_without_a_word_are_bounded_at_every_head(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    limits, calls = ReadLimits(), views(1_000, b"mute")
    Multicall(node, mute)
    rpc = await pool(node)
    for at in range(1, 4):
        reads = reads_of(rpc, chain, limits=limits)
        assert await reads.many(calls) == [SILENT] * 1_000
        assert len(limits.silent) == 64 * at
        assert len(node.posts) <= 64 * 2 + 30
        node.posts.clear()
        assert await reads.many(calls) == [SILENT] * 1_000
        assert len(node.posts) == 2  # at the same head nothing more is proven
        node.posts.clear()
        chain.mine()


def test_views_that_are_never_asked_again_leave_room_for_new_silent_ones() -> None:
    limits = ReadLimits()
    for call in views(5_000):
        limits.note(call, SILENT)
        assert call in limits.silent
    assert len(limits.silent) == 4_096


async def test_few_answers_at_a_time_do_not_make_many_requests(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    multicall, limits = Multicall(node), ReadLimits()
    glutton = ViewCall(POOL, b"glutton")
    multicall.gas, multicall.eats = 64 * 10, {glutton.data}
    calls = [glutton, *views(999)]
    assert await reads_of(await pool(node), chain, limits=limits).many(calls) == [SILENT, *answers(calls[1:])]
    assert len(node.posts) <= 40


async def test_a_sequence_goes_in_order_in_a_request_of_its_own(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    asked: list[bytes] = []

    def noted(to: str, data: bytes) -> tuple[bool, bytes]:
        asked.append(data)
        return echo(to, data)

    multicall, limits = Multicall(node, noted), ReadLimits()
    ordered, other = [*views(3, b"c"), *views(3, b"bad"), *views(3, b"a")], views(4, b"other")
    limits.silent.add(ordered[0])  # which changes no order here
    reads = reads_of(await pool(node), chain, limits=limits)
    told = await asyncio.gather(reads.many(other), reads.sequence(ordered), reads.many(other), reads.sequence([]))
    assert [*told] == [answers(other), answers(ordered), answers(other), []]
    assert sorted(multicall.sizes) == [8, 9]
    begin = asked.index(ordered[0].data)
    assert asked[begin : begin + len(ordered)] == [each.data for each in ordered]
    assert {str(block) for block in multicall.blocks} == {
        str({"blockHash": "0x" + chain.head.hash.hex(), "requireCanonical": True})
    }


async def test_a_sequence_that_is_too_heavy_is_never_cut(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    multicall, limits = Multicall(node, most=5), ReadLimits()
    reads = reads_of(await pool(node), chain, limits=limits)
    with pytest.raises(Transient, match="a sequence of 6 calls was refused"):
        await reads.sequence(views(6))
    assert multicall.sizes == [6]
    assert limits == ReadLimits()
    assert await reads.sequence(views(5)) == answers(views(5))
    node.always = respond(status=413)
    with pytest.raises(Transient):
        await reads.sequence(views(2))


async def test_a_sequence_at_a_head_that_is_gone_is_stale(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    Multicall(node)
    reads = reads_of(await pool(node), chain)
    chain.reorg(1)
    with pytest.raises(Stale):
        await reads.sequence(views(2))

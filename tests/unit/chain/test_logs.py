"""Logs of single blocks: the bloom's proof, the block hash's proof, and strict answers."""

from typing import Any

import pytest

from keeper.chain.bloom import BloomTest
from keeper.chain.logs import BlockLogs, filter_fields
from keeper.domain.chain import LogFilter
from keeper.domain.units import Address
from keeper.errors import Stale, Transient
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import ALICE, EVENT, POOL, FakeChain, FakeNode, bloom_of

OTHER = Address(b"\xcc" * 20)
OTHER_EVENT = b"\xdd" * 32
WANTED = LogFilter(frozenset({POOL}), frozenset({EVENT}))


def test_the_bloom_of_logs_contains_their_addresses_and_topics() -> None:
    chain = FakeChain()
    head = chain.mine((POOL, EVENT, b""), (OTHER, OTHER_EVENT, b""))
    for addresses in (frozenset({POOL}), frozenset({OTHER, ALICE}), frozenset[Address]()):
        for topics in (frozenset({EVENT}), frozenset({OTHER_EVENT, EVENT}), frozenset[bytes]()):
            assert BloomTest(LogFilter(addresses, topics)).may_contain(head.logs_bloom)


def test_a_bloom_without_the_address_or_without_the_topic_is_a_proof() -> None:
    bloom = bloom_of(FakeChain().blocks[0].logs)
    assert not BloomTest(WANTED).may_contain(bloom)
    chain = FakeChain()
    only_address = chain.mine((POOL, OTHER_EVENT, b"")).logs_bloom
    only_topic = chain.mine((OTHER, EVENT, b"")).logs_bloom
    assert not BloomTest(WANTED).may_contain(only_address)
    assert not BloomTest(WANTED).may_contain(only_topic)
    assert BloomTest(LogFilter(frozenset(), frozenset())).may_contain(bytes(256))


def test_a_known_bloom_of_ethereum_is_read_bit_for_bit() -> None:
    """The three bits of an item by the yellow paper, worked out apart from the code under test."""
    from eth_utils.crypto import keccak

    address = Address(bytes.fromhex("22341ae42d6dd7384bc8584e50419ea3ac75b83f"))
    digest = keccak(address)
    bloom = 0
    for place in (0, 2, 4):
        bloom |= 1 << ((digest[place] << 8 | digest[place + 1]) % 2048)
    wanted = LogFilter(frozenset({address}), frozenset())
    assert BloomTest(wanted).may_contain(bloom.to_bytes(256))
    for bit in range(2048):
        if bloom >> bit & 1:
            assert not BloomTest(wanted).may_contain((bloom ^ (1 << bit)).to_bytes(256))


async def test_only_blocks_that_may_hold_a_log_are_asked_for_and_in_one_request(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    logs = BlockLogs(await pool(node))
    first = chain.mine((POOL, EVENT, b"1"), (OTHER, OTHER_EVENT, b"2"))
    empty = chain.mine((OTHER, OTHER_EVENT, b""))
    third = chain.mine((POOL, EVENT, b"3"))
    found = await logs.read([first, empty, third], WANTED)
    assert [log.data for log in found] == [b"1", b"3"]
    assert found[0] == chain.blocks[first.number].logs[0]
    assert len(node.posts) == 1
    assert node.count["eth_getLogs"] == 2
    assert await logs.read([empty], WANTED) == []
    assert len(node.posts) == 1


async def test_an_empty_bloom_proves_nothing_on_a_chain_that_never_fills_it(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    logs = BlockLogs(await pool(node))
    await logs.read([chain.head], WANTED)
    assert node.count["eth_getLogs"] == 1
    await logs.read([chain.mine((OTHER, OTHER_EVENT, b""))], WANTED)
    await logs.read([chain.mine()], WANTED)
    assert node.count["eth_getLogs"] == 1


async def test_a_gone_block_is_stale_and_never_empty(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    logs = BlockLogs(await pool(node))
    gone = chain.mine((POOL, EVENT, b""))
    chain.reorg(1)
    with pytest.raises(Stale):
        await logs.read([gone], WANTED)


@pytest.mark.parametrize(
    "change",
    [
        {"blockHash": "0x" + "11" * 32},
        {"blockNumber": "0x1"},
        {"blockNumber": None},
        {"removed": True},
        {"address": "0x" + "cc" * 20},
        {"address": "0x1234"},
        {"topics": []},
        {"topics": ["0x" + "11" * 32]},
        {"topics": ["0x" + "11" * 31]},
        {"topics": ["0x" + EVENT.hex()] * 5},
        {"data": "zz"},
        {"data": "0x1"},
        {"data": "0x 12"},
        {"logIndex": "-0x1"},
        {"logIndex": 1},
        {"transactionHash": None},
    ],
)
async def test_a_log_that_cannot_be_right_discards_the_nodes_answer(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, change: dict[str, Any]
) -> None:
    logs = BlockLogs(await pool(*nodes))
    head = chain.mine((POOL, EVENT, b"1"))
    honest = nodes[0]._eth_getLogs({"blockHash": "0x" + head.hash.hex()})
    nodes[0].methods["eth_getLogs"] = lambda _: [{**honest[0], **change}]
    assert await logs.read([head], WANTED) == list(chain.blocks[-1].logs)
    assert nodes[1].count["eth_getLogs"] == 1


async def test_duplicates_are_dropped_and_the_order_is_the_chains(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    logs = BlockLogs(await pool(node))
    head = chain.mine((POOL, EVENT, b"1"), (POOL, EVENT, b"2"))
    honest = node._eth_getLogs({"blockHash": "0x" + head.hash.hex()})
    node.methods["eth_getLogs"] = lambda _: [honest[1], honest[0], honest[1]]
    assert [log.data for log in await logs.read([head], WANTED)] == [b"1", b"2"]


async def test_two_different_logs_in_one_place_discard_the_answer(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    rpc = await pool(node)
    head = chain.mine((POOL, EVENT, b"1"))
    honest = node._eth_getLogs({"blockHash": "0x" + head.hash.hex()})
    node.methods["eth_getLogs"] = lambda _: [honest[0], {**honest[0], "data": "0x99"}]
    with pytest.raises(Transient):
        await BlockLogs(rpc, deadline_s=0.1).read([head], WANTED)


def test_a_filter_of_thousands_of_addresses_is_tested_at_once() -> None:
    many = frozenset(Address(place.to_bytes(20)) for place in range(1, 5_000))
    test = BloomTest(LogFilter(many, frozenset({EVENT})))
    chain = FakeChain()
    assert test.may_contain(chain.mine((Address((4_999).to_bytes(20)), EVENT, b"")).logs_bloom)
    assert not test.may_contain(bytes(256))


def test_the_fields_of_a_filter_are_worked_out_once() -> None:
    fields = filter_fields(WANTED)
    assert fields == {"address": ["0x" + POOL.hex()], "topics": [["0x" + EVENT.hex()]]}
    assert filter_fields(LogFilter(frozenset({POOL}), frozenset({EVENT}))) is fields
    assert filter_fields(LogFilter(frozenset(), frozenset())) == {}


def test_a_sparse_bloom_all_but_promises_a_log_and_a_full_one_promises_nothing() -> None:
    head = FakeChain().mine((POOL, EVENT, b""), (OTHER, OTHER_EVENT, b""))
    assert BloomTest(WANTED).is_likely(head.logs_bloom)
    assert not BloomTest(LogFilter(frozenset({ALICE}), frozenset({EVENT}))).is_likely(head.logs_bloom)
    assert not BloomTest(WANTED).is_likely(b"\xff" * 256)
    assert not BloomTest(LogFilter(frozenset(), frozenset())).is_likely(head.logs_bloom)


async def test_an_empty_answer_that_the_bloom_contradicts_is_asked_of_every_node(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    rpc = await pool(*nodes)
    logs = BlockLogs(rpc)
    head = chain.mine((POOL, EVENT, b"1"))
    nodes[0].methods["eth_getLogs"] = lambda _query: []
    assert [log.data for log in await logs.read([head], WANTED)] == [b"1"]
    assert not rpc.endpoint("rpc-1").health.is_fit


async def test_a_lone_nodes_empty_answer_is_taken_without_another_request(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    logs = BlockLogs(await pool(node))
    head = chain.mine((POOL, EVENT, b"1"))
    node.methods["eth_getLogs"] = lambda _query: []
    assert await logs.read([head], WANTED) == []
    assert len(node.posts) == 1


async def test_what_a_lone_node_left_out_is_found_with_the_next_head(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    logs = BlockLogs(await pool(node))
    head = chain.mine((POOL, EVENT, b"1"))
    node.methods["eth_getLogs"] = lambda _query: []
    assert await logs.read([head], WANTED) == []
    del node.methods["eth_getLogs"]
    following = chain.mine((POOL, EVENT, b"2"))
    assert [log.data for log in await logs.read([following], WANTED)] == [b"1", b"2"]
    assert [log.data for log in await logs.read([chain.mine((POOL, EVENT, b"3"))], WANTED)] == [b"3"]


async def test_a_lone_node_is_asked_again_a_few_times_and_then_believed(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    logs = BlockLogs(await pool(node))
    head = chain.mine((POOL, EVENT, b"1"))
    node.methods["eth_getLogs"] = lambda _query: []
    assert await logs.read([head], WANTED) == []
    empty = chain.mine((OTHER, OTHER_EVENT, b""))
    for _ in range(8):
        assert await logs.read([empty], WANTED) == []
    assert len(node.posts) == 1 + 5


async def test_a_doubted_block_that_is_gone_hinders_nobody(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    logs = BlockLogs(await pool(node))
    head = chain.mine((POOL, EVENT, b"1"))
    node.methods["eth_getLogs"] = lambda _query: []
    assert await logs.read([head], WANTED) == []
    del node.methods["eth_getLogs"]
    chain.reorg(1)
    following = chain.mine((POOL, EVENT, b"2"))
    assert [log.data for log in await logs.read([following], WANTED)] == [b"2"]

"""The chain as passes see it: extension, logs over gaps, pinned reads."""

from typing import Any

import pytest

from keeper.chain.rpc import _DEADLINES_S
from keeper.chain.turns import Priority
from keeper.chain.view import ChainView, latest_head
from keeper.domain.chain import LogFilter, ViewCall
from keeper.errors import Transient
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import EVENT, POOL, FakeChain, FakeNode, Refusal, Watcher

WANTED = LogFilter(frozenset({POOL}), frozenset({EVENT}))


async def test_an_ordinary_head_costs_one_log_request_and_a_quiet_one_none(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    view = ChainView(await pool(node))
    chain.mine((POOL, EVENT, b"0"))
    view.commit(await view.extend(chain.head))
    for data, requests in ((b"1", 1), (None, 0)):
        node.posts.clear()
        chain.mine(*([] if data is None else [(POOL, EVENT, data)]))
        extension = await view.extend(chain.head)
        assert [log.data for log in await view.logs(extension, WANTED)] == ([] if data is None else [data])
        view.commit(extension)
        assert len(node.posts) == requests


async def test_the_logs_of_a_long_gap_are_all_there(
    pool: Pool, node: FakeNode, chain: FakeChain, watcher: Watcher
) -> None:
    view = ChainView(await pool(node), depth=8)
    view.commit(await view.extend(chain.head))
    for number in range(40):
        chain.mine((POOL, EVENT, bytes([number])))
    extension = await view.extend(chain.head)
    assert extension.is_gap
    assert [log.data for log in await view.logs(extension, WANTED)] == [bytes([number]) for number in range(40)]
    assert watcher.named("index.gap_filled") == [{"blocks": 39, "logs": 39}]
    assert view.depth == 8


async def test_reads_share_what_was_learnt_of_the_nodes(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    rpc = await pool(node)
    view = ChainView(rpc)
    head = await latest_head(rpc)
    assert head == chain.head
    assert view.reads(head).head == head
    assert view.reads(head)._limits is view.reads(head)._limits


def refuse(*_: Any) -> None:
    raise Refusal(-32602, "invalid argument 0: json: cannot unmarshal")


READS = ("eth_getBlockByNumber", "eth_getBlockByHash", "eth_getLogs")


async def test_what_one_node_refuses_is_asked_of_the_next(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, watcher: Watcher
) -> None:
    view = ChainView(await pool(*nodes))
    view.commit(await view.extend(chain.head))
    nodes[0].methods.update(dict.fromkeys(READS, refuse))
    chain.mine((POOL, EVENT, b"1"))
    chain.mine((POOL, EVENT, b"2"))
    extension = await view.extend(chain.head)
    assert len(extension.new) == 2
    assert [log.data for log in await view.logs(extension, WANTED)] == [b"1", b"2"]
    assert nodes[0].count["eth_getBlockByNumber"] == nodes[0].count["eth_getLogs"] // 2 == 1
    assert not watcher.named("rpc.node_state")[2:]


async def test_a_reorganised_parent_that_one_node_refuses_is_asked_of_the_next(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    view = ChainView(await pool(*nodes))
    view.commit(await view.extend(chain.head))
    view.commit(await view.extend(chain.mine()))
    nodes[0].methods.update(dict.fromkeys(READS, refuse))
    chain.reorg(1, 3)
    extension = await view.extend(chain.head)
    assert [len(extension.new), len(extension.orphaned)] == [3, 1]


async def test_what_every_node_refuses_is_transient_and_never_a_bare_refusal(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for priority in Priority:
        monkeypatch.setitem(_DEADLINES_S, priority, 0.1)
    view = ChainView(await pool(*nodes))
    view.commit(await view.extend(chain.head))
    for _ in range(2):
        chain.mine((POOL, EVENT, b"1"))
    extension = await view.extend(chain.head)
    for node in nodes:
        node.methods.update(dict.fromkeys((*READS, "eth_call"), refuse))
    with pytest.raises(Transient, match="cannot unmarshal"):
        await view.extend(chain.head)
    with pytest.raises(Transient, match="cannot unmarshal"):
        await view.logs(extension, WANTED)
    reads = view.reads(chain.head)
    with pytest.raises(Transient, match="cannot unmarshal"):
        await reads.many([ViewCall(POOL, b"")])
    with pytest.raises(Transient, match="cannot unmarshal"):
        await reads.native_balance(POOL)


async def test_a_refused_log_query_whose_block_the_other_node_lacks_is_not_stale(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_DEADLINES_S, Priority.HEAD, 0.1)
    view = ChainView(await pool(*nodes))
    extension = await view.extend(chain.mine((POOL, EVENT, b"1")))
    nodes[0].methods["eth_getLogs"] = refuse
    nodes[1].chain = FakeChain(3)
    with pytest.raises(Transient):
        await view.logs(extension, WANTED)

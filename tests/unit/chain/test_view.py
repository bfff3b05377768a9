"""The chain as passes see it: extension, logs over gaps, pinned reads."""

from keeper.chain.view import ChainView, latest_head
from keeper.domain.chain import LogFilter
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import EVENT, POOL, FakeChain, FakeNode, Watcher

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

"""Range scans: complete, in order, as wide as allowed, and nothing believed without proof."""

from itertools import pairwise
from typing import Any

import pytest

from keeper.chain.ancestry import BlockRange
from keeper.chain.backfill import Progress, RangeScan, scan_range
from keeper.chain.phrases import block_limit
from keeper.chain.rpc import Rpc
from keeper.domain.chain import Log, LogFilter
from keeper.errors import Transient
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import EVENT, POOL, FakeChain, FakeNode, Refusal, Watcher, header_json, log_json

WANTED = LogFilter(frozenset({POOL}), frozenset({EVENT}))


@pytest.fixture
def chain() -> FakeChain:
    """A chain of 6,000 blocks with a log in every third one."""
    found = FakeChain(1)
    for number in range(1, 6_000):
        found.mine(*([(POOL, EVENT, number.to_bytes(4))] if number % 3 == 0 else []))
    return found


def truth(chain: FakeChain, first: int, last: int) -> list[Log]:
    return [log for block in chain.blocks[first : last + 1] for log in block.logs]


async def scanned(rpc: Rpc, first: int, last: int, patience_s: float = 30) -> tuple[list[BlockRange], list[Log]]:
    pieces, logs = [], []
    async for piece, found in RangeScan(rpc, WANTED, patience_s=patience_s).run(BlockRange(first, last)):
        pieces.append(piece)
        logs += found
    return pieces, logs


def assert_gapless(pieces: list[BlockRange], first: int, last: int) -> None:
    assert pieces[0].first == first
    assert pieces[-1].last == last
    assert all(after.first == before.last + 1 for before, after in pairwise(pieces))


@pytest.mark.parametrize(("first", "last"), [(0, 5_999), (17, 4_321), (5, 5), (5_999, 5_999)])
async def test_a_scan_finds_every_log_once_and_in_order(
    pool: Pool, node: FakeNode, chain: FakeChain, first: int, last: int
) -> None:
    pieces, logs = await scanned(await pool(node), first, last)
    assert logs == truth(chain, first, last)
    assert_gapless(pieces, first, last)


async def test_a_range_that_is_empty_yields_nothing(pool: Pool, node: FakeNode) -> None:
    assert [each async for each in scan_range(await pool(node), WANTED, 5, 4)] == []
    assert node.posts == []


@pytest.mark.parametrize("limit", [1_999, 500, 10])
async def test_a_limit_that_a_node_names_is_learnt_and_kept(
    pool: Pool, node: FakeNode, chain: FakeChain, limit: int, watcher: Watcher
) -> None:
    node.log_range = limit
    rpc = await pool(node)
    last = 20 * limit if limit < 500 else 5_999
    pieces, logs = await scanned(rpc, 0, last)
    assert logs == truth(chain, 0, last)
    assert_gapless(pieces, 0, last)
    assert rpc.endpoints[0].learnt.log_range == limit
    assert watcher.named("rpc.capability")[0] == {"node": "rpc-1", "capability": "log_range", "limit": limit}
    node.posts.clear()
    await scanned(rpc, 0, last)
    assert node.count["eth_getLogs"] >= (last + 1) // limit
    assert all(_width(post[0]) <= limit for post in node.posts)


def _width(call: dict[str, Any]) -> int:
    query = call["params"][0]
    return int(query["toBlock"], 16) - int(query["fromBlock"], 16) + 1


async def test_a_limit_without_a_number_is_found_by_halving(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    def limited(query: dict[str, Any]) -> Any:
        if int(query["toBlock"], 16) - int(query["fromBlock"], 16) >= 300:
            raise Refusal(-32005, "query returned more than 10000 results")
        return node._eth_getLogs(query)

    node.methods["eth_getLogs"] = limited
    pieces, logs = await scanned(await pool(node), 0, 5_999)
    assert logs == truth(chain, 0, 5_999)
    assert_gapless(pieces, 0, 5_999)


async def test_an_answer_cut_at_a_round_number_is_asked_again_in_parts(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    node.log_cap = 1_000
    _, logs = await scanned(await pool(node), 0, 5_999)
    assert logs == truth(chain, 0, 5_999)


async def test_the_width_grows_while_answers_are_quick(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    scan = RangeScan(rpc, WANTED)
    scan._width = 10
    widths = [len(piece) async for piece, _ in scan.run(BlockRange(0, 5_999))]
    assert max(widths) > 1_000


async def test_an_empty_range_beyond_the_nodes_head_is_not_believed(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    """What a node answers for blocks that it does not have yet: an empty list and no error."""
    behind = FakeChain(0)
    behind.blocks, behind.known = chain.blocks[:5_000], chain.known
    nodes[0].chain = behind
    rpc = await pool(*nodes)
    nodes[0].methods["eth_getLogs"] = lambda _: []
    _, logs = await scanned(rpc, 5_500, 5_999)
    assert logs == truth(chain, 5_500, 5_999)
    nodes[1].chain = behind
    with pytest.raises(Transient):
        await scanned(rpc, 5_500, 5_999, patience_s=0.2)


async def test_another_block_than_the_last_is_no_proof(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    rpc = await pool(node)
    node.methods["eth_getLogs"] = lambda _: []
    node.methods["eth_getBlockByNumber"] = lambda *_: header_json(chain.blocks[7].head)
    with pytest.raises(Transient):
        await scanned(rpc, 0, 100, patience_s=0.2)


async def test_logs_of_another_fork_than_the_proof_discard_the_answer(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    rpc = await pool(*nodes)
    last = chain.blocks[5_997]
    wrong = {**log_json(last.logs[0]), "blockHash": "0x" + "11" * 32}
    nodes[0].methods["eth_getLogs"] = lambda _: [wrong]
    _, logs = await scanned(rpc, 5_990, 5_997)
    assert logs == truth(chain, 5_990, 5_997)


async def test_a_log_from_outside_the_range_discards_the_answer(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    rpc = await pool(*nodes)
    nodes[0].methods["eth_getLogs"] = lambda _: [log_json(chain.blocks[3].logs[0])]
    _, logs = await scanned(rpc, 10, 20)
    assert logs == truth(chain, 10, 20)


async def test_a_node_that_fails_for_a_while_costs_no_block(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    from tests.unit.chain.fake_node import drop, respond

    rpc = await pool(node)
    node.faults.extend([respond(status=500), respond(body="junk"), drop, respond(status=503)])
    pieces, logs = await scanned(rpc, 0, 5_999)
    assert logs == truth(chain, 0, 5_999)
    assert_gapless(pieces, 0, 5_999)


async def test_progress_is_told_piece_by_piece(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    told: list[Progress] = []
    async for _ in scan_range(await pool(node), WANTED, 0, 5_999, told.append):
        pass
    assert [each.done.last for each in told] == sorted({each.done.last for each in told})
    assert told[-1] == Progress(BlockRange(0, 5_999), BlockRange(0, 5_999), len(truth(chain, 0, 5_999)))


async def test_a_scan_that_is_left_half_way_stops_its_requests(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    pieces = scan_range(rpc, WANTED, 0, 5_999)
    await anext(pieces)
    await pieces.aclose()
    assert rpc.endpoints[0].in_flight == 0


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("block range is too wide, max block range is 500 blocks", 500),
        ("eth_getLogs is limited to a 10,000 range", 10_000),
        (
            (
                "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and no limit on the"
                " response size, or you can request any block range with a cap of 10K logs in the response."
            ),
            2_000,
        ),
        ("Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range.", 10),
        ("exceed maximum block range: 50000", 50_000),
        ("query exceeds max block range 1000000000000000", None),
        ("query returned more than 10000 results", None),
        ("query returned more than 10000 results. Try with this block range [0x1, 0x2].", None),
        ("block range is too wide", None),
        ("limited to 0 - 5 blocks range", 5),
    ],
)
def test_the_number_of_blocks_that_a_refusal_names_is_understood(text: str, limit: int | None) -> None:
    assert block_limit(text) == limit


async def test_an_answer_that_is_too_heavy_for_the_node_is_asked_in_parts(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    def heavy(query: dict[str, Any]) -> Any:
        if int(query["toBlock"], 16) - int(query["fromBlock"], 16) > 700:
            raise Refusal(-32000, "memory limit")
        return node._eth_getLogs(query)

    node.methods["eth_getLogs"] = heavy
    _, logs = await scanned(await pool(node), 0, 3_000)
    assert logs == truth(chain, 0, 3_000)


async def test_a_query_that_no_node_understands_ends_the_scan(pool: Pool, node: FakeNode) -> None:
    def refuse(_query: dict[str, Any]) -> Any:
        raise Refusal(-32602, "invalid argument 0")

    node.methods["eth_getLogs"] = refuse
    with pytest.raises(Transient, match="invalid argument"):
        await scanned(await pool(node), 0, 10, patience_s=0.1)

"""Ancestry: what is new, what is orphaned, and when nothing can be trusted."""

import pytest

from keeper.chain.ancestry import Ancestry, BlockRange, Extension
from keeper.domain.chain import BlockHead
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import FakeChain, FakeNode, Watcher, header_json


async def follow(ancestry: Ancestry, head: BlockHead) -> Extension:
    extension = await ancestry.extend(head)
    ancestry.commit(extension)
    return extension


def heads(chain: FakeChain, first: int, last: int) -> tuple[BlockHead, ...]:
    return tuple(block.head for block in chain.blocks[first : last + 1])


async def test_the_first_head_stands_alone(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    ancestry = Ancestry(await pool(node))
    assert await follow(ancestry, chain.head) == Extension(chain.head, (chain.head,))
    assert node.posts == []


async def test_a_child_costs_no_request(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    ancestry = Ancestry(await pool(node))
    await follow(ancestry, chain.head)
    assert await follow(ancestry, chain.mine()) == Extension(chain.head, (chain.head,))
    assert node.posts == []


async def test_missed_blocks_are_fetched_in_one_request(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    ancestry = Ancestry(await pool(node))
    await follow(ancestry, chain.head)
    for _ in range(20):
        chain.mine()
    assert (await follow(ancestry, chain.head)).new == heads(chain, 5, 24)
    assert len(node.posts) == 1


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 7, 9, 20])
@pytest.mark.parametrize("more", [0, 1, 3])
async def test_a_reorganisation_names_what_is_new_and_what_is_orphaned(
    pool: Pool, node: FakeNode, chain: FakeChain, depth: int, more: int
) -> None:
    ancestry = Ancestry(await pool(node))
    for _ in range(30):
        await follow(ancestry, chain.mine())
    last = chain.head.number
    orphaned = heads(chain, last - depth + 1, last)
    chain.reorg(depth, depth + more)
    extension = await follow(ancestry, chain.head)
    assert extension.orphaned == orphaned
    assert extension.new == heads(chain, last - depth + 1, last + more)
    assert not extension.is_rebuild
    assert (await follow(ancestry, chain.mine())).orphaned == ()


async def test_a_reorganisation_to_a_shorter_chain_orphans_what_is_above(
    pool: Pool, node: FakeNode, chain: FakeChain, watcher: Watcher
) -> None:
    ancestry = Ancestry(await pool(node))
    for _ in range(10):
        await follow(ancestry, chain.mine())
    gone = heads(chain, 10, 14)
    chain.reorg(5, 2)
    extension = await follow(ancestry, chain.head)
    assert (extension.orphaned, extension.new) == (gone, heads(chain, 10, 11))
    assert watcher.named("chain.reorg") == [{"block": 11, "depth": 5, "is_rebuild": False}]


async def test_going_back_to_a_known_block_orphans_what_was_above_it(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    ancestry = Ancestry(await pool(node))
    for _ in range(5):
        await follow(ancestry, chain.mine())
    target, gone = chain.blocks[-3].head, heads(chain, 8, 9)
    chain.reorg(2, 0)
    assert await follow(ancestry, target) == Extension(target, (), gone)
    assert (await follow(ancestry, chain.mine())).new == (chain.head,)


async def test_a_reorganisation_deeper_than_what_is_kept_demands_a_rebuild(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    ancestry = Ancestry(await pool(node), depth=8)
    for _ in range(20):
        await follow(ancestry, chain.mine())
    chain.reorg(15)
    extension = await follow(ancestry, chain.head)
    assert extension.is_rebuild
    assert extension.new == (chain.head,)
    assert len(extension.orphaned) == 8
    assert not (await follow(ancestry, chain.mine())).is_rebuild


async def test_a_long_gap_is_left_to_a_range_scan(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    ancestry = Ancestry(await pool(node), depth=16)
    await follow(ancestry, chain.head)
    for _ in range(50):
        chain.mine()
    extension = await follow(ancestry, chain.head)
    assert extension.is_gap
    assert extension == Extension(chain.head, (chain.head,), gap=BlockRange(5, 53))
    assert len(node.posts) == 1
    assert (await follow(ancestry, chain.mine())).new == (chain.head,)


async def test_a_long_gap_over_a_reorganisation_starts_at_the_common_ancestor(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    ancestry = Ancestry(await pool(node), depth=16)
    for _ in range(10):
        await follow(ancestry, chain.mine())
    gone = heads(chain, 12, 14)
    chain.reorg(3, 60)
    extension = await follow(ancestry, chain.head)
    assert extension.orphaned == gone
    assert extension.gap == BlockRange(12, chain.head.number - 1)


async def test_extending_without_commit_changes_nothing(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    ancestry = Ancestry(await pool(node))
    await follow(ancestry, chain.head)
    chain.mine()
    first = await ancestry.extend(chain.head)
    assert await ancestry.extend(chain.head) == first
    assert ancestry.tip == heads(chain, 4, 4)[0]


async def test_headers_of_other_blocks_than_asked_for_are_asked_of_another_node(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain
) -> None:
    ancestry = Ancestry(await pool(*nodes))
    await follow(ancestry, chain.head)
    for _ in range(3):
        chain.mine()
    nodes[0].methods["eth_getBlockByNumber"] = lambda *_: header_json(chain.head)
    assert (await ancestry.extend(chain.head)).new == heads(chain, 5, 7)
    assert nodes[1].count["eth_getBlockByNumber"] == 2


async def test_headers_of_another_fork_in_between_are_replaced_by_the_real_ancestors(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    """By number the node shows another fork, as behind a load balancer; by hash it shows the truth."""
    ancestry = Ancestry(await pool(node))
    await follow(ancestry, chain.head)
    lie = chain.fork()
    for _ in range(3):
        chain.mine()
        lie.mine()
    node.methods["eth_getBlockByNumber"] = lambda tag, _full: header_json(lie.blocks[int(tag, 16)].head)
    assert (await ancestry.extend(chain.head)).new == heads(chain, 5, 7)


def test_a_range_knows_its_length() -> None:
    assert len(BlockRange(5, 5)) == 1


async def test_a_long_gap_over_a_reorganisation_out_of_reach_demands_a_rebuild(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    ancestry = Ancestry(await pool(node), depth=8)
    for _ in range(20):
        await follow(ancestry, chain.mine())
    chain.reorg(15, 60)
    extension = await follow(ancestry, chain.head)
    assert extension.is_rebuild
    assert len(extension.orphaned) == 8

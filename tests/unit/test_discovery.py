"""Who there is: found once, remembered, and no range is ever skipped. On a real node's wire and a real store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from keeper.chain.backfill import Progress
from keeper.chain.rpc import Rpc
from keeper.discovery import BEHIND_HEAD, SAVE_EVERY, Discovery
from keeper.domain.chain import BlockHead, LogFilter
from keeper.domain.ports import Market
from keeper.domain.units import ZERO_ADDRESS, PositionId
from keeper.errors import StorageFailed, Transient
from keeper.store.database import Database
from keeper.store.findings import Cursor, Findings
from tests.toy import ToyCalls, ToyReader, ToyRules, account, address
from tests.unit.chain.fake_node import CHAIN_ID, EVENT, POOL, FakeChain, FakeNode, RealClock

WANTED = LogFilter(frozenset({POOL}), frozenset({EVENT}))


def place(name: str) -> str:
    return market(name=name).place


def market(*, name: str = "toy", from_block: int = 1) -> Market:
    return Market(name, "toy", from_block, ToyReader(name, discovery_filter=WANTED), ToyRules(), ToyCalls())


def borrow(chain: FakeChain, *numbers: int) -> BlockHead:
    return chain.mine(*((POOL, EVENT, account(number)) for number in numbers))


@dataclass
class Site:
    """A chain with a node, a pool on it and a file to remember in."""

    chain: FakeChain
    node: FakeNode
    rpc: Rpc
    database: Database

    @property
    def findings(self) -> Findings:
        return Findings(self.database)

    def restarted(self, *, is_read_only: bool = False) -> Discovery:
        self.node.posts.clear()
        return Discovery(self.rpc, self.findings, is_read_only=is_read_only)

    @property
    def asked(self) -> list[tuple[int, int]]:
        """Return the ranges whose logs were asked for."""
        queries = [call["params"][0] for post in self.node.posts for call in post if call["method"] == "eth_getLogs"]
        return [(int(query["fromBlock"], 16), int(query["toBlock"], 16)) for query in queries]

    async def cursor(self, name: str = "toy") -> Cursor:
        cursor = await self.findings.cursor(place(name))
        assert cursor is not None
        return cursor

    async def fill_disk(self, *, is_full: bool) -> None:
        pages = 1 if is_full else 100_000  # fewer than there are means: no more than there are
        await self.database.run(
            lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar()
        )


@asynccontextmanager
async def opened(path: Path, chain: FakeChain) -> AsyncIterator[Site]:
    async with FakeNode(chain) as node:
        rpc = Rpc([node.node("rpc-1")], clock=RealClock())
        await rpc.start(CHAIN_ID)
        database = await Database.open(path, CHAIN_ID)
        try:
            yield Site(chain, node, rpc, database)
        finally:
            await database.close()
            await rpc.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    chain = FakeChain(20)
    borrow(chain, 1, 2)
    for _ in range(200):
        chain.mine()
    borrow(chain, 3)
    async with opened(tmp_path / "keeper.sqlite3", chain) as site:
        yield site


def named(*numbers: int) -> set[PositionId]:
    return {account(number) for number in numbers}


async def test_everybody_is_found_and_the_coverage_stays_behind_the_head(site: Site) -> None:
    seen: list[tuple[str, Progress]] = []
    head = site.chain.head
    found = await site.restarted().catch_up(market(), head, lambda name, progress: seen.append((name, progress)))
    assert set(found) == named(1, 2, 3)
    cursor = await site.cursor()
    assert (cursor.from_block, cursor.scanned_to) == (1, head.number - BEHIND_HEAD)
    assert cursor.scanned_hash == site.chain.blocks[cursor.scanned_to].head.hash
    assert await site.findings.load(place("toy")) == {account(1): 20, account(2): 20}
    assert seen[-1][1].done.last == head.number
    assert {name for name, _ in seen} == {"toy"}


async def test_a_restart_goes_on_where_the_coverage_ends(site: Site) -> None:
    await site.restarted().catch_up(market(), site.chain.head)
    scanned_to = (await site.cursor()).scanned_to
    for _ in range(100):
        site.chain.mine()
    head = borrow(site.chain, 4)
    again = site.restarted()
    assert set(await again.catch_up(market(), head)) == named(1, 2, 3, 4)
    assert min(first for first, _ in site.asked) == scanned_to + 1
    assert (await site.cursor()).scanned_to == head.number - BEHIND_HEAD


async def test_looking_twice_asks_only_for_what_is_not_stored(site: Site) -> None:
    discovery = site.restarted()
    await discovery.catch_up(market(), site.chain.head)
    stored = (await site.cursor()).scanned_to
    head = borrow(site.chain, 5)
    site.node.posts.clear()
    assert set(await discovery.catch_up(market(), head)) == named(1, 2, 3, 5)
    assert sorted(site.asked) == [(stored + 1, stored + 1), (stored + 2, head.number)]


async def test_ranges_are_stored_without_a_gap_and_each_block_is_asked_for_once(site: Site) -> None:
    site.node.log_range = 7
    discovery = site.restarted()
    await discovery.catch_up(market(), site.chain.head)
    blocks = sorted(block for first, last in site.asked if last - first < 7 for block in range(first, last + 1))
    assert blocks == list(range(1, site.chain.head.number + 1))


async def test_another_hash_at_the_end_of_the_coverage_means_to_look_again_from_the_beginning(site: Site) -> None:
    await site.restarted().catch_up(market(), site.chain.head)
    site.chain.reorg(210)
    borrow(site.chain, 6)
    for _ in range(70):
        site.chain.mine()
    assert set(await site.restarted().catch_up(market(), site.chain.head)) == named(1, 2, 6)
    assert min(first for first, _ in site.asked) == 1
    cursor = await site.cursor()
    assert cursor.scanned_hash == site.chain.blocks[cursor.scanned_to].head.hash
    assert await site.findings.load(place("toy")) == {account(1): 20, account(2): 20, account(6): 222}


async def test_a_coverage_lost_while_running_is_built_up_again(site: Site) -> None:
    discovery = site.restarted()
    await discovery.catch_up(market(), site.chain.head)
    site.chain.reorg(210)
    for _ in range(100):
        site.chain.mine()
    await discovery.catch_up(market(), site.chain.head)
    assert (await site.cursor()).from_block == 1
    discovery.note(market(), named(7), site.chain.head)
    for _ in range(5):
        site.chain.mine()
    behind = site.chain.blocks[-1 - BEHIND_HEAD].head
    await discovery.keep(market(), behind)
    assert (await site.cursor()).scanned_to == behind.number
    assert account(7) in await site.findings.load(place("toy"))


async def test_a_market_that_begins_earlier_than_what_was_scanned_is_scanned_from_there(site: Site) -> None:
    late = await site.restarted().catch_up(market(from_block=100), site.chain.head)
    assert set(late) == named(3)
    assert set(await site.restarted().catch_up(market(from_block=5), site.chain.head)) == named(1, 2, 3)
    assert (await site.cursor()).from_block == 5


async def test_positions_and_parts_of_a_market_are_stored_whole(site: Site) -> None:
    part, second = PositionId(ZERO_ADDRESS + b"\x07" * 32), PositionId(account(1) + b"\x07" * 32)
    at = site.chain.mine((POOL, EVENT, part), (POOL, EVENT, second)).number
    for _ in range(BEHIND_HEAD):
        site.chain.mine()
    discovery = site.restarted()
    everything = named(1, 2, 3) | {part, second}
    assert set(await discovery.catch_up(market(), site.chain.head)) == everything
    stored = await site.findings.load(place("toy"))
    assert (stored[part], stored[second], stored[account(1)]) == (at, at, 20)
    noted = PositionId(ZERO_ADDRESS + b"\x08" * 32)
    discovery.note(market(), [noted], site.chain.mine())
    await discovery.keep(market(), site.chain.blocks[-1 - BEHIND_HEAD].head)
    assert (await site.findings.load(place("toy")))[noted] == site.chain.head.number
    assert set(await site.restarted().catch_up(market(), site.chain.head)) == everything | {noted}


async def test_a_young_chain_is_scanned_and_nothing_of_it_is_stored_yet(tmp_path: Path) -> None:
    chain = FakeChain(5)
    borrow(chain, 1)
    async with opened(tmp_path / "keeper.sqlite3", chain) as site:
        discovery = site.restarted()
        assert await discovery.catch_up(market(), chain.head) == [account(1)]
        assert await site.findings.cursor(place("toy")) is None
        for _ in range(BEHIND_HEAD):
            chain.mine()
        await discovery.keep(market(), chain.blocks[-1 - BEHIND_HEAD].head)
        assert (await site.cursor()).from_block == 1
        assert await site.findings.load(place("toy")) == {account(1): 5}


async def test_reading_beside_a_daemon_never_writes(site: Site) -> None:
    await site.restarted().catch_up(market(), site.chain.blocks[150].head)
    before = await site.cursor()
    beside = await Database.open(site.database.path, CHAIN_ID, is_read_only=True)
    reader = Discovery(site.rpc, Findings(beside), is_read_only=True)
    assert set(await reader.catch_up(market(), site.chain.head)) == named(1, 2, 3)
    site.chain.reorg(200)
    head = borrow(site.chain, 8)
    assert set(await reader.catch_up(market(), head)) >= named(1, 2, 8)
    reader.note(market(), named(9), head)
    await reader.keep(market(), head)
    await beside.close()
    assert await site.cursor() == before


async def test_without_a_store_the_second_look_asks_only_for_new_blocks(site: Site) -> None:
    discovery = Discovery(site.rpc, None)
    head = site.chain.head
    assert set(await discovery.catch_up(market(), head)) == named(1, 2, 3)
    new = borrow(site.chain, 4)
    site.node.posts.clear()
    assert set(await discovery.catch_up(market(), new)) == named(1, 2, 3, 4)
    assert site.asked == [(new.number, new.number)]
    site.chain.reorg(1)
    assert set(await discovery.catch_up(market(), site.chain.head)) == named(1, 2, 3)


async def test_an_account_noted_while_running_survives_a_restart(site: Site) -> None:
    discovery = site.restarted()
    await discovery.catch_up(market(), site.chain.head)
    head = borrow(site.chain, 4)
    discovery.note(market(), named(4), head)
    behind = site.chain.blocks[head.number - BEHIND_HEAD].head
    await discovery.keep(market(), behind)
    assert await site.findings.load(place("toy")) == {account(1): 20, account(2): 20, account(3): 221, account(4): 222}
    assert await site.cursor() == Cursor(place("toy"), 1, behind.number, behind.hash)
    site.node.methods["eth_getLogs"] = lambda _query: []
    assert set(await site.restarted().catch_up(market(), head)) == named(1, 2, 3, 4)


async def test_coverage_alone_is_written_only_now_and_then(site: Site) -> None:
    discovery = site.restarted()
    await discovery.catch_up(market(), site.chain.blocks[100].head)
    discovery._unsaved.clear()
    stored = (await site.cursor()).scanned_to
    for _ in range(300):
        site.chain.mine()
    for number in (None, stored, stored + 1, stored + SAVE_EVERY):
        await discovery.keep(market(), None if number is None else site.chain.blocks[number].head)
        assert (await site.cursor()).scanned_to == stored
    await discovery.keep(market(), site.chain.blocks[stored + SAVE_EVERY + 1].head)
    assert (await site.cursor()).scanned_to == stored + SAVE_EVERY + 1


async def test_what_could_not_be_stored_is_stored_by_the_next_try(site: Site) -> None:
    discovery = site.restarted()
    await discovery.catch_up(market(), site.chain.head)
    discovery.note(market(), named(*range(4, 3_000)), site.chain.head)
    site.chain.mine()
    behind = site.chain.blocks[-1 - BEHIND_HEAD].head
    await site.fill_disk(is_full=True)
    before = await site.cursor()
    with pytest.raises(StorageFailed):
        await discovery.keep(market(), behind)
    assert await site.cursor() == before
    await site.fill_disk(is_full=False)
    await discovery.keep(market(), behind)
    assert await site.findings.load(place("toy")) == dict.fromkeys(named(*range(1, 3_000)), 221) | {
        account(1): 20,
        account(2): 20,
    }
    assert (await site.cursor()).scanned_to == behind.number


async def test_a_block_that_the_node_lost_ends_the_look_for_now_and_skips_nothing(site: Site) -> None:
    async def lost(calls: list[dict[str, Any]], _request: web.Request) -> web.StreamResponse | None:
        if [call["method"] for call in calls] != ["eth_getBlockByNumber"]:
            return None
        return web.json_response({"jsonrpc": "2.0", "id": calls[0]["id"], "result": None})

    site.node.always = lost
    discovery = site.restarted()
    with pytest.raises(Transient, match="not the block"):
        await discovery.catch_up(market(), site.chain.head)
    assert await site.findings.cursor(place("toy")) is None
    site.node.always = None
    assert set(await discovery.catch_up(market(), site.chain.head)) == named(1, 2, 3)
    assert (await site.cursor()).from_block == 1


async def test_markets_are_remembered_apart(site: Site) -> None:
    discovery = site.restarted()
    await discovery.catch_up(market(), site.chain.head)
    await discovery.catch_up(market(name="other", from_block=50), site.chain.head)
    assert ((await site.cursor()).from_block, (await site.cursor("other")).from_block) == (1, 50)
    assert await site.findings.load(place("other")) == {}


async def test_coverage_that_was_lost_on_a_chain_that_began_anew_starts_at_the_beginning_again(site: Site) -> None:
    discovery = site.restarted()
    await discovery.catch_up(market(), site.chain.head)
    site.chain.reorg(210, 20)
    await discovery.catch_up(market(), site.chain.head)
    assert await site.findings.cursor(place("toy")) is None
    await discovery.keep(market(), site.chain.blocks[30].head)
    assert (await site.cursor()).from_block == 1


async def test_another_root_under_the_same_name_is_looked_through_from_its_beginning(site: Site) -> None:
    discovery = site.restarted()
    await discovery.catch_up(market(), site.chain.head)
    moved = replace(market(), root=address(77))
    assert moved.place != market().place
    site.node.posts.clear()
    await discovery.catch_up(moved, site.chain.head)
    assert site.asked[0][0] == 1

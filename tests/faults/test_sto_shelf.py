"""The saved book of every protocol, on the genuine contracts: a second process finds the same positions and crossings."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from keeper.chain.endpoint import nodes_of
from keeper.chain.rpc import Rpc
from keeper.chain.view import ChainView, latest_head
from keeper.chainfile import ChainFile
from keeper.devnet.devnet import DevnetSpec, cached_devnet
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.discovery import Discovery
from keeper.domain.units import PositionId
from keeper.parts import SystemClock, fill_books
from keeper.protocols.perp_curie.contracts import PerpPosition
from keeper.registry import markets_of
from keeper.scanner import ParityPolicy, Scanner
from keeper.shelving import Librarian
from keeper.store.bookshelf import Bookshelf, open_shelf
from keeper.store.database import Database
from keeper.store.findings import Findings
from tests.operator import prepare
from tests.unit.test_scanner import OBSERVING

SPEC = DevnetSpec(generations=("3.0", "3.6"), others=("morpho", "venus", "perp"), n_positions=50)


class Life:
    """What a process knows of the chain, by the way in which it learnt it."""

    def __init__(self, rpc: Rpc, chain: ChainFile, shelf: Database | None) -> None:
        self.rpc = rpc
        self.view = ChainView(rpc)
        self.scanner = Scanner(
            markets_of(chain), self.view, policy=OBSERVING, parity=ParityPolicy(1, 10), clock=SystemClock(), landing_s=1
        )
        self.librarian = Librarian(Bookshelf(shelf) if shelf else None, self.scanner, {})

    async def start(self, database: Database) -> None:
        await fill_books(self.scanner, self.rpc, Discovery(self.rpc, Findings(database)), None, self.librarian)


def noting(read: Callable[..., Awaitable[Any]], asked: list[PositionId]) -> Callable[..., Awaitable[Any]]:
    """Note whose positions are asked for."""

    async def noted(reads: Any, ids: Sequence[PositionId]) -> Any:
        asked.extend(ids)
        return await read(reads, ids)

    return noted


def timeless(position: Any) -> Any:
    """Leave out what the contract said at the block of reading, which differs with when that was."""
    return replace(position, valuation=None) if isinstance(position, PerpPosition) else position


async def test_sto_02_a_process_on_the_saved_book_knows_what_one_on_the_chain_knows(tmp_path: Path):
    async with AsyncExitStack() as stack:
        options = AnvilOptions(block_time_s=1)
        devnet = await stack.enter_async_context(cached_devnet(default_cache_dir(), SPEC, options=options))
        chain = ChainFile.load(str((await prepare(devnet, tmp_path)).chain_file))
        rpc = Rpc(nodes_of([devnet.node.http_url]), clock=SystemClock())
        await rpc.start(chain.chain_id)
        stack.push_async_callback(rpc.close)
        database = await Database.open(tmp_path / "1.sqlite3", chain.chain_id)
        stack.push_async_callback(database.close)
        shelf = await open_shelf(tmp_path / "1.sqlite3", chain.chain_id)
        stack.push_async_callback(shelf.close)
        first = Life(rpc, chain, shelf)
        await first.start(database)
        first.librarian.passed(await first.scanner.make_pass(await latest_head(rpc)), first.view.ancestor)
        await first.librarian.close()

        second, third = Life(rpc, chain, shelf), Life(rpc, chain, None)
        asked: list[PositionId] = []
        for desk in second.scanner.desks.values():
            desk.reader.positions = noting(desk.reader.positions, asked)
        await second.start(database)
        assert not asked
        await third.start(database)
        head = await latest_head(rpc)
        found = [await life.scanner.make_pass(head) for life in (second, third)]
        for name, desk in third.scanner.desks.items():
            book = second.scanner.books[name].book
            assert {each: timeless(one) for each, one in book.positions.items()} == {
                each: timeless(one) for each, one in desk.books.book.positions.items()
            }, name
            assert len(book), name
            assert second.scanner.snapshot(name) == desk.snapshot, name
        assert found[0].candidates.keys() == found[1].candidates.keys()
        assert not [each for done in found for market in done.markets for each in market.mismatches]

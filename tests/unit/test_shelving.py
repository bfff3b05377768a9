"""The saved book in use: whatever happens between two lives, the second knows what the chain knows."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from keeper import shelving as module
from keeper.domain.chain import BlockHead
from keeper.domain.ports import Market, Reads
from keeper.domain.units import PositionId
from keeper.scanner import Scanner
from keeper.shelving import Librarian
from keeper.store.bookshelf import Bookshelf, open_shelf
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed
from tests.toy import ChainReader, ToyChain, ToyPosition, account, toy_market
from tests.unit.test_scanner import NEVER, OBSERVING, Stopwatch

LAYOUTS = {"toy": b"1"}
PEOPLE = 40


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await open_shelf(tmp_path / "1.sqlite3", 1)
    yield database
    await database.close()


@dataclass
class CountingReader(ChainReader):
    """Counts the positions that were asked for."""

    asked: int = 0

    async def positions(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[ToyPosition]:
        self.asked += len(ids)
        return await super().positions(reads, ids)


class Life:
    """One process of the keeper on a chain."""

    def __init__(self, chain: ToyChain, database: Database | None, *, layouts: dict[str, bytes] = LAYOUTS) -> None:
        chain.ring.clear()
        self.chain = chain
        self.reader = CountingReader(chain=chain)
        market = replace(toy_market(self.reader), position=ToyPosition)
        self.scanner = Scanner(
            [market], chain, policy=OBSERVING, parity=NEVER, clock=Stopwatch(), landing_s=12, census=self.census
        )
        shelf = Bookshelf(database) if database else None
        self.librarian = Librarian(shelf, self.scanner, layouts)
        self.taken_down = 0

    async def census(self, market: Market, head: BlockHead) -> set[PositionId]:
        return self.chain.borrowers(head)

    async def start(self) -> None:
        shelved = await self.librarian.take_down(self.blocks)
        self.taken_down = sum(len(shelf.positions) for _, shelf in shelved.values())
        head = self.chain.head
        await self.scanner.load(head, {"toy": sorted(self.chain.borrowers(head))}, shelved)

    async def head(self, *changed: ToyPosition) -> None:
        """Mine a block, make a pass, and let what is saved be saved."""
        done = await self.scanner.make_pass(self.chain.mine(*changed))
        self.librarian.passed(done, self.chain.ancestor)
        await self.settle()

    async def settle(self) -> None:
        if self.librarian._work is not None:
            await self.librarian._work

    async def blocks(self, numbers: Sequence[int]) -> list[BlockHead | None]:
        line = self.chain._line(self.chain.head)
        return [line.get(number) for number in numbers]

    @property
    def book(self) -> dict[PositionId, ToyPosition]:
        return dict(self.scanner.books["toy"].book.positions)


def truth(chain: ToyChain) -> dict[PositionId, ToyPosition]:
    return {each.id: each for each in chain.blocks[-1].state.values() if each.has_debt}


def holding(number: int, cash: int = 5_000) -> ToyPosition:
    return ToyPosition(account(number), 100, cash)


@pytest.mark.parametrize("seed", range(12))
async def test_after_any_history_a_restart_knows_what_a_rebuild_would(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
):
    monkeypatch.setattr(module, "SAVE_EVERY", 3)
    random, chain, reused = Random(seed), ToyChain(), 0
    for _ in range(5):
        life = Life(chain, database)
        await life.start()
        reused += life.taken_down
        for _ in range(random.randrange(1, 12)):
            if random.random() < 0.3 and len(chain.blocks) > 5:
                chain.drop(random.randrange(1, 4))
            people = random.sample(range(1, PEOPLE), random.randrange(4))
            await life.head(*(holding(each, random.choice((0, 5_000, 6_000))) for each in people))
            assert life.book == truth(chain)
        if random.random() < 0.5:
            await life.librarian.close()
        for _ in range(random.randrange(4)):  # while nobody looks
            if random.random() < 0.5 and len(chain.blocks) > 5:
                chain.drop(random.randrange(1, 4))
            chain.mine(*(holding(each, random.choice((0, 7_000))) for each in random.sample(range(1, PEOPLE), 2)))
    assert reused


async def test_a_restart_reads_only_what_was_touched_since(database: Database):
    chain = ToyChain()
    first = Life(chain, database)
    await first.start()
    await first.head(*(holding(each) for each in range(1, PEOPLE)))
    await first.librarian.close()
    chain.mine(holding(7, 6_000))
    second = Life(chain, database)
    await second.start()
    await second.head()
    assert second.taken_down == PEOPLE - 1
    assert second.reader.recognised == {account(each) for each in range(1, PEOPLE)}
    assert second.book == truth(chain)
    assert second.reader.asked == 1
    third = Life(chain, None)
    await third.start()
    assert third.reader.asked == PEOPLE - 1


async def test_a_reorg_while_nobody_looked_costs_the_blocks_that_it_replaced_only(database: Database):
    chain = ToyChain()
    first = Life(chain, database)
    await first.start()
    await first.head(*(holding(each) for each in range(1, PEOPLE)))
    await first.librarian.close()
    await first.head(holding(7, 6_000))
    await first.head(holding(8, 0))
    await first.librarian.close()
    chain.drop(2)
    chain.mine(holding(9, 8_000))
    second = Life(chain, database)
    await second.start()
    assert second.taken_down == PEOPLE - 3
    await second.head()
    assert second.book == truth(chain)


async def test_another_layout_is_read_from_the_chain(database: Database):
    chain = ToyChain()
    first = Life(chain, database)
    await first.start()
    await first.head(holding(1))
    await first.librarian.close()
    second = Life(chain, database, layouts={"toy": b"2"})
    await second.start()
    assert second.taken_down == 0
    assert second.book == truth(chain)


async def test_sto_02_a_shelf_that_cannot_be_written_or_read_costs_time_only(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    chain = ToyChain()
    life = Life(chain, database)
    await life.start()

    async def fail(*_: object) -> None:
        raise StoreFailed(Fault.FULL, database.path)

    with monkeypatch.context() as patch:
        patch.setattr(database, "run", fail)
        await life.head(holding(1), holding(2))
        await life.head(holding(2, 0))
        await life.librarian.close()
        assert life.book == truth(chain)
        blind = Life(chain, database)
        await blind.start()
        assert blind.book == truth(chain)
    life = Life(chain, database)
    await life.start()
    await life.head(holding(3))
    await life.librarian.close()
    again = Life(chain, database)
    await again.start()
    assert (again.taken_down, again.book) == (2, truth(chain))


async def test_what_a_failed_save_held_is_in_the_next(database: Database, monkeypatch: pytest.MonkeyPatch):
    chain = ToyChain()
    life = Life(chain, database)
    await life.start()
    run, fails = database.run, [True]

    async def sometimes(work: object) -> object:
        if fails.pop() if fails else False:
            raise StoreFailed(Fault.LOCKED, database.path)
        return await run(work)  # type: ignore[arg-type]

    monkeypatch.setattr(database, "run", sometimes)
    await life.head(holding(1), holding(2))
    await life.head(holding(2, 0))
    await life.librarian.close()
    again = Life(chain, database)
    await again.start()
    assert (again.taken_down, again.book) == (1, truth(chain))


async def test_passes_go_on_while_a_save_is_under_way(database: Database, monkeypatch: pytest.MonkeyPatch):
    chain = ToyChain()
    life = Life(chain, database)
    await life.start()
    run, go_on = database.run, asyncio.Event()

    async def slow(work: object) -> object:
        await go_on.wait()
        return await run(work)  # type: ignore[arg-type]

    monkeypatch.setattr(database, "run", slow)
    monkeypatch.setattr(module, "SAVE_EVERY", 1)
    for number in range(1, 5):
        life.librarian.passed(await life.scanner.make_pass(chain.mine(holding(number))), chain.ancestor)
        await asyncio.sleep(0)
    assert life.book == truth(chain)
    go_on.set()
    await life.librarian.close()
    again = Life(chain, database)
    await again.start()
    assert (again.taken_down, again.book) == (4, truth(chain))

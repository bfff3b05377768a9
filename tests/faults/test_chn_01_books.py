"""Reorganisations under the books: positions that came, changed and went in blocks that vanish are as the chain has them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from keeper.chain.rpc import Rpc
from keeper.chain.view import ChainView, latest_head
from keeper.chainfile import ChainFile
from keeper.devnet.assets import price_updates
from keeper.devnet.chain import MAX_UINT, Tx
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.market import APPROVE, BORROW, MINT, NO_REFERRAL, SUPPLY, VARIABLE_RATE, AaveMarket
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.positions import PositionSpec, owner_address
from keeper.discovery import Discovery
from keeper.domain.units import PositionId
from keeper.parts import fill_books
from keeper.passes import Pass
from keeper.registry import markets_of
from keeper.scanner import ParityPolicy, Scanner
from tests.faults.node import CHAIN_ID, RunningClock
from tests.faults.proxy import FaultProxy
from tests.faults.recovery import Recovery
from tests.operator import write_files
from tests.unit.chain.fake_node import Watcher
from tests.unit.test_scanner import OBSERVING

GENERATION: Final = "3.0"
SPEC: Final = DevnetSpec(generations=(GENERATION,), n_positions=30)
DEEPEST: Final = 7
SHALLOW: Final = 4
"""How deep the book can look in the test of what lies deeper."""
NEWCOMERS: Final = 900_000


@dataclass(repr=False)
class Life:
    """One process's view and books."""

    rpc: Rpc
    view: ChainView
    scanner: Scanner

    async def follow(self) -> Pass:
        """Make a pass at the newest head."""
        return await self.scanner.make_pass(await latest_head(self.rpc))

    def book(self) -> dict[str, dict[PositionId, Any]]:
        """Return every position of every market."""
        return {name: dict(books.book.positions) for name, books in self.scanner.books.items()}


@dataclass(repr=False)
class Site:
    """A devnet that mines when told, behind a proxy, and people who do things there."""

    devnet: Devnet
    rpc: Rpc
    watcher: Watcher
    chain: ChainFile
    numbers: Iterator[int]

    @property
    def market(self) -> AaveMarket:
        return self.devnet.markets[GENERATION]

    async def life(self, **options: Any) -> Life:
        """Start a process whose books are read from nothing."""
        view, discovery = ChainView(self.rpc, **options), Discovery(self.rpc, None)
        scanner = Scanner(
            markets_of(self.chain),
            view,
            policy=OBSERVING,
            parity=ParityPolicy(1, 10),
            clock=RunningClock(),
            landing_s=1,
            census=discovery.catch_up,
        )
        await fill_books(scanner, self.rpc, discovery)
        return Life(self.rpc, view, scanner)

    async def block(self) -> None:
        """Mine a block in which somebody borrows, somebody repays, aTokens are handed on, and a price moves."""
        number, market = next(self.numbers), self.market
        first, second = (self.devnet.positions[GENERATION][(number + place) % SPEC.n_positions] for place in (0, 11))
        newcomer = owner_address(NEWCOMERS + number)
        for owner in (newcomer, first.owner, second.owner):
            await self.devnet.chain.set_balance(owner, 10**19)
        price = (await market.prices())["WETH"] * (999 if number % 2 else 1_001) // 1_000
        updates = await price_updates(self.devnet.chain, {market.reserves["WETH"]: price})
        await self.devnet.chain.auto_impersonate(wanted=True)
        txs = [*self._borrowing(newcomer), *self._repaying(first), *self._handing_on(second, newcomer), *updates]
        await self.devnet.chain.send_all(txs)

    def _borrowing(self, owner: str) -> list[Tx]:
        weth, usdc, pool = self.market.reserves["WETH"].token, self.market.reserves["USDC"].token, self.market.pool
        return [
            Tx(owner, weth, MINT, (owner, 10**18)),
            Tx(owner, weth, APPROVE, (pool, MAX_UINT)),
            Tx(owner, pool, SUPPLY, (weth, 10**18, owner, NO_REFERRAL)),
            Tx(owner, pool, BORROW, (usdc, 100 * 10**6, VARIABLE_RATE, NO_REFERRAL, owner)),
        ]

    def _repaying(self, who: PositionSpec) -> list[Tx]:
        symbol, borrowed = next(iter(who.borrows.items()))
        token, pool, amount = self.market.reserves[symbol].token, self.market.pool, borrowed // 100
        return [
            Tx(who.owner, token, MINT, (who.owner, amount)),
            Tx(who.owner, token, APPROVE, (pool, MAX_UINT)),
            Tx(who.owner, pool, "repay(address,uint256,uint256,address)", (token, amount, VARIABLE_RATE, who.owner)),
        ]

    def _handing_on(self, who: PositionSpec, to: str) -> list[Tx]:
        symbol, supplied = next(iter(who.supplies.items()))
        token = self.market.reserves[symbol].a_token
        return [Tx(who.owner, token, "transfer(address,uint256)", (to, supplied // 1_000))]

    async def reorg(self, depth: int) -> None:
        """Replace the newest blocks by empty ones."""
        await self.devnet.chain.rpc("anvil_reorg", depth, [])


@asynccontextmanager
async def site_of(folder: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        options = AnvilOptions(mining=False)
        devnet = await stack.enter_async_context(cached_devnet(default_cache_dir(), SPEC, options=options))
        await devnet.chain.mine(2 * DEEPEST)  # no state is known of older blocks
        proxy = await stack.enter_async_context(FaultProxy(devnet.node.http_url, 2))
        watcher = Watcher()
        rpc = Rpc([view.node() for view in proxy.views], clock=RunningClock(), observer=watcher)
        stack.push_async_callback(rpc.close)
        await rpc.start(CHAIN_ID)
        chain = ChainFile.load(str(write_files(devnet, folder).chain_file))
        yield Site(devnet, rpc, watcher, chain, count())


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of(tmp_path) as site:
        yield site


async def assert_as_rebuilt(site: Site, life: Life, done: Pass) -> None:
    """N5: the books are what somebody finds who starts from nothing at the same head."""
    anew = await site.life()
    assert (await latest_head(site.rpc)).hash == done.head.hash
    assert life.book() == anew.book()
    for name in life.book():
        assert life.scanner.snapshot(name) == anew.scanner.snapshot(name)
        rows, theirs = life.scanner.books[name].book, anew.scanner.books[name].book
        assert all(rows.row(key) == theirs.row(key) for key in rows.positions)
    assert not [each for market in done.markets for each in market.mismatches]


async def test_chn_01_after_a_reorganisation_of_one_to_seven_blocks_the_books_are_those_of_a_rebuild(
    site: Site, recovery: Recovery
) -> None:
    life = await site.life()
    for depth in range(1, DEEPEST + 1):
        before = life.book()
        for _ in range(depth):
            await site.block()
            done = await life.follow()
        changed = life.book()
        assert all(len(changed[name].keys() - before[name].keys()) == depth for name in changed)
        await site.reorg(depth)
        if depth % 2:  # the new branch is longer at once, as a rule
            await site.block()
        done = await life.follow()
        assert len(done.extension.orphaned) == depth
        assert not done.extension.is_rebuild
        assert life.book() != changed
        await assert_as_rebuilt(site, life, done)
        recovery("CHN-01", blocks=0)
    assert [each["depth"] for each in site.watcher.named("chain.reorg")] == list(range(1, DEEPEST + 1))


async def test_chn_01_a_reorganisation_that_happens_between_two_looks_is_followed_all_the_same(site: Site) -> None:
    life = await site.life()
    await site.block()
    await site.block()
    await life.follow()
    for _ in range(2):
        await site.block()  # nobody looks
    await site.reorg(3)
    await site.block()
    await site.reorg(1)
    await site.block()
    await assert_as_rebuilt(site, life, await life.follow())


async def test_chn_04_a_reorganisation_deeper_than_was_kept_reads_everything_again(
    site: Site, recovery: Recovery
) -> None:
    life = await site.life(depth=SHALLOW)
    for _ in range(SHALLOW + 2):
        await site.block()
        await life.follow()
    before = life.book()
    await site.reorg(SHALLOW + 1)
    await site.block()
    done = await life.follow()
    assert done.extension.is_rebuild
    assert life.book() != before
    await assert_as_rebuilt(site, life, done)
    (told,) = site.watcher.named("chain.reorg")
    assert told["is_rebuild"]
    await site.block()
    await assert_as_rebuilt(site, life, await life.follow())
    recovery("CHN-04", blocks=0)

"""The composition root: what it refuses, how it starts, what it lets the signer do, how it is stopped."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from keeper.app import Signals, _patiently
from keeper.chain.backfill import Progress
from keeper.chain.rpc import Rpc
from keeper.chain.view import ChainView
from keeper.chainfile import ChainFile
from keeper.daemon import StopRequested
from keeper.discovery import Discovery
from keeper.domain.mode import Mode
from keeper.domain.plan import Payment
from keeper.domain.ports import Market
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, Address, Base, Wei
from keeper.engine.plan import Policy
from keeper.errors import KeeperError, Stale, Transient, Unsafe
from keeper.execution.signer import SigningPolicy
from keeper.parts import fill_books, landing_s, signing_policy
from keeper.scanner import ParityPolicy, Scanner
from keeper.store.database import Database
from keeper.store.findings import Findings
from tests.toy import (
    ANNEX,
    CASH,
    POOL,
    ChainReader,
    ToyCalls,
    ToyChain,
    ToyPosition,
    ToyReader,
    account,
    address,
    toy_market,
)
from tests.unit.chain.fake_node import CHAIN_ID, FakeChain, FakeNode, RealClock
from tests.unit.chain.fake_node import POOL as NODE_POOL
from tests.unit.test_discovery import WANTED, borrow
from tests.unit.test_scanner import Stopwatch

POLICY = Policy(Mode.OBSERVE, Base(1), Base(10**16), 10, None)

FILE = """
chain_id = 1
name = "testing"
native_symbol = "ETH"
wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
block_time_ms = {block_time_ms}
"""
TABLE = """
[[markets]]
name = "{name}"
protocol = "{protocol}"
root = "0x{place:040}"
from_block = 1
"""


def chain_file(folder: Path, *protocols: str, block_time_ms: int = 12_000) -> ChainFile:
    tables = [
        TABLE.format(name=f"market-{place}", protocol=each, place=place + 1) for place, each in enumerate(protocols)
    ]
    path = folder / "testing.toml"
    path.write_text(FILE.format(block_time_ms=block_time_ms) + "".join(tables), encoding="utf-8")
    return ChainFile.load(str(path))


@pytest.mark.parametrize(("block_time_ms", "seconds"), [(12_000, 12), (250, 1), (2_001, 3), (1_000, 1)])
def test_a_transaction_lands_whole_seconds_later_and_at_least_one(
    tmp_path: Path, block_time_ms: int, seconds: int
) -> None:
    assert landing_s(chain_file(tmp_path, "aave_v3", block_time_ms=block_time_ms)) == seconds


async def test_the_signer_may_do_exactly_what_the_markets_need() -> None:
    chain = ToyChain()
    readers = [
        ChainReader(chain=chain),
        ChainReader(market="two", chain=chain, payments=(Payment(CASH, ANNEX),), targets=frozenset({ANNEX})),
    ]
    unread = ChainReader(market="three", chain=chain, payments=(Payment(CASH, Address(bytes(20))),), is_impossible=True)
    scanner = Scanner(
        [toy_market(each) for each in (*readers, unread)],
        chain,
        policy=POLICY,
        parity=ParityPolicy(0, 1),
        clock=Stopwatch(),
        landing_s=12,
    )
    await scanner.discover(chain.head)
    await scanner.load(chain.head, {})
    before = SigningPolicy(
        chain_id=1,
        max_fee_wei=Wei(7),
        max_gas_limit=5,
        max_value_wei=Wei(3),
        calls=frozenset({(address(9), b"old!")}),
        payable=frozenset({(address(9), b"old!")}),
        approvals=frozenset({(address(8), address(9))}),
    )
    after = signing_policy(before, scanner)
    (selector,) = ToyCalls.SELECTORS
    assert after.calls == {(POOL, selector), (ANNEX, selector)}
    assert after.approvals == {(CASH.address, POOL), (CASH.address, ANNEX)}
    assert after.payable == frozenset()
    assert (after.chain_id, after.max_fee_wei, after.max_gas_limit, after.max_value_wei) == (1, 7, 5, 3)


async def test_value_may_go_to_what_is_payable_and_only_what_is_pulled_is_approved() -> None:
    chain = ToyChain()
    coin, margin = Token(NATIVE, "ETH", 18), Token(address(5), "margin", 6)
    reader = ChainReader(
        chain=chain,
        payments=(Payment(coin, None), Payment(margin, None, b"free"), Payment(CASH, ANNEX), Payment(CASH, POOL)),
        targets=frozenset({POOL, ANNEX}),
    )
    market = replace(toy_market(reader), calls=PayableCalls())
    scanner = Scanner([market], chain, policy=POLICY, parity=ParityPolicy(0, 1), clock=Stopwatch(), landing_s=12)
    await scanner.discover(chain.head)
    await scanner.load(chain.head, {})
    after = signing_policy(SigningPolicy(1, Wei(7), 5, Wei(3)), scanner)
    assert after.payable == {(POOL, b"pay!"), (ANNEX, b"pay!")}
    assert after.calls == {(each, selector) for each in (POOL, ANNEX) for selector in (b"toy!", b"pay!")}
    assert after.approvals == {(CASH.address, ANNEX), (CASH.address, POOL)}


class PayableCalls(ToyCalls):
    """Calls of which one may be paid for with native currency."""

    SELECTORS = frozenset({b"toy!", b"pay!"})
    PAYABLE = frozenset({b"pay!"})


class Steps:
    """A step of the start that fails as told."""

    def __init__(self, *errors: Exception, lasting_s: float = 0) -> None:
        self.errors = list(errors)
        self.lasting_s = lasting_s
        self.times: list[float] = []
        self.was_cancelled = False

    async def take(self) -> str:
        self.times.append(asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(self.lasting_s)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.mark.looptime
async def test_the_start_is_repeated_with_growing_pauses_until_the_network_carries_it() -> None:
    steps = Steps(*(Transient("down") for _ in range(6)), Stale("gone"), KeeperError("refused"))
    assert await _patiently(asyncio.Event(), steps.take) == "done"
    pauses = [later - earlier for earlier, later in pairwise(steps.times)]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30])


@pytest.mark.looptime
async def test_a_fatal_error_ends_the_start_at_once() -> None:
    with pytest.raises(Unsafe):
        await _patiently(asyncio.Event(), Steps(Unsafe("wrong root")).take)
    with pytest.raises(ZeroDivisionError):
        await _patiently(asyncio.Event(), Steps(ZeroDivisionError()).take)


@pytest.mark.looptime
@pytest.mark.parametrize("steps", [Steps(lasting_s=1_000), Steps(*(Transient("down") for _ in range(99)))])
async def test_the_start_ends_at_once_when_it_is_asked_to(steps: Steps) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    began = loop.time()
    loop.call_later(20.5, stop.set)
    with pytest.raises(StopRequested):
        await _patiently(stop, steps.take)
    assert loop.time() - began == pytest.approx(20.5)
    assert steps.was_cancelled == (steps.lasting_s > 0)
    assert len(asyncio.all_tasks()) == 1


@pytest.fixture
def restored_signals() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("restored_signals")
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_asks_to_stop_and_the_second_aborts(second: signal.Signals) -> None:
    stopping = asyncio.Event()

    async def work() -> None:
        signals = Signals()
        await signals.stop.wait()
        stopping.set()
        await asyncio.sleep(3_600)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(stopping.wait(), 5)
    assert not task.done()
    os.kill(os.getpid(), second)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(each)


@asynccontextmanager
async def connected(chain: FakeChain) -> AsyncIterator[Rpc]:
    async with FakeNode(chain) as node:
        rpc = Rpc([node.node("rpc-1")], clock=RealClock())
        await rpc.start(CHAIN_ID)
        yield rpc
        await rpc.close()


async def test_nothing_that_happens_while_the_books_are_filled_is_lost(tmp_path: Path) -> None:
    chain = FakeChain(100)
    borrow(chain, 1)
    reader = ToyReader(discovery_filter=WANTED, head_filter=WANTED)
    reader.state = {account(number): ToyPosition(account(number), 100, 9_000) for number in range(1, 6)}
    market = Market("toy", "toy", 1, reader, toy_market().rules, ToyCalls())
    lent: list[int] = []

    def lend(_market: str, _progress: Progress) -> None:
        if not lent:
            lent.append(2)
            borrow(chain, 2)

    async with connected(chain) as rpc:
        database = await Database.open(tmp_path / "keeper.sqlite3", CHAIN_ID)
        discovery = Discovery(rpc, Findings(database))
        scanner = Scanner(
            [market],
            ChainView(rpc),
            policy=POLICY,
            parity=ParityPolicy(0, 1),
            clock=RealClock(),
            landing_s=1,
            census=discovery.catch_up,
        )
        head = await fill_books(scanner, rpc, discovery, lend)
        assert head == chain.head
        assert set(scanner.books["toy"].book.positions) == {account(1), account(2)}
        borrow(chain, 3)  # before the first pass
        chain.mine()
        done = await scanner.make_pass(chain.head)
        assert [block.number for block in done.extension.new] == [head.number + 1, head.number + 2]
        assert set(scanner.books["toy"].book.positions) == {account(1), account(2), account(3)}
        chain.reorg(3, 0)  # deeper than what is known of the chain since the start
        borrow(chain, 4)
        chain.mine()
        borrow(chain, 5)
        chain.mine()
        done = await scanner.make_pass(chain.head)
        assert done.extension.is_rebuild
        assert {account(1), account(4), account(5)} <= set(scanner.books["toy"].book.positions)
        await database.close()
    assert NODE_POOL in WANTED.addresses
